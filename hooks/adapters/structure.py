"""Where the attention blocks of a transformers model are: found by name here, proven by numbers in `proof.py`.

Architectures differ in what they call things, not in what they do. The lists below are those names, in the order in
which they are tried. A guess that is wrong costs a hook point, never a wrong number: `proof` refuses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

ATTENTION = (
    "attention.self",
    "attention.attention",
    "attn.attention",
    "self_attn",
    "self_attention",
    "attn",
    "attention",
    "SelfAttention",
)
OUT_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "proj", "wo", "Wo", "out_lin")
MLP_WRITE = (
    "post_feedforward_layernorm",
    "post_mlp_layernorm",
    "layer_scale2",
    "mlp",
    "feed_forward",
    "block_sparse_moe",
    "ffn",
    "fc2",
)
POST_NORMS = (("attention.output.LayerNorm", "output.LayerNorm"), ("sa_layer_norm", "output_layer_norm"))
OPT_NORMS = ("self_attn_layer_norm", "final_layer_norm")
"""Where OPT's layers say that they normalise after; the others normalise before by the same names."""
FINAL_NORM = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "layernorm",
    "post_layernorm",
    "ln_post",
    "layer_norm",
)
EMBED = (
    "embed_tokens",
    "wte",
    "embed_in",
    "word_embeddings",
    "embeddings.word_embeddings",
    "embeddings.token_embedding",
    "token_embedding",
    "embeddings",
    "patch_embed",
)
POSITION_EMBED = ("wpe", "embeddings.position_embeddings", "embed_positions")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
KV_HEAD_COUNTS = ("num_kv_heads", "num_key_value_heads")


@dataclass(frozen=True, eq=False)
class Block:
    """One layer with attention.

    Attributes:
        module: the layer; its input is resid_pre and its output resid_post.
        attn: the module that calls the attention function.
        out: output projection; its input is z.
        attn_write: its output is what attention adds to the residual stream (a norm or scale may stand after `out`).
        mlp_write: the same for the MLP; None where no name fits.
        norms: (after attention, after MLP) in post-norm blocks, where the sum is normalised before it goes on.
        times: what attention and MLP write is multiplied by on its way to the stream (Granite).
    """

    layer: int
    module: nn.Module
    attn: nn.Module
    out: nn.Module
    attn_write: nn.Module
    mlp_write: nn.Module | None
    norms: tuple[nn.Module, nn.Module] | None
    n_heads: int
    n_kv_heads: int
    d_head: int
    times: float = 1.0

    @property
    def w_out(self) -> Tensor:
        """Output projection as [head, d_head, d_model]. Conv1D stores it as (in, out), Linear as (out, in)."""
        weight: Any = self.out.weight
        weight = weight.detach() if type(self.out).__name__ == "Conv1D" else weight.detach().T
        return weight.reshape(self.n_heads, self.d_head, -1)


@dataclass(frozen=True, eq=False)
class Tower:
    """One stack of layers: the language model, or the vision model beside it.

    Attributes:
        name: '' for the main stack, 'vision' or another prefix otherwise.
        path: where the list of layers is in the model.
        blocks: layer number -> block, for the layers that have attention.
        n_layers: number of layers, with and without attention.
    """

    name: str
    path: str
    n_layers: int
    blocks: dict[int, Block]
    embed: nn.Module | None
    pos_embed: nn.Module | None
    final_norm: nn.Module | None

    @property
    def heads(self) -> tuple[int, ...]:
        """Query heads of each layer; 0 in layers without attention."""
        return tuple(self.blocks[layer].n_heads if layer in self.blocks else 0 for layer in range(self.n_layers))

    @property
    def kv_heads(self) -> tuple[int, ...]:
        return tuple(self.blocks[layer].n_kv_heads if layer in self.blocks else 0 for layer in range(self.n_layers))


