"""Operators of the softmax family against loops, against each other where they coincide, and against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError
from interp.kernels.variants.alibi import Alibi, alibi_slopes
from interp.kernels.variants.base import Variant
from interp.kernels.variants.calibration import SinkCalibration
from interp.kernels.variants.callbacks import Callbacks
from interp.kernels.variants.cross import Cross
from interp.kernels.variants.dilated import Dilated
from interp.kernels.variants.document import Document
from interp.kernels.variants.gates import GatedOutput, HeadGates
from interp.kernels.variants.identity import IdentityInterpolation
from interp.kernels.variants.memory import KeyValueBias
from interp.kernels.variants.position_content import PositionContent, look_at_cells
from interp.kernels.variants.prefix import Prefix
from interp.kernels.variants.relative import RelativeBias
from interp.kernels.variants.sharded import Sharded
from interp.kernels.variants.sinks import OffByOne, SinkLogit
from interp.kernels.variants.softcap import Softcap
from interp.kernels.variants.softmax import Full, Softmax
from interp.kernels.variants.span import HeadSpan
from interp.kernels.variants.streaming import Streaming
from interp.kernels.variants.strided import Fixed, Strided
from interp.kernels.variants.window import Window
from tests.kernels.rowwise_oracle import (
    DV,
    KV,
    Case,
    D,
    H,
    asks_for_itself,
    close,
    decodes,
    has_gradients,
    has_the_span_it_says,
    ignores_padding,
    is_that_of_loops,
    is_what_its_flags_say,
    is_wide,
    keeps_documents_apart,
    moved_by_later_tokens,
    positions,
    problem_of,
    repeated,
    softmax_row,
    tensors,
    weights,
)

GRIDS = {1: (1, 1), 6: (2, 3), 12: (3, 4)}
HEADWISE = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
TABLE = torch.randn(H, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
PLACES = torch.randn(H, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def past(i: int, j: int, h: int, n: int) -> bool:
    return j <= i


def all_keys(i: int, j: int, h: int, n: int) -> bool:
    return True


def fixed(variant: Variant) -> Callable[[Tensor], Variant]:
    return lambda where: variant


def unspent(*logits: float) -> Callable[..., list[float]]:
    """A softmax with one more logit, one a head, that has no value."""

    def row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
        return softmax_row([*scores, logits[h % len(logits)]], [*keys, -1], i, h, n)[:-1]

    return row


def times(gate: Callable[[int, int], float]) -> Callable[..., list[float]]:
    def row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
        return [gate(h, i) * weight for weight in softmax_row(scores, keys, i, h, n)]

    return row


def gate_of(h: int, i: int) -> float:
    return math.sin(3 * h + i + 0.5)


def gates(where: Tensor) -> Tensor:
    head = torch.arange(H)[:, None]
    return torch.sin(3 * head + where[:, None].double() + 0.5)


def identity_row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
    strength = [0.0, 0.25, 0.5, 1.0][h]
    mixed = softmax_row(scores, keys, i, h, n)
    return [(1 - strength) * weight + strength * (j == i) for weight, j in zip(mixed, keys, strict=True)]


def place_row(places: Tensor) -> Callable[..., list[float]]:
    def row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
        columns = GRIDS[n][1]
        looks = []
        for j in keys:
            down, across = j // columns - i // columns, j % columns - i % columns
            looks.append(float(places[h] @ torch.tensor([across, down, across**2 + down**2]).double()))
        share = 1 / (1 + math.exp(-float(HEADWISE[h])))
        pairs = zip(softmax_row(scores, keys, i, h, n), softmax_row(looks, keys, i, h, n), strict=True)
        return [(1 - share) * content + share * place for content, place in pairs]

    return row


def t5_bucket(distance: int, columns: int, most: int, causal: bool) -> int:
    """Key minus query, as the paper's appendix tells it."""
    ahead = -distance
    offset = 0
    if not causal:
        columns //= 2
        offset = columns if ahead > 0 else 0
        ahead = -abs(ahead)
    away = max(-ahead, 0)
    single = columns // 2
    if away < single:
        return offset + away
    return offset + min(
        columns - 1, single + int(math.log(away / single) / math.log(most / single) * (columns - single))
    )


