"""Linear attention against loops over its formulas, and what must hold of it whatever the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError
from interp.kernels.feature_maps import Elu, Exp, Hedgehog, Relu, Taylor
from interp.kernels.problem import Problem
from interp.kernels.variants.agent import Agent
from interp.kernels.variants.base import Variant
from interp.kernels.variants.decay import GatedLinear, Lightning, PlainLinear, Retention
from interp.kernels.variants.efficient import Efficient
from interp.kernels.variants.feature_mapped import (
    HedgehogAttention,
    LinearAttention,
    LinearExp,
    LinearRelu,
    LogNormal,
    TaylorAttention,
)
from interp.kernels.variants.flow import Flow
from interp.kernels.variants.focused import Focused
from interp.kernels.variants.inline import InLine
from interp.kernels.variants.linear import Linear

B, H, KV, N, D = 2, 4, 2, 11, 3
SCALE = 0.45


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = tensor(B, H, N, D), tensor(B, KV, N, D, seed=1), tensor(B, KV, N, D + 1, seed=2)
GATES = -tensor(B, KV, N, D, seed=3).abs()
MATRIX = tensor(H, D, D, seed=4)
SPREAD = tensor(H, D, seed=5)


def problem(q: Tensor = Q, k: Tensor = K, v: Tensor = V, **more: Any) -> Problem:
    return Problem(q, k, v, SCALE, head_index=tuple(range(H)), n_heads=H, **more)


def weights(operator: Variant, q: Tensor = Q, k: Tensor = K, v: Tensor = V, **more: Any) -> Tensor:
    return operator.weights(problem(q, k, v, **more).view()).values


def run(operator: Variant, q: Tensor = Q, k: Tensor = K, v: Tensor = V, **more: Any) -> Tensor:
    return attention(q, k, v, operator, scale=SCALE, **more).output


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def loop(similar: Callable[[list[float], list[float], int], float], causal: bool, divides: bool = True) -> Tensor:
    """Weights cell by cell from a similarity of a query and a key of a head."""
    found = torch.zeros(B, H, N, N, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                row = [
                    similar(Q[b, h, i].tolist(), K[b, h // 2, j].tolist(), h) if j <= i or not causal else 0.0
                    for j in range(N)
                ]
                total = sum(row) if divides else 1.0
                found[b, h, i] = torch.tensor([one / total if total else 0.0 for one in row], dtype=torch.float64)
    return found


def elu(x: list[float]) -> list[float]:
    return [one + 1 if one > 0 else math.exp(one) for one in x]


def hedgehog(x: list[float], matrix: list[list[float]] | None = None) -> list[float]:
    y = x if matrix is None else [sum(x[d] * matrix[d][e] for d in range(D)) for e in range(D)]
    powers = [math.exp(2 * one) for one in y] + [math.exp(-2 * one) for one in y]
    return [one / sum(powers) for one in powers]


SIMILARITIES: dict[str, tuple[Linear, Callable[[list[float], list[float], int], float]]] = {
    "elu": (LinearAttention(), lambda q, k, h: dot(elu(q), elu(k))),
    "elu, full": (LinearAttention(causal=False), lambda q, k, h: dot(elu(q), elu(k))),
    "elu and relu": (LinearAttention(key_map=Relu()), lambda q, k, h: dot(elu(q), [max(one, 0.0) for one in k])),
    "relu": (LinearRelu(), lambda q, k, h: dot([max(one, 0.0) for one in q], [max(one, 0.0) for one in k])),
    "exp": (LinearExp(), lambda q, k, h: dot([math.exp(one) for one in q], [math.exp(one) for one in k])),
    "log-normal": (
        LogNormal(alpha=0.6, beta=1.3),
        lambda q, k, h: dot([math.exp(0.6 * one) for one in q], [math.exp(1.3 * one) for one in k]),
    ),
    "taylor": (TaylorAttention(), lambda q, k, h: 1 + SCALE * dot(q, k) + (SCALE * dot(q, k)) ** 2 / 2),
    "hedgehog": (HedgehogAttention(), lambda q, k, h: dot(hedgehog(q), hedgehog(k))),
    "hedgehog with a matrix": (
        HedgehogAttention(map=Hedgehog(MATRIX)),
        lambda q, k, h: dot(hedgehog(q, MATRIX[h].tolist()), hedgehog(k, MATRIX[h].tolist())),
    ),
}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_feature_maps_against_a_loop(name: str) -> None:
    operator, similar = SIMILARITIES[name]
    assert torch.allclose(weights(operator), loop(similar, operator.causal), atol=1e-12)


def recurrence(gate: Callable[[int, int, int, int], float]) -> Tensor:
    """Outputs step by step: the state fades channel by channel, then takes the token in."""
    found = torch.zeros(B, H, N, D + 1, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            state = [[0.0] * (D + 1) for _ in range(D)]
            for i in range(N):
                for d in range(D):
                    for e in range(D + 1):
                        kept = gate(b, h, i, d) * state[d][e]
                        state[d][e] = kept + float(K[b, h // 2, i, d]) * float(V[b, h // 2, i, e])
                for e in range(D + 1):
                    found[b, h, i, e] = SCALE * sum(float(Q[b, h, i, d]) * state[d][e] for d in range(D))
    return found


@pytest.mark.parametrize("backend", ["eager", "blockwise"])
def test_decays_against_their_recurrences(backend: str) -> None:
    cases: list[tuple[Linear, Callable[[int, int, int, int], float]]] = [
        (PlainLinear(), lambda b, h, i, d: 1.0),
        (Retention(), lambda b, h, i, d: 1 - 2.0 ** (-5 - h)),
        (Retention(gamma=[0.2, 0.5, 0.9, 1.0]), lambda b, h, i, d: [0.2, 0.5, 0.9, 1.0][h]),
        (Lightning(layer=1, n_layers=4), lambda b, h, i, d: math.exp(-8 * h / H * (1 - 1 / 4))),
        (GatedLinear(gates=GATES), lambda b, h, i, d: math.exp(float(GATES[b, h // 2, i, d]))),
        (GatedLinear(gates=GATES[:1, :1, :, :1]), lambda b, h, i, d: math.exp(float(GATES[0, 0, i, 0]))),
    ]
    for operator, gate in cases:
        assert torch.allclose(run(operator, backend=backend), recurrence(gate), atol=1e-12), operator.name


def test_inline_against_a_loop() -> None:
    found = weights(InLine())
    for b in range(B):
        for h in range(H):
            mean = [sum(float(K[b, h // 2, j, d]) for j in range(N)) / N for d in range(D)]
            for i in range(N):
                for j in range(N):
                    centred = [float(K[b, h // 2, j, d]) - mean[d] for d in range(D)]
                    wanted = 1 / N + SCALE / N * dot(Q[b, h, i].tolist(), centred)
                    assert float(found[b, h, i, j]) == pytest.approx(wanted, abs=1e-12)


def softmax(x: list[float]) -> list[float]:
    powers = [math.exp(one - max(x)) for one in x]
    return [one / sum(powers) for one in powers]


def test_efficient_against_a_loop() -> None:
    found = weights(Efficient())
    for b in range(B):
        for h in range(H):
            columns = [softmax(K[b, h // 2, :, c].tolist()) for c in range(D)]
            for i in range(N):
                mix = softmax(Q[b, h, i].tolist())
                for j in range(N):
                    wanted = sum(mix[c] * columns[c][j] for c in range(D))
                    assert float(found[b, h, i, j]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("agents", [1, 4, N, N + 5])
def test_agents_against_a_loop(agents: int) -> None:
    found = weights(Agent(agents=agents))
    for b in range(B):
        for h in range(H):
            pooled = []
            for a in range(agents):
                part = Q[b, h, a * N // agents : math.ceil((a + 1) * N / agents)].tolist()
                pooled.append([sum(row[d] for row in part) / len(part) for d in range(D)])
            gather = [softmax([SCALE * dot(agent, K[b, h // 2, j].tolist()) for j in range(N)]) for agent in pooled]
            for i in range(N):
                hand = softmax([SCALE * dot(Q[b, h, i].tolist(), agent) for agent in pooled])
                for j in range(N):
                    wanted = sum(hand[a] * gather[a][j] for a in range(agents))
                    assert float(found[b, h, i, j]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spread", [None, SPREAD], ids=["plain", "spread"])
def test_focused_against_a_loop(causal: bool, spread: Tensor | None) -> None:
    """With queries and keys of as many heads; norms over all heads' channels."""
    keys = K.repeat_interleave(2, dim=1)
    found = weights(Focused(causal=causal, spread=spread), Q, keys, V.repeat_interleave(2, dim=1))
    for b in range(B):

        def features(x: Tensor, b: int = b) -> list[list[float]]:
            """[head][channel] of one position."""
            y = [
                [
                    (max(float(x[h, d]), 0.0) + 1e-6)
                    / (1.0 if spread is None else math.log1p(math.exp(float(spread[h, d]))))
                    for d in range(D)
                ]
                for h in range(H)
            ]
            norm = math.sqrt(sum(one**2 for row in y for one in row))
            sharp = math.sqrt(sum(one**6 for row in y for one in row))
            return [[norm * one**3 / sharp for one in row] for row in y]

        of_q, of_k = ([features(x[b, :, i]) for i in range(N)] for x in (Q, keys))
        for h in range(H):
            for i in range(N):
                row = [dot(of_q[i][h], of_k[j][h]) if j <= i or not causal else 0.0 for j in range(N)]
                assert found[b, h, i].tolist() == pytest.approx([one / sum(row) for one in row], abs=1e-10)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("causal", [True, False])
