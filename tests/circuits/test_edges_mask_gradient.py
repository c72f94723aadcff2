"""Gradients at masks: EAP where all edges are in, differences of soft runs elsewhere, and sums that come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.circuits.edges.attribution import ABLATED, CLEAN, along_inputs, points
from interp.circuits.edges.mask_gradient import along_masks, mask_gradient
from interp.circuits.edges.masked import MaskedRuns
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2", "mixtral"])
def test_with_all_edges_in_it_is_eap(architecture: str) -> None:
    contrast = contrasted(*paired(opened(architecture)))
    expected = along_inputs(contrast, CLEAN).scores.mean(0)
    found = along_masks(contrast, CLEAN)
    assert found.scores.shape == (1, *expected.shape) and found.forwards == 3
    assert (found.scores[0] - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_gradient_is_the_slope_of_soft_runs(architecture: str) -> None:
    """Against differences of runs with one mask moved, for the edges of the largest gradients."""
    contrast = contrasted(*paired(opened(architecture)))
    runs, graph = MaskedRuns(contrast), contrast.flow.graph
    masks = torch.from_numpy(0.6 * graph.full).float()
    _, pull = mask_gradient(runs, masks)
    order = pull.abs().flatten().argsort(descending=True)[:6].tolist()
    for index in order:
        edge, step = np.unravel_index(index, pull.shape), 1e-2
        both = torch.stack([masks, masks])
        both[0][edge] += step
        both[1][edge] -= step
        up, down = runs.measured(runs.outputs(both)).mean(1).tolist()
        assert (up - down) / (2 * step) == pytest.approx(float(pull[edge]), rel=2e-2)


def test_scores_add_up_to_the_change_of_the_metric() -> None:
    """Along the way that moves all masks at once, the sum over edges is the derivative of the metric."""
    contrast = contrasted(*paired(opened("gpt2")))
    ends = along_masks(contrast, (*CLEAN, *ABLATED)).values
    change = float((ends[1.0] - ends[0.0]).mean())
    gaps = [abs(float(along_masks(contrast, points("midpoint", steps)).scores.sum()) - change) for steps in (2, 32)]
    assert gaps[1] < 0.02 * abs(change) and gaps[1] < gaps[0]


def test_a_metric_without_gradient() -> None:
    flow, clean, corrupt = paired(opened("gpt2"))
    contrast = contrasted(flow, clean, corrupt)
    from dataclasses import replace

    from interp.hooks.metrics import metric

    flat = replace(contrast, question=replace(contrast.question, metric=metric("top1")))
    with pytest.raises(InterpError, match="E407"):
        along_masks(flat, CLEAN)
