"""Attention over chosen keys against loops over the rule that chooses, and what must hold of it whatever the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant
from interp.kernels.variants.blocks import BlockTopK, Seer, Sparge
from interp.kernels.variants.decay import Retention
from interp.kernels.variants.delta_correction import DeltaCorrection
from interp.kernels.variants.expert_choice import ExpertChoice
from interp.kernels.variants.hierarchical import Hierarchical
from interp.kernels.variants.low_rank_keys import LowRankKeys
from interp.kernels.variants.routing import Routing
from interp.kernels.variants.sampled_columns import SampledColumns
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.window import Window

B, H, KV, N, D = 2, 4, 2, 23, 3
SCALE = 0.8
ALL = slice(None)


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = tensor(B, H, N, D), tensor(B, KV, N, D, seed=1), tensor(B, KV, N, D + 1, seed=2)
SCORES = tensor(B, H, N, seed=3).sigmoid()
CENTROIDS = tensor(H, 3, D, seed=4)
BASIS = torch.linalg.qr(tensor(1, KV, D, D, seed=5)).Q
MAPS = tensor(H, 3 * D, 2, seed=6), tensor(H, 3 * D, 2, seed=7)


def weights(operator: Variant, q: Tensor = Q, k: Tensor = K, v: Tensor = V, **more: Any) -> Tensor:
    heads = q.shape[1]
    problem = Problem(q, k, v, SCALE, head_index=tuple(range(heads)), n_heads=heads, **more)
    return operator.weights(problem.view()).values


def run(operator: Variant | str, q: Tensor = Q, k: Tensor = K, v: Tensor = V, **more: Any) -> Tensor:
    return attention(q, k, v, operator, scale=SCALE, **more).output


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(row[d] for row in rows) / len(rows) for d in range(len(rows[0]))]


def softmax_over(chosen: Callable[[int, int, int], set[int]], causal: bool = True) -> Tensor:
    """Weights of softmax attention over chosen keys, cell by cell."""
    found = torch.zeros(B, H, N, N, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                keys = sorted(j for j in chosen(b, h, i) if j <= i or not causal)
                powers = [math.exp(SCALE * dot(Q[b, h, i].tolist(), K[b, h // 2, j].tolist())) for j in keys]
                for j, power in zip(keys, powers, strict=True):
                    found[b, h, i, j] = power / sum(powers)
    return found


def best(scores: dict[int, float], keep: int) -> set[int]:
    return set(sorted(scores, key=lambda each: -scores[each])[:keep])


def block(number: int, size: int) -> range:
    return range(number * size, min((number + 1) * size, N))


def keys_of(b: int, h: int, places: range | list[int]) -> list[list[float]]:
    return [K[b, h // 2, j].tolist() for j in places]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("query_size", [1, 4, 7])
def test_blocks_against_a_loop(causal: bool, query_size: int) -> None:
    size, keep = 4, 2

    def chosen(b: int, h: int, i: int) -> set[int]:
        group = range(i // query_size * query_size, min((i // query_size + 1) * query_size, N))
        query = mean([Q[b, h, each].tolist() for each in group])
        own = group[0] // size if causal else math.ceil(N / size)
        liked = best({n: dot(query, mean(keys_of(b, h, block(n, size)))) for n in range(own)}, keep)
        return {j for j in range(N) if j // size in liked or j // size >= own}

    operator = BlockTopK(causal=causal, keep=keep, size=size, query_size=query_size)
    assert torch.allclose(weights(operator), softmax_over(chosen, causal), atol=1e-12)


@pytest.mark.parametrize(("share", "floor", "query_size"), [(0.6, 0.0, 1), (0.6, 0.4, 1), (0.8, 0.35, 3)])
def test_sparge_against_a_loop(share: float, floor: float, query_size: int) -> None:
    size = 3

    def alike(rows: list[list[float]]) -> bool:
        units = [[one / math.sqrt(dot(row, row)) for one in row] for row in rows]
        return sum(dot(x, y) for x in units for y in units) / len(rows) ** 2 >= floor

    def chosen(b: int, h: int, i: int) -> set[int]:
        group = range(i // query_size * query_size, min((i // query_size + 1) * query_size, N))
        queries = [Q[b, h, each].tolist() for each in group]
        own = group[0] // size
        if not alike(queries):
            return set(range(N))
        judged = [n for n in range(own) if alike(keys_of(b, h, block(n, size)))]
        powers = {n: math.exp(SCALE * dot(mean(queries), mean(keys_of(b, h, block(n, size))))) for n in judged}
        kept, mass = set(range(own, N)) | (set(range(own)) - set(judged)), 0.0
        for n in sorted(powers, key=lambda each: -powers[each]):
            if mass < share * sum(powers.values()):
                kept.add(n)
            mass += powers[n]
        return {j for j in range(N) if j // size in kept}

    operator = Sparge(size=size, query_size=query_size, share=share, similarity_floor=floor)
    found = weights(operator)
    assert torch.allclose(found, softmax_over(chosen), atol=1e-12)
    assert not torch.allclose(found, weights(Softmax()), atol=1e-3), "something is skipped"


@pytest.mark.parametrize("maps", [(None, None), MAPS], ids=["identity", "learned"])
def test_seer_against_a_loop(maps: tuple[Tensor | None, Tensor | None]) -> None:
    size, keep = 4, 2

    def pooled(rows: list[list[float]], h: int, given: Tensor | None) -> list[float]:
        columns = list(zip(*rows, strict=True))
        features = [*mean(rows), *(max(one) for one in columns), *(min(one) for one in columns)]
        if given is None:
            return features
        return [sum(features[f] * float(given[h, f, g]) for f in range(3 * D)) for g in range(2)]

    def chosen(b: int, h: int, i: int) -> set[int]:
        query = pooled([Q[b, h, i].tolist()], h, maps[0])
        scores = {n: dot(query, pooled(keys_of(b, h, block(n, size)), h, maps[1])) for n in range(i // size)}
        liked = best(scores, keep)
        return {j for j in range(N) if j // size in liked or j // size == i // size}

    operator = Seer(keep=keep, size=size, q_map=maps[0], k_map=maps[1])
    assert torch.allclose(weights(operator), softmax_over(chosen), atol=1e-12)


def test_sampled_columns_against_a_loop() -> None:
    window, every, share = 3, 5, 0.6
    dense = softmax_over(lambda b, h, i: set(range(N)))
    sampled = [i for i in range(N) if i % every == every - 1 or i == N - 1]

    def chosen(b: int, h: int, i: int) -> set[int]:
        received = {j: sum(float(dense[b, h, row, j]) for row in sampled) for j in range(N)}
        columns, mass = set(), 0.0
        for j in sorted(received, key=lambda each: -received[each]):
            if mass < share * len(sampled):
                columns.add(j)
            mass += received[j]
        return columns | set(range(i - window + 1, i + 1)) - set(range(-window, 0))

    found = weights(SampledColumns(window=window, every=every, share=share))
    assert torch.allclose(found, softmax_over(chosen), atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_low_rank_keys_against_a_loop(causal: bool) -> None:
    keep, rank = 4, 2

    def chosen(b: int, h: int, i: int) -> set[int]:
        directions = [BASIS[0, h // 2, :, r].tolist() for r in range(rank)]
        low_q = [dot(Q[b, h, i].tolist(), each) for each in directions]
        seen = range(i + 1) if causal else range(N)
        return best({j: dot(low_q, [dot(keys_of(b, h, [j])[0], each) for each in directions]) for j in seen}, keep)

    operator = LowRankKeys(causal=causal, keep=keep, rank=rank, basis=BASIS)
    assert torch.allclose(weights(operator), softmax_over(chosen, causal), atol=1e-12)


def test_principal_directions_are_those_of_the_keys() -> None:
    """All directions choose the keys with the largest scores; one direction the keys along the largest variance."""
    exact = softmax_over(
        lambda b, h, i: best({j: dot(Q[b, h, i].tolist(), keys_of(b, h, [j])[0]) for j in range(i + 1)}, 4)
    )
    assert torch.allclose(weights(LowRankKeys(keep=4, rank=D)), exact, atol=1e-12)
    first = torch.zeros(B, KV, D, dtype=torch.float64)
    for b in range(B):
        for h in range(KV):
            first[b, h] = torch.linalg.svd(K[b, h] - K[b, h].mean(0)).Vh[0]
    along = softmax_over(
        lambda b, h, i: best(
            {
                j: dot(Q[b, h, i].tolist(), first[b, h // 2].tolist())
                * dot(keys_of(b, h, [j])[0], first[b, h // 2].tolist())
                for j in range(i + 1)
            },
            4,
        )
    )
    assert torch.allclose(weights(LowRankKeys(keep=4, rank=1)), along, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("keep", "leaf"), [(1, 1), (3, 1), (2, 2), (4, 3)])
def test_the_search_down_a_tree_against_a_loop(causal: bool, keep: int, leaf: int) -> None:
    def chosen(b: int, h: int, i: int) -> set[int]:
        end = i + 1 if causal else N
        width = leaf
        while math.ceil(end / width) > keep:
            width *= 2
        parts = [n for n in range(keep) if n * width < end]
        while width > leaf:
            width //= 2
            halves = [m for n in parts for m in (2 * n, 2 * n + 1) if m * width < end]
            judges = {m: min(m * width + width // 2, end - 1) for m in halves}
            parts = list(best({m: dot(Q[b, h, i].tolist(), keys_of(b, h, [judges[m]])[0]) for m in halves}, keep))
        return {j for j in range(N) if j // leaf in parts}

    operator = Hierarchical(causal=causal, keep=keep, leaf=leaf)
    assert torch.allclose(weights(operator), softmax_over(chosen, causal), atol=1e-12)


def cosine(x: list[float], y: list[float]) -> float:
    return dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))


@pytest.mark.parametrize("balanced", [True, False])
def test_routing_against_a_loop(balanced: bool) -> None:
    found = weights(Routing(centroids=CENTROIDS, balanced=balanced))
    window = math.ceil(N / 3)
    for b in range(B):
        for h in range(H):
            q, k = Q[b, h].tolist(), K[b, h // 2].tolist()
            near = [[cosine(x, CENTROIDS[h, c].tolist()) for c in range(3)] for x in (*q, *k)]
            wanted = torch.zeros(N, N, dtype=torch.float64)
            for i in range(N):
                rows = []
                for c in range(3):
                    if balanced:
                        queries = best({n: near[n][c] for n in range(N)}, window)
                        keys = best({n: near[N + n][c] for n in range(N)}, window)
                    else:
                        queries = {n for n in range(N) if max(range(3), key=lambda e, n=n: near[n][e]) == c}
                        keys = {n for n in range(N) if max(range(3), key=lambda e, n=n: near[N + n][e]) == c} | {i}
                    seen = sorted(j for j in keys if j <= i)
                    if i in queries and seen:
                        powers = [math.exp(SCALE * dot(q[i], k[j])) for j in seen]
                        rows.append({j: power / sum(powers) for j, power in zip(seen, powers, strict=True)})
                for row in rows:
                    for j, share in row.items():
                        wanted[i, j] += share / len(rows)
            assert torch.allclose(found[b, h], wanted, atol=1e-12)


@pytest.mark.parametrize(("keep", "first"), [(5, False), (5, True), (None, False)])
def test_expert_choice_against_a_loop(keep: int | None, first: bool) -> None:
    found = weights(ExpertChoice(scores=SCORES, keep=keep, first=first, sparsity=4))
    for b in range(B):
        for h in range(H):
            score = SCORES[b, h].tolist()
            liked = {n: 9.0 if first and n == 0 else score[n] for n in range(N)}
            taken = sorted(best(liked, max(2, N // 4) if keep is None else keep))
            wanted = torch.zeros(N, N, dtype=torch.float64)
            for i in taken:
                seen = [j for j in taken if j <= i]
                powers = [math.exp(SCALE * dot(Q[b, h, i].tolist(), K[b, h // 2, j].tolist())) for j in seen]
                for j, power in zip(seen, powers, strict=True):
                    wanted[i, j] = score[i] * power / sum(powers)
            assert torch.allclose(found[b, h], wanted, atol=1e-12)


@pytest.mark.parametrize(("every", "tail", "dense_rows"), [(5, 0, 0), (5, 2, 3 + 5), (5, 7, 3 + 7), (3, 6, 2 + 6)])
def test_delta_correction_against_a_loop(every: int, tail: int, dense_rows: int) -> None:
    sparse, dense = weights(Window(size=3)), weights(Softmax())
    found = weights(DeltaCorrection(of=Window(size=3), every=every, tail=tail))
    for i in range(N):
        anchor = i // every * every
        wanted = dense[:, :, i] if i >= N - dense_rows else sparse[:, :, i] + dense[:, :, anchor] - sparse[:, :, anchor]
        assert torch.allclose(found[:, :, i], wanted, atol=1e-12), i
    assert torch.allclose(found.sum(-1), torch.ones(B, H, N, dtype=torch.float64), atol=1e-12)
    assert float(found.min()) < -1e-3, "signed"


EVERY: dict[str, Callable[[slice], Variant]] = {
    "blocks": lambda part: BlockTopK(keep=2, size=4),
    "blocks of queries": lambda part: BlockTopK(keep=1, size=2, query_size=4),
    "sparge": lambda part: Sparge(size=3, share=0.6, similarity_floor=0.3),
    "seer": lambda part: Seer(keep=2, size=4, q_map=MAPS[0], k_map=MAPS[1]),
    "columns": lambda part: SampledColumns(window=2, every=4, share=0.5),
    "low rank": lambda part: LowRankKeys(keep=3, rank=2, basis=BASIS),
    "low rank, own basis": lambda part: LowRankKeys(keep=3, rank=1),
    "tree": lambda part: Hierarchical(keep=2),
    "tree with leaves": lambda part: Hierarchical(keep=2, leaf=2),
    "routing": lambda part: Routing(clusters=3),
    "nearest centroid": lambda part: Routing(centroids=CENTROIDS, balanced=False),
    "nearest centroid, k-means": lambda part: Routing(clusters=3, balanced=False),
    "nearest centroid, random": lambda part: Routing(clusters=3, balanced=False, steps=0),
    "experts": lambda part: ExpertChoice(scores=SCORES[:, :, part], sparsity=3),
    "delta": lambda part: DeltaCorrection(of=BlockTopK(keep=1, size=2), every=3, tail=1),
    "delta of own basis": lambda part: DeltaCorrection(of=LowRankKeys(keep=3, rank=1), every=3, tail=0),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_later_token_changes_what_it_may(name: str) -> None:
    """Earlier outputs stay exactly where an operator says it doesn't look ahead; where it says it does, some move."""
    operator, moved = EVERY[name](ALL), False
    for at in (9, 15, 18, 22):
        changed = [x.clone() for x in (Q, K, V)]
        for x in changed:
            x[:, :, at:] = 4 * tensor(*x[:, :, at:].shape, seed=8)
        other = operator
        if isinstance(operator, ExpertChoice):
            scores = SCORES.clone()
            scores[:, :, at:] = 0.999 - 0.01 * scores[:, :, at:]
            other = ExpertChoice(scores=scores, sparsity=3)
        before, after = run(operator), run(other, *changed)
        assert not torch.allclose(before[:, :, at:], after[:, :, at:])
        moved |= not torch.equal(before[:, :, :at], after[:, :, :at])
    assert moved == (operator.looks_ahead != "")


