"""Patching as a user calls it: rows against loops written out, grids, sources, controls, text, files and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.circuits.evidence import judge
from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.reference import Reference, paired_reference
from interp.kernels.errors import InterpError, InterpErrors
from interp.patching.result import PatchResult
from interp.patching.run import patch
from interp.tasks.file import file_task

N = 12


@cache
def mini() -> HookedModel:
    return interp.load("mini")


def ioi(**options: Any) -> Any:
    return interp.task("ioi", n=N, seed=1, **options)


@cache
def pairs(corruption: str = "abc") -> Pairs:
    return tokenise(mini().tokenizer, ioi(corruption=corruption).examples(mini().tokenizer).examples)


@cache
def found(**options: Any) -> PatchResult:
    return patch(mini(), ioi(), **options)


def logit_difference(output: Tensor) -> np.ndarray:
    asked = pairs()
    rows = torch.arange(len(asked))
    last = output[rows, asked.read_at]
    return (last[rows, asked.answer] - last[rows, asked.distractor]).double().numpy()


def by_hand(base: Any, source: Any, point: str, write: Any) -> np.ndarray:
    """One full forward with one hook, which `write` fills in from the other run: (mine, theirs) -> None."""
    _, other = mini().run_with_cache(source, [point])

    def hook(x: Tensor, _: Any) -> Tensor:
        x = x.clone()
        write(x, other[point])
        return x

    return logit_difference(mini().run_with_hooks(base, {point: hook}))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_rows_are_full_forwards_of_one_run_with_parts_of_the_other(direction: str) -> None:
    result = found(direction=direction)
    sides = (pairs().clean, pairs().corrupt)
    source, base = sides if direction == "denoise" else sides[::-1]
    np.testing.assert_allclose(result.clean, logit_difference(mini()(pairs().clean)), atol=1e-4)
    np.testing.assert_allclose(result.corrupt, logit_difference(mini()(pairs().corrupt)), atol=1e-4)
    for layer, head in ((0, 1), (2, 0), (3, 7)):

        def write(x: Tensor, other: Tensor, head: int = head) -> None:
            x[:, :, head] = other[:, :, head]

        expected = by_hand(base, source, f"blocks.{layer}.attn.hook_z", write)
        index = result.labels.index(f"L{layer}H{head}")
        np.testing.assert_allclose(result.values[index], expected, atol=1e-4)
        effect = expected - result.corrupt if direction == "denoise" else result.clean - expected
        np.testing.assert_allclose(result.effects[index], effect, atol=1e-4)
    assert result.direction == direction and len(result.cells) == 32


@pytest.mark.parametrize(
    "point", ["q", "pattern", "k", "v", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
)
def test_every_point_at_a_role(point: str) -> None:
    """Patched at the second subject alone; k and v are those of a key/value head."""
    is_stream = "_" in point
    chosen: dict[str, Any] = {"layers": [2]} if is_stream else {"heads": "L2H3", "n_controls": 1}
    result = patch(mini(), ioi(), point=point, positions="s2", **chosen)
    spots = [span[0] for span in pairs().clean.spans["s2"]]
    number = 1 if point in "kv" else 3

    def write(x: Tensor, other: Tensor) -> None:
        for row, spot in enumerate(spots):
            if is_stream:
                x[row, spot] = other[row, spot]
            elif point == "pattern":
                x[row, number, spot] = other[row, number, spot]
            else:
                x[row, spot, number] = other[row, spot, number]

    name = f"blocks.2.hook_{point}" if is_stream else f"blocks.2.attn.hook_{point}"
    label = f"L2.{point}" if is_stream else "L2KV1" if point in "kv" else "L2H3"
    expected = by_hand(pairs().corrupt, pairs().clean, name, write)
    np.testing.assert_allclose(result.values[result.labels.index(label)], expected, atol=1e-4)


def test_queries_keys_and_values_from_three_runs() -> None:
    """Base corrupt; queries of a third run, keys clean, values left: written out as one forward with two hooks."""
    clean, corrupt = pairs().clean, pairs().corrupt
    third = mini().batch(clean.input_ids.flip(0))
    values = paired_reference(mini(), [third], "blocks.2.attn.hook_q", "another question")
    result = patch(mini(), ioi(), heads="L2H2", point={"q": values, "k": "clean"}, batch_size=5)
    _, own = mini().run_with_cache(clean, "blocks.2.attn.hook_k")

    def queries(x: Tensor, context: Any) -> Tensor:
        x = x.clone()
        x[:, :, 2:4] = values[context.name][:, :, 2:4]
        return x

    def keys(x: Tensor, context: Any) -> Tensor:
        x = x.clone()
        x[:, :, 1] = own[context.name][:, :, 1]
        return x

    hooks = {"blocks.2.attn.hook_q": queries, "blocks.2.attn.hook_k": keys}
    expected = logit_difference(mini().run_with_hooks(corrupt, hooks))
    np.testing.assert_allclose(result.values[result.labels.index("L2KV1")], expected, atol=1e-4)
    assert result.run.method["points"] == "q (another question) + k (clean)"
    assert result.run.method["sources"]["q"]["sha256"] == values.digest
    assert "key/value head" in result.headline() and result.run.method["axis"] == "kv_head"


def test_a_grid_of_positions_is_one_position_at_a_time() -> None:
    result = patch(mini(), ioi(), heads="L1H0", positions="each", n_controls=1)
    lengths = pairs().clean.lengths.tolist()
    assert len(set(lengths)) > 1 and len(result.cells) == 2 * max(lengths)
    first = (pairs().clean.input_ids != pairs().corrupt.input_ids).int().argmax(1).tolist()
    for position in range(max(lengths)):
        row = result.values[result.labels.index(f"L1H0@{position}")]
        assert np.isfinite(row).tolist() == [length > position for length in lengths]
        before = [index for index, start in enumerate(first) if position < start]
        assert (row[before] == result.values[result.labels.index("L1H0@0")][before]).all()
        np.testing.assert_allclose(row[before], result.corrupt[before], atol=1e-4)
    late = patch(mini(), ioi(), heads="L1H0", positions=(max(lengths) - 1, max(lengths) - 2), n_controls=1)
    has_any = [length >= max(lengths) - 1 for length in lengths]
    assert np.isfinite(late.values[0]).tolist() == has_any and not all(has_any)
    single = patch(mini(), ioi(), heads="L1H0", positions=(min(lengths) - 1,), n_controls=1)
    label = f"L1H0@{min(lengths) - 1}"
    np.testing.assert_allclose(
        result.values[result.labels.index(label)], single.values[single.labels.index("L1H0")], atol=1e-5
    )
    short = next(result.row(index) for index, label in enumerate(result.labels) if label == f"L1H0@{max(lengths) - 1}")
    assert "prompts are shorter" in short.note and "not finite" not in short.note


def test_a_grid_of_roles_has_controls_at_the_same_role() -> None:
    result = patch(mini(), ioi(), heads="L2H*", positions="roles", n_controls=2)
    assert {cell.place for cell in result.cells} == {"io", "s1", "s2", "end"} and len(result.cells) == 32
    for cell, controls in zip(result.cells, result.controls, strict=True):
        assert len(controls) == 2
        assert {result.cells[index].place for index in controls} == {cell.place}
        assert cell.unit not in {result.cells[index].unit for index in controls}
    end = patch(mini(), ioi(), heads="L2H*", positions="end", n_controls=2)
    for index, label in enumerate(end.labels):
        np.testing.assert_allclose(result.values[result.labels.index(f"{label}@end")], end.values[index], atol=1e-5)


def test_normalised_runs_from_the_corrupt_run_to_the_clean_one() -> None:
    """Whole streams restored at the end give the clean run; every prompt and the mean stand at 1."""
    whole = patch(mini(), ioi(), point="resid_post", layers=[3], positions="end")
    np.testing.assert_allclose(whole.values[0], whole.clean, atol=1e-4)
    np.testing.assert_allclose(whole.normalised[0], 1, atol=1e-4)
    np.testing.assert_allclose(whole.mean_normalised, [1], atol=1e-4)
    spoiled = patch(mini(), ioi(), point="resid_post", layers=[3], positions="end", direction="noise")
    np.testing.assert_allclose(spoiled.normalised[0], 0, atol=1e-4)
    np.testing.assert_allclose(spoiled.effects[0], spoiled.gap, atol=1e-4)
    nothing = patch(mini(), ioi(), point="resid_pre", layers=[0], positions=0)
    np.testing.assert_allclose(nothing.mean_normalised, [0], atol=1e-6)


def test_without_a_gap_there_is_no_share_of_it() -> None:
    result = found()
    half = replace(result, corrupt=np.where(np.arange(N) < N // 2, result.clean * 0.995, result.corrupt))
    assert half.has_gap.tolist() == [False] * (N // 2) + [True] * (N // 2)
    assert np.isnan(half.normalised[:, : N // 2]).all() and np.isfinite(half.normalised[:, N // 2 :]).all()
    expected = (result.values - result.corrupt)[:, N // 2 :].mean(1) / result.gap[N // 2 :].mean()
    np.testing.assert_allclose(half.mean_normalised, expected, rtol=1e-9)
    assert "in 6 prompts they do not differ" in repr(half) and "differ in every prompt" in repr(result)
    same = replace(result, corrupt=result.clean)
    assert np.isnan(same.normalised).all() and np.isnan(same.mean_normalised).all()
    assert np.isfinite(same.effects).all() and "of the gap)" not in same.headline()
    opposite = replace(result, clean=np.ones(N), corrupt=np.where(np.arange(N) % 2, 3.0, -1.0))
    assert opposite.has_gap.all() and np.isnan(opposite.mean_normalised).all()


def test_heads_stand_beside_heads_of_their_layer_and_claims_are_those_of_the_evidence() -> None:
    result = found(n_controls=3)
    for cell, controls in zip(result.cells, result.controls, strict=True):
        others = [result.cells[index].unit for index in controls]
        assert len(others) == 3 and {unit.layer for unit in others} == {cell.unit.layer} and cell.unit not in others
    by_judge = judge(result.effects, result.clean, result.controls, gate=True, seed=0)
    np.testing.assert_array_equal(result.evidence.q, by_judge.q)
    assert result.claimed == tuple(row.label for row in result.top(32) if row.claimed) and result.claimed
    assert result.claimed[0] in result.headline() and "of the gap" in result.headline()


def test_a_group_is_patched_at_once_and_stands_beside_random_groups() -> None:
    result = patch(mini(), ioi(), heads="L0H0,L2H1", together=True, n_controls=5, positions="end")
    assert result.labels[0] == "L0H0+L2H1" and result.controls[0] == tuple(range(1, len(result.cells)))
    for cell in result.cells[1:]:
        assert sorted(head.layer for head in cell.unit.heads) == [0, 2]
        assert not {"L0H0", "L2H1"} & {head.label for head in cell.unit.heads}
    edits = [
        interp.Patch("z", paired_reference(mini(), [pairs().clean]), heads=head, positions="end")
        for head in ("L0H0", "L2H1")
    ]
    with mini().edit(*edits):
        np.testing.assert_allclose(result.values[0], logit_difference(mini()(pairs().corrupt)), atol=1e-4)


@pytest.mark.parametrize("metric", ["logit_diff", "log_prob", "kl"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_patch_with_what_is_there_already_has_an_effect_of_exactly_nothing(direction: str, metric: str) -> None:
    own = "corrupt" if direction == "denoise" else "clean"
    for point in ("z", "q", "v", "resid_mid"):
        chosen: dict[str, Any] = {"layers": [1, 3]} if point == "resid_mid" else {"heads": "L1H0,L3H2", "n_controls": 1}
        result = patch(mini(), ioi(), point={point: own}, direction=direction, metric=metric, batch_size=5, **chosen)
        assert (result.effects == 0.0).all() and result.gap.any()


def test_batches_change_nothing() -> None:
    steps: list[tuple[int, int]] = []
    other = patch(mini(), ioi(), batch_size=5, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(found().values, other.values, atol=1e-4)
    assert steps[-1] == (96, 96) and other.controls == found().controls


def test_metrics_that_read_every_logit() -> None:
    """log_prob needs the whole vocabulary, kl the clean run, whichever run is measured."""
    result = patch(mini(), ioi(), heads="L0H1", n_controls=1, metric="log_prob")
    rows = torch.arange(N)
    _, clean = mini().run_with_cache(pairs().clean, "blocks.0.attn.hook_z")

    def hook(z: Tensor, context: Any) -> Tensor:
        z = z.clone()
        z[:, :, 1] = clean[context.name][:, :, 1]
        return z

    output = mini().run_with_hooks(pairs().corrupt, {"blocks.0.attn.hook_z": hook})[rows, pairs().read_at]
    expected = output.log_softmax(-1)[rows, pairs().answer].double().numpy()
    np.testing.assert_allclose(result.values[result.labels.index("L0H1")], expected, atol=1e-4)
    divergence = patch(mini(), ioi(), heads="L0H1", n_controls=1, metric="kl")
    np.testing.assert_allclose(divergence.clean, 0, atol=1e-6)
    assert (divergence.corrupt < -0.1).all() and (divergence.normalised <= 1 + 1e-6).all()


def test_a_model_that_does_not_do_the_task_gives_no_claim() -> None:
    core = sharp_model("llama", vocab_size=len(mini().tokenizer))
    result = patch(HookedModel.from_hf(core, mini().tokenizer, name="random"), ioi())
    assert not result.evidence.claimed.any() and "matter" not in result.headline()


@pytest.mark.parametrize(
    "options", [{}, {"heads": "L1H0", "positions": "each", "n_controls": 1}, {"point": "resid_pre"}]
)
def test_a_run_folder_gives_the_result_back(options: dict[str, Any], tmp_path: Path) -> None:
    result = patch(mini(), ioi(), **options)
    folder = result.save(tmp_path / "run")
    assert PatchResult.load(folder) == result
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "patch" and manifest["headline"] == result.headline()
    again = replace(result).save(tmp_path / "again")
    assert all(file.read_bytes() == (again / file.name).read_bytes() for file in folder.iterdir())
    (folder / "rows.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:-1])
    with pytest.raises(InterpError) as caught:
        PatchResult.load(folder)
    assert caught.value.code == "E701"


def test_tables_have_a_row_for_each_cell_and_prompt() -> None:
    result = patch(mini(), ioi(), heads="L2H3", positions="roles", point="k", n_controls=1)
    frame = result.to_frame()
    assert len(frame) == result.values.size and (frame["axis"] == "kv_head").all()
    one = frame[(frame["label"] == "L2KV1@s2")]
    np.testing.assert_array_equal(one["value"], result.values[result.labels.index("L2KV1@s2")])
    np.testing.assert_allclose(one["effect"], one["value"] - one["corrupt"])
    assert set(one["head"]) == {1} and set(one["layer"]) == {2} and set(one["place"]) == {"s2"}


@pytest.mark.parametrize(
    ("options", "rows", "columns"),
    [
        ({}, ["L0", "L1", "L2", "L3"], [str(head) for head in range(8)]),
        ({"point": "v"}, ["L0", "L1", "L2", "L3"], ["0", "1", "2", "3"]),
        ({"point": "resid_pre", "positions": "roles"}, ["L0", "L1", "L2", "L3"], ["io", "s1", "s2", "end"]),
        ({"heads": "L1H*", "positions": "roles"}, [f"L1H{head}" for head in range(8)], ["io", "s1", "s2", "end"]),
    ],
)
def test_heat_maps_have_the_rows_and_columns_that_were_asked_for(
    options: dict[str, Any], rows: list[str], columns: list[str]
) -> None:
    result = patch(mini(), ioi(), **options)
    figure = result.plot()
    assert list(figure.layout.yaxis.ticktext) == rows
    assert sorted(figure.layout.xaxis.ticktext) == sorted(columns)
    z = np.array(figure.data[0].z)
    for index, cell in enumerate(result.cells):
        row = cell.unit.label if cell.unit.label in rows else f"L{cell.unit.layer}"
        column = str(cell.unit.head if cell.place is None else cell.place)
        at = rows.index(row), list(figure.layout.xaxis.ticktext).index(column)
        assert z[at] == pytest.approx(result.evidence.mean[index])
        assert figure.data[0].hovertext[at[0]][at[1]].startswith(cell.label)


def test_what_is_printed_says_what_was_done() -> None:
    result = found(direction="noise")
    assert "noising of z" in repr(result) and "clean," in repr(result) and "corrupt" in repr(result)
    assert "<table>" in result._repr_html_() and result.claimed[0] in result._repr_html_()
    streams = patch(mini(), ioi(), point="mlp_out")
    assert "nothing is claimed" in streams.headline()
    assert result.run.canary["rows"] and streams.run.canary["rows"]
    assert sum(streams.run.method["engine"]["routes"].values()) == 4
    assert found().run_id == patch(mini(), ioi()).run_id != result.run_id


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"direction": "denoising"}, "E201"),
        ({"point": "zz"}, "E201"),
        ({"point": ()}, "E201"),
        ({"point": {"q": "clear"}}, "E201"),
        ({"point": ("z", "mlp_out")}, "E205"),
        ({"point": "mlp_out", "heads": "L0H1"}, "E205"),
        ({"layers": [1]}, "E205"),
        ({"point": "mlp_out", "layers": [4]}, "E203"),
        ({"point": "mlp_out", "layers": []}, "E203"),
        ({"positions": "s3"}, "E313"),
        ({"positions": 400}, "E313"),
        ({"heads": "L9H0"}, "E203"),
        ({"heads": "L0H0,L0H1,L0H2,L0H3,L0H4", "together": True}, "E205"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options: dict[str, Any], code: str) -> None:
    with pytest.raises(InterpError) as caught:
        patch(mini(), ioi(), **options)
    assert caught.value.code == code


def test_prompts_need_a_corrupt_one(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    row = {
        "clean": "When Mary and John went to the store, John gave a book to",
        "answer": " Mary",
        "distractor": " John",
    }
    path.write_text(json.dumps(row), "utf-8")
    with pytest.raises(InterpErrors) as caught:
        patch(mini(), file_task(path))
    assert caught.value.code == "E303"


def test_values_of_a_third_run_must_fit() -> None:
    short = Reference({"blocks.2.attn.hook_q": torch.zeros(N, 3, 8, 32)}, "too short", paired=True)
    with pytest.raises(InterpError) as caught:
        patch(mini(), ioi(), heads="L2H2", point={"q": short}, n_controls=0)
    assert caught.value.code == "E206"


def test_masked_language_models_are_patched_where_the_mask_asks(
    model_folder: Callable[..., Path], prompts: Callable[..., Path]
) -> None:
    """By full forwards, since an encoder's tokens see later ones; and both prompts must ask at the same token."""
    model = interp.load(str(model_folder("bert")))
    rows = [
        {"clean": "Mary and John met [MASK] again", "corrupt": "Mary and Mary met [MASK] again"},
        {"clean": "Frank and Helen met [MASK] again", "corrupt": "Frank and Frank met [MASK] again"},
    ]
    task = file_task(prompts(*[{**row, "answer": " Mary", "distractor": " John"} for row in rows]))
    result = patch(model, task, heads="L0H1", n_controls=1)
    batches = [model.batch([row[side] for row in rows]) for side in ("clean", "corrupt")]
    _, clean = model.run_with_cache(batches[0], "blocks.0.attn.hook_z")

    def hook(z: Tensor, context: Any) -> Tensor:
        z = z.clone()
        z[:, :, 1] = clean[context.name][:, :, 1]
        return z

    at = (batches[1].input_ids == model.tokenizer.mask_token_id).nonzero(as_tuple=True)
    output = model.run_with_hooks(batches[1], {"blocks.0.attn.hook_z": hook})[at]
    ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" Mary", " John")]
    expected = (output[:, ids[0]] - output[:, ids[1]]).double().numpy()
    np.testing.assert_allclose(result.values[result.labels.index("L0H1")], expected, atol=1e-5)
    moved = {"clean": "Mary and John met [MASK] again", "corrupt": "Mary and John [MASK] met again"}
    with pytest.raises(InterpError) as caught:
        patch(model, file_task(prompts({**moved, "answer": " Mary", "distractor": " John"}, name="moved.jsonl")))
    assert caught.value.code == "E303" and "different tokens" in str(caught.value)
