"""Path patching as a user calls it: rows against hooks written out, known circuits, text, files and refusals."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.patching.paths import paths
from interp.patching.result import PatchResult, PathResult
from interp.patching.run import patch
from interp.tasks.file import file_task
from interp.zoo.registry import list_models

N = 10


@cache
def mini() -> HookedModel:
    return interp.load("mini")


def ioi(**options: Any) -> Any:
    return interp.task("ioi", n=N, seed=2, **options)


@cache
def pairs() -> Pairs:
    return tokenise(mini().tokenizer, ioi().examples(mini().tokenizer).examples)


@cache
def found(*receivers: str, **options: Any) -> PathResult:
    return paths(mini(), ioi(), receivers or "logits", **options)


def logit_difference(output: Tensor) -> np.ndarray:
    asked = pairs()
    rows = torch.arange(len(asked))
    last = output[rows, asked.read_at]
    return (last[rows, asked.answer] - last[rows, asked.distractor]).double().numpy()


@pytest.mark.parametrize("through_mlps", [False, True])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_rows_to_the_logits_are_runs_in_which_all_else_is_held(direction: str, through_mlps: bool) -> None:
    result = found(direction=direction, through_mlps=through_mlps)
    base, source = (pairs().clean, pairs().corrupt) if direction == "noise" else (pairs().corrupt, pairs().clean)
    _, own = mini().run_with_cache(base, ["*.hook_z", "*.hook_mlp_out"])
    _, other = mini().run_with_cache(source, "*.hook_z")
    for layer, head in ((0, 0), (2, 1), (3, 5)):

        def held(x: Tensor, context: Any, layer: int = layer, head: int = head) -> Tensor:
            x = own[context.name].clone()
            if context.name == f"blocks.{layer}.attn.hook_z":
                x[:, :, head] = other[context.name][:, :, head]
            return x

        kinds = ("attn.hook_z",) if through_mlps else ("attn.hook_z", "hook_mlp_out")
        output = mini().run_with_hooks(base, {f"blocks.{at}.{kind}": held for at in range(4) for kind in kinds})
        expected = logit_difference(output)
        np.testing.assert_allclose(result.values[result.labels.index(f"L{layer}H{head}")], expected, atol=1e-4)


def test_rows_to_values_are_clean_runs_with_the_values_alone_changed() -> None:
    result = found("L2H1.v", positions="s1")
    assert result.run.method["receivers"] == ["L2KV0.v"] and result.run.method["positions"] == "s1"
    assert "L2KV0.v is read by L2H0, L2H1 alike." in result.run.warnings
    _, own = mini().run_with_cache(pairs().clean, ["*.hook_z", "*.hook_mlp_out"])
    _, other = mini().run_with_cache(pairs().corrupt, "*.hook_z")
    spots = [span[0] for span in pairs().clean.spans["s1"]]
    read: dict[str, Tensor] = {}

    def held(x: Tensor, context: Any) -> Tensor:
        x = own[context.name].clone()
        if context.name == "blocks.1.attn.hook_z":
            for row, spot in enumerate(spots):
                x[row, spot, 3] = other[context.name][row, spot, 3]
        return x

    hooks: dict[str, Any] = {f"blocks.{at}.{kind}": held for at in (0, 1) for kind in ("attn.hook_z", "hook_mlp_out")}
    mini().run_with_hooks(pairs().clean, {**hooks, "blocks.2.attn.hook_v": lambda x, _: read.update(v=x.clone())})

    def put(x: Tensor, _: Any) -> Tensor:
        x = x.clone()
        x[:, :, 0] = read["v"][:, :, 0]
        return x

    expected = logit_difference(mini().run_with_hooks(pairs().clean, {"blocks.2.attn.hook_v": put}))
    np.testing.assert_allclose(result.values[result.labels.index("L1H3")], expected, atol=1e-4)


def test_direct_paths_of_the_last_layer_are_all_that_its_heads_do() -> None:
    """Behind the last heads stand one MLP and the logits: through it, paths and patches are the same."""
    direct = found(through_mlps=True)
    whole = patch(mini(), ioi(), heads="L3H*", direction="noise", positions="end")
    for index, label in enumerate(whole.labels):
        np.testing.assert_allclose(direct.values[direct.labels.index(label)], whole.values[index], atol=1e-4)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("receivers", ["logits", "L2H1.q,M2"])
def test_between_equal_prompts_nothing_is_sent(receivers: str, direction: str, tmp_path: Path) -> None:
    """Each prompt is its own corrupt twin: every effect is exactly 0, in one group of senders as in several."""
    examples = ioi().examples(mini().tokenizer).examples
    fields = ("clean", "answer", "distractor")
    rows = [{**{name: getattr(one, name) for name in fields}, "corrupt": one.clean} for one in examples]
    (tmp_path / "same.jsonl").write_text("\n".join(map(json.dumps, rows)))
    same = file_task(tmp_path / "same.jsonl")
    result = paths(mini(), same, receivers.split(","), direction=direction, n_controls=1, batch_size=4)
    assert (result.effects == 0.0).all() and len(set(result.clean.tolist())) == N


def planted(name: str, receiver: str, **options: Any) -> dict[str, float]:
    """Mean effect of each sender, in parts of what the pairs differ by."""
    result = paths(interp.load(name), interp.task("bundled", model=name, n=16), receiver, n_controls=1, **options)
    return dict(zip(result.labels, (result.effects.mean(1) / result.gap.mean()).tolist(), strict=True))


DORMANT = {"planted-backup": {"L1H2->logits"}}
"""Edges that carry nothing in the clean run: the backup writes only where the head before it does not."""


@pytest.mark.parametrize("name", sorted(name for name, card in list_models().items() if card["kind"] == "planted"))
def test_planted_models_have_the_paths_they_were_written_with_and_no_others(name: str) -> None:
    edges = set(list_models()[name]["truth"]["edges"]["program"])
    between = {edge for edge in edges if edge.startswith("L")} - DORMANT.get(name, set())
    ends = {edge.split("->")[1] for edge in between} | {"logits"}
    ends |= {f"{head}.{part}" for head in {end.split(".")[0] for end in ends if "." in end} for part in "qkv"}
    found = {
        f"{sender}->{end}"
        for end in ends
        for sender, share in planted(name, end).items()
        if end != "M0" and abs(share) > 0.05
    }
    assert found == {edge for edge in between if not edge.endswith("M0")}


def test_planted_gates_hear_both_heads_through_their_mlp() -> None:
    """AND falls with either head; OR with both only."""
    for receiver, through in (("M0", False), ("logits", True)):
        both = planted("planted-and", receiver, through_mlps=through)
        assert {label for label, share in both.items() if share > 0.5} == {"L0H1", "L0H3"}
        alone = planted("planted-or", receiver, through_mlps=through)
        assert max(abs(share) for share in alone.values()) < 0.05
        pair = planted("planted-or", receiver, through_mlps=through, senders="L0H1,L0H3", together=True)
        assert pair["L0H1+L0H3"] > 0.5


def test_all_senders_are_those_that_can_reach_a_receiver() -> None:
    assert {cell.unit.layer for cell in found("L2H1.q").cells} == {0, 1}
    assert {cell.unit.layer for cell in found("M1").cells} == {0, 1}
    assert len(found().cells) == 32


def test_senders_together_stand_beside_random_sets() -> None:
    result = paths(mini(), ioi(), senders="L2H0,L2H1", together=True, n_controls=6)
    assert result.labels[0] == "L2H0+L2H1" and all(len(cell.unit.heads) == 2 for cell in result.cells)
    assert result.evidence.n_tested == 1 and "of 1 group" in result.headline()
    singles = found()
    parts = sum(singles.effects[singles.labels.index(label)] for label in ("L2H0", "L2H1"))
    np.testing.assert_allclose(result.effects[0], parts, rtol=0.2, atol=0.2)


def test_a_run_folder_gives_the_result_back(tmp_path: Path) -> None:
    result = found("L2H1.v", positions="roles")
    folder = result.save(tmp_path / "run")
    loaded = PathResult.load(folder)
    assert loaded == result and type(loaded) is PathResult
    with pytest.raises(InterpError) as caught:
        PatchResult.load(folder)
    assert caught.value.code == "E702"
    assert "paths to L2KV0.v around MLPs" in repr(loaded) and "PathResult" in repr(loaded)
    assert list(loaded.plot().layout.xaxis.ticktext) == ["io", "s1", "s2", "end"]


@pytest.mark.parametrize(
    ("receivers", "options", "code"),
    [
        ("L0H0.q", {}, "E205"),
        ("L2H0.q", {"senders": "L1H0,L2H3"}, "E205"),
        ("L2H0.p", {}, "E201"),
        ("logits", {"direction": "back"}, "E201"),
        ("logits", {"positions": "nowhere"}, "E313"),
        ("logits", {"senders": "L7H0"}, "E203"),
    ],
)
def test_wrong_arguments_are_refused_by_name(receivers: str, options: dict[str, Any], code: str) -> None:
    with pytest.raises(InterpError) as caught:
        paths(mini(), ioi(), receivers, **options)
    assert caught.value.code == code
