"""Optimal ablation: one constant for each writer, learned so that taking edges out costs as little as it can.

Li & Janson 2024 (arXiv 2409.09951): the effect of an ablation is the least loss over constants, so that what is left of it
is missing information and not a strange input. Learned by Adam from the means, as the MIB benchmark does; there each part is
out by itself, here the edges outside of given circuits can be. Where no norm stands behind the heads, a head's constant is
one that the head could write (its z is learned).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.gradients import frozen
from interp.circuits.edges.masked import TOKENS, MaskedRuns
from interp.circuits.graph.flow import Writes
from interp.circuits.graph.graph import Edges, Graph
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError, suggest

LOSSES = ("kl", "metric")


@dataclass(frozen=True)
class Learning:
    """How constants are learned.

    Attributes:
        rate: of Adam.
        steps: at most.
        every: steps between two looks at the loss.
        patience: looks without a lower loss after which it ends.
        loss: 'kl', from the untouched output, or 'metric': minus the metric.
    """

    rate: float = 1e-3
    steps: int = 1000
    every: int = 100
    patience: int = 3
    loss: str = "kl"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InterpError("E201", f"no loss {self.loss!r}", fix=suggest(self.loss, LOSSES))
        if min(self.steps, self.every, self.patience) < 1:
            raise InterpError("E205", "steps, every and patience are at least 1", where="optimal ablation")


@dataclass(frozen=True, eq=False)
class Learned:
    """Constants, and what they cost.

    Attributes:
        values: one row and position, those of the lowest loss that was seen.
        before, after: loss with the means and with these, over the prompts that they were learned on.
        loss: its name.
        steps: taken.
    """

    values: Writes
    before: float
    after: float
    loss: str
    steps: int


def learned(contrast: Contrast, circuits: Sequence[Edges], learning: Learning) -> Learned:
    """Constants that minimise the mean loss of some circuits.

    Args:
        contrast: whose `ablated` is where learning begins, one row and position.
        circuits: with edges out; none: each writer by itself is out of everything.
    """
    masks = list(circuits) or singles(contrast.flow.graph)
    reference = contrast.question.clean(contrast.flow.model, 0, len(contrast.question.read_at), TOKENS)
    contrast = replace(contrast, reference=reference.to(contrast.flow.model.device))
    if learning.loss == "kl" and contrast.question.metric.kind == "logits":
        contrast = replace(contrast, question=replace(contrast.question, metric=metric("kl")))
    values = contrast.ablated.map(lambda value: value.detach().clone().requires_grad_())
    parameters = [*values.embed.values(), *values.heads.values(), *values.mlp.values()]
    adam = torch.optim.Adam(parameters, lr=learning.rate)
    contrast = replace(contrast, ablated=values)
    losses: list[float] = []
    best, best_loss, waited = values.map(torch.clone), np.inf, 0
    for step in range(learning.steps + 1):
        adam.zero_grad()
        losses.append(_descend(contrast, masks))
        if step % learning.every == 0 or step == learning.steps:
            waited = 0 if losses[-1] < best_loss else waited + 1
            if losses[-1] < best_loss:
                best, best_loss = values.map(lambda value: value.detach().clone()), losses[-1]
            if waited == learning.patience:
                break
        if step < learning.steps:
            adam.step()
    name = learning.loss if contrast.question.metric.name == "kl" else "metric"
    return Learned(best, losses[0], float(best_loss), name, step)


def singles(graph: Graph) -> list[Edges]:
    """For each writer, everything but its own edges."""
    found = []
    for writer in range(len(graph.writers)):
        edges = graph.full.copy()
        edges[:, writer] = False
        found.append(edges)
    return found


def _descend(contrast: Contrast, masks: Sequence[Edges]) -> float:
    """The mean loss over circuits and prompts; its gradient is added to the constants'."""
    total = 0.0
    width = next(iter(contrast.clean.embed.values())).shape[1]
    most = max(1, TOKENS // (contrast.question.batch.size * width))
    with frozen(contrast.flow.model), torch.enable_grad():
        for start in range(0, len(masks), most):
            runs = MaskedRuns(contrast)  # new ones: what they remember belongs to one pass and these constants
            some = torch.from_numpy(np.stack(masks[start : start + most]).astype(np.float32))
            measured: Tensor = runs.measured(runs.outputs(some.to(contrast.flow.model.device)))
            loss = -measured.mean(1).sum() / len(masks)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    return total
