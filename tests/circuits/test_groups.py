"""Greedy group search against brute force on planted objectives, and on bundled models whose heads are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits.evaluations import HeadSet
from interp.circuits.group_result import GroupResult, Limits
from interp.circuits.groups import grow_group
from interp.circuits.interactions import pair_interactions
from interp.circuits.objectives import AblationEffect
from interp.circuits.results import RunInfo
from interp.hooks.names import HeadId, parse_head
from interp.kernels.errors import InterpError

HEADS = tuple(HeadId("", layer, head) for layer in range(2) for head in range(4))
A, B, C = (parse_head(label) for label in ("L0H1", "L1H2", "L0H3"))
N = 40
LOUD = np.random.default_rng(7).normal(1, 0.1, N)
"""Size of every planted effect, prompt by prompt."""

Rule = Callable[[HeadSet], float]


class Planted:
    """An objective by rule: its value times a size that differs between prompts, and noise that is fixed for each set."""

    def __init__(self, rule: Rule, noise: float = 0.02) -> None:
        self.rule, self.noise = rule, noise
        self.asked: list[HeadSet] = []

    def __call__(self, sets: Sequence[HeadSet]) -> np.ndarray:
        self.asked += sets
        rows = [self.rule(heads) * LOUD + self.noise * self._noise(heads) for heads in sets]
        return np.stack(rows) + 3.0

    def _noise(self, heads: HeadSet) -> np.ndarray:
        code = sum(1 << HEADS.index(head) for head in heads)
        return np.random.default_rng([code, 1]).normal(size=N)


WORTH = {A: 3.0, B: 2.0, C: 1.0, HeadId("", 1, 0): -1.0}


def additive(heads: HeadSet) -> float:
    return sum(WORTH.get(head, 0.0) for head in heads)


def either(heads: HeadSet) -> float:
    """Ablating two copies of one thing: nothing happens before both are gone."""
    return 2.0 * ({A, B} <= heads)


def needed(heads: HeadSet) -> float:
    """Ablating parts that are both needed: either one costs all."""
    return 2.0 * bool({A, B} & heads)


def mixed(heads: HeadSet) -> float:
    return either(heads) + 1.0 * (C in heads)


def brute_force(rule: Rule, size: int = 3) -> tuple[float, set[HeadSet]]:
    """Largest value over all sets of at most this size, and the smallest sets that reach it."""
    sets = [frozenset(heads) for heads in chain.from_iterable(combinations(HEADS, k) for k in range(size + 1))]
    best = max(map(rule, sets))
    reaching = [heads for heads in sets if rule(heads) == best]
    least = min(map(len, reaching))
    return best, {heads for heads in reaching if len(heads) == least}


def found(result: GroupResult) -> HeadSet:
    return frozenset(map(parse_head, result.group))


@pytest.mark.parametrize(
    ("rule", "lookahead"), [(additive, 1), (additive, 2), (either, 2), (needed, 1), (needed, 2), (mixed, 2)]
)
def test_the_group_is_what_brute_force_finds(rule: Rule, lookahead: int) -> None:
    best, sets = brute_force(rule)
    result = grow_group(HEADS, Planted(rule), limits=Limits(max_size=3, lookahead=lookahead))
    assert found(result) in sets
    value = result.steps[-1].value
    assert value.mean == pytest.approx(best, rel=0.07)  # three standard errors of the size over half the prompts
    assert value.ci_low < value.mean < value.ci_high
    assert sum(step.gain.mean for step in result.steps) == pytest.approx(value.mean, abs=1e-9)
    assert all(step.n_controls and step.above_control.ci_low > 0 and step.beaten_by == 0 for step in result.steps)


def test_single_steps_do_not_see_what_is_redundant() -> None:
    result = grow_group(HEADS, Planted(either), limits=Limits(max_size=3))
    assert result.group == () and result.stopped in ("gain", "interval")
    assert result.last is not None and abs(result.last[1].mean) < 0.05
    assert result.headline().startswith("No head gains anything")


def test_heads_come_in_the_order_of_their_gain_and_the_search_stops_where_nothing_is_gained() -> None:
    result = grow_group(HEADS, Planted(additive), limits=Limits(max_size=8))
    assert result.group == ("L0H1", "L1H2", "L0H3") and result.stopped in ("gain", "interval")
    assert [step.gain.mean for step in result.steps] == pytest.approx([3, 2, 1], abs=0.2)
    assert [step.n_tried for step in result.steps] == [8, 7, 6]
    assert all(step.gain.ci_low < step.gain.mean < step.gain.ci_high for step in result.steps)


def test_on_noise_alone_hardly_any_search_finds_a_head() -> None:
    """The best of many looks good on the prompts that chose it; the others must say so too."""
    many = [HeadId("", layer, head) for layer in range(4) for head in range(8)]

    def noise(seed: int) -> Callable[[Sequence[HeadSet]], np.ndarray]:
        rng = np.random.default_rng(seed)
        return lambda sets: rng.normal(size=(len(sets), N)) * [[bool(heads)] for heads in sets]

    lucky = sum(bool(grow_group(many, noise(seed), limits=Limits(max_size=1, seed=seed)).group) for seed in range(60))
    assert lucky <= 6  # 2.5 % are expected, one side of the interval; judged by the prompts that chose it would be 55 %


def test_min_gain_and_size_stop() -> None:
    assert grow_group(HEADS, Planted(additive), limits=Limits(min_gain=1.5)).group == ("L0H1", "L1H2")
    one = grow_group(HEADS, Planted(additive), limits=Limits(max_size=1))
    assert one.group == ("L0H1",) and one.stopped == "size"
    all_of_two = grow_group([A, B], Planted(additive))
    assert set(all_of_two.group) == {"L0H1", "L1H2"} and all_of_two.stopped == "candidates"


@pytest.mark.parametrize("budget", [1, 9, 20, 40, 60, 200])
def test_the_budget_is_never_exceeded_and_leaves_room_for_controls(budget: int) -> None:
    objective = Planted(additive)
    result = grow_group(HEADS, objective, limits=Limits(budget=budget, n_controls=5))
    assert result.n_evaluations == len(set(objective.asked)) == len(objective.asked) <= budget
    assert all(step.n_controls for step in result.steps)
    assert (result.stopped == "budget") == (budget < 50)
    if budget == 200:
        assert len(result.group) == 3


def test_interactions_are_pair_less_singles() -> None:
    effects = {rule: pair_interactions([A, B, C], Planted(rule)) for rule in (either, needed, additive)}
    for rule, size in ((either, 2.0), (needed, -2.0), (additive, 0.0)):
        pairs = {pair.heads: pair.effect for pair in effects[rule]}
        assert len(pairs) == 3
        own = pairs["L0H1", "L1H2"]
        assert own.mean == pytest.approx(size * LOUD.mean(), abs=0.05) and own.ci_low < own.mean < own.ci_high
        assert abs(pairs["L0H1", "L0H3"].mean) < 0.05
    exact = Planted(additive)
    values = {heads: exact([heads])[0] for heads in map(frozenset, [(), (A,), (B,), (A, B)])}
    by_hand = values[frozenset([A, B])] - values[frozenset([A])] - values[frozenset([B])] + values[frozenset()]
    assert effects[additive][0].effect.mean == pytest.approx(by_hand.mean(), abs=1e-12)


def test_the_group_carries_its_interactions() -> None:
    result = grow_group(HEADS, Planted(mixed), limits=Limits(max_size=3, lookahead=2))
    pairs = {frozenset(pair.heads): pair.effect for pair in result.interactions}
    assert pairs[frozenset({"L0H1", "L1H2"})].ci_low > 1.5
    assert len(pairs) == 3 and all(abs(effect.mean) < 0.1 for key, effect in pairs.items() if "L0H3" in key)


class Killed(Exception):
    """Stands in for a crash."""


@pytest.mark.parametrize("rounds", range(6))
def test_a_search_that_was_interrupted_goes_on_to_the_same_result(rounds: int, tmp_path: Path) -> None:
    limits, state = Limits(max_size=3, lookahead=2, budget=120, n_controls=4), tmp_path / "state.json"
    whole = grow_group(HEADS, Planted(mixed), limits=limits, name="mixed")
    first = Planted(mixed)
    calls = 0

    def dying(sets: Sequence[HeadSet]) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > rounds:
            raise Killed
        return first(sets)

    with pytest.raises(Killed):
        grow_group(HEADS, dying, limits=limits, name="mixed", state=state)
    second = Planted(mixed)
    resumed = grow_group(HEADS, second, limits=limits, name="mixed", state=state)
    assert json.dumps(resumed.to_dict()) == json.dumps(whole.to_dict())
    assert not set(first.asked) & set(second.asked)
    assert len(first.asked) + len(second.asked) == whole.n_evaluations
    again = Planted(mixed)
    assert grow_group(HEADS, again, limits=limits, name="mixed", state=state).to_dict() == whole.to_dict()
    assert again.asked == []
    assert json.loads(state.read_text())["kind"] == "group-search"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("budget", range(10, 130, 10))
def test_a_budget_ends_a_search_at_the_same_point_with_and_without_a_state(budget: int, tmp_path: Path) -> None:
    state, limits = tmp_path / "state.json", Limits(max_size=4, lookahead=2, budget=budget, n_controls=4)
    whole = grow_group(HEADS, Planted(mixed), limits=limits, state=state)
    assert whole.n_evaluations <= budget
    assert grow_group(HEADS, Planted(mixed), limits=limits, state=state).to_dict() == whole.to_dict()


def test_a_state_of_another_search_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    grow_group(HEADS, Planted(additive), name="one", state=state)
    with pytest.raises(InterpError, match="'one'") as other:
        grow_group(HEADS, Planted(additive), name="two", state=state)
    assert other.value.code == "E205"
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(InterpError) as damaged:
        grow_group(HEADS, Planted(additive), name="one", state=state)
    assert damaged.value.code == "E701"


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    def holed(sets: Sequence[HeadSet]) -> np.ndarray:
        values = Planted(additive)(sets)
        values[:, 3] = np.nan
        values[[HEADS[0] in heads for heads in sets]] = np.inf
        return values

    state = tmp_path / "state.json"
    result = grow_group(HEADS, holed, limits=Limits(max_size=3), state=state)
    assert result.group == ("L0H1", "L1H2", "L0H3")
    assert repr(grow_group(HEADS, holed, limits=Limits(max_size=3), state=state)) == repr(result)


def test_wrong_use_is_refused() -> None:
    for call, code in (
        (lambda: grow_group([], Planted(additive)), "E202"),
        (lambda: grow_group(HEADS, lambda sets: np.zeros((1, 4))), "E206"),
        (lambda: grow_group(HEADS, lambda sets: np.zeros((len(sets), len(sets)))), "E206"),
        (lambda: Limits(lookahead=3), "E205"),
        (lambda: Limits(max_size=0), "E205"),
    ):
        with pytest.raises(InterpError) as error:
            call()
        assert error.value.code == code


def test_few_prompts_and_full_layers_are_noted() -> None:
    def three(sets: Sequence[HeadSet]) -> np.ndarray:
        return Planted(additive)(sets)[:, :3]

    result = grow_group([A, C, HeadId("", 0, 0)], three, limits=Limits(max_size=2))
    assert any("3 prompts are too few to split" in note for note in result.notes)
    assert any("Layer L0 has too few heads" in note for note in result.notes)
    assert [step.n_controls for step in result.steps] == [2, 0]


def test_controls_are_drawn_from_all_heads_by_norm() -> None:
    """The candidates may be few; the heads they are compared with are those of the model, near in norm."""
    near, far = HeadId("", 0, 0), HeadId("", 0, 2)
    norms = dict.fromkeys(HEADS, 1.0) | {far: 1e-9}
    objective = Planted(additive)
    grow_group([A, B], objective, norms=norms, limits=Limits(max_size=1, n_controls=50))
    asked = {next(iter(heads)) for heads in objective.asked if len(heads) == 1}
    assert near in asked and far not in asked


def test_it_prints() -> None:
    result = grow_group(HEADS, Planted(mixed), limits=Limits(max_size=3, lookahead=2))
    text, html = repr(result), result._repr_html_()
    assert text.startswith("GroupResult: ") and "random sets of that size" in text and "stopped by" in text
    assert html.count("<tr>") == 1 + len(result.steps) and "interaction L0H1 L1H2" in html
    frame = result.to_frame()
    assert list(frame["added"]) == [" ".join(step.added) for step in result.steps]


def test_a_run_folder_gives_the_result_back(tmp_path: Path) -> None:
    for number, limits in enumerate((Limits(max_size=3, lookahead=2), Limits(n_controls=0), Limits(min_gain=99.0))):
        result = grow_group(HEADS, Planted(mixed), limits=limits, name="mixed")
        folder = result.save(tmp_path / f"run{number}")
        loaded = GroupResult.load(folder)
        assert loaded == result and repr(loaded) == repr(result) and loaded.run_id == result.run_id
        assert loaded.run.method["objective"] == "mixed" and loaded.run.seeds == {"search": 0}
    (folder / "group.json").write_bytes((folder / "group.json").read_bytes()[:-1])
    with pytest.raises(InterpError) as damaged:
        GroupResult.load(folder)
    assert damaged.value.code == "E701"


def test_the_record_names_model_and_task_where_the_search_was_told() -> None:
    known = RunInfo(
        {"name": "toy", "device": "cpu"}, {"name": "sums"}, {"kind": "ablation"}, {"task": 3}, canary={"a": 1}
    )
    result = grow_group(HEADS, Planted(mixed), limits=Limits(seed=4), source=known)
    assert result.run.model["name"] == "toy" and result.run.seeds == {"task": 3, "search": 4}
    assert repr(result).startswith("GroupResult(toy, sums): ") and result.run.canary == {"a": 1}
    other = grow_group(HEADS, Planted(mixed), limits=Limits(seed=5), source=known)
    assert result.run_id != other.run_id and result != other
    elsewhere = replace(result, run=replace(result.run, model={"name": "toy", "device": "cuda"}))
    assert elsewhere.run_id == result.run_id and elsewhere != result


def bundled(name: str) -> tuple[Any, AblationEffect]:
    """A bundled model's heads and the loss of logit difference under zero ablation of sets of them."""
    import interp
    from interp.hooks.metrics import METRICS
    from interp.hooks.pairs import tokenise

    model = interp.load(name)
    pairs = tokenise(model.tokenizer, interp.task("bundled", model=name).examples(model.tokenizer).examples)

    def measure(output: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return METRICS["logit_diff"](output, pairs.answer[start:stop], pairs.distractor[start:stop])

    heads = [HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n)]
    return heads, AblationEffect(model, pairs.clean, pairs.read_at, measure)


