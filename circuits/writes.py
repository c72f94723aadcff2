"""What each part of a model wrote into the residual stream at one position of each prompt, as vectors that sum to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.kept import Kept
from interp.circuits.readout import Norm, is_close, main_tower, refused
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.names import HeadId, point_name

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

PATTERN, VALUE, Z = "attn.hook_pattern", "attn.hook_v", "attn.hook_z"
PRE, ATTN, MLP, POST = "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"
EMBED, POS_EMBED = "hook_embed", "hook_pos_embed"

POST_NORM = (
    "its blocks normalise the sum itself (post-norm), so that every norm scales anew what was written before it, and "
    "the stream is no sum of what parts wrote: there are no edges from one part to another, and no direct shares"
)

Rows = Float[Tensor, "batch d_model"]


@dataclass(frozen=True)
class Part:
    """One summand of the residual stream, or a constant behind it.

    Attributes:
        label: `embed`, `pos_embed`, `L3H1`, `L3.attn_bias`, `M3`, `L2.other` (layers without attention that we know),
            `norm_bias` or `logit_bias`.
        kind: 'embed', 'head', 'bias', 'mlp' or 'other'.
        layer: None for parts outside the layers.
        head: for heads alone.
    """

    label: str
    kind: str
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, eq=False)
class Writers:
    """The parts of a model's main tower, and what stands between them and the stream; made by `Writers.of`.

    Attributes:
        blocks: layer -> block, for the layers with attention.
        norms: layer -> the norm (Gemma 2, OLMo 2) or fixed factors (DINOv2, Granite) between its output projection and the
            stream; None without one.
        mlps: layers with an MLP.
    """

    model: HookedModel
    blocks: Mapping[int, Any]
    norms: Mapping[int, Norm | None]
    mlps: frozenset[int]

    @classmethod
    def of(cls, model: HookedModel) -> Writers:
        """Raises E403 where a layer does not write by adding, or a point that is needed is refused."""
        blocks = main_tower(model).blocks
        if any(block.norms is not None for block in blocks.values()):
            raise refused(
                model,
                POST_NORM,
                "ablate or patch heads instead (interp.ablate, interp.patch), or follow single paths (interp.paths)",
            )
        for layer in blocks:
            for kind in (PRE, Z, ATTN, POST):
                model.check_point(point_name(kind, layer))
        behind = {layer: (block.attn_write,) for layer, block in blocks.items()}
        norms = Kept(behind, lambda layer: cls._norm(model, layer, blocks[layer]))
        _ = dict(norms)  # refuses now what it does not know
        mlps = frozenset(layer for layer in blocks if point_name(MLP, layer) in model.adapter.available)
        return cls(model, blocks, norms, mlps)

    @staticmethod
    def _norm(model: HookedModel, layer: int, block: Any) -> Norm | None:
        width, times = model.w_out(layer).shape[-1], block.times
        if block.attn_write is block.out:
            ones = torch.ones(width, dtype=torch.float64, device=model.device)
            return None if times == 1 else Norm(times * ones, 0 * ones, centred=False, is_fixed=True)
        norm = Norm.of(block.attn_write, width) or Norm.fixed(block.attn_write, width)
        if norm is None:
            raise refused(model, f"layer {layer} scales what attention writes by something that is no norm")
        return replace(norm, gain=times * norm.gain, bias=times * norm.bias)

    @property
    def points(self) -> list[str]:
        """Hook points that hold what the parts wrote."""
        tower = [name for name in (EMBED, POS_EMBED) if name in self.model.adapter.available]
        kinds = {layer: (PRE, Z, ATTN, *([MLP] if layer in self.mlps else []), POST) for layer in self.blocks}
        return [*tower, *(point_name(kind, layer) for layer, of_layer in kinds.items() for kind in of_layer)]


class Record:
    """Hooks that keep what stands at the read positions, and all that heads may have looked at there."""

    def __init__(self, read_at: Int[Tensor, " batch"]) -> None:
        self.read_at = read_at
        self.tensors: dict[str, Tensor] = {}

    def hooks(self, names: list[str]) -> dict[str, HookFn]:
        """One hook a name; values are kept whole, of patterns and streams only the read position."""
        return {name: self._keep for name in names}

    def _keep(self, value: Tensor, context: HookContext) -> None:
        rows = torch.arange(len(value), device=value.device)
        read = self.read_at.to(value.device)
        if context.point.kind == PATTERN:
            value = value[rows, :, read]
        elif context.point.kind != VALUE:
            value = value[rows, read]
        self.tensors[context.name] = value.detach().double()

    def __getitem__(self, key: tuple[str, int] | str) -> Tensor:
        return self.tensors[key if isinstance(key, str) else point_name(*key)]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


@dataclass(frozen=True, eq=False)
class Attention:
    """What the attention of one layer wrote at the read position.

    Attributes:
        heads: of each head, as it arrived in the stream.
        bias: of no head: the output bias, and the bias of a norm behind it; None without either.
        scale: what the norm behind the output projection divided by; None without a norm.
    """

    heads: Float[Tensor, "batch head d_model"]
    bias: Rows | None
    scale: Float[Tensor, "batch 1"] | None


def attention_writes(writers: Writers, layer: int, record: Record) -> Attention:
    """Split what attention wrote over its heads, exactly: a norm on the way keeps the scale that the whole sum gave it.

    Raises:
        InterpError: E403 where the heads do not sum to what was written.
    """
    block, norm, written = writers.blocks[layer], writers.norms[layer], record[ATTN, layer]
    heads = torch.einsum("bhd,hdm->bhm", record[Z, layer], writers.model.w_out(layer).double())
    bias = None if block.out.bias is None else block.out.bias.detach().double().expand_as(written)
    scale = None
    if norm is not None:
        whole = heads.sum(1) if bias is None else heads.sum(1) + bias
        scale = norm.scale(whole, written)
        heads = norm.linear(heads, scale[:, None].expand(-1, heads.shape[1], -1))
        bias = norm.bias.expand_as(written) if bias is None else norm(bias, scale)
        bias = bias if bool(bias.any()) else None
    if not is_close(heads.sum(1) if bias is None else heads.sum(1) + bias, written, writers.model.dtype):
        raise refused(writers.model, f"the heads of layer {layer} do not sum to what its attention writes")
    return Attention(heads, bias, scale)


def embed_writes(writers: Writers, record: Record) -> Iterator[tuple[Part, Rows]]:
    """What enters the first layer: tokens and positions apart where they were added, else together."""
    first = min(writers.blocks)
    entering = record[PRE, first]
    token = record[EMBED] if EMBED in record else entering
    if POS_EMBED in record and is_close(token + record[POS_EMBED], entering, writers.model.dtype):
        yield Part("embed", "embed"), token
        yield Part("pos_embed", "embed"), entering - token
        return
    if first == 0 or token.shape != entering.shape:
        yield Part("embed", "embed"), entering
        return
    yield Part("embed", "embed"), token
    yield _other(0, first - 1), entering - token


def between_writes(writers: Writers, layer: int, record: Record, stream: Rows) -> Iterator[tuple[Part, Rows]]:
    """What layers without attention wrote after this one.

    Raises:
        InterpError: E403 where the stream changes and no layer did it.
    """
    later = [other for other in writers.blocks if other > layer]
    after = min(later, default=writers.model.n_layers)
    arriving, left = record[PRE, after] if later else stream, record[POST, layer]
    if torch.equal(arriving, left):
        return
    if after == layer + 1:
        reader = f"layer {after}" if later else "its final norm (or output layer, where no final norm was recognised)"
        raise refused(writers.model, f"what layer {layer} leaves is not what {reader} reads")
    yield _other(layer + 1, after - 1), arriving - left


def _other(first: int, last: int) -> Part:
    return Part(f"L{first}.other" if first == last else f"L{first}-{last}.other", "other", first)


def head_part(layer: int, head: int) -> Part:
    return Part(HeadId("", layer, head).label, "head", layer, head)
