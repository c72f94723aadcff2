"""Gradients of the metric with regard to the masks of edges, all of them at one common value.

With every edge partly out, by the same share, one forward and backward tells what each mask does there; averaged over
shares from out (0) to in (1) this is the integrated gradient of auto-circuit (Miller et al. 2024, arXiv 2407.08734). At 1
it is EAP. On the way every reader reads a mixture of what is written in that very run, unlike in EAP-IG, where embeddings
alone are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.attribution import PULL, Attribution, Contrast, Point
from interp.circuits.edges.gradients import frozen
from interp.circuits.edges.masked import MaskedRuns
from interp.kernels.errors import InterpError


def along_masks(contrast: Contrast, path: Sequence[Point]) -> Attribution:
    """The gradient of the metric at masks, averaged over points of the way from all out (0) to all in (1).

    Prompts share masks, so there is one row of scores: of the mean over prompts.
    """
    runs = MaskedRuns(contrast)
    full = torch.from_numpy(contrast.flow.graph.full).to(contrast.flow.model.device, contrast.flow.model.dtype)
    total = torch.zeros_like(full)
    values: dict[float, Tensor] = {}
    for share, weight in path:
        each, pull = mask_gradient(runs, share * full)
        values[share] = each.mean(0, keepdim=True)
        total += weight * pull
    return Attribution(total[None], runs.forwards, values)


def mask_gradient(
    runs: MaskedRuns, masks: Float[Tensor, "place writer reader"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "place writer reader"]]:
    """The metric of each prompt under soft masks, and the gradient of its mean; 0 where there is no edge.

    Raises:
        InterpError: E407 the metric has no gradient.
    """
    n = runs.contrast.question.batch.size
    found = runs.by_parts(lambda part: _part_gradient(part, masks, n))
    return torch.cat([values for values, _ in found]), torch.stack([pull for _, pull in found]).sum(0)


def _part_gradient(
    runs: MaskedRuns, masks: Float[Tensor, "place writer reader"], n: int
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "place writer reader"]]:
    """The same of some of n prompts: their share of the gradient."""
    leaf = masks[None].detach().clone().requires_grad_()
    model = runs.flow.model
    with frozen(model), torch.enable_grad():
        values = runs.measured(runs.outputs(leaf))[0]
        if not values.requires_grad:
            raise InterpError(
                "E407",
                f"metric {runs.contrast.question.metric.name!r} has no gradient on {model.name}",
                fix="choose another metric, such as logit_diff, or a method without gradients: --method exact",
            )
        (pull,) = torch.autograd.grad(values.sum() / n, leaf)
    runs.forwards += PULL - 1
    return values.detach(), pull[0]
