"""Methods by name: every way to score edges, under one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from interp.circuits.edges.exact import exact
from interp.kernels.errors import InterpError, suggest


@dataclass(frozen=True)
class Settings:
    """What methods can be told; each takes what it knows.

    Attributes:
        steps: of an integration.
        rule: of an integration, see `points`.
        gap: stop integrating when scores add up to within this share; None takes `steps` as they are.
        seed: of everything that is drawn.
    """

    steps: int = 5
    rule: str = "midpoint"
    gap: float | None = None
    seed: int = 0


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


IG = ("steps", "rule")
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