def find_towers(model: nn.Module) -> tuple[Tower, ...]:
    """Every stack of layers that has attention, main stack first."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            blocks = {
                layer: block for layer, child in enumerate(module) if (block := find_block(layer, child)) is not None
            }
            if blocks:
                found.append((path, len(module), blocks))
    names = _tower_names([path for path, _, _ in found])
    towers = [
        _tower(model, name, path, n_layers, blocks) for name, (path, n_layers, blocks) in zip(names, found, strict=True)
    ]
    return tuple(sorted(towers, key=lambda tower: tower.name))


def _tower_names(paths: list[str]) -> list[str]:
    if len(paths) == 1:
        return [""]
    roles = [
        "vision"
        if "vis" in path
        else "audio"
        if "audio" in path
        else "encoder"
        if "encoder" in path and "text" not in path
        else ""
        for path in paths
    ]
    return [role if roles.count(role) == 1 else path.replace(".", "_") for role, path in zip(roles, paths, strict=True)]


def _tower(model: nn.Module, name: str, path: str, n_layers: int, blocks: dict[int, Block]) -> Tower:
    """The norm, embedding and position embedding stand beside the layers, or one or two levels above them."""
    parts = path.split(".")
    owners = [
        model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) - 1, max(len(parts) - 3, -1), -1)
    ]

    def beside(names: tuple[str, ...]) -> nn.Module | None:
        return next((module for owner in owners for module in _named(owner, names)), None)

    return Tower(name, path, n_layers, blocks, beside(EMBED), beside(POSITION_EMBED), beside(FINAL_NORM))


def _named(owner: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    for name in names:
        module: Any = owner
        for part in name.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.Module):
            yield module


def find_block(layer: int, module: nn.Module) -> Block | None:
    """The attention block in a layer; None where the layer has none that we recognise."""
    for attn in _named(module, ATTENTION):
        out = next((found for owner in _owners(module, attn) for found in _named(owner, OUT_PROJECTION)), None)
        n_heads = head_count(attn)
        if out is None or not n_heads or not hasattr(out, "weight"):
            continue
        weight: Any = out.weight
        width = int(weight.shape[0] if type(out).__name__ == "Conv1D" else weight.shape[1])
        groups: Any = getattr(attn, "num_key_value_groups", 1) or 1
        n_kv_heads = next(
            (value for name in KV_HEAD_COUNTS if isinstance(value := getattr(attn, name, None), int)),
            n_heads // int(groups),
        )
        return Block(
            layer,
            module,
            attn,
            out,
            _attn_write(module, out),
            _mlp_write(module),
            _post_norms(module),
            n_heads,
            n_kv_heads,
            width // n_heads,
            float(getattr(module, "residual_multiplier", 1.0)),
        )
    return None


def _owners(module: nn.Module, attn: nn.Module) -> Iterator[nn.Module]:
    """Where the output projection may be: in the attention module, or (BERT) in an `output` module beside it."""
    yield attn
    yield from _named(module, ("attention.output",))


def head_count(attn: nn.Module) -> int | None:
    """Number of query heads, from the module or its configuration."""
    owners = (attn, getattr(attn, "config", None))
    return next(
        (
            int(getattr(owner, name))
            for owner in owners
            for name in HEAD_COUNTS
            if isinstance(getattr(owner, name, None), int)
        ),
        None,
    )


def _attn_write(module: nn.Module, out: nn.Module) -> nn.Module:
    """A norm (Gemma, OLMo 2, GLM 4) or a scale (DINOv2) may stand between the projection and the residual stream."""
    behind = ("post_self_attn_layernorm", "layer_scale1")
    names = ("post_attention_layernorm",) if hasattr(module, "post_feedforward_layernorm") else behind
    return next(_named(module, names), out)


def _mlp_write(module: nn.Module) -> nn.Module | None:
    names = MLP_WRITE if _post_norms(module) is None else ("output.dense", "ffn", "fc2")
    found = next(_named(module, names), None)
    if found is None or "residual" not in inspect.signature(found.forward).parameters:
        return found
    # Bloom and MPT hand the stream to their MLP, which adds it itself: what it writes leaves its last linear layer.
    return next((one for one in reversed(list(found.modules())) if isinstance(one, nn.Linear)), None)


def _post_norms(module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """BERT-like layers: normalise(resid_pre + attention), then normalise(that + MLP)."""
    pairs = POST_NORMS if getattr(module, "do_layer_norm_before", True) else (*POST_NORMS, OPT_NORMS)
    for names in pairs:
        first, second = (next(_named(module, (name,)), None) for name in names)
        if first is not None and second is not None:
            return first, second
    return None


def with_measured_heads(block: Block, n_heads: int, n_kv_heads: int) -> Block:
    """The block with the head counts that the attention call itself showed."""
    return replace(block, n_heads=n_heads, n_kv_heads=n_kv_heads, d_head=block.d_head * block.n_heads // n_heads)
