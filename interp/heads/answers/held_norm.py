"""What each head writes towards the answer, with and without edits, at the norms that the clean run had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.decompose import Decomposer, best_options
from interp.circuits.writes import Record, attention_writes
from interp.hooks.interventions import Intervention
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class HeldShares:
    """Shares of heads in the logit difference, and how much they write.

    Attributes:
        clean: share of each head in the clean run.
        norms: length of what it writes there.
        logit_diff: of the clean run, before a soft cap.
        edited: share of each head under each edit.
    """

    clean: Float[Tensor, "head batch"]
    norms: Float[Tensor, "head batch"]
    logit_diff: Float[Tensor, " batch"]
    edited: Float[Tensor, "edit head batch"]


@torch.no_grad()
def held_shares(
    model: HookedModel, decomposer: Decomposer, pairs: Pairs, heads: Sequence[HeadId], edits: Sequence[Intervention]
) -> HeldShares:
    """Direct effects by attribution. The final norm divides by what it did in the clean run: edits that make the stream
    smaller would otherwise raise every head's share.

    Raises:
        InterpError: E403, logits that are no sum of what heads write.
    """
    readout = decomposer.readout
    read_at = pairs.read_at.to(model.device)
    assert pairs.answer is not None and pairs.distractor is not None
    with readout.watching() as seen:
        written = _written(model, decomposer, pairs, heads)
    readout.check(model, seen)
    raw = seen.at("raw", read_at)
    right, wrong = best_options(raw, pairs.answer), best_options(raw, pairs.distractor)
    logit_diff = readout.factor * (raw.gather(1, right[:, None]) - raw.gather(1, wrong[:, None]))[:, 0].cpu()
    _, towards = readout.fold(readout.direction(right, wrong), seen, read_at)
    edited = []
    for edit in edits:
        with model.edit(edit):
            edited.append(_along(_written(model, decomposer, pairs, heads), towards))
    clean = _along(written, towards)
    without = torch.stack(edited) if edited else clean.new_empty(0, *clean.shape)
    return HeldShares(clean, written.norm(dim=-1).cpu(), logit_diff, without)


def _written(
    model: HookedModel, decomposer: Decomposer, pairs: Pairs, heads: Sequence[HeadId]
) -> Float[Tensor, "head batch d_model"]:
    """What each head adds to the stream where the answer is read."""
    record, writers = Record(pairs.read_at), decomposer.writers
    model.run_with_hooks(pairs.clean, record.hooks(writers.points))
    layers = {layer: attention_writes(writers, layer, record).heads for layer in {head.layer for head in heads}}
    return torch.stack([layers[head.layer][:, head.head] for head in heads])


def _along(
    written: Float[Tensor, "head batch d_model"], towards: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "head batch"]:
    return torch.einsum("hbm,bm->hb", written, towards).cpu()
