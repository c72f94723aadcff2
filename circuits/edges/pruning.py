"""Edge pruning: masks of edges learned by gradient descent, until a circuit of the size asked for is left.

Bhaskar et al. 2024, Finding Transformer Circuits with Edge Pruning (arXiv 2406.16778); masks are hard concrete (Louizos et al.
2018, arXiv 1712.01312), each edge's own. What is minimised is the divergence of the circuit's output from the whole model's,
or minus the metric, and a Lagrangian that holds the expected share of edges at a target, which moves from all edges to
the share asked for: L = loss + a (s - t) + b (s - t)^2, a and b climbing where the masks descend.

The share swings about its target: a goes on pushing for as many steps as it took to build up, since each is about as long
as the learning rate. After 100 steps for .3 and .1 of the edges it was .380 and .026 on `compiled-sort` under zero, after 200
.300 and .095. Where the loss needs more edges than are asked for it stays above: .192 and .194 for .1 on `planted-and` under
zero, of whose edges .297 are true. The circuit that is returned has the size asked for in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.attribution import PULL, Attribution, Contrast
from interp.circuits.edges.gradients import frozen
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.masked_run import Masks
from interp.circuits.graph.graph import Edges, Scores
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError

Vector = Float[Tensor, " edge"]
STRETCH = (-0.1, 1.1)
TEMPERATURE = 2 / 3
OPEN = 0.9
"""Share that a mask lets through at first, where no warm start is given."""


@dataclass(frozen=True)
class Pruning:
    """How masks are learned.

    Attributes:
        size: share of edges to keep.
        steps: of Adam.
        ramp: share of the steps over which the target goes from 1 to `size`.
        rate, rate_lagrange: of Adam, for masks and for the multipliers.
        samples: masks that are drawn for a step, which run together.
        loss: 'kl' to the whole model's output where the metric reads, or 'metric'.
        seed: of the masks that are drawn.
    """

    size: float = 0.1
    steps: int = 200
    ramp: float = 0.6
    rate: float = 0.2
    rate_lagrange: float = 1.0
    samples: int = 2
    loss: str = "kl"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.size < 1 or self.steps < 1 or self.loss not in ("kl", "metric") or self.samples < 1:
            raise InterpError(
                "E205",
                f"pruning to {self.size} of the edges in {self.steps} steps of {self.samples} samples by {self.loss!r}",
                fix="0 < size < 1, at least one step and one sample, and the loss 'kl' or 'metric'",
            )

    def target(self, step: int) -> float:
        """Share of edges aimed at; it falls in proportion, so that small sizes are not reached in one leap."""
        along = min(1.0, (step + 1) / max(1.0, self.ramp * self.steps))
        return self.size**along


@dataclass(eq=False)
class Learning:
    """Where learning stands; it can be written down and taken up again.

    Attributes:
        logits: log-alpha of each edge that exists.
        multipliers: a and b of the Lagrangian.
        step: how many are done.
        optimiser: state of Adam.
        random: state of the generator.
        losses, sizes: of each step.
    """

    logits: Vector
    multipliers: Float[Tensor, 2]
    step: int
    optimiser: dict[str, object]
    random: Tensor
    losses: list[float]
    sizes: list[float]


@dataclass(frozen=True, eq=False)
class Pruned:
    """What was learned.

    Attributes:
        scores: log-alpha of each edge; larger stays longer. Of the mean over prompts: there are no scores of each.
        circuit: the edges with the largest, as many as were asked for; `state.sizes` says what share the masks came to.
        state: where learning stands.
        forwards: cost.
        value: the metric of the circuit, each prompt's.
    """

    scores: Scores
    circuit: Edges
    state: Learning
    forwards: float
    value: Float[Tensor, " batch"]


def prune(
    contrast: Contrast,
    how: Pruning | None = None,
    *,
    start: Scores | None = None,
    state: Learning | None = None,
    until: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pruned:
    """Learn masks.

    Args:
        start: shares to begin with, as `ensemble.warm_start` makes them; None begins with all edges nearly in.
        state: take up learning where it stands.
        until: stop after this step; None goes on to the last.
        progress: called with (steps done, steps).
    """
    how = how or Pruning()
    run = _Run(contrast, how)
    state = run.begun(start) if state is None else state
    learned = run.learn(state, how.steps if until is None else min(until, how.steps), progress)
    graph = contrast.flow.graph
    scores = graph.matrix(learned.logits.detach().cpu().double().numpy())
    circuit = largest(graph.full, scores, max(1, round(how.size * graph.n_edges)))
    value = run.runs.values([circuit])[0]
    return Pruned(scores, circuit, learned, run.runs.forwards, value)


def attributed(contrast: Contrast, how: Pruning, start: Scores | None = None) -> Attribution:
    """The same as scores: how likely each mask is not 0, one row for all prompts."""
    found = prune(contrast, how, start=start)
    graph = contrast.flow.graph
    kept = graph.matrix(expected(torch.from_numpy(graph.vector(found.scores))).numpy())
    return Attribution(torch.from_numpy(kept)[None].float(), found.forwards, {})


def largest(full: Edges, scores: Scores, size: int) -> Edges:
    """The edges with the largest scores."""
    order = np.flatnonzero(full)[np.argsort(-scores[full], kind="stable")]
    found = np.zeros_like(full)
    found.flat[order[:size]] = True
    return found


def expected(logits: Vector) -> Vector:
    """How likely each mask is not 0."""
    low, high = STRETCH
    return torch.sigmoid(logits - TEMPERATURE * math.log(-low / high))


def drawn(logits: Vector, noise: Float[Tensor, "sample edge"]) -> Float[Tensor, "sample edge"]:
    """Hard concrete masks, of uniform noise between 0 and 1."""
    low, high = STRETCH
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + logits) / TEMPERATURE)
    return (soft * (high - low) + low).clamp(0, 1)


class _Run:
    """The machinery of one learning."""

    def __init__(self, contrast: Contrast, how: Pruning) -> None:
        self.model, self.graph, question = contrast.flow.model, contrast.flow.graph, contrast.question
        if how.loss == "kl" and contrast.reference is None:
            most = max(1, (contrast.tokens or question.batch.size * contrast.width) // contrast.width)
            contrast = replace(contrast, reference=question.clean(self.model, 0, question.batch.size, most))
        self.contrast, self.how, self.runs = contrast, how, MaskedRuns(contrast)
        self.device, self.dtype = self.model.device, self.model.dtype
        self.full = torch.from_numpy(self.graph.full).to(self.device)

    def begun(self, start: Scores | None) -> Learning:
        """The first state."""
        shares = np.full(self.graph.n_edges, OPEN) if start is None else self.graph.vector(start)
        logits = torch.from_numpy(np.log(shares / (1 - shares))).to(self.device, self.dtype)
        random = torch.Generator().manual_seed(self.how.seed).get_state()
        return Learning(logits, torch.zeros(2, device=self.device, dtype=self.dtype), 0, {}, random, [], [])

    def learn(self, state: Learning, until: int, progress: Callable[[int, int], None] | None) -> Learning:
        logits = state.logits.detach().clone().requires_grad_()
        multipliers = state.multipliers.detach().clone().requires_grad_()
        random = torch.Generator()
        random.set_state(state.random)
        groups = [{"params": [logits], "lr": self.how.rate}]
        groups.append({"params": [multipliers], "lr": self.how.rate_lagrange, "maximize": True})
        optimiser = torch.optim.Adam(groups)
        if state.optimiser:
            optimiser.load_state_dict(state.optimiser)  # type: ignore[arg-type]
        losses, sizes = list(state.losses), list(state.sizes)
        with frozen(self.model), torch.enable_grad():
            for step in range(state.step, until):
                masks = self._masks(logits, random)
                loss, pull = self._loss(masks)
                size = expected(logits).mean()
                beyond = size - self.how.target(step)
                optimiser.zero_grad()
                ((masks * pull).sum() + multipliers[0] * beyond + multipliers[1] * beyond**2).backward()
                optimiser.step()
                losses, sizes = [*losses, loss], [*sizes, float(size.detach())]
                if progress is not None:
                    progress(step + 1, self.how.steps)
        done = max(until, state.step)
        return Learning(
            logits.detach(), multipliers.detach(), done, optimiser.state_dict(), random.get_state(), losses, sizes
        )

    def _masks(self, logits: Vector, random: torch.Generator) -> Masks:
        """Drawn anew."""
        samples = self.how.samples
        noise = torch.rand(samples, len(logits), generator=random).clamp(1e-6, 1 - 1e-6).to(logits)
        masks = torch.zeros(samples, *self.full.shape, device=self.device, dtype=self.dtype)
        return masks.masked_scatter(self.full.expand_as(masks), drawn(logits, noise))

    def _loss(self, masks: Masks) -> tuple[float, Masks]:
        """The loss of masks, and its gradient at them; prompts go together as far as `Contrast.tokens` allows."""
        leaf, n = masks.detach().requires_grad_(), self.contrast.question.batch.size
        found = self.runs.by_parts(lambda part: self._part_loss(part, leaf, n))
        return sum(loss for loss, _ in found), torch.stack([pull for _, pull in found]).sum(0)

    def _part_loss(self, runs: MaskedRuns, leaf: Masks, n: int) -> tuple[float, Masks]:
        """The same of some of n prompts: their share."""
        outputs, samples = runs.outputs(leaf), self.how.samples
        runs.forwards += samples * (PULL - 1)
        if self.how.loss == "metric":
            kept = runs.measured(outputs)
        else:
            question, whole = runs.contrast.question, runs.contrast.reference
            divergence = metric("kl")
            kept = torch.stack([divergence(one, question.answer, question.distractor, whole) for one in outputs])
        loss = -kept.sum() / (n * samples)
        (pull,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), pull
