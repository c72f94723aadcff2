"""What a sink is for, and whether calibrating helps: against runs by hand and models whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.hooks.interventions import Ablate, Knockout
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.calibration import SinkCalibration
from interp.loading import load
from interp.sinks.calibration import calibrate
from interp.sinks.edits import CALIBRATED, MOVED, REMOVED, SHARED, SINK, ZEROED, other_keys, sighted, with_keys
from interp.sinks.effects import SinkEffects
from interp.sinks.purpose import purpose
from interp.sinks.settings import Settings
from interp.tasks.registry import task


@pytest.fixture(scope="module")
def planted():
    return load("planted-sink")


@pytest.fixture(scope="module")
def rest(planted) -> SinkEffects:
    return purpose(planted, task("bundled", model="planted-sink"), n_controls=3)


def test_the_planted_sink_is_a_place_to_rest(rest) -> None:
    assert rest.heads == ("L0H3",)
    rows = {row.label: row for row in rest.top()}
    assert rows[REMOVED].claimed and rows[REMOVED].mean > 1 and abs(rows[REMOVED].control_mean) < 1e-3
    assert rows[ZEROED].mean == 0 and not rows[ZEROED].claimed, "BOS has value zero by construction"
    assert rows[SHARED].claimed and 0 < rows[SHARED].mean < rows[REMOVED].mean
    assert rows[MOVED].claimed and rows[MOVED].mean > 1, "where the trigger comes the head must look elsewhere"
    assert rest.headline().startswith("The sink of 1 head is a place to rest")
    assert rest.table()[0][0] == REMOVED and len(rest.table()) == 6


def test_each_value_is_that_of_the_intervention_by_hand(planted, rest) -> None:
    asked = task("bundled", model="planted-sink").examples(planted.tokenizer)
    batch = planted.batch([example.clean for example in asked.examples[:8]])
    n = batch.input_ids.shape[1]

    def metric() -> list[float]:
        logits = planted(batch)
        rows = []
        for row, one in enumerate(asked.examples[:8]):
            both = (one.answer, one.distractor)
            words = [planted.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in both]
            last = logits[row, int(batch.end[row])]
            rows.append(float(last[words[0]] - last[words[1]]))
        return rows

    assert metric() == pytest.approx(rest.baseline[:8].tolist(), abs=1e-4)
    with planted.edit(Knockout(["L0H3"], queries=tuple(range(1, n)), keys=0)):
        assert metric() == pytest.approx(rest.values[rest.labels.index(REMOVED)][:8].tolist(), abs=1e-4)
    with planted.edit(Ablate(["L0H3"], operator="to-sink")):
        assert metric() == pytest.approx(rest.values[rest.labels.index(MOVED)][:8].tolist(), abs=1e-4)


def test_other_keys_are_as_many_early_and_never_the_sink_or_where_the_answer_is_read(planted) -> None:
    batch = planted.batch(["w1 w2 w3 w4 w5 w6 w7 w8", "w1 w2 w3 w4"])
    sinks = torch.zeros(2, 9, dtype=torch.bool)
    sinks[:, 0] = sinks[0, 4] = True
    drawn = other_keys(batch, sinks, batch.end, 20, seed=0)
    assert len(drawn) == 20 and not any(bool((keys & sinks).any()) for keys in drawn)
    assert all(keys.sum(-1).tolist() == [2, 1] for keys in drawn)
    assert all(int(keys[0].nonzero().max()) < 5 and int(keys[1].nonzero().max()) < 3 for keys in drawn)
    assert len({tuple(keys.flatten().tolist()) for keys in drawn}) == 3, "all that there are"
    again = other_keys(batch, sinks, batch.end, 20, seed=0)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))


def test_no_query_is_left_without_a_key(planted) -> None:
    batch = planted.batch(["w1 w2 w3 w4 w5 w6"])
    keys = torch.zeros(1, 7, dtype=torch.bool)
    keys[0, :3] = True
    causal, open_ = (with_keys(batch, {SINK: keys}, causal=one).spans[sighted(SINK)] for one in (True, False))
    assert causal == ((3, 4, 5, 6),) and open_ == (tuple(range(7)),)


def test_a_model_without_a_sink_has_nothing_to_remove() -> None:
    model = load("bigram-backcopy-relu")
    prompts = task("bundled", model="bigram-backcopy-relu")
    with pytest.raises(InterpError, match="E205"):
        purpose(model, prompts)
    named = purpose(model, prompts, heads="all", n_controls=2, settings=Settings(seed=1))
    assert {REMOVED, ZEROED} <= set(named.edits) and CALIBRATED not in named.edits
    assert "any mass" in "\n".join(named.remarks()) and named.headline().startswith("No claim")


@pytest.fixture(scope="module")
def mini():
    return load("mini")


def test_heads_are_chosen_on_some_prompts_and_judged_on_the_others(mini) -> None:
    asked = task("ioi", n=12, seed=1)
    found = calibrate(mini, asked, heads="L1H*", n_choose=5, n_controls=4, threshold=0.05)
    assert len(found.prompts) == 7 and found.run.method["n_choose"] == 5
    every = [example.id for example in asked.examples(mini.tokenizer).examples]
    choosing = [name for name in every if name not in {prompt.id for prompt in found.prompts}]
    assert len(choosing) == 5
    texts = {example.id: example for example in asked.examples(mini.tokenizer).examples}

    def metric(ids: list[str]) -> np.ndarray:
        batch = mini.batch([texts[name].clean for name in ids])
        logits = mini(batch)
        words = [
            [mini.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (one.answer, one.distractor)]
            for one in (texts[name] for name in ids)
        ]
        last = logits[torch.arange(len(ids)), batch.end]
        return np.array([float(row[a] - row[b]) for row, (a, b) in zip(last, words, strict=True)])

    clean = metric(choosing)
    for head, gain in found.run.method["gains"].items():
        with mini.edit(Swap([head], SinkCalibration(threshold=0.05))):
            assert gain == pytest.approx((metric(choosing) - clean).mean(), abs=1e-4)
    assert set(found.heads) == {head for head, gain in found.run.method["gains"].items() if gain > 0}
    held = [prompt.id for prompt in found.prompts]
    assert found.baseline == pytest.approx(metric(held), abs=1e-4)
    with mini.edit(Swap(found.heads, SinkCalibration(threshold=0.05))):
        assert found.values[0] == pytest.approx(metric(held), abs=1e-4)
    assert len(found.controls[0]) == 4 and all(not one for one in found.controls[1:])


def test_calibration_that_changes_nothing_is_not_claimed(mini) -> None:
    found = calibrate(mini, task("ioi", n=8), heads="L0H*", beta=1.0, n_controls=3)
    assert not found.evidence.claimed.any() and ("No claim" in found.headline() or "No head" in found.headline())
    with pytest.raises(InterpError, match="E205"):
        calibrate(mini, task("ioi", n=8), n_choose=8)
    with pytest.raises(InterpError, match="E205"):
        calibrate(mini, task("ioi", n=8), beta=2.0)


def test_effects_are_the_same_after_saving(rest, tmp_path) -> None:
    again = SinkEffects.load(rest.save(tmp_path / "run"))
    assert again == rest and repr(again) == repr(rest) and again.run_id == rest.run_id
    frame = rest.to_frame()
    assert len(frame) == rest.values.size and frame.effect[0] == rest.effects[0, 0]
    assert len(rest.plot().data) == 2
