"""The metric of a question under interventions, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks.interventions import Intervention
from interp.hooks.rerun.sweep import sweep

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@torch.no_grad()
def measured(
    model: HookedModel, question: Question, variants: Sequence[Intervention], batch_size: int
) -> tuple[Float[np.ndarray, "variant prompt"], Float[np.ndarray, " prompt"]]:
    """The metric under each variant, and of the untouched model."""
    size, reference = question.batch.size, None
    if "reference" in question.metric.needs:
        reference = question.clean(model, 0, size, batch_size)

    def measure(output: Tensor, start: int, stop: int) -> Tensor:
        clean = None if reference is None else reference[start:stop].to(output.device)
        return question.to(output.device).measure(output, start, stop, clean)

    values, clean = sweep(model, question.batch, variants, question.read_at, measure, batch_size=batch_size)
    return values.numpy(), clean.numpy()
