"""Every head taken away by every operator: what that does to harmful prompts, and what it costs harmless ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from interp.heads.effects.ablation import Measure, ablations, measured, twins
from interp.heads.safety.divergence import divergence
from interp.heads.safety.refusal_score import refusal_score, token_mass
from interp.hooks.interventions import Intervention
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.safety.settings import Settings

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

NUMBERS = ("ships", "refusal", "compliance", "cost")


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of some variants, prompt by prompt, and of the untouched model.

    Attributes:
        ships: KL(base || edited) of the next token after harmful prompts, in nats.
        refusal: refusal score of harmful prompts.
        compliance: probability of the tokens that begin compliance, of harmful prompts.
        cost: KL(base || edited) of the harmless twins.
        helped: probability of the tokens that begin compliance, of the twins.
        base: name -> number of each prompt, untouched.
    """

    ships: Float[Tensor, "variant prompt"]
    refusal: Float[Tensor, "variant prompt"]
    compliance: Float[Tensor, "variant prompt"]
    cost: Float[Tensor, "variant prompt"]
    helped: Float[Tensor, "variant prompt"]
    base: dict[str, Float[Tensor, " prompt"]]


def measure_sets(
    model: HookedModel, pairs: Pairs, sets: Sequence[tuple[HeadId, ...]], operator: str, settings: Settings
) -> Measured:
    """All numbers without each set of heads."""
    return _measure(model, pairs, lambda side: _without(model, side, sets, operator, settings), settings)


def _without(
    model: HookedModel, pairs: Pairs, sets: Sequence[tuple[HeadId, ...]], operator: str, settings: Settings
) -> list[Intervention]:
    return ablations(model, pairs, sets, operator, factor=settings.factor, batch_size=settings.batch_size)


def _measure(
    model: HookedModel, pairs: Pairs, without: Callable[[Pairs], list[Intervention]], settings: Settings
) -> Measured:
    """All numbers of both sides under some edits; each side is recorded once.

    Args:
        without: the edits of one side.
    """
    assert pairs.answer is not None and pairs.distractor is not None
    refuse, comply = pairs.answer, pairs.distractor
    apart: Measure = lambda logits, clean, _: divergence(clean, logits)  # noqa: E731
    complies: Measure = lambda logits, _, rows: token_mass(logits, comply[rows])  # noqa: E731
    asked = {"ships": apart, "refusal": lambda x, _, rows: refusal_score(x, refuse[rows]), "compliance": complies}
    harmful = measured(model, pairs, without(pairs), asked, settings.batch_size)
    harmless = twins(pairs)
    spared = measured(model, harmless, without(harmless), {"cost": apart, "helped": complies}, settings.batch_size)
    both = {**harmful, **spared}
    return Measured(**{name: values for name, (values, _) in both.items()}, base={n: b for n, (_, b) in both.items()})


def screen(
    model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], settings: Settings
) -> tuple[dict[str, Float[Tensor, "operator head prompt"]], dict[str, Float[Tensor, " prompt"]]]:
    """Numbers of every operator and head, and of the untouched model."""
    sets = [(head,) for head in heads]

    def without(side: Pairs) -> list[Intervention]:
        return [edit for one in settings.operators for edit in _without(model, side, sets, one, settings)]

    found = _measure(model, pairs, without, settings)
    shape = (len(settings.operators), len(heads))
    return {name: getattr(found, name).unflatten(0, shape) for name in NUMBERS}, found.base
