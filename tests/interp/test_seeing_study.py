"""Studies of what a model does with a picture: one protocol for interventions, pruning, and paths that are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.circuits.results import RunInfo
from interp.hooks.interventions import Scale
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.report.seeing_figures import layer_profile
from interp.vision.contenders import (
    BLANK,
    VHD,
    WRONG,
    AllHeads,
    LowerYes,
    Rankings,
    Redistribution,
    ReinforcedHeads,
    contenders,
)
from interp.vision.flow import knockout_windows, with_groups
from interp.vision.methods import Method
from interp.vision.pruning import RANKINGS, pruning_curve
from interp.vision.questions import ABSENT, COMPANION, PRESENT, REGULAR, SETS, questions
from interp.vision.study import choose, compare, untouched
from interp.vision.table import SeeingStudy
from interp.vision.verdict import reduction, reduction_interval
from interp.zoo.vision.scenes import PAIRS


@cache
def opened() -> HookedModel:
    return interp.load("mini-vlm")


@cache
def asked() -> Pairs:
    examples = interp.task("shapes", n=12, seed=5).examples(opened().tokenizer).examples
    return tokenise(opened().tokenizer, examples, processor=opened().processor)


# --- the table's arithmetic


Margins = Sequence[Sequence[float] | np.ndarray]


def study(
    absent: Margins, companion: Margins, regular: Margins, controls: Mapping[str, Margins] | None = None
) -> SeeingStudy:
    """One method, from margins: the untouched model first."""
    margins = {ABSENT: absent, COMPANION: companion, REGULAR: regular, PRESENT: companion}
    drawn = {f"m/{kind}": np.array(rows) for kind, rows in (controls or {}).items()}
    run = RunInfo({"name": "x"}, {"name": "vision study"}, {"tuning_seed": 1}, seeds={"task": 0})
    methods_ = ({"method": "m", "source": "s", "setting": "a 1", "heads": ["L0H0"]},)
    prompts = {name: tuple(f"{name}-{i}" for i in range(len(rows[0]))) for name, rows in margins.items()}
    return SeeingStudy(run, methods_, {name: np.array(rows) for name, rows in margins.items()}, drawn, prompts)


def test_a_bias_is_no_more_than_a_threshold():
    """Every margin lowered by 1: no absent companion is told from one that is there any better."""
    rng = np.random.default_rng(0)
    absent, companion = rng.normal(-1, 1, 200), rng.normal(2, 1, 200)
    lowered = study([absent, absent - 1], [companion, companion - 1], [[1.0] * 50, [1.0] * 50]).rows[0]
    assert lowered.reduction > 0.3 and lowered.meets and -0.05 < lowered.beyond <= 0
    told = study([absent, absent - 1], [companion, companion + 1], [[1.0] * 50, [1.0] * 50])
    assert told.rows[0].beyond > 0 and told.rows[0].beyond_ends[0] > 0
    assert "beyond a threshold on yes: m" in told.headline()
    assert "none does more than a threshold" in study([absent, absent - 1], [companion, companion - 1], [[1.0] * 50, [1.0] * 50]).headline()  # fmt: skip


def test_a_method_that_always_says_no_is_shown_for_it():
    absent, companion = [1.0, 1.0, -1.0, -1.0], [2.0, 2.0, 2.0, 2.0]
    row = study([absent, [-9.0] * 4], [companion, [-9.0] * 4], [[1.0, 1.0], [1.0, -1.0]]).rows[0]
    assert row.reduction == 1.0 and row.companion == -1.0 and row.regular == -0.5 and not row.meets
    assert row.beyond == -1.0  # the untouched model tells them apart without any false yes


def test_controls_are_counted_on_the_same_prompts():
    found = study(
        [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, -1.0, -1.0]], [[1.0], [1.0]], [[1.0, 1.0], [1.0, 1.0]],
        {ABSENT: [[1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]], REGULAR: [[1.0, 1.0], [1.0, -1.0]]},
    ).rows[0]  # fmt: skip
    assert found.reduction == 0.75 and found.controls == (0.25, 0.5) and found.controls_regular == (0.0, -0.5)
    assert found.separates is True


def test_reduction_and_its_interval():
    before, after = np.array([True] * 40 + [False] * 60), np.array([True] * 20 + [False] * 80)
    assert reduction(before, after) == 0.5
    low, high = reduction_interval(before, after)
    assert 0.3 < low < 0.5 < high < 0.7
    assert np.isnan(reduction(np.zeros(4, bool), np.zeros(4, bool)))
    assert np.isnan(reduction_interval(np.zeros(4, bool), np.zeros(4, bool))).all()


# --- questions


def test_every_set_asks_what_it_says():
    drawn = questions(opened(), 12, seed=4)
    assert tuple(drawn) == SETS
    words = {" ".join(companion) for _, companion in PAIRS}
    for name in (ABSENT, COMPANION):
        for one in drawn[name].pairs.examples:
            assert any(word in str(one.clean) for word in words)
            assert one.answer == (" no" if name == ABSENT else " yes")
    assert {one.answer for one in drawn[PRESENT].pairs.examples} == {" yes"}
    yes = opened().tokenizer(" yes", add_special_tokens=False)["input_ids"][0]
    assert all((drawn[name].tokens == yes).all() for name in (ABSENT, PRESENT, COMPANION))
    assert torch.equal(drawn[REGULAR].tokens, drawn[REGULAR].pairs.answer.view(-1))


def test_a_margin_says_what_the_model_says():
    one = questions(opened(), 12, seed=4)[REGULAR]
    output = opened()(one.pairs.clean)[torch.arange(len(one)), one.pairs.read_at]
    said = one.margin(output, 0, len(one)) > 0
    assert torch.equal(said, output.argmax(-1) == one.tokens)
    assert untouched(opened(), one, 5) == pytest.approx(one.margin(output, 0, len(one)).numpy(), abs=1e-4)


# --- methods


def test_heads_of_a_ranking():
    by = ReinforcedHeads(("L1H2", "L0H0", "L1H0", "L0H3", "L1H1"))
    assert by.heads({"per_layer": 1}) == ("L0H0", "L1H2")
    assert by.heads({"per_layer": 2}) == ("L0H0", "L0H3", "L1H0", "L1H2")
    assert by.heads({"first": 2}) == ("L1H2", "L0H0")
    other = by.with_heads(("L2H1",))
    assert type(other) is ReinforcedHeads and other.heads({"per_layer": 2}) == ("L2H1",)


def test_every_method_runs_and_its_margins_are_those_of_its_edit():
    drawn = questions(opened(), 3, seed=9)[ABSENT]
    aware = ("L0H3", "L1H0", "L2H0", "L3H4")
    for method in contenders({VHD: aware, BLANK: aware, WRONG: ("L0H6",)}):
        found = method.margins(opened(), drawn, method.grid[:1], 2)
        assert found.shape == (1, 3) and np.isfinite(found).all(), method.name
    plain = untouched(opened(), drawn, 2)
    with opened().edit(Scale("all", 1.25, positions="end")):
        output = opened()(drawn.pairs.clean)[torch.arange(3), drawn.pairs.read_at]
    edited = AllHeads().margins(opened(), drawn, [{"alpha": 1.25}], 2)[0]
    assert edited == pytest.approx(drawn.margin(output, 0, 3).numpy(), abs=1e-3)
    assert LowerYes().margins(opened(), drawn, [{"by": 0.0}], 2)[0] == pytest.approx(plain, abs=1e-4)
    assert Redistribution().margins(opened(), drawn, [{"keep": 0.2}], 2)[0] == pytest.approx(plain, abs=1e-4)


class Fixed(Method):
    """Margins by setting, the same in each set."""

    name = "fixed"
    source = "test"
    grid = ({"false": 2, "right": 4}, {"false": 0, "right": 1}, {"false": 1, "right": 4})

    def margins(self, model, asked, settings, batch_size):
        key = "false" if asked.name == ABSENT else "right"
        return np.array([[1.0] * one[key] + [-1.0] * (4 - one[key]) for one in settings])


def test_settings_that_cost_accuracy_are_not_chosen():
    drawn = questions(opened(), 2, seed=0)
    base = {ABSENT: np.ones(4), REGULAR: np.ones(4)}
    assert choose(opened(), Fixed(), drawn, base, 4) == {"false": 1, "right": 4}


def two(rankings: Rankings) -> list[Method]:
    return [ReinforcedHeads(rankings[VHD]), LowerYes()]


def test_a_small_study_comes_back_from_disk(tmp_path):
    found = compare(opened(), n=10, tuning_n=10, make=two, n_controls=2, seed=0, tuning_seed=1000)
    assert found.kind == "vision-study" and len(found.rows) == 2 and len(found.rows[0].controls) == 2
    assert set(found.rows[0].heads) and not found.rows[1].controls
    found.save(tmp_path / "study")
    assert SeeingStudy.load(tmp_path / "study") == found
    assert found.headline() in repr(found) and len(found.table()) == 2
    assert isinstance(found.methods[0], Mapping) and len(found.plot().data) == 2
    assert set(found.to_frame()["set"]) == set(SETS)
    with pytest.raises(InterpError, match="E205"):
        compare(opened(), seed=3, tuning_seed=3)


# --- pruning


def test_pruning_by_attention_is_a_mask_over_keys():
    found = pruning_curve(opened(), asked(), layer=2, shares=(1.0, 0.25), rankings=("attention", "sinks last"), metric="logit_diff")  # fmt: skip
    batch, rows = asked().clean, torch.arange(12)
    plain = opened()(batch)[rows, asked().read_at]
    answer, distractor = (side.view(-1) for side in (asked().answer, asked().distractor))
    assert found.values[0, 0] == pytest.approx((plain[rows, answer] - plain[rows, distractor]).numpy(), abs=1e-3)
    assert np.array_equal(found.values[0], found.values[1])  # without sinks
    pattern = opened().run_with_cache(batch, "blocks.1.attn.hook_pattern")[1]["blocks.1.attn.hook_pattern"]
    for row in range(12):
        image = list(batch.spans["image"][row])
        looks = pattern[row, :, asked().read_at[row]].mean(0)[image]
        gone = [image[i] for i in looks.argsort(descending=True)[9:].tolist()]
        one = batch.rows(row, row + 1)
        with opened().edit(interp.Knockout("L2H*,L3H*", tuple(range(int(one.lengths))), gone)):
            output = opened()(one)[0, asked().read_at[row]]
        assert found.values[0, 1, row] == pytest.approx(float(output[answer[row]] - output[distractor[row]]), abs=1e-3)


def test_pruning_knows_its_rankings_and_draws():
    found = pruning_curve(opened(), asked(), layer=1, shares=(1.0, 0.1))
    assert found.rankings == RANKINGS and len(found.to_frame()) == 8 and "PruningCurve" in repr(found)
    best, worst = (found.values[RANKINGS.index(name), 1].mean() for name in ("attention", "least attention"))
    assert best > worst
    assert len(found.plot().data) == 4
    for options, code in (({"layer": 0}, "E205"), ({"shares": (2.0,)}, "E205"), ({"rankings": ("size",)}, "E201")):
        with pytest.raises(InterpError, match=code):
            pruning_curve(opened(), asked(), **options)


# --- paths


def test_cut_paths_are_knockouts_of_groups():
    found = knockout_windows(opened(), asked(), width=2, batch_size=5)
    assert found.windows == ((0, 2), (1, 3), (2, 4)) and found.values.shape == (3, 3, 12)
    batch, rows = asked().clean, torch.arange(12)
    answer, distractor = (side.view(-1) for side in (asked().answer, asked().distractor))
    for row in (0, 3):
        one, end = batch.rows(row, row + 1), int(asked().read_at[row])
        image = batch.spans["image"][row]
        text = tuple(range(max(image) + 1, end))
        cuts = {0: (text, image), 1: ((end,), image), 2: ((end,), text)}
        for path, (queries, keys) in cuts.items():
            with opened().edit(interp.Knockout("L1H*,L2H*", queries, keys)):
                output = opened()(one)[0, end]
            expected = float(output[answer[row]] - output[distractor[row]])
            assert found.values[path, 1, row] == pytest.approx(expected, abs=1e-3)
    plain = opened()(batch)[rows, asked().read_at]
    assert found.clean == pytest.approx((plain[rows, answer] - plain[rows, distractor]).numpy(), abs=1e-3)
    assert found.lost[1].max() > 1 and "Flow" in repr(found) and len(found.plot().data) == 3
    groups = with_groups(batch, asked().read_at).spans
    assert groups["last token"] == tuple((int(at),) for at in asked().read_at)
    with pytest.raises(InterpError, match="E205"):
        knockout_windows(opened(), asked(), width=9)
    with pytest.raises(InterpError, match="E201"):
        knockout_windows(opened(), asked(), paths=("text to image",))


def test_a_profile_of_layers():
    figure = layer_profile(interp.score(opened(), "image-mass", n=6), "attention to the picture")
    assert [trace.name for trace in figure.data] == ["head", "layer", "chance"] and len(figure.data[1].x) == 4