@pytest.mark.parametrize(("name", "group"), [("planted-or", {"L0H1", "L0H3"}), ("planted-backup", {"L0H1", "L1H2"})])
def test_copies_that_stand_in_for_each_other_are_found_together(name: str, group: set[str]) -> None:
    heads, objective = bundled(name)
    result = grow_group(heads, objective, limits=Limits(max_size=2, lookahead=2, min_gain=0.5))
    assert set(result.group) == group and len(result.steps) == 1
    end = result.steps[0]
    assert end.n_controls and end.control < 0.05 * end.value.mean and end.beaten_by == 0
    assert result.interactions[0].effect.mean == pytest.approx(end.value.mean, rel=0.02)
    assert grow_group(heads, objective, limits=Limits(max_size=2, min_gain=0.5)).group == ()


def test_parts_that_are_both_needed_are_found_one_by_one() -> None:
    heads, objective = bundled("planted-and")
    result = grow_group(heads, objective, limits=Limits(max_size=3, lookahead=2, min_gain=0.5))
    assert len(result.group) == 1 and result.group[0] in ("L0H1", "L0H3")
    (pair,) = pair_interactions([parse_head("L0H1"), parse_head("L0H3")], objective)
    assert pair.effect.mean == pytest.approx(-result.steps[0].value.mean, rel=0.02)


def test_an_ablation_objective_is_a_loop_over_sets() -> None:
    from interp.hooks.interventions import Ablate

    heads, objective = bundled("planted-backup")
    sets = [frozenset(), frozenset(heads[:2]), frozenset([heads[1], heads[6]])]
    rows = objective(sets)
    model, batch = objective.model, objective.batch
    clean = objective.measure(model(batch)[torch.arange(batch.size), objective.read_at], 0, batch.size)
    assert not rows[0].any()
    for heads_, row in zip(sets[1:], rows[1:], strict=True):
        with model.edit(*(Ablate(head) for head in heads_)):
            output = model(batch)[torch.arange(batch.size), objective.read_at]
        wanted = (clean - objective.measure(output, 0, batch.size)).double()
        np.testing.assert_allclose(row, wanted, atol=1e-4)
