"""Redundancy on planted gates and backups, on toy metrics whose gates are known, and under the null."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from interp.circuits.edges.attribution import CLEAN, along_inputs, points
from interp.circuits.edges.exact import exact
from interp.circuits.graph.graph import Edges, Graph, LayerShape
from interp.circuits.judging.backups import self_repair
from interp.circuits.judging.findings import Values
from interp.circuits.judging.promise import Awakening
from interp.circuits.judging.redundancy import Searching, heads_and_mlps, redundancy, single_edges
from interp.kernels.errors import InterpError
from tests.cases.posed import planted

SHAPE = Graph.of_shape([LayerShape(3, 3, has_mlp=False), LayerShape(3, 3, has_mlp=False)])
HEADS = heads_and_mlps(SHAPE)


def toy(metric: Callable[[set[str]], float], n: int = 24, noise: float = 0.02) -> Values:
    """A metric of which heads are in, on a scale of each prompt, each also worth something small and random on every prompt."""

    rng = np.random.default_rng(1)
    each, scale = rng.normal(size=(len(HEADS), n)), 1 + 0.05 * rng.normal(size=n)

    def values(circuits: Sequence[Edges]) -> np.ndarray:
        found = []
        for edges in circuits:
            present = {label for label, mask in HEADS.items() if (edges & mask).any()}
            wobble = sum((row for label, row in zip(HEADS, each, strict=True) if label in present), np.zeros(n))
            found.append(scale * metric(present) * edges[0, :, -1].any() + noise * wobble)
        return np.array(found)

    return values


def names(found: Sequence[object]) -> set[frozenset[str]]:
    return {frozenset(one.labels) for one in found}  # type: ignore[attr-defined]


def test_both_arms_of_an_or_gate_are_found_and_single_edges_miss_them() -> None:
    case, graph = planted("planted-or"), planted("planted-or").flow.graph
    trials = case.trials("resample")
    heads = redundancy(graph, heads_and_mlps(graph), trials)
    assert names(heads.redundant) == names(heads.groups) == {frozenset(["L0H1", "L0H3"])}
    assert heads.redundant[0].interaction == pytest.approx(20, abs=0.2)
    edges = redundancy(graph, single_edges(graph), trials)
    arms = frozenset(["L0H1->M0", "L0H3->M0"])
    assert arms in names(edges.redundant) and arms in names(edges.groups)
    assert all("L0H1" in str(pair) and "L0H3" in str(pair) for pair in names(edges.redundant))
    contrast = trials.contrasts[0]
    for missing in (exact(contrast), along_inputs(contrast, CLEAN)):
        scores = np.abs(missing.scores.mean(0).double().numpy())
        assert max(scores[graph.edge(label)] for label in arms) < 0.005 * scores.max()
    integrated = along_inputs(contrast, points("midpoint", 5)).scores.mean(0)
    assert all(
        integrated[graph.edge(label)] > 5 for label in arms
    )  # its path crosses the point where the gate switches
    assert "L0H1->M0 + L0H3->M0" in str(edges) and "<table>" in edges._repr_html_()


def test_a_backup_head_is_found_with_the_head_it_backs_up() -> None:
    case, graph = planted("planted-backup"), planted("planted-backup").flow.graph
    trials = case.trials("zero")
    found = redundancy(graph, heads_and_mlps(graph), trials)
    assert names(found.redundant) == names(found.groups) == {frozenset(["L0H1", "L1H2"])}
    assert max(map(abs, found.redundant[0].singles)) < 0.05 and found.redundant[0].effect == pytest.approx(10, abs=0.2)
    repair = self_repair(graph, "L0H1", trials)
    assert repair.backups == ("L1H2",) and repair.parts[0].label == "L1H2"
    assert repair.parts[0].rise == pytest.approx(10, abs=0.2) and abs(repair.parts[0].before) < 0.1
    assert repair.repair == pytest.approx(repair.direct - repair.total) == pytest.approx(10, abs=0.2)
    assert self_repair(graph, "L0H2", trials).backups == ()
    full, away, silent = trials([graph.full, _without(graph, "L0H1"), _without(graph, "L0H1", "L1H2->logits")])
    assert repair.total == pytest.approx((full - away).mean(), abs=1e-5)
    assert repair.parts[0].after == pytest.approx((away - silent).mean(), abs=1e-5)
    assert "L1H2" in str(repair) and "<table>" in repair._repr_html_()


def _without(graph: Graph, head: str, *labels: str) -> Edges:
    edges = graph.full & ~graph.of_labels(labels)
    edges[:, graph.writer_index[head]] = False
    return edges


def test_an_and_gate_has_no_redundancy() -> None:
    case, graph = planted("planted-and"), planted("planted-and").flow.graph
    for parts in (heads_and_mlps(graph), single_edges(graph)):
        found = redundancy(graph, parts, case.trials("resample"))
        assert not found.redundant and not found.groups
        assert not {"L0H1", "L0H3", "L0H1->M0", "L0H3->M0"} & set(found.candidates)


def test_three_heads_that_do_one_work_are_a_group_and_no_pair() -> None:
    work = {"L0H0", "L0H2", "L1H1"}
    values = toy(lambda present: 10.0 * bool(present & work))
    found = redundancy(SHAPE, HEADS, values)
    assert not found.redundant and names(found.groups) == {frozenset(work)}
    assert found.together is not None and found.together.effect == pytest.approx(10, abs=0.5)
    assert found.groups[0].interaction == pytest.approx(10, abs=0.5)


def test_two_gates_are_two_groups_and_a_needed_head_is_in_none() -> None:
    one, two = {"L0H0", "L1H0"}, {"L0H1", "L1H2"}
    values = toy(lambda present: 5.0 * bool(present & one) + 7.0 * bool(present & two) + 9.0 * ("L0H2" in present))
    found = redundancy(SHAPE, HEADS, values)
    assert names(found.redundant) == names(found.groups) == {frozenset(one), frozenset(two)}
    assert "L0H2" not in found.candidates


def test_sums_and_noise_are_no_redundancy() -> None:
    """Many small effects that add up, and interactions that are noise alone."""
    summed = redundancy(SHAPE, HEADS, toy(lambda present: 8.0 * ("L0H0" in present) + 0.02 * len(present)))
    assert not summed.redundant and not summed.groups
    claims = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)

        def noisy(circuits: Sequence[Edges], rng: np.random.Generator = rng) -> np.ndarray:
            return np.array([10.0 * edges[0, 1, -1] + rng.normal(size=16) for edges in circuits])

        found = redundancy(SHAPE, HEADS, noisy)
        claims += bool(found.redundant or found.groups)
    assert claims <= 5


def test_few_prompts_are_said_to_be_too_few() -> None:
    found = redundancy(SHAPE, HEADS, toy(lambda present: 10.0 * bool(present & {"L0H0", "L1H1"}), n=8))
    assert not found.redundant and not found.can_claim and "too few" in str(found)
    assert found.pairs[0].interaction == pytest.approx(10, abs=0.5)


def test_the_change_of_gradients_is_that_of_finite_differences_and_orders_pairs() -> None:
    case, graph = planted("planted-backup", 16), planted("planted-backup", 16).flow.graph
    trials = case.trials("zero")
    promise = Awakening(trials)
    parts = [graph.of_labels([label]) for label in ("embed->L0H1.v", "L1H2->logits", "L0H0->logits")]
    found = promise(parts)
    assert found[0, 1] == pytest.approx(10, abs=0.3) and found[0, 2] < 0.1
    full, without = graph.full.astype(np.float32), (graph.full & ~parts[0]).astype(np.float32)
    step = 1e-2
    soft = [one - step * parts[1] for one in (full, without)]
    values = [trials.runs[0].values([one])[0].double().mean() for one in (full, soft[0], without, soft[1])]
    by_hand = abs((values[2] - values[3]) - (values[0] - values[1])) / step
    assert found[0, 1] == pytest.approx(float(by_hand), rel=0.05)


def test_too_many_pairs_are_tried_in_the_order_of_their_promise() -> None:
    case, graph = planted("planted-or", 32), planted("planted-or", 32).flow.graph
    trials, edges = case.trials("resample"), single_edges(graph)
    few = Searching(max_pairs=60)
    with pytest.raises(InterpError, match="60 may be tried"):
        redundancy(graph, edges, trials, few)
    found = redundancy(graph, edges, trials, few, promise=Awakening(trials))
    assert found.n_tried == 60 < found.n_pairs
    assert frozenset(["L0H1->M0", "L0H3->M0"]) in names(found.redundant)
    with pytest.raises(InterpError, match="no part 'L9H9'"):
        self_repair(graph, "L9H9", trials)
