"""Every statistic against loops over prompts, heads, queries and keys, in float64, on a pattern made by loops too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics import statistics
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.distances import ClippedDistance, MeanDistance
from interp.kernels.statistics.entropy import EffectiveKeys, Entropy
from interp.kernels.statistics.influence import FutureInfluence
from interp.kernels.statistics.largest import ArgMax, Largest
from interp.kernels.statistics.masses import Mass, OffsetMass, SegmentMass, SinkMass, WindowMass
from interp.kernels.statistics.norms import OutputNormMass, ValueNormMass
from interp.kernels.statistics.per_head import PerHead
from interp.kernels.statistics.pooled import BlockPooled
from interp.kernels.statistics.received import HeavyHitters, LastQueries, Received
from interp.kernels.statistics.targeted import TargetedMass
from interp.kernels.statistics.targets import (
    Chain,
    after_last_occurrence,
    last_occurrence,
    next_emitted,
    previous_token,
)
from interp.kernels.statistics.topk import TopKeys, TopMasses
from interp.kernels.variants.softmax import Full, Softmax

B, H, KV, N, D = 2, 4, 2, 13, 5
PADDED = 3
"""Keys of padding before the second prompt."""
NAN = float("nan")


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = tensor(B, H, N, D), tensor(B, KV, N, D, seed=1), tensor(B, KV, N, D, seed=2)
REAL = torch.ones(B, N, dtype=torch.bool)
REAL[1, :PADDED] = False
DOCUMENTS = torch.zeros(B, N, dtype=torch.long)
DOCUMENTS[0, 6:] = 1
DOCUMENTS[1, 9:] = 1
MASK = torch.rand(B, N, generator=torch.Generator().manual_seed(3)) < 0.4
SEGMENTS = torch.arange(N).expand(B, -1) // 5
TARGETS = torch.randint(-1, N, (B, N), generator=torch.Generator().manual_seed(4))
SEVERAL = torch.stack([torch.stack([torch.randperm(N)[:3] for _ in range(N)]) for _ in range(H)])[None].repeat(
    B, 1, 1, 1
)
WEIGHTS = tensor(B, H, N, seed=5)
W_O = tensor(H, D, 7, seed=6)


class Cell:
    """One entry of a pattern, and where it stands."""

    def __init__(self, b: int, h: int, i: int, j: int, p: float, back: int, place: int) -> None:
        self.b, self.h, self.i, self.j, self.p, self.back, self.place = b, h, i, j, p, back, place


def place(b: int, j: int) -> int:
    """Position in its document, counted from its first real key."""
    start = max(j0 for j0 in range(j + 1) if j0 == 0 or DOCUMENTS[b, j0] != DOCUMENTS[b, j0 - 1])
    return j - max(start, PADDED if b == 1 else 0)


def pattern(causal: bool = True) -> dict[tuple[int, int, int], list[Cell]]:
    """Rows of cells, each by exp and sum alone."""
    rows: dict[tuple[int, int, int], list[Cell]] = {}
    for b in range(B):
        for h in range(H):
            for i in range(N):
                if not REAL[b, i]:
                    continue
                keys = [
                    j for j in range(N) if REAL[b, j] and DOCUMENTS[b, i] == DOCUMENTS[b, j] and (j <= i or not causal)
                ]
                e = [
                    math.exp(sum(float(Q[b, h, i, d] * K[b, h // 2, j, d]) for d in range(D)) / math.sqrt(D))
                    for j in keys
                ]
                rows[b, h, i] = [
                    Cell(b, h, i, j, one / sum(e), i - j, place(b, j)) for j, one in zip(keys, e, strict=True)
                ]
    return rows


ROWS = {True: pattern(), False: pattern(causal=False)}


def by_rows(of: Callable[[list[Cell]], float | list[float]], width: tuple[int, ...] = ()) -> Callable[[bool], Tensor]:
    """A number, or some, from each row; NaN at padding."""

    def wanted(causal: bool) -> Tensor:
        found = torch.full((B, H, N, *width), NAN, dtype=torch.float64)
        for at, row in ROWS[causal].items():
            found[at] = torch.tensor(of(row), dtype=torch.float64)
        return found

    return wanted


def summed(keep: Callable[[Cell], float]) -> Callable[[bool], Tensor]:
    return by_rows(lambda row: sum(cell.p * keep(cell) for cell in row))


def by_columns(weight: Callable[[Cell], float]) -> Callable[[bool], Tensor]:
    def wanted(causal: bool) -> Tensor:
        found = torch.zeros(B, H, N, dtype=torch.float64)
        for row in ROWS[causal].values():
            for cell in row:
                found[cell.b, cell.h, cell.j] += weight(cell) * cell.p
        return found

    return wanted


def length(cell: Cell) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in V[cell.b, cell.h // 2, cell.j]))


def written(cell: Cell) -> float:
    moved = [sum(float(V[cell.b, cell.h // 2, cell.j, d] * W_O[cell.h, d, m]) for d in range(D)) for m in range(7)]
    return math.sqrt(sum(x * x for x in moved))


def share(of: Callable[[Cell], float], inside: Callable[[Cell], bool]) -> Callable[[bool], Tensor]:
    return by_rows(lambda row: sum(c.p * of(c) for c in row if inside(c)) / sum(c.p * of(c) for c in row))


def influence(delta: int, horizon: int) -> Callable[[bool], Tensor]:
    def wanted(causal: bool) -> Tensor:
        found = torch.full((B, H, N), NAN, dtype=torch.float64)
        for b in range(B):
            for h in range(H):
                for j in range(N):
                    given = [
                        next((c.p for c in ROWS[causal][b, h, i] if c.j == j), 0.0)
                        for i in range(j + delta, min(N, j + horizon + 1))
                        if REAL[b, i] and REAL[b, j] and DOCUMENTS[b, i] == DOCUMENTS[b, j]
                    ]
                    if given:
                        found[b, h, j] = sum(given) / len(given)
        return found

    return wanted


def heavy(k: int) -> Callable[[bool], Tensor]:
    def wanted(causal: bool) -> Tensor:
        received = by_columns(lambda cell: 1.0)(causal)
        found = torch.full((B, H, k), -1)
        for b in range(B):
            for h in range(H):
                order = sorted(range(N), key=lambda j: -float(received[b, h, j]))
                for rank, j in enumerate(order[:k]):
                    found[b, h, rank] = j if received[b, h, j] > 0 else -1
        return found

    return wanted


def pooled(block: int, by: Callable[[list[float]], float]) -> Callable[[bool], Tensor]:
    def wanted(causal: bool) -> Tensor:
        n = -(-N // block)
        cells: dict[tuple[int, ...], list[float]] = {}
        for row in ROWS[causal].values():
            for c in row:
                cells.setdefault((c.b, c.h, c.i // block, c.j // block), []).append(c.p)
        found = torch.zeros(B, H, n, n, dtype=torch.float64)
        for at, values in cells.items():
            found[at] = by(values)
        return found

    return wanted


def ranked(k: int, of: Callable[[Cell], float], spare: float) -> Callable[[bool], Tensor]:
    def one(row: list[Cell]) -> list[float]:
        most = sorted(row, key=lambda cell: -cell.p)[:k]
        return [of(cell) for cell in most] + [spare] * (k - len(most))

    return by_rows(one, (k,))


def whole(wanted: Callable[[bool], Tensor]) -> Callable[[bool], Tensor]:
    """Indices: -1 in place of NaN."""
    return lambda causal: wanted(causal).nan_to_num(-1.0).long()


def per_head(reduce: Callable[[list[float]], float], over_batch: bool = False) -> Callable[[bool], Tensor]:
    """Entropy over the queries of MASK."""

    def wanted(causal: bool) -> Tensor:
        values = by_rows(lambda row: -sum(c.p * math.log(c.p) for c in row))(causal)
        prompts = [range(B)] if over_batch else [[b] for b in range(B)]
        return torch.tensor(
            [
                [
                    reduce([float(values[b, h, i]) for b in some for i in range(N) if REAL[b, i] and MASK[b, i]])
                    for h in range(H)
                ]
                for some in prompts
            ],
            dtype=torch.float64,
        )

    return wanted


Case = tuple[Statistic, Callable[[bool], Tensor]]
CASES: dict[str, Case] = {
    "entropy": (Entropy(), by_rows(lambda row: -sum(c.p * math.log(c.p) for c in row))),
    "effective-keys": (EffectiveKeys(), by_rows(lambda row: 1 / sum(c.p**2 for c in row))),
    "largest": (Largest(), by_rows(lambda row: max(c.p for c in row))),
    "arg-max": (ArgMax(), whole(by_rows(lambda row: float(max(row, key=lambda c: c.p).j)))),
    "mass": (Mass(), summed(lambda c: 1.0)),
    "sink-mass": (SinkMass(2), summed(lambda c: c.place < 2)),
    "sink-mass of a mask": (SinkMass(MASK), summed(lambda c: float(MASK[c.b, c.j]))),
    "window-mass": (WindowMass(3), summed(lambda c: abs(c.back) < 3)),
    "offset-mass": (OffsetMass(), summed(lambda c: c.back == 1)),
    "offset-mass of 0": (OffsetMass(0), summed(lambda c: c.back == 0)),
    "offset-mass of -1": (OffsetMass(-1), summed(lambda c: c.back == -1)),
    "segment-mass": (
        SegmentMass(SEGMENTS),
        by_rows(lambda row: [sum(c.p for c in row if c.j // 5 == s) for s in range(3)], (3,)),
    ),
    "mean-distance": (MeanDistance(), summed(lambda c: c.back)),
    "clipped-distance": (ClippedDistance(3), summed(lambda c: min(c.back, 3))),
    "value-norm-mass": (ValueNormMass(), summed(length)),
    "value-norm-mass of a set": (ValueNormMass(2), share(length, lambda c: c.place < 2)),
    "output-norm-mass": (OutputNormMass(w_o=W_O), summed(written)),
    "output-norm-mass of a mask": (OutputNormMass(MASK, w_o=W_O), share(written, lambda c: bool(MASK[c.b, c.j]))),
    "received": (Received(), by_columns(lambda c: 1.0)),
    "received with weights": (Received(WEIGHTS), by_columns(lambda c: float(WEIGHTS[c.b, c.h, c.i]))),
    "last-queries": (LastQueries(3), by_columns(lambda c: c.i >= N - 3)),
    "heavy-hitters": (HeavyHitters(20), heavy(20)),
    "future-influence": (FutureInfluence(2, 4), influence(2, 4)),
    "future-influence to the end": (FutureInfluence(3, None), influence(3, N)),
    "top-masses": (TopMasses(3), ranked(3, lambda c: c.p, 0.0)),
    "top-keys": (TopKeys(3), whole(ranked(3, lambda c: c.j, -1.0))),
    "targeted-mass": (TargetedMass(TARGETS), summed(lambda c: c.j == int(TARGETS[c.b, c.i]))),
    "targeted-mass of several": (TargetedMass(SEVERAL), summed(lambda c: c.j in SEVERAL[c.b, c.h, c.i].tolist())),
    "block-pooled": (BlockPooled(4), pooled(4, max)),
    "block-pooled by sum": (BlockPooled(4, "sum"), pooled(4, sum)),
    "per-head": (PerHead(queries=MASK), per_head(lambda values: sum(values) / len(values))),
    "per-head by sum": (PerHead(queries=MASK, by="sum"), per_head(sum)),
    "per-head by max": (PerHead(queries=MASK, by="max", over_batch=True), per_head(max, True)),
}


def test_every_statistic_has_a_case() -> None:
    assert {case[0].name for case in CASES.values()} == set(statistics())


@pytest.mark.parametrize("backend", ["eager", "blockwise"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("label", CASES)
def test_statistics_are_those_of_loops(label: str, causal: bool, backend: str) -> None:
    statistic, wanted = CASES[label]
    variant = Softmax() if causal else Full()
    found = attention(Q, K, V, variant, {label: statistic}, backend, key_mask=REAL, documents=DOCUMENTS)[label]
    torch.testing.assert_close(found, wanted(causal), atol=1e-12, rtol=0, equal_nan=True)


def test_parameters_of_all_heads_follow_the_heads_that_are_run() -> None:
    """Groups of heads with different operators, and some heads alone: weights, norms and targets are picked alike."""
    asked = {
        "received": Received(WEIGHTS),
        "norms": OutputNormMass(w_o=W_O),
        "targets": TargetedMass(SEVERAL),
    }
    whole_ = attention(Q, K, V, "softmax", asked, "eager")
    mixed = attention(Q, K, V, ["softmax", "full", "full", "softmax"], asked, "eager")
    some = attention(Q, K, V, "softmax", asked, "eager", heads=[3, 0])
    for label in asked:
        torch.testing.assert_close(mixed[label][:, [0, 3]], whole_[label][:, [0, 3]])
        torch.testing.assert_close(some[label], whole_[label][:, [3, 0]])


def test_decoding_gives_the_last_rows() -> None:
    """Fewer queries than keys stand at the end."""
    last = 4
    for label in ("entropy", "offset-mass", "mean-distance", "clipped-distance", "window-mass", "segment-mass"):
        statistic = CASES[label][0]
        everything = attention(Q, K, V, "softmax", {label: statistic}, "eager", key_mask=REAL)
        end = attention(Q[:, :, -last:], K, V, "softmax", {label: statistic}, "eager", key_mask=REAL)
        torch.testing.assert_close(end[label], everything[label][:, :, -last:], equal_nan=True)


def test_gradients_reach_statistics() -> None:
    q = Q.clone().requires_grad_()
    found = attention(q, K, V, "softmax", ["entropy", "received"], "eager")
    found["entropy"].sum().backward()
    assert q.grad is not None and bool(q.grad.isfinite().all()) and float(q.grad.abs().sum()) > 0


IDS = torch.tensor([[5, 7, 5, 5, 9, 7, 5, 9], [0, 0, 3, 4, 3, 4, 3, 3]])
KNOWN = torch.tensor([[True] * 8, [False] * 2 + [True] * 6])


def test_targets_from_token_ids() -> None:
    wanted_last = [[-1, -1, 0, 2, -1, 1, 3, 4], [-1, -1, -1, -1, 2, 3, 4, 6]]
    assert last_occurrence(IDS, KNOWN).tolist() == wanted_last
    assert after_last_occurrence(IDS, KNOWN).tolist() == [[x + 1 if x >= 0 else -1 for x in row] for row in wanted_last]
    assert previous_token(IDS, KNOWN).tolist() == [[-1, 0, 1, 2, 3, 4, 5, 6], [-1, -1, -1, 2, 3, 4, 5, 6]]
    needle = torch.zeros_like(KNOWN)
    needle[0, 1:3] = True  # 7, 5
    assert next_emitted(IDS, needle)[0].tolist() == [-1, -1, 2, -1, 1, 2, -1, -1]


@pytest.mark.parametrize("shift", [0, 1])
def test_all_occurrences_are_those_of_a_loop(shift: int) -> None:
    ids = torch.randint(0, 4, (3, 20), generator=torch.Generator().manual_seed(0))
    found = torch.stack(list(Chain(last_occurrence(ids), shift).columns()), -1)
    for b in range(3):
        for i in range(20):
            wanted = {j + shift for j in range(i) if ids[b, j] == ids[b, i]}
            assert set(found[b, 0, i].tolist()) - {-1} == wanted


def test_next_emitted_is_never_after_its_query() -> None:
    ids = torch.randint(0, 5, (4, 30), generator=torch.Generator().manual_seed(1))
    targets = next_emitted(ids, torch.ones_like(ids, dtype=torch.bool))
    for b in range(4):
        for i in range(29):
            wanted = max((j for j in range(i + 1) if ids[b, j] == ids[b, i + 1]), default=-1)
            assert int(targets[b, i]) == wanted


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "no key": (lambda: SinkMass(0), "E205"),
    "no window": (lambda: WindowMass(0), "E205"),
    "no clip": (lambda: ClippedDistance(0), "E205"),
    "keys that are numbers": (lambda: SinkMass(torch.ones(B, N)), "E206"),
    "segments that are floats": (lambda: SegmentMass(torch.ones(B, N)), "E206"),
    "too few segments": (lambda: SegmentMass(SEGMENTS, count=2), "E205"),
    "no norms": (lambda: OutputNormMass(), "E205"),
    "horizon before delta": (lambda: FutureInfluence(5, 4), "E205"),
    "no hitter": (lambda: HeavyHitters(0), "E205"),
    "no last query": (lambda: LastQueries(0), "E205"),
    "no top": (lambda: TopKeys(0), "E205"),
    "no block": (lambda: BlockPooled(0), "E205"),
    "pooled by mean": (lambda: BlockPooled(4, "mean"), "E205"),
    "the mean of keys": (lambda: PerHead(TopKeys()), "E205"),
    "per head of a column": (lambda: PerHead(Received()), "E205"),
    "queries that are numbers": (lambda: PerHead(queries=torch.ones(B, N)), "E206"),
    "targets that are floats": (lambda: TargetedMass(torch.ones(B, N)), "E206"),
    "a target twice": (lambda: TargetedMass(torch.zeros(B, H, N, 2, dtype=torch.long)), "E205"),
    "a target beyond the keys": (lambda: ask(TargetedMass(torch.full((B, N), N))), "E205"),
    "targets of another length": (lambda: ask(TargetedMass(TARGETS[:, 1:])), "E205"),
    "weights of another length": (lambda: ask(Received(WEIGHTS[..., 1:])), "E205"),
    "segments of another length": (lambda: ask(SegmentMass(SEGMENTS[:, 1:])), "E205"),
    "keys of another length": (lambda: ask(SinkMass(MASK[:, 1:])), "E205"),
    "queries of another length": (lambda: ask(PerHead(queries=MASK[:, 1:])), "E205"),
    "w_o of other heads": (lambda: ask(OutputNormMass(w_o=W_O[1:])), "E205"),
    "norms of another length": (lambda: ask(OutputNormMass(norms=torch.ones(B, H, N + 1))), "E205"),
    "a name that needs parameters": (lambda: attention(Q, K, V, "softmax", ["segment-mass"]), "E205"),
    "an unknown name": (lambda: attention(Q, K, V, "softmax", ["entropi"]), "E201"),
}


def ask(statistic: Statistic) -> object:
    return attention(Q, K, V, "softmax", [statistic])


@pytest.mark.parametrize("label", BAD)
def test_bad_parameters_are_refused(label: str) -> None:
    make, code = BAD[label]
    with pytest.raises(InterpError) as caught:
        make()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("label", "spoil"),
    [
        ("entropy", lambda x: x + 3),
        ("largest", lambda x: x + 1),
        ("sink-mass", lambda x: -x - 0.1),
        ("segment-mass", lambda x: 0.9 * x),
        ("received", lambda x: x + 0.1),
        ("heavy-hitters", lambda x: x + N),
        ("top-keys", lambda x: x - 5),
        ("effective-keys", lambda x: -x),
        ("per-head by max", lambda x: -x - 1),
        ("block-pooled", lambda x: x + 1),
    ],
)
def test_self_checks_find_spoilt_numbers(label: str, spoil: Callable[[Tensor], Tensor]) -> None:
    statistic, wanted = CASES[label]
    problem = Problem(Q, K, V, D**-0.5, key_mask=REAL, documents=DOCUMENTS, head_index=tuple(range(H)), n_heads=H)
    statistic.verify(wanted(True), problem)
    with pytest.raises(InterpError) as caught:
        statistic.verify(spoil(wanted(True)), problem)
    assert caught.value.code == "E503"