@pytest.mark.parametrize("name", EVERY)
def test_documents_and_padding_give_what_they_give_alone(name: str) -> None:
    parts = (slice(0, 9), slice(9, 10), slice(10, N))
    documents = torch.tensor([[7] * 9 + [2] + [5] * (N - 10)]).expand(B, -1)
    packed = run(EVERY[name](ALL), documents=documents)
    alone = [run(EVERY[name](part), *(x[:, :, part] for x in (Q, K, V))) for part in parts]
    assert torch.allclose(packed, torch.cat(alone, dim=2), atol=1e-12)
    real = torch.ones(B, N, dtype=torch.bool)
    for padding, part in ((slice(0, 5), slice(5, None)), (slice(N - 5, None), slice(0, N - 5))):
        real[:], real[:, padding] = True, False
        padded = run(EVERY[name](ALL), key_mask=real)
        wanted = run(EVERY[name](part), *(x[:, :, part] for x in (Q, K, V)))
        assert torch.allclose(padded[:, :, part], wanted, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_blocks_of_rows_and_single_heads_are_as_all_at_once(name: str) -> None:
    operator = EVERY[name](ALL)
    problem = Problem(Q, K, V, SCALE, head_index=tuple(range(H)), n_heads=H)
    whole = operator.weights(problem.view()).values
    for heads, rows in ((slice(1, 2), slice(7, 12)), (slice(2, 4), slice(20, 23))):
        part = operator.weights(problem.view(heads, rows)).values
        assert torch.allclose(part, whole[:, heads, rows], atol=1e-13)
    alone = operator.weights(problem.of_heads([3, 1]).view()).values
    assert torch.allclose(alone, whole[:, [3, 1]], atol=1e-13)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_flow_through_what_was_chosen(name: str) -> None:
    """Against differences: the choice is constant almost everywhere."""
    operator, step = EVERY[name](ALL), 1e-6
    q, towards = Q.clone().requires_grad_(), tensor(B, H, N, D, seed=9)
    target = tensor(B, H, N, D + 1, seed=10)
    (gradient,) = torch.autograd.grad((run(operator, q, backend="eager") * target).sum(), q)
    ahead, behind = (float((run(operator, Q + sign * step * towards) * target).sum()) for sign in (1, -1))
    assert float((gradient * towards).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_all_keys_chosen_is_dense(causal: bool) -> None:
    every: list[Variant] = [
        BlockTopK(causal=causal, keep=N, size=4),
        Sparge(causal=causal, size=4, share=1.0),
        Seer(causal=causal, keep=N, size=4),
        SampledColumns(causal=causal, share=1.0, window=1),
        SampledColumns(causal=causal, share=0.1, window=N),
        LowRankKeys(causal=causal, keep=N, rank=1),
        Hierarchical(causal=causal, keep=N),
        Hierarchical(causal=causal, keep=4, leaf=6),
        Routing(causal=causal, clusters=1),
        Routing(causal=causal, clusters=1, balanced=False),
        ExpertChoice(causal=causal, keep=N, scores=torch.ones(1, 1, N, dtype=torch.float64)),
        DeltaCorrection(causal=causal, of=Window(causal=causal, size=2), every=1, tail=0),
    ]
    dense = run(Softmax(causal=causal))
    for operator in every:
        assert torch.allclose(run(operator), dense, atol=1e-12), operator


def test_softcap_and_sink_hold_for_chosen_keys_too() -> None:
    sink, softcap = [0.5, -1.0, 0.0, 2.0], 0.9
    wanted = run(Softmax(sink=sink, softcap=softcap))
    assert torch.allclose(run(BlockTopK(keep=N, size=4, sink=sink, softcap=softcap)), wanted, atol=1e-12)


def test_correction_takes_away_a_shift_that_rows_share() -> None:
    """Where neighbours attend alike, what sparse attention misses is what it missed at the anchor."""
    q = Q[:, ::2, :1].repeat_interleave(2, dim=1) + 0.05 * Q
    k, v = K.clone(), V.clone()
    k[:, :, 0], v[:, :, 0] = 3 * Q[:, ::2, 0], V[:, :, 0] + 5  # a sink that all queries attend to
    dense, sparse = run("softmax", q, k, v), run(Window(size=2), q, k, v)
    corrected = run(DeltaCorrection(of=Window(size=2), every=4, tail=0), q, k, v)
    assert float((corrected - dense).norm()) < 0.5 * float((sparse - dense).norm())


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockTopK(size=0),
        lambda: BlockTopK(keep=-1),
        lambda: BlockTopK(keep=0, causal=False),
        lambda: Sparge(share=0.0),
        lambda: Seer(pools=("median",)),
        lambda: SampledColumns(every=0),
        lambda: LowRankKeys(rank=0),
        lambda: Hierarchical(keep=0),
        lambda: Routing(clusters=0),
        lambda: Routing(balanced=False, window=3),
        lambda: ExpertChoice(scores=SCORES, keep=0),
        lambda: DeltaCorrection(of=Softmax(), every=0),
        lambda: DeltaCorrection(of=Retention()),
        lambda: DeltaCorrection(of=Softmax(causal=False)),
    ],
)
def test_parameters_that_make_no_sense(make: Callable[[], Any]) -> None:
    with pytest.raises(InterpError, match="E205"):
        make()


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (Seer(q_map=MAPS[0][:, :5]), "q_map"),
        (LowRankKeys(rank=3, basis=BASIS[..., :2]), "basis"),
        (Routing(centroids=CENTROIDS[:3]), "centroids"),
        (ExpertChoice(scores=SCORES[:, :, :4]), "scores"),
        (ExpertChoice(scores=-SCORES), "under 0"),
        (DeltaCorrection(of=Seer(q_map=MAPS[0][:, :5])), "q_map"),
    ],
)
def test_problems_that_an_operator_does_not_take(operator: Variant, words: str) -> None:
    with pytest.raises(InterpError, match="E205") as error:
        run(operator)
    assert words in str(error.value)
