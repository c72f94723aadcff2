"""The state that the output layer reads, under many ablations at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readout import Readout, is_close
from interp.heads.effects.ablation import outputs
from interp.heads.retrieval.restriction import last_stream
from interp.hooks.interventions import Intervention
from interp.hooks.naive import batches
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

States = tuple[Float[Tensor, "prompt d_model"], Float[Tensor, "variant prompt d_model"]]


@torch.no_grad()
def final_states(model: HookedModel, pairs: Pairs, variants: Sequence[Intervention], batch_size: int) -> States:
    """States where answers are read, after the final norm, of the untouched model and under each variant, in float64.

    The engine gives logits; the states are what the output layer makes them of, by least squares, which is exact where it has
    no fewer rows than columns. Where that does not give back the states of a plain run, every variant is run in full.

    Raises:
        InterpError: E403, no output layer over a vocabulary.
    """
    readout = Readout.of(model)
    plain = _states(model, readout, pairs, batch_size)
    undo = _Undo(readout)
    if not undo.is_open:
        return plain, full_states(model, readout, pairs, variants, batch_size)
    states = torch.empty(len(variants), *plain.shape, dtype=torch.float64)
    for index, rows, logits in outputs(model, pairs, variants, batch_size):
        found = undo(logits)
        if index is not None:
            states[index, rows] = found
        elif not is_close(found, plain[rows], model.dtype):
            return plain, full_states(model, readout, pairs, variants, batch_size)
    return plain, states


@torch.no_grad()
def full_states(
    model: HookedModel, readout: Readout, pairs: Pairs, variants: Sequence[Intervention], batch_size: int
) -> Float[Tensor, "variant prompt d_model"]:
    """The same under each variant by full forwards: the oracle."""
    return torch.stack([_states(model, readout, pairs, batch_size, variant) for variant in variants])


def _states(
    model: HookedModel, readout: Readout, pairs: Pairs, batch_size: int, variant: Intervention | None = None
) -> Float[Tensor, "prompt d_model"]:
    found = []
    for start, stop in batches(len(pairs), batch_size):
        batch = pairs.clean.rows(start, stop).to(model.device)
        with model.edit(*([] if variant is None else [variant.rows(start, stop)])):
            found.append(last_stream(model, readout, batch, pairs.read_at[start:stop].to(model.device)).cpu())
    return torch.cat(found)


class _Undo:
    """From logits back to what the output layer read.

    Attributes:
        is_open: whether the output layer has no fewer rows than columns.
    """

    def __init__(self, readout: Readout) -> None:
        weight = readout.head.weight.detach().double().cpu()
        bias = getattr(readout.head, "bias", None)
        self.is_open = weight.shape[0] >= weight.shape[1]
        self.bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        self.inverse = torch.linalg.pinv(weight) if self.is_open else weight
        self.factor, self.cap = readout.factor, readout.cap

    def __call__(self, logits: Float[Tensor, "part d_vocab"]) -> Float[Tensor, "part d_model"]:
        raw = logits.double()
        raw = raw if self.cap is None else self.cap * torch.atanh(raw / self.cap)
        return (raw / self.factor - self.bias) @ self.inverse.T
