"""The passport of planted heads: what it gathers is what the methods say, and decoys are flagged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorers
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.passport.families import ALWAYS, SLOW, family
from interp.passport.flags import FLIPS, NO_EFFECT, NO_SCORE, OPERATORS, flags_of
from interp.passport.labels import is_high
from interp.passport.reading import Reading
from interp.passport.settings import settings_of
from interp.zoo.planted.writing import head_weights

NAME = "planted-induction"
FEW = ("induction", "previous-token", "duplicate-token", "copying")
QUICK = {"scorers": FEW, "seeds": (0,), "n": 16}


@cache
def opened() -> HookedModel:
    return interp.load(NAME)


@cache
def decoyed() -> HookedModel:
    """L1H3 looks where the induction head looks, and writes nothing."""
    network = interp.load(NAME).adapter.model
    with torch.no_grad():
        true, decoy = (head_weights(network, 1, head) for head in (2, 3))
        for side in ("q", "k", "v"):
            decoy[side].copy_(true[side])
        decoy["o"].zero_()
    return HookedModel.from_hf(network, opened().tokenizer)


@cache
def whole() -> interp.Passport:
    """Of the induction head, with all that fits."""
    return interp.passport(opened(), "L1H2", seeds=(0, 1), n=16)


@cache
def of_decoy() -> interp.Passport:
    return interp.passport(decoyed(), "L1H3", **QUICK)


def test_the_induction_head_is_named_and_nothing_is_flagged() -> None:
    found = whole()
    assert found.flags == () and "no flags" in found.headline()
    assert found.labels[0].name == "induction" and "prefix-matching 1" in found.labels[0].because
    one = found.reading("induction")
    assert one.value == pytest.approx(1, abs=1e-4) and (one.rank, one.of, one.claimed) == (1, 8, True)
    assert found.stability("induction").says == "2 of 2" and found.settings == ("seed 0", "seed 1")
    assert found.stability("copying").says == "asked once"
    assert found.sink is not None and found.sink.role == "first" and found.sink.received > 0.6


def test_every_scorer_is_asked_or_left_out_with_a_reason() -> None:
    found = whole()
    asked = {one.question for one in found.main if one.family not in ("ablation", "direct")}
    assert asked | {name for name in found.left_out if name in scorers()} == set(scorers())
    assert not asked & set(found.left_out) and all(found.left_out.values())
    assert set(SLOW) <= set(found.left_out) and "pictures" in found.left_out["patch-entropy"]
    assert found.left_out["ioi-copy"].startswith("E311") and "vocabulary" in found.left_out["ioi-copy"]


def test_numbers_are_those_of_the_methods() -> None:
    found, task = whole(), interp.task("induction", n=16, seed=0)
    for operator in ("zero", "mean", "resample"):
        alone = interp.ablate(opened(), task, heads="L1H2", operator=operator)
        row, one = alone.heads.index("L1H2"), found.reading(f"ablation: {operator}")
        assert np.allclose(one.values, alone.effects[row], atol=1e-5)
        assert one.others == pytest.approx(alone.evidence.control_mean[row], abs=1e-5)
        assert set(found.run.method["controls"]) == set(alone.controls[row])
        assert one.claimed and alone.evidence.claimed[row]
    direct = interp.dla(opened(), task)
    share = direct.values[direct.labels.index("L1H2")]
    assert np.allclose(found.reading("direct logit attribution").values, share)
    score = interp.score(opened(), "first-token", task)
    one, row = found.reading("first-token"), score.heads.index("L1H2")
    assert np.array_equal(one.values, score.values[row]) and np.array_equal(one.chances, score.null[row])
    assert one.q == score.evidence.q[row] and one.value == score.mean[row]
    assert np.isnan(one.low) == np.isnan(score.evidence.ci_low[row])


def test_its_picture_is_the_models_attention() -> None:
    found, task = whole(), interp.task("induction", n=16, seed=0)
    example = task.examples(opened().tokenizer).examples[0]
    _, cache = opened().run_with_cache([list(example.clean)], "blocks.1.attn.hook_pattern")
    assert np.abs(found.pattern - cache["pattern", 1][0, 2].double().numpy()).max() < 1e-3
    assert len(found.tokens) == len(found.pattern) and int(np.argmax(found.by_distance)) == 15


def test_a_head_that_looks_and_writes_nothing_is_flagged() -> None:
    found = of_decoy()
    assert [flag.kind for flag in found.flags] == [NO_EFFECT] and "induction 1" in found.flags[0].says
    assert found.reading("induction").value > 0.99 and found.reading("induction").claimed
    for operator in ("zero", "mean", "resample", "uniform"):
        assert np.abs(found.reading(f"ablation: {operator}").values).max() == 0
    assert "no claimed effect" in found.headline()
    true = interp.passport(decoyed(), "L1H2", **QUICK)
    assert true.flags == () and true.reading("ablation: zero").claimed


def test_a_head_that_matters_and_that_no_score_explains_is_flagged() -> None:
    found = interp.passport(opened(), "L1H2", scorers=("previous-token", "duplicate-token"), seeds=(0,), n=16)
    assert [flag.kind for flag in found.flags] == [NO_SCORE]
    noise = interp.passport(opened(), "L1H0", **QUICK)
    assert noise.flags == () and noise.labels == () and "no kind of head" in noise.headline()


def made(question: str, kind: str, value: float, **more) -> Reading:
    """A reading whose interval is 0.2 wide."""
    given = {"claimed": False, "q": 0.9, "setting": "seed 0", "most": float("nan"), "rank": 0, "of": 0, **more}
    return Reading(
        question=question, family=kind, task="ioi", value=value, low=value - 0.1, high=value + 0.1, chance=0.0,
        others=0.0, note="", prompts=("a",), values=np.array([value]), chances=np.zeros(1), **given,
    )  # fmt: skip


def test_operators_that_disagree_and_signs_that_flip_are_flagged() -> None:
    zero = made("ablation: zero", "ablation", 1.0, claimed=True, q=0.01)
    mean, close = made("ablation: mean", "ablation", 0.0), made("ablation: mean", "ablation", 0.6, q=0.06)
    against = made("ablation: mean", "ablation", -1.0, claimed=True, q=0.01)
    high = made("induction", "attention", 0.9, claimed=True, most=1.0)

    def kinds(*rows: Reading, every=None) -> list[str]:
        return [flag.kind for flag in flags_of(rows, every or rows, 5.0, can_claim=True)]

    assert kinds(zero, mean, high) == [OPERATORS] == kinds(zero, against, high)
    assert kinds(zero, close, high) == [] == kinds(zero, replace(against, value=2.0), high)
    other = replace(zero, setting="seed 1", value=-1.0, low=-1.1, high=-0.9)
    assert kinds(zero, high, every=(zero, high, other)) == [FLIPS]
    unsure = replace(other, high=0.2)
    assert kinds(zero, high, every=(zero, high, unsure)) == []
    looks = replace(high, setting="seed 1", value=-0.5, low=-0.6, high=-0.4)
    assert kinds(zero, high, every=(zero, high, looks)) == []
    assert kinds(mean, high) == [NO_EFFECT] and kinds(zero, replace(high, claimed=False)) == [NO_SCORE]
    assert not [one for one in flags_of((mean, high), (mean, high), 5.0, can_claim=False) if one.kind == NO_EFFECT]


def test_high_scores_are_strong_or_among_the_first() -> None:
    assert is_high(made("a", "attention", 0.3, claimed=True, most=1.0))
    assert not is_high(made("a", "attention", 0.2, claimed=True, most=1.0))
    assert not is_high(made("a", "attention", 0.9, most=1.0))
    assert is_high(made("a", "safety", 5.0, claimed=True, rank=4, of=32))
    assert not is_high(made("a", "safety", 5.0, claimed=True, rank=5, of=32))


def test_families_tell_looks_from_shapes() -> None:
    kinds = {name: family(kind()) for name, kind in scorers().items()}
    assert kinds["induction"] == kinds["previous-token"] == "attention" and kinds["first-token"] == "place"
    assert kinds["entropy"] == kinds["waad"] == "shape" and kinds["copying"] == "weights"
    assert kinds["retrieval"] == "retrieval" and kinds["gradient-attribution"] == "effects"


def test_what_is_saved_comes_back(tmp_path) -> None:
    for name, found in {"whole": whole(), "decoy": of_decoy()}.items():
        found.save(tmp_path / name)
        again = interp.Passport.load(tmp_path / name)
        assert again == found and again.run_id == found.run_id and repr(again) == repr(found)
        assert again.flags == found.flags and again.labels == found.labels


def test_it_prints_and_tabulates_everything() -> None:
    found = whole()
    text = repr(found)
    assert found.headline() in text and "not asked: " in text and "ablation: uniform" in text and "seconds: " in text
    assert "<table>" in found._repr_html_()
    frame, summary = found.to_frame(), found.summary_frame()
    assert len(summary) == len(found.readings) and len(frame) == sum(len(one.prompts) for one in found.readings)
    mean = frame[(frame["question"] == "induction") & (frame["setting"] == "seed 1")]["value"].mean()
    assert mean == pytest.approx(summary.set_index(["question", "setting"]).loc[("induction", "seed 1"), "value"])
    with pytest.raises(InterpError) as error:
        found.reading("gate")
    assert error.value.code == "E201" and "slow" in error.value.fix


def test_the_figure_shows_every_verdict() -> None:
    found = whole()
    figure = found.plot()
    bounded = [one for one in found.main if np.isfinite(one.strength)]
    effects = [one for one in found.main if one.family in ("ablation", "direct")]
    lengths = [len(trace.x) for trace in figure.data if trace.type == "scatter" and trace.x is not None]
    assert len(bounded) in lengths and len(effects) in lengths
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 1 and np.allclose(heat[0].z, found.pattern)
    assert "no flags" in figure.layout.title.text.replace("<br>", " ")
    assert NO_EFFECT in of_decoy().plot().layout.title.text.replace("<br>", " ")


def test_a_file_of_prompts_is_cut_into_parts() -> None:
    task = interp.task("bundled", model=NAME)
    found = interp.passport(opened(), "L1H2", task, scorers=("induction",), operators=("zero",), seeds=(0, 1))
    assert found.settings == ("all prompts", "part 1 of 2", "part 2 of 2")
    ids = {one.setting: set(one.prompts) for one in found.readings if one.question == "ablation: zero"}
    assert ids["part 1 of 2"] | ids["part 2 of 2"] == ids["all prompts"] and len(ids["all prompts"]) == 64
    assert not ids["part 1 of 2"] & ids["part 2 of 2"]
    assert found.stability("ablation: zero").says == "3 of 3" == found.stability("induction").says


def test_templates_vary_what_reads_the_task() -> None:
    task = interp.task("ioi", n=8)
    names = [one.name for one in settings_of(task, (3, 4), None)]
    assert names == ["seed 3", "seed 4", "template=0", "template=1", "template=2"]
    made_of = settings_of(task, (3,), [{"template": 5}, {"split": "test"}])
    assert [one.task.options["template"] for one in made_of] == [None, 5, None]
    assert [one.seed for one in made_of] == [3, 3, 3] and made_of[2].task.options["split"] == "test"
    assert len(settings_of(interp.task("induction"), (0,), None)) == 1
    varied = interp.passport(
        opened(), "L1H2", interp.task("induction", n=12), scorers=("induction", "copying"), operators=("zero",),
        seeds=(0,), templates=[{"length": 12}],
    )  # fmt: skip
    assert varied.settings == ("seed 0", "length=12")
    asked = {one.question for one in varied.readings if one.setting == "length=12"}
    assert {"induction", "ablation: zero", *ALWAYS} <= asked and "copying" not in asked


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"head": "L7H0"}, "E203"),
        ({"scorers": ("inducktion",)}, "E201"),
        ({"scorers": ("induction", "induction")}, "E205"),
        ({"seeds": ()}, "E205"),
        ({"seeds": (1, 1)}, "E205"),
        ({"operators": ("zap",)}, "E201"),
        ({"operators": ()}, "E205"),
        ({"templates": [{"template": 1}]}, "E201"),
        ({"task": interp.task("ioi", n=4)}, "E311"),
    ],
)
def test_mistakes_are_said(options, code: str) -> None:
    with pytest.raises(InterpError) as error:
        interp.passport(opened(), **{"head": "L1H2", "scorers": ("induction",), "n": 8, **options})
    assert error.value.code == code
