"""Nodes and dimensions: sums of edges, and gradients taken at the writers themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.circuits.edges.attribution import CLEAN, Contrast, along_inputs, points
from interp.circuits.edges.units import node_scores, unit_scores
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError

MINI = interp.load("mini")
PAIRS = tokenise(MINI.tokenizer, interp.task("ioi", n=3, seed=0).examples(MINI.tokenizer).examples)
FLOW = Flow.of(MINI)
CONTRAST = Contrast(
    FLOW, Question.of(PAIRS, metric("logit_diff")), FLOW.record(PAIRS.clean), FLOW.record(PAIRS.corrupt)
)


def test_dimensions_sum_to_nodes_and_nodes_are_sums_of_edges() -> None:
    path = points("midpoint", 3)
    edges = along_inputs(CONTRAST, path).scores[:, 0]
    units = unit_scores(CONTRAST, path)
    torch.testing.assert_close(units.sum(2), edges.sum(2), atol=1e-4, rtol=1e-4)
    mean = edges.mean(0, keepdim=True).numpy()
    np.testing.assert_allclose(node_scores(mean)[0], units.mean(0).sum(1).numpy(), atol=1e-4)


def test_an_mlp_is_its_output_times_its_gradient() -> None:
    """Gradients at hook_mlp_out from autograd, without the graph's readers."""
    rows = torch.arange(len(PAIRS))
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(MINI.n_layers)]
    logits, clean = MINI.run_with_cache(PAIRS.clean, names, grad=True)
    last = logits[rows, PAIRS.read_at]
    assert PAIRS.answer is not None and PAIRS.distractor is not None
    value = (last[rows, PAIRS.answer] - last[rows, PAIRS.distractor]).sum()
    gradients = torch.autograd.grad(value, [clean[name] for name in names])
    _, corrupt = MINI.run_with_cache(PAIRS.corrupt, names)
    units = unit_scores(CONTRAST, CLEAN)
    for layer, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        wanted = ((clean[name].detach() - corrupt[name]) * gradient).sum(1)
        own = units[:, FLOW.graph.writer_index[f"M{layer}"]]
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-3)


def test_a_part_without_gradient_is_refused_and_not_taken_for_zero() -> None:
    """What a quantised kernel without backward does: its output does not know where it came from."""
    handle = MINI.adapter.model.model.layers[2].mlp.register_forward_hook(lambda _, __, output: output.detach())  # type: ignore[attr-defined]
    try:
        with pytest.raises(InterpError, match="blocks.2.hook_mlp_in") as caught:
            along_inputs(CONTRAST, CLEAN)
    finally:
        handle.remove()
    assert caught.value.code == "E407" and "exact" in caught.value.fix
