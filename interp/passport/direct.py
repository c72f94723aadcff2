"""What heads write towards the answer, under every way of drawing prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from interp.attribution.run import dla
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError
from interp.passport.effects import Ablations
from interp.passport.reading import DIRECT, Reading, of_effect
from interp.passport.scoring import misfit
from interp.passport.settings import Setting

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ATTRIBUTION = "direct logit attribution"


def direct_readings(
    model: HookedModel,
    heads: Sequence[HeadId],
    settings: Sequence[Setting],
    sweeps: Ablations,
    step: Callable[[], None],
) -> tuple[dict[str, list[Reading]], dict[str, str]]:
    """Direct attribution of each head, setting by setting; why not where the logits are no sum over parts."""
    readings: dict[str, list[Reading]] = {head.label: [] for head in heads}
    if any(head.tower for head in heads):
        return readings, {ATTRIBUTION: "it is no head of the tower that writes the logits"}
    for setting in settings:
        try:
            found = dla(
                model, setting.task, n_controls=sweeps.n_controls, batch_size=sweeps.batch_size, seed=sweeps.seed,
                truncate=sweeps.truncate, shown_prompts=0,
            )  # fmt: skip
        except InterpError as error:
            return readings, {ATTRIBUTION: misfit(error)}
        rows = [found.labels.index(label) for label in found.heads]
        for label, own in readings.items():
            own.append(
                of_effect(
                    ATTRIBUTION, DIRECT, setting.name, setting.task.name, evidence=found.evidence,
                    row=found.labels.index(label), effects=found.effects,
                    prompts=[prompt.id for prompt in found.prompts], among=found.evidence.mean[rows],
                    place=found.heads.index(label),
                )
            )  # fmt: skip
        step()
    return readings, {}
