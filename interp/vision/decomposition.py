"""A CLIP image embedding as the exact sum of what every head took from every patch.

The embedding is a linear function of the class token's last vector, once the scale of the last norm is held at what it
was in the run; that vector is the sum of the embeddings, of what each MLP wrote, and of what each head wrote, which is a
sum over the tokens that it looked at (Gandelsman et al. 2024, "Interpreting CLIP's Image Representation via Text-Based
Decomposition", arXiv 2310.05916). The mean that the norm takes away, its bias, and the bias of each
output projection belong to no part; as in the paper they are shared out evenly, over the 2 L + 1 components, and inside
an attention layer over its heads and tokens. Sums are taken in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.circuits.readout import Norm, is_close, main_tower
from interp.circuits.writes import MLP, PATTERN, POST, PRE, VALUE, Record, Writers, attention_writes
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError
from interp.vision.geometry import Geometry, geometry
from interp.vision.part import pictures_alone, seeing_part

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class ImageParts:
    """Embeddings of some pictures, part by part; every part is divided by the length of the whole embedding.

    Attributes:
        heads: what each head wrote, over all tokens.
        tokens: the same by the token it came from; None unless asked for.
        mlps: what each MLP wrote.
        embed: what entered the first layer.
        embedding: what the model gives, of length 1. The sum of the parts is this, to rounding.
        where: which token shows which patch.
    """

    heads: Float[Tensor, "image layer head d_embed"]
    tokens: Float[Tensor, "image layer head token d_embed"] | None
    mlps: Float[Tensor, "image layer d_embed"]
    embed: Float[Tensor, "image d_embed"]
    embedding: Float[Tensor, "image d_embed"]
    where: Geometry

    @property
    def remainder(self) -> Float[Tensor, "image d_embed"]:
        """The embedding less all parts: rounding."""
        return self.embedding - self.heads.sum((1, 2)) - self.mlps.sum(1) - self.embed

    def mean_ablated(
        self, *, attention: Iterable[int] = (), mlps: Iterable[int] = (), heads: Iterable[tuple[int, int]] = ()
    ) -> Float[Tensor, "image d_embed"]:
        """The embeddings with some parts replaced by their means over the pictures.

        Only the direct path changes: what later parts made of these stays.

        Args:
            attention: layers whose heads are all replaced, such as the early ones.
            mlps: layers whose MLP is replaced.
            heads: (layer, head) of single heads.
        """
        change = torch.zeros_like(self.embedding)
        layers = set(attention)
        for part in [self.heads[:, layer].sum(1) for layer in sorted(layers)]:
            change += part.mean(0) - part
        for layer in sorted(set(mlps)):
            change += self.mlps[:, layer].mean(0) - self.mlps[:, layer]
        for layer, head in sorted({one for one in heads if one[0] not in layers}):
            change += self.heads[:, layer, head].mean(0) - self.heads[:, layer, head]
        return self.embedding + change

    def on_picture(self, directions: Float[Tensor, "concept d_embed"]) -> Float[Tensor, "image concept row col"]:
        """What the patches add along each direction, over all layers and heads.

        Raises:
            InterpError: E205, a decomposition that was not made by token.
        """
        if self.tokens is None:
            raise InterpError("E205", "these parts are not split by token", fix="decompose(..., tokens=True)")
        by_token = torch.einsum("ilhtd,cd->ict", self.tokens, directions.to(self.tokens))
        return self.where.on_grid(by_token)


@torch.no_grad()
def decompose(model: HookedModel, batch: Batch, *, tokens: bool = False) -> ImageParts:
    """The embeddings of the pictures of a batch, part by part.

    Args:
        model: a CLIP model, with or without its text tower.
        tokens: also split each head over the tokens it looked at; that is layers x heads x tokens vectors a
            picture, in float64, so give large models few pictures at a time.

    Raises:
        InterpError: E403 where the embedding of a picture is no such sum: towers that pool by attention (SigLIP) or have
            no projection; E314 no picture.
    """
    part, projection = seeing_part(model), _projection(model)
    pictures = pictures_alone(batch).to(part.device)
    where = geometry(part, pictures)
    writers = Writers.of(part)
    if any(norm is not None for norm in writers.norms.values()) or "cls" not in where.special:
        raise _refused(model, "its attention is scaled before it is added, or it has no class token")
    record = Record(torch.full((pictures.size,), where.special["cls"][0]))
    looks = [point_name(kind, layer) for layer in writers.blocks for kind in (PATTERN, VALUE)]
    part.run_with_hooks(pictures, record.hooks([*writers.points, *looks]))
    read = _Reading.of(model, part, projection, record, pictures)
    n_tokens = record[PATTERN, 0].shape[-1]
    pieces = [_layer(writers, layer, record, read, n_tokens, tokens) for layer in writers.blocks]
    mlps = [read(record[MLP, layer], 1) for layer in writers.blocks]
    embed = read(record[PRE, min(writers.blocks)], 1)
    split = torch.stack([piece[1] for piece in pieces], 1) if tokens else None
    heads = torch.stack([piece[0] for piece in pieces], 1)
    found = ImageParts(heads, split, torch.stack(mlps, 1), embed, read.embedding, where)
    if not is_close(found.embedding - found.remainder, found.embedding, part.dtype):
        raise _refused(model, f"its parts leave {float(found.remainder.abs().max()):.3g} of the embedding unexplained")
    return found


@dataclass(frozen=True, eq=False)
class _Reading:
    """From what a part wrote to its share of the embedding: `(c gain / scale + rest) P / |embedding|`."""

    norm: Norm
    scale: Float[Tensor, "image 1"]
    mean: Float[Tensor, "image 1"]
    weight: Float[Tensor, "d_embed d_model"]
    length: Float[Tensor, "image 1"]
    embedding: Float[Tensor, "image d_embed"]
    n_components: int

    @classmethod
    def of(
        cls, model: HookedModel, part: HookedModel, projection: nn.Linear, record: Record, pictures: Batch
    ) -> _Reading:
        """Raises E403 unless the model pools by taking the class token through its last norm."""
        module = main_tower(part).final_norm
        layers = sorted(main_tower(part).blocks)
        stream = record[POST, layers[-1]]
        norm = None if module is None else Norm.of(module, stream.shape[-1], stream.device)
        if norm is None or module is None:
            raise _refused(model, "its last norm is none that we know")
        normed = module(stream.to(part.dtype)).double()
        pooled = part.adapter.model(**pictures.inputs).pooler_output  # type: ignore[attr-defined]
        if not _is_pooled(pooled, normed, projection, part.dtype):
            raise _refused(model, "it does not take the class token's vector as it is (attention pooling?)")
        weight = projection.weight.detach().double()
        whole = normed @ weight.T
        length = whole.norm(dim=-1, keepdim=True)
        mean = stream.mean(-1, keepdim=True) if norm.centred else torch.zeros_like(length)
        scale = norm.scale(stream, normed)
        return cls(norm, scale, mean, weight, length, whole / length, 2 * len(layers) + 1)

    def __call__(
        self, written: Float[Tensor, "image *part d_model"], pieces: int
    ) -> Float[Tensor, "image *part d_embed"]:
        """The share of parts of which `pieces` make up one component."""
        more = [1] * (written.ndim - 2)
        scale, mean, length = (one.reshape(-1, *more, 1) for one in (self.scale, self.mean, self.length))
        count = self.n_components * pieces
        normed = (written - mean / count) * self.norm.gain / scale + self.norm.bias / count
        return normed @ self.weight.T / length


def _layer(
    writers: Writers, layer: int, record: Record, read: _Reading, n_tokens: int, by_token: bool
) -> tuple[Tensor, Tensor]:
    """What the heads of a layer added, over all tokens, and by token where that is asked for."""
    written = attention_writes(writers, layer, record)
    n_heads = written.heads.shape[1]
    bias = torch.zeros_like(written.heads[:, 0]) if written.bias is None else written.bias
    if not by_token:
        return read(written.heads + bias[:, None] / n_heads, n_heads), written.heads
    values = record[VALUE, layer]
    values = values.repeat_interleave(n_heads // values.shape[2], dim=2)
    w_out = writers.model.w_out(layer).double()
    moved = torch.einsum("bhk,bkhd,hdm->bhkm", record[PATTERN, layer], values, w_out)
    split = read(moved + bias[:, None, None] / (n_heads * n_tokens), n_heads * n_tokens)
    return split.sum(2), split


def _is_pooled(pooled: Tensor, normed: Tensor, projection: nn.Linear, dtype: torch.dtype) -> bool:
    """Whether what the model pools is the normed class token, before or after the projection."""
    after = normed @ projection.weight.detach().double().T
    return any(one.shape == pooled.shape and is_close(pooled.double(), one, dtype) for one in (normed, after))


def _projection(model: HookedModel) -> nn.Linear:
    found: Any = getattr(model.adapter.model, "visual_projection", None)  # type: ignore[attr-defined]
    if not isinstance(found, nn.Linear) or found.bias is not None:
        raise _refused(model, "it has no linear projection of pictures")
    return found


@torch.no_grad()
def text_embeddings(model: HookedModel, inputs: Mapping[str, Tensor] | list[str]) -> Float[Tensor, "text d_embed"]:
    """Embeddings of texts by a CLIP model, each of length 1, in float64.

    Args:
        inputs: texts, or `input_ids` and `attention_mask`.

    Raises:
        InterpError: E403, a model that embeds no texts beside its pictures.
    """
    network: Any = model.adapter.model  # type: ignore[attr-defined]
    if not hasattr(network, "get_text_features"):
        raise _refused(model, "it embeds no texts")
    given = model.batch(inputs).inputs
    found = network.get_text_features(**given)
    rows = (found if isinstance(found, Tensor) else found.pooler_output).double()
    return rows / rows.norm(dim=-1, keepdim=True)


def _refused(model: HookedModel, why: str) -> InterpError:
    what = f"the picture embedding of {model.name} is no sum over heads and patches: {why}"
    return InterpError("E403", what, where=model.name, fix="measure effects instead: interp.score, vision-importance")