def test_flow_against_a_loop(causal: bool) -> None:
    found = weights(Flow(causal=causal))
    for b in range(B):
        for h in range(H):
            q = [[sigmoid(one) for one in row] for row in Q[b, h].tolist()]
            k = [[sigmoid(one) for one in row] for row in K[b, h // 2].tolist()]
            seen = [range(i + 1) if causal else range(N) for i in range(N)]
            mean = [len(each) if causal else 1 for each in seen]
            into = [sum(dot(q[i], k[j]) for j in seen[i]) / mean[i] for i in range(N)]
            out = [sum(dot(k[j], q[i]) for i in seen[j]) / mean[j] for j in range(N)]
            sink = [sum(dot(q[i], k[j]) / out[j] for j in seen[i]) / mean[i] for i in range(N)]
            source = [sum(dot(k[j], q[i]) / into[i] for i in seen[j]) / mean[j] for j in range(N)]
            power = [math.exp(min(max(one, -1.0), 1.0)) for one in source]
            for i in range(N):
                for j in range(N):
                    share = power[j] / sum(power[m] for m in seen[j]) * len(seen[j])
                    wanted = sigmoid(sink[i]) * dot(q[i], k[j]) / (into[i] * mean[i]) * share if j in seen[i] else 0.0
                    assert float(found[b, h, i, j]) == pytest.approx(wanted, abs=1e-12)


EVERY: dict[str, Callable[[slice], Linear]] = {
    **{name: (lambda part, operator=operator: operator) for name, (operator, _) in SIMILARITIES.items()},
    "plain-linear": lambda part: PlainLinear(),
    "retention": lambda part: Retention(),
    "lightning": lambda part: Lightning(),
    "gated-linear": lambda part: GatedLinear(gates=GATES[:, :, part]),
    "focused": lambda part: Focused(),
    "flow": lambda part: Flow(),
    "flow, full": lambda part: Flow(causal=False),
    "inline": lambda part: InLine(),
    "agent": lambda part: Agent(agents=3),
    "efficient": lambda part: Efficient(),
}
ALL = slice(None)


@pytest.mark.parametrize("name", EVERY)
def test_flags_say_what_the_weights_are(name: str) -> None:
    operator = EVERY[name](ALL)
    found = weights(operator)
    if operator.non_negative:
        assert float(found.min()) >= 0
    else:
        assert float(found.min()) < -1e-3
    mass = found.sum(-1)
    at_one = (mass - 1).abs() < 1e-12
    assert bool((at_one | (mass == 0)).all()) == operator.normalised, "relu may have rows without mass"


@pytest.mark.parametrize("name", EVERY)
def test_a_later_token_changes_what_it_may(name: str) -> None:
    """Earlier outputs stay exactly where an operator says it doesn't look ahead, and move where it says it does."""
    at = 7
    changed = [x.clone() for x in (Q, K, V)]
    for x in changed:
        x[:, :, at:] = 3 * tensor(*x[:, :, at:].shape, seed=8)
    operator = EVERY[name](ALL)
    other = operator
    if isinstance(operator, GatedLinear):
        gates = GATES.clone()
        gates[:, :, at:] *= 4
        other = GatedLinear(gates=gates)
    for backend in ("eager", "chunked", "recurrent"):
        before, after = run(operator, backend=backend), run(other, *changed, backend=backend)
        same = torch.equal(before[:, :, :at], after[:, :, :at])
        assert same == (operator.looks_ahead == "")
        assert not torch.allclose(before[:, :, at:], after[:, :, at:])


@pytest.mark.parametrize("backend", ["eager", "chunked"])
@pytest.mark.parametrize("name", EVERY)
def test_documents_and_padding_give_what_they_give_alone(name: str, backend: str) -> None:
    parts = (slice(0, 4), slice(4, 5), slice(5, N))
    documents = torch.tensor([[7] * 4 + [2] + [5] * (N - 5)]).expand(B, -1)
    packed = run(EVERY[name](ALL), documents=documents, backend=backend)
    alone = [run(EVERY[name](part), *(x[:, :, part] for x in (Q, K, V))) for part in parts]
    assert torch.allclose(packed, torch.cat(alone, dim=2), atol=1e-12)
    real = torch.ones(B, N, dtype=torch.bool)
    real[:, :3], part = False, slice(3, None)
    left = run(EVERY[name](ALL), key_mask=real, backend=backend)
    assert torch.allclose(left[:, :, part], run(EVERY[name](part), *(x[:, :, part] for x in (Q, K, V))), atol=1e-12)
    assert not left[:, :, :3].any()


@pytest.mark.parametrize("name", [name for name in EVERY if not EVERY[name](ALL).causal])
def test_order_of_keys_is_nothing_to_those_that_see_all(name: str) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(6))
    shuffled = run(EVERY[name](ALL), Q, K[:, :, order], V[:, :, order])
    assert torch.allclose(shuffled, run(EVERY[name](ALL)), atol=1e-12)


def test_what_is_the_same_by_another_name() -> None:
    assert torch.allclose(weights(Retention(gamma=1.0)), weights(PlainLinear()), atol=1e-14)
    gammas = torch.tensor([0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    gates = gammas.log()[None, :, None, None].expand(1, H, N, D)
    assert torch.allclose(weights(GatedLinear(gates=gates)), weights(Retention(gamma=gammas)), atol=1e-14)
    assert torch.allclose(weights(GatedLinear(gates=gates[..., :1])), weights(Retention(gamma=gammas)), atol=1e-14)
    assert torch.allclose(weights(LogNormal()), weights(LinearExp()), atol=1e-14)
    assert torch.allclose(weights(Lightning())[:, 0], weights(PlainLinear())[:, 0], atol=1e-14)
    eye = torch.eye(D, dtype=torch.float64)[None]
    assert torch.allclose(weights(HedgehogAttention(map=Hedgehog(eye))), weights(HedgehogAttention()), atol=1e-14)


def test_a_long_taylor_series_is_a_softmax() -> None:
    softmax = attention(Q, K, V, "softmax", scale=0.2).output
    series = [attention(Q, K, V, TaylorAttention(map=Taylor(order)), scale=0.2).output for order in (2, 6, 24)]
    errors = [float((each - softmax).abs().max()) for each in series]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-9


@pytest.mark.parametrize("order", [2, 4])
def test_taylor_features_are_the_series(order: int) -> None:
    of, q, k = Taylor(order), Q, K.repeat_interleave(2, dim=1)
    products = torch.matmul(of(q, SCALE, range(H)), of(k, SCALE, range(H)).transpose(2, 3))
    assert torch.allclose(products, of.series(SCALE * torch.matmul(q, k.transpose(2, 3))), atol=1e-12)


def test_inline_tells_queries_apart_that_division_does_not() -> None:
    twice = Q.clone()
    twice[:, :, 1] = 2 * twice[:, :, 0]
    divided, subtracted = (weights(operator, twice) for operator in (LinearRelu(causal=False), InLine()))
    assert torch.allclose(divided[:, :, 0], divided[:, :, 1], atol=1e-14)
    assert not torch.allclose(subtracted[:, :, 0], subtracted[:, :, 1], atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Taylor(3),
        lambda: Retention(gamma=1.5),
        lambda: Retention(gamma=0.0),
        lambda: Retention(causal=False),
        lambda: Lightning(layer=2, n_layers=2),
        lambda: GatedLinear(gates=GATES, causal=False),
        lambda: InLine(causal=True),
        lambda: Efficient(causal=True),
        lambda: Agent(agents=0),
        lambda: Focused(power=0.0),
    ],
)
def test_parameters_that_make_no_sense(make: Callable[[], Any]) -> None:
    with pytest.raises(InterpError, match="E205"):
        make()


MASK = torch.ones(1, 1, N, N, dtype=torch.bool)


@pytest.mark.parametrize(
    ("operator", "given", "words"),
    [
        (Retention(gamma=[0.5, 0.5]), {}, "2 values of gamma for 4 heads"),
        (GatedLinear(gates=GATES[:, :, :5]), {}, "gates are"),
        (GatedLinear(gates=-GATES), {}, "none above 0"),
        (GatedLinear(gates=GATES.log()), {}, "finite"),
        (Focused(spread=SPREAD), {}, "share keys"),
        (InLine(), {"mask": MASK}, "mask"),
        (Flow(), {"mask": MASK}, "mask"),
        (LinearExp(map=Exp(500.0)), {}, "overflow"),
        (LinearAttention(), {"bias": MASK.double()}, "bias"),
        (LinearAttention(map=Elu()), {"q": torch.cat([Q, Q], dim=2)}, "22 queries and 11 keys"),
        (Flow(), {"q": Q[:, :, 4:]}, "7 queries, 11 keys"),
    ],
)
def test_problems_that_an_operator_does_not_take(operator: Linear, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InterpError, match="E205") as error:
        run(operator, **given)
    assert words in str(error.value)


def test_masks_hide_cells() -> None:
    mask = tensor(1, H, N, N, seed=7) > 0
    mask[..., torch.arange(N), torch.arange(N)] = True
    found = weights(LinearAttention(), mask=mask)
    plain = loop(lambda q, k, h: dot(elu(q), elu(k)), causal=True, divides=False) * mask
    assert torch.allclose(found, plain / plain.sum(-1, keepdim=True), atol=1e-12)
