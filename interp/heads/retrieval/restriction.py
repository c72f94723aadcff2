"""Heads that need the whole text: what changes when one head sees the first and the nearest tokens alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readout import Readout
from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.hooks.swap import Swap
from interp.kernels.variants.streaming import Streaming

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class StreamingRestriction(Scorer):
    """`||x - x'||^2 / ||x||^2` of what the output layer reads where the answer is read, x' with one head restricted to the
    first and the nearest tokens.

    DuoAttention's objective as a finite difference: it learns one gate for each key/value head, where all may change
    together, from the mean over d of `(x - x')^2` over passkey positions; here every query head is asked by itself, once,
    and nothing is trained. Chance is no change; what tells a head from the rest is the comparison with its layer.

    Attributes:
        sink_tokens, recent: what is left to a restricted head.

    Raises:
        InterpError: E205, sink_tokens under 0 or recent under 1.
    """

    name: ClassVar[str] = "streaming-restriction"
    source: ClassVar[str] = "Xiao et al. 2024, DuoAttention, arXiv 2410.10819, equation 1, without training"
    says: ClassVar[str] = "the answer changes when it sees the first and the nearest tokens alone"
    chance: ClassVar[str] = "no change"
    ceiling: ClassVar[float | None] = None
    operator: ClassVar[str] = "streaming"
    task: ClassVar[str] = "retrieval"
    options: ClassVar[Mapping[str, Any]] = {"length": 128}

    sink_tokens: int = 4
    recent: int = 16

    def __post_init__(self) -> None:
        self._restricted()

    def _restricted(self) -> Streaming:
        return Streaming(sink_tokens=self.sink_tokens, recent=self.recent)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        readout = Readout.of(model)
        values = torch.full((len(heads), len(pairs)), torch.nan, dtype=torch.float64)
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            read_at = pairs.read_at[start:stop].to(model.device)
            whole = last_stream(model, readout, batch, read_at)
            for index, head in enumerate(heads):
                with model.edit(Swap((head.label,), self._restricted())):
                    changed = last_stream(model, readout, batch, read_at)
                change = (changed - whole).square().sum(-1) / whole.square().sum(-1)
                values[index, start:stop] = change.cpu()
        seen = self.sink_tokens + self.recent
        short = int((pairs.clean.lengths <= seen).sum())
        notes = (
            (f"{short} of {len(pairs)} prompts are so short that nothing is hidden ({seen} tokens).",) if short else ()
        )
        return Scores(values.numpy(), torch.zeros_like(values).numpy(), notes=notes)


def last_stream(model: HookedModel, readout: Readout, batch: Batch, read_at: Tensor) -> Float[Tensor, "batch d_model"]:
    """What the output layer reads, where answers are read."""
    with readout.watching() as seen:
        model(batch)
    return seen.at("entering", read_at)