def span_sees(i: int, j: int, h: int, n: int) -> bool:
    alpha, beta = [2, 3, 4, 1][h], [0.0, 0.5, 0.25, 1.0][h]
    return j <= i and (j < 2 or i - j < int(alpha + beta * max(n - alpha, 0)))


def shard_sees(i: int, j: int, h: int, n: int) -> bool:
    return j <= i and (i // 2 - j // 2 < 2 or (j // 2 + h + 1) % 4 == 0)


def segment(position: int) -> int:
    """Pieces of 4 tokens; the fourth piece belongs to the first segment again."""
    return position // 4 % 3


def segments(where: Tensor) -> Tensor:
    return where // 4 % 3


CASES = {
    "softmax": Case(fixed(Softmax()), past),
    "full": Case(fixed(Full()), all_keys),
    "window": Case(fixed(Window(size=3)), lambda i, j, h, n: 0 <= i - j < 3),
    "dilated": Case(fixed(Dilated(size=3, dilation=2)), lambda i, j, h, n: i - j in (0, 2, 4)),
    "dilated, both sides": Case(
        fixed(Dilated(causal=False, size=2, dilation=3)), lambda i, j, h, n: i - j in (-3, 0, 3)
    ),
    "strided": Case(fixed(Strided(stride=4)), lambda i, j, h, n: j in range(i - 4, i + 1) or j in range(i, -1, -4)),
    "strided, local": Case(fixed(Strided(stride=4, part="local")), lambda i, j, h, n: j in range(i - 4, i + 1)),
    "strided, column": Case(fixed(Strided(stride=4, part="column")), lambda i, j, h, n: j in range(i, -1, -4)),
    "fixed": Case(
        fixed(Fixed(stride=4, summary=1)), lambda i, j, h, n: j <= i and (i // 4 == j // 4 or j in range(3, n, 4))
    ),
    "fixed, local": Case(
        fixed(Fixed(stride=4, summary=2, part="local")), lambda i, j, h, n: j <= i and i // 4 == j // 4
    ),
    "fixed, column": Case(
        fixed(Fixed(stride=4, summary=2, part="column")), lambda i, j, h, n: j <= i and (j % 4 in (2, 3) or i == j)
    ),
    "prefix-lm": Case(fixed(Prefix(prefix=10)), lambda i, j, h, n: j <= i or j < 10),
    "document": Case(
        lambda where: Document(segments=segments(where)),
        lambda i, j, h, n: j <= i and segment(i) == segment(j),
    ),
    "document, its sinks": Case(
        lambda where: Document(segments=segments(where), mask="sink"), lambda i, j, h, n: j <= i and j % 4 == 0
    ),
    "document, sinks of the text": Case(
        lambda where: Document(segments=segments(where), mask="sink", sinks_of="text", sink_tokens=2),
        lambda i, j, h, n: j <= i and j < 2,
    ),
    "document + sink": Case(
        lambda where: Document(segments=segments(where), mask="document+sink", sink_tokens=2),
        lambda i, j, h, n: j <= i and (segment(i) == segment(j) or j % 4 < 2),
    ),
    "document, dense": Case(lambda where: Document(segments=segments(where), mask="dense"), past),
    "streaming": Case(fixed(Streaming(sink_tokens=2, recent=3)), lambda i, j, h, n: j <= i and (j < 2 or i - j < 3)),
    "alibi": Case(fixed(Alibi()), past, lambda s, i, j, h, n: s - [1 / 4, 1 / 16, 1 / 64, 1 / 256][h] * abs(i - j)),
    "alibi, both sides": Case(
        fixed(Alibi(causal=False, slope=HEADWISE)),
        all_keys,
        lambda s, i, j, h, n: s - float(HEADWISE[h]) * abs(i - j),
    ),
    "relative bias": Case(
        fixed(RelativeBias(table=TABLE)), past, lambda s, i, j, h, n: s + float(TABLE[h, min(i - j, 8)])
    ),
    "relative bias, both sides": Case(
        fixed(RelativeBias(causal=False, table=TABLE)),
        all_keys,
        lambda s, i, j, h, n: s + float(TABLE[h, max(-4, min(i - j, 4)) + 4]),
    ),
    "relative bias, T5": Case(
        fixed(RelativeBias(causal=False, table=TABLE[:, :8], buckets="T5", max_distance=10)),
        all_keys,
        lambda s, i, j, h, n: s + float(TABLE[h, t5_bucket(i - j, 8, 10, False)]),
    ),
    "softcap": Case(fixed(Softcap(softcap=1.5)), past, lambda s, i, j, h, n: 1.5 * math.tanh(s / 1.5)),
    "off-by-one": Case(fixed(OffByOne()), past, row=unspent(0.0)),
    "sink logit": Case(fixed(SinkLogit(sink=HEADWISE)), past, row=unspent(*HEADWISE.tolist())),
    "head span": Case(fixed(HeadSpan(alpha=[2, 3, 4, 1], beta=[0.0, 0.5, 0.25, 1.0], sink_tokens=2)), span_sees),
    "identity": Case(fixed(IdentityInterpolation(strength=[0.0, 0.25, 0.5, 1.0])), past, row=identity_row),
    "head gates": Case(fixed(HeadGates(values=[1.0, 0.0, 0.5, 2.0])), past, row=times(lambda h, i: [1, 0, 0.5, 2][h])),
    "gates of tokens": Case(lambda where: HeadGates(values=gates(where)), past, row=times(gate_of)),
    "gated output": Case(
        lambda where: GatedOutput(logits=gates(where)), past, row=times(lambda h, i: 1 / (1 + math.exp(-gate_of(h, i))))
    ),
    "gates on a window": Case(
        fixed(HeadGates(base=Window(size=3), values=[1.0, 0.1, 0.5, 2.0])),
        lambda i, j, h, n: 0 <= i - j < 3,
        row=times(lambda h, i: [1, 0.1, 0.5, 2][h]),
    ),
    "position and content": Case(
        lambda where: PositionContent(grid=GRIDS[int(where.max()) + 1], gate=HEADWISE, places=PLACES),
        all_keys,
        row=place_row(PLACES),
        sizes=(1, 6, 12),
    ),
    "sharded": Case(fixed(Sharded(block=2, local_blocks=2, stride=4)), shard_sees),
}
LATER = {"full", "dilated, both sides", "prefix-lm", "alibi, both sides", "relative bias, both sides"}
LATER |= {"relative bias, T5", "position and content"}
SPANS = {"softmax", "full", "window", "strided, local", "fixed, local", "prefix-lm", "document, dense", "streaming"}
SPANS |= {
    "document, sinks of the text",
    "head span",
    "alibi",
    "alibi, both sides",
    "softcap",
    "off-by-one",
    "sink logit",
}
FUSED = SPANS | {"gated output", "gates of tokens", "gates on a window"}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("size", range(3))
@each_case
def test_weights_and_output_are_those_of_loops(case: Case, size: int) -> None:
    is_that_of_loops(case, case.sizes[size])


@pytest.mark.parametrize("name", sorted(set(CASES) - {"gates of tokens", "gated output"}))  # theirs are one a query
def test_last_queries_alone_give_what_they_give_among_all(name: str) -> None:
    decodes(CASES[name])


@each_case
def test_padding_changes_nothing(case: Case) -> None:
    ignores_padding(case)


@each_case
def test_packed_documents_give_what_they_give_alone(case: Case) -> None:
    _, some, most = case.sizes
    keeps_documents_apart(case, (some, some) if case.sizes[2] in GRIDS else (some, most))


@pytest.mark.parametrize("name", CASES)
def test_later_tokens_move_what_they_may_and_nothing_else(name: str) -> None:
    case = CASES[name]
    variant = case.make(positions(case.sizes[2]))
    moved = moved_by_later_tokens(variant, case.sizes[2])
    assert moved == (name in LATER)
    assert not moved or variant.looks_ahead


@each_case
def test_flags_say_what_the_weights_are(case: Case) -> None:
    is_what_its_flags_say(case)


@each_case
def test_bf16_is_computed_wide(case: Case) -> None:
    is_wide(case)


@pytest.mark.parametrize("name", sorted(SPANS))
def test_span_is_what_is_seen(name: str) -> None:
    has_the_span_it_says(CASES[name].make)


@pytest.mark.parametrize("mask", ["document", "document+sink"])
def test_span_of_segments_that_do_not_come_back(mask: str) -> None:
    has_the_span_it_says(lambda where: Document(segments=where // 4, mask=mask, sinks_of="text", sink_tokens=2))


@pytest.mark.parametrize(
    "variant",
    [
        Prefix(prefix=[2, 9]),
        Dilated(causal=False, size=3, dilation=1),
        Sharded(stride=1),
        Streaming(causal=False, sink_tokens=2, recent=3),
        HeadSpan(causal=False, alpha=[1, 2, 3, 4], beta=0.5, sink_tokens=3, length=9),
        Strided(causal=False, stride=2, part="local"),
        Fixed(causal=False, stride=4, summary=1, part="local"),
    ],
    ids=lambda variant: variant.name,
)
def test_span_of_further_parameters(variant: Variant) -> None:
    has_the_span_it_says(fixed(variant))


@pytest.mark.parametrize("name", sorted(FUSED))
def test_what_is_asked_of_fused_kernels_is_the_operator(name: str) -> None:
    asks_for_itself(CASES[name])


@pytest.mark.parametrize("name", sorted(set(CASES) - FUSED))
def test_what_fused_kernels_cannot_do_is_refused_with_a_reason(name: str) -> None:
    q, k, v = tensors(CASES[name].sizes[2])
    reason = CASES[name].make(positions(CASES[name].sizes[2])).request(problem_of(q, k, v))
    assert isinstance(reason, str) and len(reason) > 20


# Where two operators coincide


def dense(n: int = 17, **given: bool) -> Tensor:
    return weights(Softmax(**given), *tensors(n))


ORDERED = torch.arange(17)[:, None] - torch.arange(17)


@pytest.mark.parametrize(
    "variant",
    [
        Window(size=17),
        Dilated(size=17, dilation=1),
        Strided(stride=16),
        Fixed(stride=17, summary=1),
        Prefix(prefix=1),
        Streaming(sink_tokens=0, recent=17),
        Streaming(sink_tokens=17, recent=1),
        Document(segments=torch.zeros(1, 17, dtype=torch.long)),
        Alibi(slope=0.0),
        RelativeBias(table=torch.zeros(H, 4, dtype=torch.float64)),
        SinkLogit(sink=float("-inf")),
        HeadSpan(alpha=1, beta=1.0, sink_tokens=0),
        HeadSpan(alpha=17, sink_tokens=0),
        IdentityInterpolation(strength=0.0),
        SinkCalibration(threshold=0.01, beta=1.0),
        HeadGates(values=torch.ones(H)),
        HeadGates(values=torch.ones(1, H, 17)),
        GatedOutput(logits=torch.full((H,), 100.0)),
        PositionContent(causal=True, grid=(1, 17), gate=-100.0),
        Sharded(block=4, local_blocks=1, stride=1),
        Sharded(block=17, local_blocks=1, stride=4),
        Callbacks(mask_mod=lambda b, h, i, j: j <= i),
        Callbacks(causal=True),
    ],
    ids=lambda variant: variant.name,
)
def test_is_dense_where_it_should_be(variant: Variant) -> None:
    close(weights(variant, *tensors(17)), dense())


@pytest.mark.parametrize(
    "variant, same",
    [
        (Cross(), Full()),
        (Callbacks(), Full()),
        (Prefix(prefix=17), Full()),
        (Prefix(prefix=9, causal=True), Softmax()),
        (Dilated(size=4, dilation=1), Window(size=4)),
        (Dilated(causal=False, size=4, dilation=1), Window(causal=False, size=4)),
        (Strided(causal=False, stride=3, part="local"), Window(causal=False, size=4)),
        (Streaming(sink_tokens=0, recent=4), Window(size=4)),
        (HeadSpan(alpha=4, sink_tokens=2), Streaming(sink_tokens=2, recent=4)),
        (HeadSpan(alpha=4, beta=0.5, sink_tokens=2, length=10), Streaming(sink_tokens=2, recent=7)),
        (SinkLogit(sink=0.0), OffByOne()),
        (Callbacks(mask_mod=lambda b, h, i, j: (j <= i) & (i - j < 4)), Window(size=4)),
        (
            Callbacks(
                causal=True,
                score_mod=lambda s, b, h, i, j: s - torch.tensor(alibi_slopes(H), dtype=s.dtype)[h] * (i - j).abs(),
            ),
            Alibi(),
        ),
        (Callbacks(causal=True, score_mod=lambda s, b, h, i, j: 2 * torch.tanh(s / 2)), Softcap(softcap=2.0)),
    ],
    ids=lambda variant: variant.name,
)
def test_is_the_other_one_where_they_coincide(variant: Variant, same: Variant) -> None:
    close(weights(variant, *tensors(17)), weights(same, *tensors(17)))


def test_identity_of_full_strength_passes_values_on() -> None:
    close(weights(IdentityInterpolation(), *tensors(9)), torch.eye(9, dtype=torch.float64).expand(2, H, 9, 9))


def test_heads_that_share_keys_are_those_that_hold_copies_of_them() -> None:
    q, k, v = tensors(9)
    for variant in (Softmax(), Alibi(), SinkLogit(sink=HEADWISE), Sharded(block=2, local_blocks=1, stride=4)):
        shared = attention(q, k, v, variant, backend="eager").output
        close(shared, attention(q, repeated(k), repeated(v), variant, backend="eager").output)
        single = attention(q, k[:, :1], v[:, :1], variant, backend="eager").output
        many = (x[:, :1].expand(-1, H, -1, -1) for x in (k, v))
        close(single, attention(q, *many, variant, backend="eager").output)


def test_between_them_shards_see_everything() -> None:
    q, k, v = tensors(40)
    seen = weights(Sharded(block=2, local_blocks=1, stride=4), q, k, v) > 0
    assert torch.equal(seen.any(1)[0], torch.ones(40, 40, dtype=torch.bool).tril())
    assert not bool(seen.all(1)[0, 30, :20].any())


# Operators with parts of their own


def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == [2**-power for power in range(1, 9)]
    assert alibi_slopes(1) == [2**-8]
    twelve = [2 ** -(power / 2) for power in range(1, 17)]
    assert alibi_slopes(12) == pytest.approx([2**-power for power in range(1, 9)] + twelve[:8:2])


@pytest.mark.parametrize("causal", [True, False])
def test_buckets_are_those_of_transformers(causal: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)
    variant = RelativeBias(causal=causal, table=torch.zeros(1, 32), buckets="T5")
    wanted = T5Attention._relative_position_bucket(-distance, not causal, 32, 128)
    assert torch.equal(variant.bucket(distance), wanted)


def test_cross_attention_takes_no_padding_of_keys_for_one_of_queries() -> None:
    q, k, v = tensors(6)
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    for rows in (6, 3):
        for given in (q[:, :, :rows], torch.cat([q, q], 2)):
            found = attention(given, k, v, "cross", statistics=["entropy"], key_mask=mask)
            for b, real in ((0, slice(0, 4)), (1, slice(3, 6))):
                alone = torch.nn.functional.scaled_dot_product_attention(
                    given[b], repeated(k)[b, :, real], repeated(v)[b, :, real]
                )
                close(found.output[b], alone)
            assert bool(found["entropy"].isfinite().all())
    seen = Cross().rows(problem_of(q, k, v, Cross(), key_mask=mask))
    assert seen.low[:, 0, 0].tolist() == [0, 3] and seen.high[:, 0, 0].tolist() == [4, 6]


def test_extra_keys_take_mass_and_add_their_values() -> None:
    q, k, v = tensors(7)
    made = torch.Generator().manual_seed(3)
    keys, values = (torch.randn(H, 2, width, generator=made, dtype=torch.float64) for width in (D, DV))
    for sink in (None, 0.5):
        variant = KeyValueBias(keys=keys, values=values, sink=sink)
        found = attention(q, k, v, variant, backend="eager")
        for b in range(2):
            for h in range(H):
                for i in range(7):
                    every = torch.cat([keys[h], k[b, h // (H // KV), : i + 1]])
                    scores = (every @ q[b, h, i] * D**-0.5).tolist() + ([] if sink is None else [sink])
                    share = torch.tensor(softmax_row(scores, [], i, h, 7), dtype=torch.float64)[: i + 3]
                    joined = torch.cat([values[h], v[b, h // (H // KV), : i + 1]])
                    close(found.output[b, h, i], share @ joined)
                    close(weights(variant, q, k, v)[b, h, i, : i + 1], share[2:])
        close(attention(q, k, v, variant, backend="blockwise").output, found.output)
        chosen = attention(q, k, v, variant, heads=[3, 1], backend="eager").output
        close(chosen, found.output[:, [3, 1]])
    assert not moved_by_later_tokens(variant, 8)
    assert "extra keys" in variant.request(problem_of(q, k, v))


def test_extra_keys_give_nothing_to_padding_and_gates_reach_their_values() -> None:
    q, k, v = tensors(6)
    mask = (torch.arange(6) > 1).expand(2, -1)
    bias = KeyValueBias(keys=torch.zeros(H, 1, D), values=torch.ones(H, 1, DV))
    padded = attention(q, k, v, bias, key_mask=mask, backend="eager").output
    close(padded[:, :, 2:], attention(q[:, :, 2:], k[:, :, 2:], v[:, :, 2:], bias, backend="eager").output)
    assert not bool(padded[:, :, :2].any())
    half = attention(q, k, v, HeadGates(base=bias, values=[0.5] * H), backend="eager").output
    close(half, 0.5 * attention(q, k, v, bias, backend="eager").output)
    passed = attention(q, k, v, IdentityInterpolation(base=bias, strength=0.25), backend="eager").output
    close(passed, 0.75 * attention(q, k, v, bias, backend="eager").output + 0.25 * repeated(v))


def calibrated(pattern: Tensor, threshold: float, beta: float) -> Tensor:
    """One head's map [query key], as a loop over columns and rows."""
    n = len(pattern)
    found = [j for j in range(n) if sum(float(pattern[i, j]) for i in range(j, n)) / (n - j) > threshold][1:]
    result = pattern.clone()
    for i in range(n):
        others = sum(float(pattern[i, j]) for j in range(n) if j not in found)
        taken = sum((1 - beta) * float(pattern[i, j]) for j in found)
        for j in range(n):
            result[i, j] = (beta if j in found else 1 + taken / others) * float(pattern[i, j])
    return result


def test_sinks_are_turned_down_and_their_mass_goes_to_the_others() -> None:
    q, k, v = tensors(13)
    k[:, :, [0, 5, 8]] *= 4
    pattern = weights(Softmax(), q, k, v)
    variant = SinkCalibration(threshold=0.15, beta=0.3)
    found = weights(variant, q, k, v)
    for b in range(2):
        for h in range(H):
            close(found[b, h], calibrated(pattern[b, h], 0.15, 0.3))
    assert not torch.allclose(found, pattern, atol=1e-3)
    close(found.sum(-1), torch.ones(2, H, 13, dtype=torch.float64))
    close(attention(q, k, v, variant, backend="blockwise").output, found @ repeated(v))
    close(attention(q, k, v, variant, heads=[2, 1]).output, (found @ repeated(v))[:, [2, 1]])


def test_calibration_ignores_padding_and_keeps_documents_apart() -> None:
    case = Case(fixed(SinkCalibration(threshold=0.1)), past)
    ignores_padding(case)
    keeps_documents_apart(case, (7, 17))
    assert moved_by_later_tokens(SinkCalibration(threshold=0.1), 17)
    assert SinkCalibration().looks_ahead


def test_a_row_with_nothing_but_sinks_stays() -> None:
    q, k, v = tensors(9)
    variant = SinkCalibration(base=Window(size=1), threshold=0.5, beta=0.2)
    close(weights(variant, q, k, v), torch.eye(9, dtype=torch.float64).expand(2, H, 9, 9))


def test_heads_look_at_the_cells_of_a_square_at_the_start() -> None:
    q, k, v = tensors(12)
    found = weights(PositionContent(grid=(3, 4), gate=100.0, strength=50.0), q, k, v)
    nine = look_at_cells(9, strength=50.0).double()
    q9 = torch.zeros(1, 9, 12, D, dtype=torch.float64)
    centred = weights(
        PositionContent(grid=(3, 4), gate=100.0, places=nine), q9, torch.zeros(1, 3, 12, D).double(), q9[:, :3]
    )
    middle = 1 * 4 + 2
    for head, (across, down) in enumerate((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)):
        assert int(centred[0, head, middle].argmax()) == middle + 4 * down + across
        assert float(centred[0, head, middle].max()) > 0.99
    ties = found[0, 0, middle].topk(4)  # two by two heads lie between cells
    assert sorted(ties.indices.tolist()) == [1, 2, 5, 6]
    close(ties.values, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-6)


def test_callbacks_are_called_as_flex_attention_calls_them() -> None:
    q, k, v = (x.float() for x in tensors(16, 9))
    slopes = torch.tensor([0.1, 0.2, 0.3, 0.4])

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s - slopes[h] * (i - j).abs() + 0.1 * b

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i + b) & ((i - j) % (h + 1) == 0) | (i == j)

    blocks = create_block_mask(mask, 2, H, 9, 16, device="cpu", BLOCK_SIZE=8)
    with pytest.warns(UserWarning, match="flex_attention called without torch.compile"):
        wanted = flex_attention(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=True)
    variant = Callbacks(score_mod=score, mask_mod=mask)
    for backend in ("eager", "blockwise"):
        close(attention(q, k, v, variant, backend=backend).output, wanted, atol=1e-6)
    chosen = attention(q, k, v, variant, heads=[3, 1], backend="eager").output
    close(chosen, wanted[:, [3, 1]], atol=1e-6)


@pytest.mark.parametrize(
    "callbacks, words",
    [
        ({"score_mod": lambda s, b, h, i, j: 3.0}, "score_mod must give a floating tensor, and gives float"),
        ({"score_mod": lambda s, b, h, i, j: i - j}, "score_mod must give a floating tensor, and gives torch.int64"),
        ({"mask_mod": lambda b, h, i, j: i - j}, "mask_mod must give a bool tensor"),
        ({"mask_mod": lambda b, h, i, j: torch.ones(3, dtype=torch.bool)}, "does not broadcast"),
    ],
)
def test_callbacks_with_wrong_answers_are_refused(callbacks: dict[str, Callable[..., object]], words: str) -> None:
    with pytest.raises(InterpError, match=words):
        attention(*tensors(7), Callbacks(**callbacks))


GRADED = ["alibi", "relative bias, T5", "sink logit", "gated output", "identity", "document + sink"]


@pytest.mark.parametrize("name", GRADED)
def test_gradients_are_those_of_differences(name: str) -> None:
    has_gradients(CASES[name].make(positions(4, batch=1)))


def test_gradients_of_operators_with_parts_of_their_own() -> None:
    keys, values = torch.randn(H, 2, D).double(), torch.randn(H, 2, DV).double()
    has_gradients(KeyValueBias(keys=keys, values=values))
    has_gradients(PositionContent(grid=(2, 2)), n=4)
    has_gradients(SinkCalibration(threshold=0.05))
    has_gradients(Callbacks(causal=True, score_mod=lambda s, b, h, i, j: torch.tanh(s)))


def test_gradients_reach_what_a_head_has_learned() -> None:
    inputs = tensors(6)
    sink, table = HEADWISE.clone().requires_grad_(), TABLE.clone().requires_grad_()
    gate = torch.zeros(1, H, 6, dtype=torch.float64, requires_grad=True)
    for variant, learned in (
        (SinkLogit(sink=sink), sink),
        (RelativeBias(table=table), table),
        (GatedOutput(logits=gate), gate),
    ):
        attention(*inputs, variant, backend="eager").output.square().sum().backward()
        assert learned.grad is not None and bool(learned.grad.any())


# What makes no sense is refused

WRONG = {
    "dilation": lambda: Dilated(dilation=0),
    "stride": lambda: Strided(stride=0),
    "summary": lambda: Fixed(stride=4, summary=5),
    "prefix": lambda: Prefix(prefix=-1),
    "recent": lambda: Streaming(recent=0),
    "sink_tokens": lambda: Document(segments=torch.zeros(1, 7, dtype=torch.long), sink_tokens=0),
    "columns": lambda: RelativeBias(causal=False, table=TABLE[:, :8]),
    "T5": lambda: RelativeBias(table=TABLE, buckets="T5", max_distance=3),
    "softcap": lambda: Softcap(softcap=0.0),
    "off-by-one": lambda: OffByOne(sink=1.0),
    "logit": lambda: SinkLogit(sink=None),
    "alpha": lambda: HeadSpan(alpha=0.5),
    "strength": lambda: IdentityInterpolation(strength=[0.0, 1.5, 0.0, 0.0]),
    "threshold": lambda: SinkCalibration(threshold=2.0),
    "under 0": lambda: SinkCalibration(base=HeadGates(values=[-1.0] * H)),
    "block": lambda: Sharded(block=0),
    "grid": lambda: PositionContent(grid=(0, 3)),
    "causal": lambda: Cross(causal=True),
}


@pytest.mark.parametrize("words", WRONG)
def test_parameters_that_make_no_sense_are_refused(words: str) -> None:
    with pytest.raises(InterpError, match=words) as caught:
        WRONG[words]()
    assert caught.value.code == "E205"


@pytest.mark.parametrize(
    "record, field, options",
    [
        (Strided(), "part", "both, column, local"),
        (Document(segments=torch.zeros(1, 7, dtype=torch.long)), "mask", "dense, document"),
        (Document(segments=torch.zeros(1, 7, dtype=torch.long)), "sinks_of", "segments, text"),
        (RelativeBias(table=TABLE), "buckets", "T5, clip"),
    ],
)
def test_words_that_are_no_option_are_refused(record: Variant, field: str, options: str) -> None:
    object.__setattr__(record, field, "remote")  # past the type checks that the tests run under
    with pytest.raises(InterpError, match=f"{field} has no option 'remote'") as caught:
        record.__post_init__()
    assert caught.value.code == "E201" and options in caught.value.fix


NO_GATES = [1.0] * 3
MISFITS = {
    "slope holds 3 values for 4 heads": Alibi(slope=[1.0] * 3),
    "sink holds 3 values": SinkLogit(sink=[0.0] * 3),
    "sink is a tensor without axes": SinkLogit(sink=torch.tensor(0.0)),
    "table holds 3 values": RelativeBias(table=TABLE[:3]),
    "3 prefixes for 2 prompts": Prefix(prefix=[1, 2, 3]),
    "segments": Document(segments=torch.zeros(2, 6, dtype=torch.long)),
    "alpha holds 1 values": HeadSpan(alpha=[3.0]),
    "strength holds 2 values": IdentityInterpolation(strength=[0.0, 1.0]),
    "gates .3. fit neither": HeadGates(values=NO_GATES),
    "gates .1, 4, 6. fit neither": GatedOutput(logits=torch.zeros(1, H, 6)),
    "do not fit the problem's heads": KeyValueBias(keys=torch.zeros(H, 1, 2), values=torch.zeros(H, 1, DV)),
    "is no grid of 2 x 3": PositionContent(grid=(2, 3)),
}


@pytest.mark.parametrize("words", MISFITS)
def test_parameters_that_do_not_fit_the_problem_are_refused(words: str) -> None:
    with pytest.raises(InterpError, match=words) as caught:
        attention(*tensors(7), MISFITS[words])
    assert caught.value.code == "E205"


def test_problems_that_an_operator_does_not_have_are_refused() -> None:
    q, k, v = tensors(7)
    with pytest.raises(InterpError, match="belong to no document"):
        attention(q, k, v, "cross", documents=torch.zeros(2, 7, dtype=torch.long))
    more = torch.cat([q, q], 2)
    for variant in (IdentityInterpolation(), Document(segments=torch.zeros(1, 7, dtype=torch.long))):
        with pytest.raises(InterpError, match="queries"):
            attention(more, k, v, variant)
    with pytest.raises(InterpError, match="no square"):
        attention(q[:, :2], k, v, PositionContent(grid=(1, 7)))


def test_a_span_loses_no_key_to_rounding() -> None:
    q, k, v = tensors(30)
    half = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), HeadSpan(alpha=1, beta=0.7, sink_tokens=0, length=11))
    same = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), Window(size=8))
    assert torch.equal(half.output, same.output)


def test_spans_that_grow_with_the_text_say_so() -> None:
    assert "length" in HeadSpan(beta=0.5).looks_ahead
    assert not HeadSpan(beta=0.5, length=100).looks_ahead
    assert not HeadSpan(beta=0.0).looks_ahead
