"""Studies of what a model does with a picture: one protocol for interventions, pruning, and paths that are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch

import interp
from interp.circuits.results import RunInfo
from interp.hooks.interventions import Scale
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from interp.report.seeing_figures import layer_profile
from interp.vision.contenders import (
    BLANK,
    VHD,
    WRONG,
    AllHeads,
    ImageBoost,
    LowerYes,
    Rankings,
    Redistribution,
    ReinforcedHeads,
    contenders,
)
from interp.vision.flow import knockout_windows, with_groups
from interp.vision.methods import EditMethod, Method
from interp.vision.pruning import RANKINGS, pruning_curve
from interp.vision.questions import ABSENT, COMPANION, PRESENT, REGULAR, SETS, questions
from interp.vision.redistribution import ShareSinks
from interp.vision.study import choose, compare, is_idle, untouched
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
    methods_ = ({"method": "m", "source": "s", "setting": "a 1", "heads": ["L0H0"], "note": ""},)
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


def test_what_other_heads_do_as_well_does_not_meet_the_bar():
    absent, right = [[1.0] * 4, [1.0, -1.0, -1.0, -1.0]], [[1.0], [1.0]]  # false yes falls by 75 %, at no cost

    def against(*draws: Sequence[float]) -> SeeingStudy:
        return study(absent, right, right, {ABSENT: draws, REGULAR: [[1.0]] * len(draws)})

    less, as_much = [1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, -1.0, -1.0]
    clear, alike = against(less), against(less, as_much)
    bar, drawn = (SeeingStudy.columns.index(name) for name in ("bar", "controls"))
    assert clear.rows[0].meets and clear.table()[0][bar] == "met" and clear.table()[0][drawn] == "0.5 (1 set)"
    assert "is lowered by m 75% (other heads: up to 50%)" in clear.headline()
    assert "not distinguishable" not in clear.headline()
    assert alike.rows[0].separates is False and not alike.rows[0].meets
    assert alike.table()[0][bar] == "not distinguishable from other heads"
    assert alike.table()[0][drawn] == "0.625 (most 0.75, 2 sets)"
    assert alike.headline() == (
        "No method lowers false yes (1) by 30%, and by more than other heads do, with regular accuracy kept within 2%; "
        "not distinguishable from other heads: m."
    )
    unasked = study([[-1.0] * 4] * 2, right, right, {ABSENT: [[-1.0] * 4], REGULAR: [[1.0]]}).rows[0]
    assert unasked.separates is None and unasked.verdict == "not met"  # there was no false yes to take away


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


class Watched(ReinforcedHeads):
    """Keeps a list of what it ran on."""

    name = "watched"
    grid = ({"per_layer": 4, "alpha": 1.5},)
    ran: ClassVar[list[tuple[str, tuple[str, ...]]]] = []

    def margins(self, model, asked, settings, batch_size):
        self.ran.append((asked.name, self.fixed))
        return super().margins(model, asked, settings, batch_size)


class FewHeads(Watched):
    """One head of each of two layers: seven sets a layer to compare with."""

    name = "few"
    grid = ({"first": 2, "alpha": 1.5},)
    ran: ClassVar[list[tuple[str, tuple[str, ...]]]] = []


def test_every_different_set_of_other_heads_runs_once():
    Watched.ran.clear()
    FewHeads.ran.clear()
    found = compare(
        opened(), n=4, tuning_n=4, make=lambda _: [Watched(everything()), FewHeads(("L0H0", "L1H0"))], n_controls=5
    )
    half, few = found.rows
    others = tuple(label for label in everything() if label not in half.heads)
    assert [(kind, set(heads)) for kind, heads in Watched.ran if heads] == [
        (ABSENT, set(others)),
        (REGULAR, set(others)),
    ]
    drawn = [(kind, heads) for kind, heads in FewHeads.ran if heads]
    assert len(drawn) == len(set(drawn)) == 2 * len(few.controls) and len(few.controls) > 1
    assert len(half.controls) == 1 and "watched: 5 draws of other heads gave 1 different set." in found.run.warnings
    assert any(line.startswith("few:") for line in found.run.warnings) == (len(few.controls) < 5)
    assert set(found.run.warnings) <= set(found.remarks())


def everything() -> tuple[str, ...]:
    return tuple(f"L{layer}H{head}" for layer in range(4) for head in range(8))


def test_a_method_that_changes_nothing_is_named():
    found = compare(opened(), n=4, tuning_n=4, make=lambda _: [Redistribution(), LowerYes(), AllHeads()], n_controls=0)
    assert [row.note for row in found.rows] == ["changes no number of this model", "", ""]
    assert found.run.warnings == ("VAR changes no number of this model.",)
    assert "VAR changes no number of this model." in found.remarks()
    assert found.table()[0][SeeingStudy.columns.index("note")] == "changes no number of this model"


def test_a_change_within_rounding_is_none():
    base = np.array([-8.0, 2.0])
    near, far = base * (1 + 1e-6), base + np.array([0.0, 1e-3])
    margins = {ABSENT: np.stack([base, near, near, base]), REGULAR: np.stack([base, near, far, base])}
    assert [is_idle(margins, row, torch.float32) for row in (1, 2, 3)] == [True, False, True]


def test_edits_of_every_kind_are_proven_to_land():
    found = compare(
        opened(), n=4, tuning_n=4, make=lambda _: [AllHeads(), ImageBoost(), Redistribution(), LowerYes()], n_controls=0
    )
    proof = found.run.canary
    assert proof["point"] == "z, attn_scores, pattern"
    assert {(row["point"], row["layer"]) for row in proof["rows"]} == set(
        product(("z", "attn_scores", "pattern"), ("L0", "L2", "L3"))
    )
    assert all(row["identity"] < 1e-3 < row["large"] for row in proof["rows"])


def test_methods_edit_at_the_point_they_name():
    drawn, heads = questions(opened(), 3, seed=9)[ABSENT], ("L0H3", "L1H0", "L2H0", "L3H4")
    found = {}
    for method in contenders({VHD: heads, BLANK: heads, WRONG: heads}):
        made = method.edit(opened(), drawn, method.grid[0]) if isinstance(method, EditMethod) else None
        if made is not None:
            found[method.name] = {name.rpartition("hook_")[2] for name, _ in made.hooks(opened(), drawn.pairs.clean)}
            assert found[method.name] == {method.point}, method.name
    assert len(found) == 9  # nothing to edit for VAR in this model; three are no edits of their own
    assert set.union(*found.values()) == {"z", "attn_scores", "pattern"}
    assert ShareSinks("all", Reference({"L1": torch.ones(3, 9)}, "sinks", paired=True)).hooks(opened(), drawn.pairs.clean)[0][0].endswith(Redistribution.point)  # fmt: skip


def test_other_methods_are_another_question():
    def asked_of(*methods: Method) -> SeeingStudy:
        return compare(opened(), n=2, tuning_n=2, make=lambda _: methods, n_controls=0)

    class Gently(LowerYes):
        grid = ({"by": 0.1},)

    one, same = asked_of(LowerYes()), asked_of(LowerYes())
    assert one.run.method["methods"] == [{"name": "lower the logit of yes", "grid": [dict(by) for by in LowerYes.grid]}]
    assert one.run_id == same.run_id
    fixed = [ReinforcedHeads((), heads).to_dict() for heads in (("L0H0",), ("L0H1",))]
    assert fixed[0] != fixed[1] and fixed[0]["fixed"] == ["L0H0"]
    assert len({one.run_id, asked_of(AllHeads()).run_id, asked_of(Gently()).run_id}) == 3


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
