"""Token maps as a result: what is printed, stored, drawn and said on the command line."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.hooks.model import HookedModel
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.maps import methods
from interp.maps.result import TokenMaps
from interp.maps.run import choose, neutral_token
from interp.maps.suppression.atman import AtMan
from interp.report.map_figures import deletion_curves, token_heatmap

SHORT = {"steps": 2, "draws": 2, "moves": 15, "deceive": 5}


@cache
def made(batch_size: int = 8) -> TokenMaps:
    task = interp.task("bundled", model="planted-copy", n=10)
    names = ["rollout", "leave-one-out", "atman"]
    return interp.token_maps(interp.load("planted-copy"), task, names, batch_size=batch_size, **SHORT)


def test_the_result_says_which_maps_to_believe() -> None:
    maps = made()
    assert maps.methods == ("rollout", "leave-one-out", "atman", "random")
    assert maps.values.shape == (4, 10, 15) and not maps.tokens[:, -1].any() and maps.tokens[:, :-1].all()
    text = repr(maps)
    assert "beat a random map" in text and "attention moved in 5 prompts" in text
    assert "leave-one-out" in maps.headline() or "atman" in maps.headline()
    rows = {row[0]: dict(zip(maps.columns, row, strict=True)) for row in maps.table()}
    assert rows["atman"]["beats random"] == "yes" and rows["random"]["beats random"] == "control"
    assert rows["leave-one-out"]["agreement"] == "-", "it is what the others are held against"
    assert np.isfinite(maps.scores["agreement neutral"][1]).all()
    assert rows["atman"]["fooled"].endswith("no")
    assert np.isnan(maps.moves["true"][5:]).all() and (maps.moves["change"][:5] <= 0.02).all()
    assert maps._repr_html_().startswith("<p>")


def test_the_size_of_a_batch_changes_nothing() -> None:
    one, other = made(), made(3)
    assert np.allclose(one.values, other.values, atol=1e-5, equal_nan=True)
    assert all(np.allclose(one.effects[way], other.effects[way], atol=1e-4, equal_nan=True) for way in one.ways)
    assert all(np.allclose(one.curves[way], other.curves[way], atol=1e-3) for way in one.ways)


def test_a_saved_result_is_the_same(tmp_path) -> None:
    maps = made()
    assert TokenMaps.load(maps.save(tmp_path / "run")) == maps
    frame = maps.to_frame()
    assert len(frame) == 4 * 10 * 15
    row = frame[(frame["method"] == "atman") & (frame["position"] == 3)].iloc[0]
    assert row["importance"] == maps.values[2, 0, 3] and row["token"] == maps.prompts[0].tokens[3]
    assert row["loss_knockout"] == maps.effects["knockout"][0, 3]


def test_figures_show_every_method_and_the_control(tmp_path) -> None:
    maps = TokenMaps.load(made().save(tmp_path / "run"))
    figure = deletion_curves(maps, "neutral", "insertion")
    assert [trace.name for trace in figure.data][-1] == "random order" and len(figure.data) == 4
    assert figure.data[-1].y[-1] == pytest.approx(float(maps.baseline.mean()), abs=1e-4)
    assert maps.plot().data[0].y[0] == pytest.approx(float(maps.baseline.mean()), abs=1e-4)
    cells = np.array(token_heatmap(maps, 1).data[0].z, dtype=float)
    assert cells.shape == (6, 15) and np.nanmax(np.abs(cells)) == 1 and np.isnan(cells[:, -1]).all()
    for row, way in ((4, "knockout"), (5, "neutral")):
        effects = np.where(maps.tokens[1], maps.effects[way][1], np.nan)
        assert np.allclose(cells[row], effects / np.nanmax(np.abs(effects)), atol=1e-9, equal_nan=True), way
    for make, code in ((lambda: token_heatmap(maps, 10), "E203"), (lambda: deletion_curves(maps, "other"), "E201")):
        with pytest.raises(InterpError, match=code):
            make()


def test_an_encoder_without_answers_is_mapped_by_its_embedding(prompts) -> None:
    from interp.tasks.file import file_task

    tokenizer = interp.load("planted-copy").tokenizer
    pooled = HookedModel.from_hf(tiny_model("bert", vocab_size=len(tokenizer)).bert, tokenizer)
    task = file_task(prompts(*({"clean": text} for text in ("w1 w2 Ann w3", "w5 w1", "Bob w4 w4"))))
    maps = interp.token_maps(pooled, task, metric="cosine", **SHORT)
    assert "relevance was left out" in " ".join(maps.run.warnings) and "relevance" not in maps.methods
    assert "rollout" in maps.methods and bool(maps.tokens[0, : len(maps.prompts[0].tokens)].all())
    assert np.isfinite(maps.effects["knockout"][maps.tokens]).all()


def test_mistakes_are_told_before_anything_runs() -> None:
    model, task = interp.load("planted-copy"), interp.task("bundled", model="planted-copy", n=2)
    for options, code in (
        ({"methods": ["rollout", "rollout"]}, "E205"),
        ({"methods": "attention"}, "E201"),
        ({"ways": ("pruning",)}, "E201"),
        ({"steps": 1}, "E205"),
        ({"neutral": "w1 w2"}, "E306"),
        ({"metric": "cosine"}, "E407"),
    ):
        with pytest.raises(InterpError, match=code):
            interp.token_maps(model, task, **options)
    bare = HookedModel.from_hf(tiny_model("gpt2"))
    with pytest.raises(InterpError, match="E205"):
        neutral_token(bare, None)
    assert neutral_token(bare, 3) == (3, "3")


def test_variants_of_a_method_stand_side_by_side() -> None:
    model, task = interp.load("planted-copy"), interp.task("bundled", model="planted-copy", n=4)
    both = (AtMan(), AtMan(variant="official-code"))
    maps = interp.token_maps(model, task, both, ways=("knockout",), **{**SHORT, "deceive": 2})
    assert maps.methods == ("atman", "atman (variant=official-code)", "random")
    assert np.isnan(maps.moved_values[1]).all() and np.isfinite(maps.moved_values[0, 0]).all()
    assert maps.table()[0][-1] != "" and torch.isfinite(torch.from_numpy(maps.values)).all()
    assert choose("all", model, _question(model, task))[0][-1].name == "random"
    assert len(choose("all", model, _question(model, task))[0]) == len(methods())


def _question(model, task):
    from interp.circuits.question import Question
    from interp.hooks.metrics import metric
    from interp.hooks.pairs import tokenise

    return Question.of(tokenise(model.tokenizer, task.examples(model.tokenizer).examples), metric("logit_diff"))


def test_the_command_line_saves_and_says(cli) -> None:
    said = cli(
        "map", "--model", "planted-copy", "--task", "bundled", "--task-args", "model=planted-copy", "--n", "6",
        "--methods", "rollout,atman", "--ways", "knockout", "--steps", "2", "--deceive", "2", "--out", "run", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    maps = TokenMaps.load("run")
    assert said.data["headline"] == maps.headline() and said.data["kept"] == 6
    assert {row["method"] for row in said.data["rows"]} == {"rollout", "atman", "random"}
    assert maps.run.command.startswith("interp map --model planted-copy")
    wrong = cli(
        "map", "--model", "planted-copy", "--task", "bundled", "--task-args", "model=planted-copy", "--ways", "x"
    )
    assert wrong.code == 2 and "E201" in wrong.err
