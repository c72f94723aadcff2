"""Heads taken away by any operator, and what the model then says: the base of scorers of what that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.scorer import Scorer
from interp.hooks.interventions import Ablate, Intervention, Scale
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.reference import Reference, mean_reference, paired_reference
from interp.hooks.rerun.engine import BUDGET, Rerun
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

OPERATORS = {
    "uniform": "every key that a query may see gets the same attention",
    "scale": "z is multiplied by a small factor",
    "zero": "z is 0",
    "mean": "z is its mean over all prompts of both kinds",
    "resample": "z is that of the prompt's twin",
}
"""`uniform` is the undifferentiated attention of Zhou et al. 2024 (arXiv 2410.13708): the limit of `q <- eps q`, in models
that do not normalise q after it and have no learned sink. `scale` is their scaling contribution."""

FACTOR = 1e-5
"""Of `scale`: eps of the published search."""

Measure = Callable[[Float[Tensor, "part d_vocab"], Float[Tensor, "part d_vocab"], slice], Float[Tensor, " part"]]
"""(logits, logits of the untouched model, which prompts) -> one number a prompt."""


@dataclass(frozen=True, eq=False)
class AblationScorer(Scorer):
    """A score of what taking a head away changes where the answer is read.

    Attributes:
        operator: see `OPERATORS`; part of every score, because operators disagree about heads.
        factor: of `scale`.

    Raises:
        InterpError: E201, another operator.
    """

    operator: str = "uniform"  # type: ignore[misc]  # here it is a parameter
    factor: float = FACTOR

    def __post_init__(self) -> None:
        self.check_choice("operator", tuple(OPERATORS))


def ablations(
    model: HookedModel,
    pairs: Pairs,
    sets: Sequence[tuple[HeadId, ...]],
    operator: str,
    *,
    factor: float = FACTOR,
    batch_size: int,
) -> list[Intervention]:
    """One intervention for each set of heads, at every position.

    Args:
        pairs: prompts that will run. `mean` is taken over them and, where they have them, their twins, so that it leans to
            neither kind; `resample` needs the twins.

    Raises:
        InterpError: E201 another operator; E303 no twins to resample from.
    """
    if operator not in OPERATORS:
        raise InterpError("E201", f"operator is {operator!r}", fix=suggest(operator, OPERATORS))
    if operator == "scale":
        return [Scale(heads, factor) for heads in sets]
    reference = _reference(model, pairs, sets, operator, batch_size)
    return [Ablate(heads, operator, reference) for heads in sets]


def _reference(
    model: HookedModel, pairs: Pairs, sets: Sequence[tuple[HeadId, ...]], operator: str, batch_size: int
) -> Reference | None:
    """What z becomes, where the operator puts something in its place."""
    if operator not in ("mean", "resample"):
        return None
    names = sorted({point_name("attn.hook_z", head.layer, head.tower) for heads in sets for head in heads})
    sides = [pairs.clean] if pairs.corrupt is None else [pairs.clean, pairs.corrupt]
    if operator == "mean":
        parts = [side.rows(*span) for side in sides for span in batches(side.size, batch_size)]
        return mean_reference(model, parts, names)
    if pairs.corrupt is None:
        raise InterpError("E303", "no twins to resample from", fix="give every prompt its `corrupt` twin")
    parts = [pairs.corrupt.rows(*span) for span in batches(pairs.corrupt.size, batch_size)]
    return paired_reference(model, parts, names, "the twin of each prompt")


def outputs(
    model: HookedModel, pairs: Pairs, variants: Sequence[Intervention], batch_size: int
) -> Iterator[tuple[int | None, slice, Float[Tensor, "part d_vocab"]]]:
    """What the model says under each variant: its number, or None for the untouched model, which prompts, and logits.

    The untouched model comes first in each batch.
    """
    for start, stop in batches(len(pairs), batch_size):
        rows = slice(start, stop)
        cut = [variant.rows(start, stop) for variant in variants]
        engine = Rerun(model, pairs.clean.rows(start, stop), cut, pairs.read_at[rows])
        yield None, rows, engine.clean
        for chunk in engine.plan(budget=BUDGET).chunks:
            for index, output in zip(chunk.variants, engine.run(chunk), strict=True):
                yield index, rows, output


def measured(
    model: HookedModel, pairs: Pairs, variants: Sequence[Intervention], measures: Mapping[str, Measure], batch_size: int
) -> dict[str, tuple[Float[Tensor, "variant prompt"], Float[Tensor, " prompt"]]]:
    """Several measures under each variant, and of the untouched model, from one run, in float64."""
    values = {name: torch.full((len(variants), len(pairs)), torch.nan, dtype=torch.float64) for name in measures}
    base = {name: torch.full((len(pairs),), torch.nan, dtype=torch.float64) for name in measures}
    clean = torch.empty(0)
    for index, rows, output in outputs(model, pairs, variants, batch_size):
        clean = output if index is None else clean
        for name, measure in measures.items():
            found = measure(output.double(), clean.double(), rows)
            if index is None:
                base[name][rows] = found
            else:
                values[name][index, rows] = found
    return {name: (values[name], base[name]) for name in measures}


def twins(pairs: Pairs) -> Pairs:
    """The same pairs the other way round: the twins are asked, and the prompts stand beside them.

    Raises:
        InterpError: E303, prompts without twins.
    """
    if pairs.corrupt is None:
        raise InterpError("E303", "prompts without twins", fix="give every prompt its `corrupt` twin")
    return replace(
        pairs,
        clean=pairs.corrupt,
        corrupt=pairs.clean,
        read_at=pairs.corrupt.end,
        answer=pairs.distractor,
        distractor=pairs.answer,
    )
