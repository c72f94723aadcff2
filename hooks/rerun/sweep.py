"""The whole table of a sweep in one call, as `interp.hooks.naive.sweep` gives it, from the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.naive import batches
from interp.hooks.rerun.engine import BUDGET, Rerun

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def sweep(
    model: HookedModel,
    batch: Batch,
    variants: Sequence[Intervention],
    read_at: Int[Tensor, " batch"],
    measure: Callable[[Float[Tensor, "part d_out"], int, int], Float[Tensor, " part"]],
    *,
    batch_size: int,
    budget: int = BUDGET,
) -> tuple[Float[Tensor, "variant batch"], Float[Tensor, " batch"]]:
    """A metric under each variant, and of the untouched model, for every prompt.

    Args:
        variants: interventions whose reference values, where they have a batch axis, are aligned with `batch`.
        read_at: position read for each prompt; -1 for pooled outputs.
        measure: (output, start, stop) -> one number a prompt, for prompts start to stop.
        batch_size: prompts that are recorded together.
        budget: bytes that a run may hold at most.
    """
    values = torch.empty(len(variants), batch.size, dtype=torch.float64)
    clean = torch.empty(batch.size, dtype=torch.float64)
    for start, stop in batches(batch.size, batch_size):
        cut = [variant.rows(start, stop) for variant in variants]
        engine = Rerun(model, batch.rows(start, stop), cut, read_at[start:stop])
        clean[start:stop] = measure(engine.clean, start, stop).double()
        for chunk in engine.plan(budget=budget).chunks:
            for index, output in zip(chunk.variants, engine.run(chunk), strict=True):
                values[index, start:stop] = measure(output, start, stop).double()
    return values, clean
