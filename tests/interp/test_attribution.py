"""Direct logit attribution as a user calls it: known answers, rows, controls, positions, refusals, files and text."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.attribution.result import AttributionResult
from interp.attribution.run import dla
from interp.circuits.evidence import judge
from interp.circuits.writes import Part
from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.hooks.naive import plain_outputs
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError
from interp.tasks.file import file_task
from interp.zoo.registry import list_models

WRITERS = {
    name: {edge.removesuffix("->logits") for edge in card["truth"]["edges"]["program"] if edge.endswith("->logits")}
    for name, card in list_models().items()
    if card["kind"] == "planted"
}
"""Planted model -> what its weights were written to send to the logits."""


@cache
def mini() -> HookedModel:
    return interp.load("mini")


@cache
def found(task: str = "ioi", **options: Any) -> AttributionResult:
    return dla(mini(), interp.task(task, n=32, seed=0), **options)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_planted_models_write_where_they_were_made_to_write(name: str) -> None:
    result = dla(interp.load(name), interp.task("bundled", model=name))
    means = {part: float(row.mean()) for part, row in zip(result.parts, result.values, strict=True)}
    whole = float(result.logit_diff.mean())
    silent = {part.label: mean for part, mean in means.items() if part.label not in WRITERS[name]}
    assert max(abs(mean) for mean in silent.values()) < 0.01 * whole
    written = sum(mean for part, mean in means.items() if part.label in WRITERS[name])
    assert written == pytest.approx(whole, rel=0.02) and whole > 3


def logit_difference(output: torch.Tensor, answer: torch.Tensor, distractor: torch.Tensor) -> np.ndarray:
    """Largest logit of the answers less the largest of the distractors; -1 fills."""
    best = [
        [max(float(row[token]) for token in options.flatten().tolist() if token >= 0) for row, options in rows]
        for rows in (zip(output, answer, strict=True), zip(output, distractor, strict=True))
    ]
    return np.array(best[0]) - np.array(best[1])


@pytest.mark.parametrize("task", ["ioi", "greater_than"])
def test_rows_sum_to_the_metric_of_the_untouched_model(task: str) -> None:
    """With one right answer and with several."""
    model, result = mini(), found(task)
    pairs = tokenise(model.tokenizer, interp.task(task, n=32, seed=0).examples(model.tokenizer).examples)
    output = plain_outputs(model, pairs.clean, pairs.read_at, 32)
    metric = logit_difference(output, pairs.answer, pairs.distractor)
    np.testing.assert_allclose(result.logit_diff, metric, atol=1e-4)
    np.testing.assert_allclose(result.values.sum(axis=0), metric, atol=1e-4)
    np.testing.assert_allclose(sum(result.share_by_kind().values()), result.values.sum(axis=0), atol=1e-12)
    outside = [row for part, row in zip(result.parts, result.values, strict=True) if part.layer is None]
    np.testing.assert_allclose(
        result.share_by_layer().sum(axis=0) + np.sum(outside, axis=0), result.values.sum(axis=0), atol=1e-12
    )
    assert result.run.method["largest_remainder"] == pytest.approx(np.abs(result.remainder).max())
    assert result.run.method["largest_remainder"] < 1e-4


def test_batches_change_nothing() -> None:
    one, steps = found(), []
    other = dla(mini(), interp.task("ioi", n=32, seed=0), batch_size=5, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(one.values, other.values, atol=1e-5)
    assert one.controls == other.controls and steps == [(done, 7) for done in range(1, 8)]
    assert list(one.sources) == list(other.sources) and len(one.sources) == 4
    for prompt, rows in one.sources.items():
        np.testing.assert_allclose(rows, other.sources[prompt], atol=1e-5)


def test_shares_of_heads_are_split_over_the_tokens_of_the_prompt() -> None:
    result = found()
    heads = [row for part, row in zip(result.parts, result.values, strict=True) if part.kind == "head"]
    for place, prompt in enumerate(result.prompts[:4]):
        rows = result.sources[prompt.id]
        assert rows.shape == (32, len(prompt.tokens))
        np.testing.assert_allclose(rows.sum(axis=1), np.array(heads)[:, place], atol=1e-5)


def test_heads_stand_beside_heads_of_their_layer() -> None:
    result = found(n_controls=3)
    layer = {part.label: part.layer for part in result.parts}
    for part, controls in zip(result.parts, result.controls, strict=True):
        assert len(controls) == (3 if part.kind == "head" else 0) and part.label not in controls
        assert {layer[control] for control in controls} <= {part.layer}
    place = {part.label: index for index, part in enumerate(result.parts)}
    indices = [tuple(place[label] for label in controls) for controls in result.controls]
    by_hand = judge(result.values, result.logit_diff, indices, gate=True, seed=0)
    np.testing.assert_array_equal(result.evidence.q, by_hand.q)
    assert result.evidence.n_tested == 32 and bool(result.evidence.claimed.any())


def test_a_model_that_does_not_do_the_task_gives_no_claim() -> None:
    core = sharp_model("llama", vocab_size=len(mini().tokenizer))
    result = dla(HookedModel.from_hf(core, mini().tokenizer, name="random"), interp.task("ioi", n=32, seed=0))
    assert not result.evidence.claimed.any()
    assert "does not do this task" in result.headline() or "No head writes" in result.headline()


def test_other_positions_are_read_without_asking_whether_the_task_is_done() -> None:
    task = interp.task("ioi", n=32, seed=0)
    by_role, last = dla(mini(), task, position="s2"), found()
    assert not by_role.evidence.gate and np.isnan(by_role.evidence.p_behaviour) and last.evidence.gate
    assert by_role.run_id != last.run_id
    pairs = tokenise(mini().tokenizer, task.examples(mini().tokenizer).examples)
    at = torch.tensor([span[-1] for span in pairs.clean.spans["s2"]])
    logits = plain_outputs(mini(), pairs.clean, at, 32)
    metric = logit_difference(logits, pairs.answer, pairs.distractor)
    np.testing.assert_allclose(by_role.values.sum(axis=0), metric, atol=1e-4)
    third = dla(mini(), task, position=3)
    logits = plain_outputs(mini(), pairs.clean, torch.full((32,), 3), 32)
    metric = logit_difference(logits, pairs.answer, pairs.distractor)
    np.testing.assert_allclose(third.logit_diff, metric, atol=1e-4)
    for wrong in ("nowhere", 99, -1):
        with pytest.raises(InterpError) as error:
            dla(mini(), task, position=wrong)
        assert error.value.code == "E313"


def prompts_file(tmp_path: Path, **row: Any) -> Any:
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps({"clean": "Mary and John", "answer": " Mary", "distractor": " John", **row}) + "\n")
    return file_task(path)


def test_what_cannot_be_attributed_is_refused(tmp_path: Path) -> None:
    tokenizer = mini().tokenizer
    random = HookedModel.from_hf(
        sharp_model("llama", vocab_size=len(tokenizer)), tokenizer, has_trained_head=False, name="headless"
    )
    seeing = HookedModel.from_hf(sharp_model("vit"), tokenizer, name="vit")
    normed = {"vocab_size": len(tokenizer), "apply_residual_connection_post_layernorm": True}
    unmade = HookedModel.from_hf(sharp_model("bloom", **normed), tokenizer, name="bloom")
    for model, code in ((random, "E402"), (unmade, "E403")):
        with pytest.raises(InterpError) as error:
            dla(model, prompts_file(tmp_path))
        assert error.value.code == code
    with pytest.raises(InterpError) as error:
        dla(mini(), prompts_file(tmp_path, distractor=None))
    assert error.value.code == "E303"
    with pytest.raises(InterpError):
        dla(seeing, prompts_file(tmp_path))


def test_notes_say_what_was_not_done(tmp_path: Path) -> None:
    tokenizer = mini().tokenizer
    hidden = HookedModel.from_hf(sharp_model("gptj", vocab_size=len(tokenizer)), tokenizer, name="gptj")
    result = dla(hidden, prompts_file(tmp_path))
    assert result.sources == {} and any("not split over keys" in note for note in result.run.warnings)
    capped = HookedModel.from_hf(sharp_model("gemma2", vocab_size=len(tokenizer)), tokenizer, name="gemma2")
    result = dla(capped, prompts_file(tmp_path))
    assert any("before the cap" in note for note in result.run.warnings)
    assert result.run.method["logit_cap"] == 30.0


def test_it_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    result = found()
    folder = result.save(tmp_path / "run")
    again = AttributionResult.load(folder)
    assert again == result and again.run_id == result.run_id and repr(again) == repr(result)
    assert replace(again, values=again.values + 1) != result
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in result.save(folder, overwrite=True).iterdir()} == before
    with pytest.raises(InterpError) as error:
        result.save(folder)
    assert error.value.code == "E204"
    (folder / "rows.parquet").write_bytes(b"spoilt")
    with pytest.raises(InterpError) as error:
        AttributionResult.load(folder)
    assert error.value.code == "E701"


def test_it_prints_tabulates_and_plots() -> None:
    result = found()
    n = int(result.evidence.claimed.sum())
    text = repr(result)
    assert f"{n} of 32 heads write directly for or against the answer on ioi" in text
    assert "mean logit difference" in text and "rounding" in text
    frame = result.to_frame()
    assert len(frame) == result.values.size and set(frame["kind"]) == {"embed", "head", "bias", "mlp"}
    sums = frame.groupby("prompt_id", sort=False)["value"].sum().to_numpy()
    np.testing.assert_allclose(sums, result.logit_diff, atol=1e-4)
    effects = result.as_effects()
    np.testing.assert_allclose(
        effects.effects, result.values[[part.kind == "head" for part in result.parts]], atol=1e-12
    )
    assert int(effects.evidence.claimed.sum()) == n
    assert result.plot().data[0].z is not None


def small(values: np.ndarray, name: str = "ioi") -> AttributionResult:
    """A result of two heads and an embedding."""
    parts = (Part("embed", "embed"), Part("L0H0", "head", 0, 0), Part("L0H1", "head", 0, 1))
    run = replace(found().run, task={**found().run.task, "name": name})
    prompts = found().prompts[: values.shape[1]]
    return AttributionResult(run, parts, prompts, values.sum(axis=0), values, ((), ("L0H1",), ("L0H0",)))


def test_the_headline_says_why_nothing_is_claimed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 30))
    assert "does not do this task" in small(noise).headline()
    noise[0] += 5
    assert small(noise).headline().startswith("No head writes more than random heads")
    assert small(noise[:, :5]).headline().startswith("Too few prompts")
    constant = np.zeros((3, 30))
    constant[0], constant[1] = rng.normal(5, 1, 30), 9.0
    assert small(constant).headline().startswith("L0H0 writes +9 in every prompt of ioi alike")
    loud = noise.copy()
    loud[2] -= 4
    assert small(loud).headline().startswith("1 of 2 heads writes directly for or against the answer on ioi")
    assert "L0H1 -" in small(loud).headline()


def test_names_of_others_are_escaped_in_notebooks() -> None:
    html = small(np.random.default_rng(0).normal(3, 1, (3, 30)), "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
