"""Methods by name: every way to score edges, under one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from interp.circuits.edges.acdc import by_losses, by_thresholds
from interp.circuits.edges.attribution import (
    ABLATED,
    BOTH_ENDS,
    CLEAN,
    Attribution,
    Contrast,
    adaptive,
    along_activations,
    along_inputs,
    points,
)
from interp.circuits.edges.ensemble import RULES, combined, warm_start
from interp.circuits.edges.exact import exact
from interp.circuits.edges.growth import Growing
from interp.circuits.edges.growth import attributed as grown
from interp.circuits.edges.mask_gradient import along_masks
from interp.circuits.edges.pruning import Pruning
from interp.circuits.edges.pruning import attributed as pruned
from interp.circuits.graph.graph import Scores
from interp.kernels.errors import InterpError, suggest


@dataclass(frozen=True)
class Settings:
    """What methods can be told; each takes what it knows.

    Attributes:
        steps: of an integration.
        rule: of an integration, see `points`.
        gap: stop integrating when scores add up to within this share; None takes `steps` as they are.
        seed: of everything that is drawn.
        tau: of ACDC, in the metric's unit.
        taus: of ACDC over thresholds; the paper's grid for logit differences, coarser.
        size: share of edges that learned masks aim at, and at which growth ends.
        epochs: steps in which masks are learned.
        budget: of growth, in forwards.
        members: of an ensemble, names of methods with '+' between them.
        combine: how an ensemble puts scores together, see `interp.circuits.edges.ensemble.RULES`.
        start: name of the method whose scores learned masks begin with; '' begins with all edges nearly in.
    """

    steps: int = 5
    rule: str = "midpoint"
    gap: float | None = None
    seed: int = 0
    tau: float = 0.1
    taus: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    size: float = 0.1
    epochs: int = 200
    budget: float = 500.0
    members: str = "eap-ig+mask-gradient"
    combine: str = "mean"
    start: str = ""


@dataclass(frozen=True)
class Method:
    """A way to score edges.

    Attributes:
        says: what its score is, in one line.
        source: where it is from.
        run: scores of some prompts.
        settings: names in `Settings` that it reads.
        by_prompt: whether each prompt has scores of its own; False: all prompts are scored together, in one row.
    """

    name: str
    says: str
    source: str
    run: Callable[[Contrast, Settings], Attribution]
    settings: tuple[str, ...] = ()
    by_prompt: bool = True


def _inputs(contrast: Contrast, settings: Settings) -> Attribution:
    if settings.gap is not None:
        return adaptive(contrast, settings.gap, settings.steps)[0]
    return along_inputs(contrast, points(settings.rule, settings.steps))


def _activations(contrast: Contrast, settings: Settings) -> Attribution:
    return along_activations(contrast, points(settings.rule, settings.steps))


def _ensemble(contrast: Contrast, settings: Settings) -> Attribution:
    """One row, of the mean over prompts: methods that decide for all of them have no other."""
    names = settings.members.split("+")
    if ENSEMBLE in names:
        raise InterpError("E205", "an ensemble of ensembles", fix="name other methods, such as eap-ig+mask-gradient")
    if settings.combine not in RULES:
        raise InterpError("E201", f"no way {settings.combine!r} to combine", fix=suggest(settings.combine, RULES))
    found = [find_method(name).run(contrast, settings) for name in names]
    scores = combined(contrast.flow.graph, [_mean(one) for one in found], settings.combine)
    return Attribution(torch.from_numpy(scores)[None].float(), sum(one.forwards for one in found), {})


def _pruning(contrast: Contrast, settings: Settings) -> Attribution:
    how = Pruning(size=settings.size, steps=settings.epochs, seed=settings.seed)
    if not settings.start:
        return pruned(contrast, how)
    first = find_method(settings.start).run(contrast, settings)
    found = pruned(contrast, how, warm_start(contrast.flow.graph, np.abs(_mean(first)), settings.size))
    return replace(found, forwards=found.forwards + first.forwards)


def _mean(found: Attribution) -> Scores:
    """Over prompts."""
    scores: Scores = found.scores.detach().double().mean(0).cpu().numpy()
    return scores


ENSEMBLE = "ensemble"
IG = ("steps", "rule")
CONMY = "Conmy et al. 2023, Towards Automated Circuit Discovery (arXiv 2304.14997)"
HANNA = "Hanna et al. 2024, Have Faith in Faithfulness (arXiv 2403.17806)"

METHODS = {
    method.name: method
    for method in (
        Method(
            "exact",
            "what the metric loses when this edge alone is out",
            "the definition that the others estimate",
            lambda contrast, _: exact(contrast),
        ),
        Method(
            "eap",
            "linear estimate at the clean run",
            "Nanda 2023; Syed et al. 2023, Attribution Patching Outperforms ACDC (arXiv 2310.10348)",
            lambda contrast, _: along_inputs(contrast, CLEAN),
        ),
        Method(
            "eap-denoise",
            "linear estimate at the ablated run: what putting the clean value in would restore",
            "as eap, the other way round",
            lambda contrast, _: along_inputs(contrast, ABLATED),
        ),
        Method(
            "clean-corrupted",
            "mean of the linear estimates at both runs",
            HANNA,
            lambda contrast, _: along_inputs(contrast, BOTH_ENDS),
        ),
        Method("eap-ig", "linear estimate averaged over embeddings between both runs", HANNA, _inputs, (*IG, "gap")),
        Method(
            "eap-ig-activations",
            "linear estimate averaged over what the writer wrote, between both runs",
            HANNA,
            _activations,
            IG,
        ),
        Method(
            "mask-gradient",
            "gradient of the metric at masks, all edges at one value, averaged from out to in",
            "Miller et al. 2024, Transformer Circuit Faithfulness Metrics Are Not Robust (arXiv 2407.08734)",
            lambda contrast, settings: along_masks(contrast, points(settings.rule, settings.steps)),
            IG,
            by_prompt=False,
        ),
        Method(
            "path-patching",
            "what the metric loses when the direct path alone carries what the writer wrote on other prompts: `exact`",
            "Wang et al. 2022 (arXiv 2211.00593); Goldowsky-Dill et al. 2023 (arXiv 2304.05969)",
            lambda contrast, _: exact(contrast),
        ),
        Method(
            "acdc",
            "what the metric lost when the edge was tried, in the circuit as it was then",
            CONMY,
            lambda contrast, settings: by_losses(contrast, settings.tau),
            ("tau",),
            by_prompt=False,
        ),
        Method(
            "acdc-thresholds",
            "the largest threshold at which the edge stays",
            CONMY,
            lambda contrast, settings: by_thresholds(contrast, settings.taus),
            ("taus",),
            by_prompt=False,
        ),
        Method(
            "pruning",
            "how likely the learned mask of the edge is not 0",
            "Bhaskar et al. 2024, Finding Transformer Circuits with Edge Pruning (arXiv 2406.16778)",
            _pruning,
            ("size", "epochs", "seed", "start"),
            by_prompt=False,
        ),
        Method(
            "growth",
            "edges that greedy growth keeps, by what the circuit loses without them, then all others by gradient",
            "edge by edge from the empty circuit, as greedy search over paths",
            lambda contrast, settings: grown(contrast, Growing(budget=settings.budget, size=settings.size)),
            ("budget", "size"),
            by_prompt=False,
        ),
        Method(
            ENSEMBLE,
            "mean over methods of what each says, in units of its own root mean square over edges",
            "Mondorf et al. 2025, Exploring Ensemble Strategies for Circuit Localization (arXiv 2510.06811)",
            _ensemble,
            (*IG, "members", "combine"),
            by_prompt=False,
        ),
    )
}


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        InterpError: E201 no such method.
    """
    if name not in METHODS:
        raise InterpError("E201", f"no method {name!r}", fix=suggest(name, METHODS))
    return METHODS[name]
