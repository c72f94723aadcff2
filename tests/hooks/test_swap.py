"""Heads that run another operator: many operators on many architectures, identities, padding, causality, the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import interp
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate
from interp.hooks.naive import sweep as full_forwards
from interp.hooks.prompts import from_inputs
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.sweep import sweep
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.blocks import BlockTopK
from interp.kernels.variants.decay import Retention
from interp.kernels.variants.dilated import Dilated
from interp.kernels.variants.feature_mapped import LinearAttention
from interp.kernels.variants.hierarchical import Hierarchical
from interp.kernels.variants.neighborhood import Neighborhood
from interp.kernels.variants.relu import Relu
from interp.kernels.variants.sampled_columns import SampledColumns
from interp.kernels.variants.sigmoid import Sigmoid
from interp.kernels.variants.sinks import OffByOne
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.softplus import Softplus
from interp.kernels.variants.standardised import Standardised
from interp.kernels.variants.streaming import Streaming
from interp.kernels.variants.strided import Fixed, Strided
from interp.kernels.variants.window import Window

VARIANTS: dict[str, Any] = {
    "window": Window(size=3),
    "streaming": Streaming(sink_tokens=1, recent=2),
    "dilated": Dilated(size=3, dilation=2),
    "strided": Strided(stride=2),
    "fixed": Fixed(stride=3, summary=1),
    "neighborhood": Neighborhood(window=3),
    "block-top-k": BlockTopK(keep=2, size=2),
    "sampled-columns": SampledColumns(window=2, every=3, share=0.6),
    "hierarchical": Hierarchical(keep=3),
    "off-by-one": OffByOne(),
    "sigmoid": Sigmoid(),
    "relu": Relu(),
    "softplus": Softplus(),
    "standardised": Standardised(),
    "linear-attention": LinearAttention(),
    "retention": Retention(),
}
DENSE: dict[str, Any] = {
    "softmax": Softmax(),
    "window of all": Window(size=64),
    "streaming of all": Streaming(sink_tokens=2, recent=64),
    "sinks of all": Streaming(sink_tokens=64, recent=1),
    "dilation 1": Dilated(size=64, dilation=1),
    "stride 1": Strided(stride=1),
    "all blocks": BlockTopK(keep=64, size=2),
}
CAUSAL = ("mini", "llama", "gemma2", "gpt_oss", "gpt_neox")
ARCHITECTURES = (*CAUSAL, "bert")
ROWS = ([5, 17, 9, 33, 21, 8, 40, 3, 11], [7, 30, 12, 9, 25, 44], [6, 50, 4, 19, 31, 28, 13, 10, 22, 41, 9, 5])


REFUSED = {
    ("bert", "retention"): "only a past can decay",
    ("gemma2", "hierarchical"): "sees no key",  # it chooses by position, and the model's window hides what it chose
    ("gpt_oss", "hierarchical"): "sees no key",
}
RUNS = [(model, name) for model in ARCHITECTURES for name in VARIANTS if (model, name) not in REFUSED]


def opened(hooked: Any, architecture: str) -> Any:
    return interp.load("mini") if architecture == "mini" else hooked(architecture)


def logits(model: Any, batch: Batch, *edits: Any) -> list[torch.Tensor]:
    """Of the real tokens, prompt by prompt."""
    with model.edit(*edits), torch.no_grad():
        output = model(batch)
    return [row[real] for row, real in zip(output, batch.mask, strict=True)]


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference, relative to the largest logit."""
    size = max(float(row.abs().max()) for row in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / size


@pytest.mark.parametrize(("architecture", "name"), RUNS)
def test_operators_run_and_do_not_see_padding(hooked: Any, architecture: str, name: str) -> None:
    model = opened(hooked, architecture)
    edit = Swap("all", VARIANTS[name])
    right = logits(model, model.batch(pad(ROWS, 0)), edit)
    alone = [logits(model, model.batch(pad([row], 0)), edit)[0] for row in ROWS]
    assert all(bool(row.isfinite().all()) for row in right)
    assert distance(right, alone) < 2e-5
    if model.adapter.position_ids == "argument":
        assert distance(logits(model, model.batch(pad(ROWS, 0, "left")), edit), alone) < 2e-5
    assert distance(right, logits(model, model.batch(pad(ROWS, 0)))) > 1e-4, "the operator changed nothing"


@pytest.mark.parametrize(("architecture", "name"), REFUSED)
def test_what_cannot_run_is_refused_with_the_reason(hooked: Any, architecture: str, name: str) -> None:
    model = hooked(architecture)
    with pytest.raises(InterpError, match=REFUSED[architecture, name]) as caught:
        logits(model, model.batch(pad(ROWS, 0)), Swap("all", VARIANTS[name]))
    assert caught.value.code == "E205"


@pytest.mark.parametrize(("architecture", "name"), [run for run in RUNS if run[0] in CAUSAL])
def test_later_tokens_do_not_reach_earlier_ones(hooked: Any, architecture: str, name: str) -> None:
    """Unless the operator says that they do."""
    model = opened(hooked, architecture)
    edit = Swap("all", VARIANTS[name])
    row, t = ROWS[2], 7
    other = [*row[:t], *(1 + token for token in row[t:])]
    before, after = (logits(model, model.batch(pad([ids], 0)), edit)[0] for ids in (row, other))
    moved = distance([after[:t]], [before[:t]])
    assert moved > 1e-3 if replace(VARIANTS[name], causal=True).looks_ahead else moved < 1e-6
    assert distance([after[t:]], [before[t:]]) > 1e-3


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operators_that_keep_all_keys_are_dense(hooked: Any, architecture: str, name: str) -> None:
    """With the model's own softcap, sink logits and sliding window in force."""
    model = opened(hooked, architecture)
    for side in ("right", "left")[: 2 if model.adapter.position_ids == "argument" else 1]:
        batch = model.batch(pad(ROWS, 0, side))
        own = logits(model, batch)
        assert distance(logits(model, batch, Swap("all", DENSE[name])), own) < 1e-5


def test_single_heads_are_the_heads_of_all(hooked: Any) -> None:
    """A head's z in the first layer is the same whether it is swapped alone or with all others, which keep theirs."""
    model = hooked("llama")
    batch = model.batch(pad(ROWS, 0))
    name = "blocks.0.attn.hook_z"

    def z(*edits: Any) -> torch.Tensor:
        with model.edit(*edits):
            return model.run_with_cache(batch, name)[1][name][batch.mask]

    window, own = Window(size=2), z()
    every = z(Swap("all", window))
    for head in range(4):
        one = z(Swap(f"L0H{head}", window))
        others = [other for other in range(4) if other != head]
        torch.testing.assert_close(one[:, head], every[:, head], atol=1e-6, rtol=0)
        torch.testing.assert_close(one[:, others], own[:, others], atol=1e-6, rtol=0)
        assert (one[:, head] - own[:, head]).abs().max() > 1e-2
    split = z(Swap(("L0H0", "L0H1"), window), Swap(("L0H2", "L0H3"), window))
    torch.testing.assert_close(split, every, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ("mini", "llama", "gemma2", "gpt_oss", "gpt_neox", "bert"))
def test_the_engine_gives_what_full_forwards_give(hooked: Any, architecture: str) -> None:
    model = opened(hooked, architecture)
    batch = model.batch(pad(ROWS, 0))
    last = model.n_layers - 1
    swaps: list[Any] = [
        Swap("L0H1", Window(size=2)),
        Swap(f"L{last}H0", Streaming(sink_tokens=1, recent=2)),
        Swap(("L0H0", f"L{last}H2"), LinearAttention()),
        Swap("all", Window(size=3)),
        Swap("all", Relu()),
        Ablate("L0H1"),
    ]
    read_at = batch.end.cpu()

    def first(output: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return output[:, 7]

    values, clean = sweep(model, batch, swaps, read_at, first, batch_size=2)
    expected = full_forwards(model, batch, swaps, read_at, first, batch_size=3)
    scale = float(expected.abs().max())
    assert float((values - expected).abs().max()) < 2e-5 * scale
    assert int(((values - clean).abs().max(1).values > 1e-4 * scale).sum()) >= len(swaps) - 1  # some heads do nothing


def test_configurations_of_several_operators_stack_in_the_engine(hooked: Any) -> None:
    """Several swaps that are in force together, in one run or one by one, are full forwards."""
    model = hooked("llama")
    batch = model.batch(pad(ROWS, 0))
    both: list[Any] = [
        [Swap("L0H1", Window(size=2)), Swap("L1H0", Streaming(sink_tokens=1, recent=1)), Ablate("L1H3")],
        [Swap("L0H2", Relu()), Swap("L1H1", Window(size=1))],
        [Swap(("L0H0", "L0H3"), Window(size=1)), Swap(("L0H1", "L0H2"), LinearAttention())],
    ]
    engine = Rerun(model, batch, both, batch.end.cpu())
    found = torch.empty(len(both), batch.size, engine.clean.shape[1])
    for chunk in engine.plan().chunks:
        found[list(chunk.variants)] = engine.run(chunk)
    rows = torch.arange(batch.size)
    for index, edits in enumerate(both):
        with model.edit(*edits), torch.no_grad():
            expected = model(batch)[rows, batch.end]
        torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("point", ("pattern", "attn_scores"))
def test_no_pattern_where_heads_are_swapped(hooked: Any, point: str) -> None:
    model = hooked("llama")
    batch = model.batch(pad(ROWS, 0))
    with model.edit(Swap("L0H1", Window(size=2))):
        with pytest.raises(InterpError, match="E403"):
            model.run_with_cache(batch, f"blocks.0.attn.hook_{point}")
        _, cache = model.run_with_cache(batch, f"blocks.1.attn.hook_{point}")
    assert len(cache) == 1
    assert not model.is_edited


def test_a_vision_tower(hooked: Any) -> None:
    model = hooked("clip")
    batch = from_inputs(model.adapter.probe_inputs)

    def output(*edits: Any) -> torch.Tensor:
        with model.edit(*edits), torch.no_grad():
            return model(batch)

    own = output()
    scale = float(own.abs().max())
    for same in (Softmax(), Window(size=64)):
        assert float((output(Swap("vision.L0H1", same)) - own).abs().max()) < 1e-5 * scale
    for other in (Window(size=1), Neighborhood(window=3, grid=(4, 4), extra=1)):
        changed = output(Swap("vision.L0H1", other))
        assert bool(changed.isfinite().all()) and float((changed - own).abs().max()) > 1e-4 * scale


def test_unknown_operators_and_records() -> None:
    with pytest.raises(InterpError, match="did you mean 'window'"):
        Swap("all", "windw")
    told = Swap(("L0H1",), Window(size=3)).to_dict()
    assert told["kind"] == "Swap" and told["variant"] == {"variant": "window", "causal": True, "softcap": None,
                                                          "sink": None, "size": 3}  # fmt: skip
