"""The plain sweep: one full forward for each variant and batch. Slow, obvious, and the oracle for anything faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Progress = Callable[[int, int], None]


def read_output(output: Tensor, batch: Batch, read_at: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_out"]:
    """What a metric sees of a forward: the logits where the answer is read, or the mean-pooled hidden states.

    Outputs without a position axis (class logits, pooled embeddings) are taken as they are.
    """
    if output.ndim == 2:
        return output
    if batch.mask is None or bool((read_at < 0).any()):
        mask = torch.ones(output.shape[:2], device=output.device) if batch.mask is None else batch.mask
        weight = mask.to(output.dtype)[:, :, None]
        return (output * weight).sum(1) / weight.sum(1)
    return output[torch.arange(len(output), device=output.device), read_at.to(output.device)]


def batches(size: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each batch."""
    return ((start, min(start + batch_size, size)) for start in range(0, size, batch_size))


@torch.no_grad()
def plain_outputs(
    model: HookedModel, batch: Batch, read_at: Int[Tensor, " batch"], batch_size: int
) -> Float[Tensor, "prompt d_out"]:
    """Output of the untouched model for every prompt, on the CPU."""
    rows = [(batch.rows(start, stop), read_at[start:stop]) for start, stop in batches(batch.size, batch_size)]
    return torch.cat([read_output(model.run_plain(part), part, at).cpu() for part, at in rows])


@torch.no_grad()
def sweep(
    model: HookedModel,
    batch: Batch,
    variants: Sequence[Intervention],
    read_at: Int[Tensor, " batch"],
    measure: Callable[[Float[Tensor, "batch d_out"], int, int], Float[Tensor, " batch"]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Float[Tensor, "variant prompt"]:
    """A metric under each variant in turn, for every prompt.

    Args:
        variants: interventions whose reference values, where they have a batch axis, are aligned with `batch`.
        read_at: position read for each prompt; -1 for pooled outputs.
        measure: (output, start, stop) -> one number a prompt, for prompts start to stop.
        progress: called with (forwards done, forwards in all).
    """
    spans = list(batches(batch.size, batch_size))
    values = torch.empty(len(variants), batch.size, dtype=torch.float64)
    for index, variant in enumerate(variants):
        for number, (start, stop) in enumerate(spans):
            part = batch.rows(start, stop)
            with model.edit(variant.rows(start, stop)):
                output = read_output(model(part), part, read_at[start:stop])
            values[index, start:stop] = measure(output.cpu(), start, stop).double()
            if progress is not None:
                progress(index * len(spans) + number + 1, len(variants) * len(spans))
    return values
