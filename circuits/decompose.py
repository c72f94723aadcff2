"""Direct logit attribution: the logit difference of a run as the sum of what each part of the model wrote towards it.

The last residual stream is a sum: embeddings, heads, attention biases, MLPs. With the scale of every norm on the way
held at what it was in the run, the logit difference is an inner product of that sum with one vector u, so each summand
has its share of it (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). The share of a head splits
further over the keys it looked at, because its output is its pattern times its values. Only the direct path counts:
what a part does through later parts is in the shares of those.

Sums are taken in float64. What they leave of the logit difference (`Decomposition.remainder`) is the rounding of the
model itself; more than that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.readout import Readout, Seen, refused, tolerance
from interp.circuits.writes import (
    MLP,
    PATTERN,
    VALUE,
    Attention,
    Part,
    Record,
    Rows,
    Writers,
    attention_writes,
    between_writes,
    embed_writes,
    head_part,
)
from interp.hooks.batch import Batch
from interp.hooks.metrics import pick
from interp.hooks.names import point_name

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The logit difference of each prompt of a batch, part by part, in logits (float64).

    Attributes:
        parts: in the order in which the model writes them; constants last.
        values: share of each part.
        logit_diff: what the model itself gave, before its soft cap where it has one.
        head_norms: norm of what each head wrote into the stream, heads in their order in `parts`.
        sources: share of each head split over key positions; None unless asked for.
    """

    parts: tuple[Part, ...]
    values: Float[Tensor, "part batch"]
    logit_diff: Float[Tensor, " batch"]
    head_norms: Float[Tensor, "head batch"]
    sources: Float[Tensor, "head batch key_pos"] | None = None

    @property
    def remainder(self) -> Float[Tensor, " batch"]:
        """Logit difference less all parts: rounding."""
        return self.logit_diff - self.values.sum(0)


def source_shares(
    pattern: Float[Tensor, "batch head key_pos"],
    values: Float[Tensor, "batch key_pos kv_head d_head"],
    w_out: Float[Tensor, "head d_head d_model"],
    direction: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "head batch key_pos"]:
    """`pattern[h, k] <v_k W_O[h], u>`: the share of each head split over keys; query heads share values in groups."""
    n_kv_heads = values.shape[2]
    reads = torch.einsum("hdm,bm->bhd", w_out, direction).unflatten(1, (n_kv_heads, -1))
    looked_at = torch.einsum("bkgd,bgnd->bgnk", values, reads).flatten(1, 2)
    return (pattern * looked_at).transpose(0, 1)


def best_options(logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch ..."]) -> Int[Tensor, " batch"]:
    """Of several tokens the one with the largest logit in this run, as in the metric `logit_diff`."""
    options = (tokens[:, None] if tokens.ndim == 1 else tokens).to(logits.device)
    best = pick(logits, options, -torch.inf).argmax(-1, keepdim=True)
    return options.gather(1, best)[:, 0]


@dataclass(frozen=True, eq=False)
class Decomposer:
    """Splits logit differences of one model; made once for many batches by `Decomposer.of`.

    Attributes:
        readout: how the last stream becomes logits.
        writers: what writes into the stream.
    """

    model: HookedModel
    readout: Readout
    writers: Writers

    @classmethod
    def of(cls, model: HookedModel) -> Decomposer:
        """Raises E403, with the reason, where the logits of this model are no such sum."""
        return cls(model, Readout.of(model), Writers.of(model))

    @torch.no_grad()
    def __call__(
        self,
        batch: Batch,
        read_at: Int[Tensor, " batch"],
        answer: Int[Tensor, "batch ..."],
        distractor: Int[Tensor, "batch ..."],
        *,
        sources: bool = False,
    ) -> Decomposition:
        """The logit difference of each prompt at one position, split over the parts of the model.

        Args:
            read_at: position whose logits are explained, for each prompt.
            answer, distractor: token ids; of several (-1 fills) the one with the largest logit in this run counts.
            sources: also split each head's share over key positions.

        Interventions in force are part of the run and are explained with it.

        Raises:
            InterpError: E403 where the parts do not sum to the logit difference, or `sources` needs patterns that this
                model does not expose.
        """
        record = Record(read_at)
        layers = list(self.writers.blocks)
        looks = [point_name(kind, layer) for layer in layers for kind in (PATTERN, VALUE)] if sources else []
        for name in looks:
            self.model.check_point(name)
        with self.readout.watching() as seen:
            self.model.run_with_hooks(batch, record.hooks([*self.writers.points, *looks]))
        self.readout.check(self.model, seen)
        raw = seen.at("raw", read_at)
        right, wrong = best_options(raw, answer), best_options(raw, distractor)
        logit_diff = self.readout.factor * (raw.gather(1, right[:, None]) - raw.gather(1, wrong[:, None]))[:, 0]
        found = self._split(record, seen, right, wrong, logit_diff, sources)
        _check_sum(self.model, found)
        return found

    def _split(
        self, record: Record, seen: Seen, right: Tensor, wrong: Tensor, logit_diff: Tensor, sources: bool
    ) -> Decomposition:
        """Each part's rows along the vector that the logit difference reads, and the constants behind the stream."""
        direction = self.readout.direction(right, wrong)
        stream, towards = self.readout.fold(direction, seen, record.read_at)
        attention = {layer: attention_writes(self.writers, layer, record) for layer in self.writers.blocks}
        shares = [(part, along(rows, towards)) for part, rows in self._writes(record, attention, stream)]
        shares += [(Part(label, "bias"), share) for label, share in self.readout.constants(direction, right, wrong)]
        return Decomposition(
            tuple(part for part, _ in shares),
            torch.stack([share for _, share in shares]),
            logit_diff,
            torch.cat([found.heads.norm(dim=-1).T for found in attention.values()]),
            self._sources(record, attention, towards) if sources else None,
        )

    def _writes(self, record: Record, attention: Mapping[int, Attention], stream: Rows) -> Iterator[tuple[Part, Rows]]:
        """Everything that was added to the stream, in the model's order."""
        yield from embed_writes(self.writers, record)
        for layer, found in attention.items():
            yield from ((head_part(layer, head), rows) for head, rows in enumerate(found.heads.unbind(1)))
            if found.bias is not None:
                yield Part(f"L{layer}.attn_bias", "bias", layer), found.bias
            if layer in self.writers.mlps:
                yield Part(f"M{layer}", "mlp", layer), record[MLP, layer]
            yield from between_writes(self.writers, layer, record, stream)

    def _sources(self, record: Record, attention: Mapping[int, Attention], towards: Rows) -> Tensor:
        """Shares of all heads over key positions."""
        found = []
        for layer, written in attention.items():
            norm = self.writers.norms[layer]
            read = towards if norm is None or written.scale is None else norm.fold(towards, written.scale)
            w_out = self.model.w_out(layer).double()
            found.append(source_shares(record[PATTERN, layer], record[VALUE, layer], w_out, read))
        return torch.cat(found)


def along(rows: Rows, direction: Rows) -> Float[Tensor, " batch"]:
    """Inner product, prompt by prompt."""
    return torch.einsum("bm,bm->b", rows, direction)


def _check_sum(model: HookedModel, found: Decomposition) -> None:
    """Raise E403 unless the parts make up the logit difference, up to rounding of terms of their size."""
    size = float(found.values.abs().sum(0).amax())
    worst = float(found.remainder.abs().amax())
    if worst > tolerance(model.dtype) * max(size, float(found.logit_diff.abs().amax())):
        raise refused(model, f"its parts leave {worst:.3g} of the logit difference unexplained")
