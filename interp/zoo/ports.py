"""Where a model of the zoo's families reads its stream and writes to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Layer:
    """Where one layer reads the stream and writes to it.

    Attributes:
        attn: the module that calls the attention function.
        attn_in, mlp_in: modules whose input is the stream as attention and MLP find it; no MLP where None.
        out: the output projection of the heads.
        attn_norm: the RMS norm that their sum goes through before it joins the stream; mostly None.
        mlp_out: the module whose output the MLP adds to the stream.
        parallel: whether the MLP reads the same stream as the heads.
    """

    attn: nn.Module
    attn_in: nn.Module
    out: Any
    mlp_in: nn.Module | None
    mlp_out: nn.Module | None
    attn_norm: Any = None
    parallel: bool = False


@dataclass(frozen=True)
class Ports:
    """Where a model's stream begins and ends, and its layers."""

    embeddings: dict[str, nn.Module]
    layers: tuple[Layer, ...]
    final: nn.Module
    heads: int


def find_ports(model: Any) -> Ports:
    """The places in a model of one of the families that the zoo is made of.

    Raises:
        KeyError: the family is not among them.
    """
    readers = {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "llama": _llama, "plain": _llama, "olmo2": _olmo2}
    return readers[model.config.model_type](model)


def _gpt2(model: Any) -> Ports:
    body = model.transformer
    layers = (Layer(b.attn, b.ln_1, b.attn.c_proj, b.ln_2, b.mlp) for b in body.h)
    embeddings = {"embed": body.wte, "pos_embed": body.wpe}
    return Ports(embeddings, tuple(layers), body.ln_f, model.config.n_head)


def _gpt_neox(model: Any) -> Ports:
    body, heads = model.gpt_neox, model.config.num_attention_heads
    layers = (
        Layer(b.attention, b.input_layernorm, b.attention.dense, b.post_attention_layernorm, b.mlp, None,
              b.use_parallel_residual)
        for b in body.layers
    )  # fmt: skip
    return Ports({"embed": body.embed_in}, tuple(layers), body.final_layer_norm, heads)


def _llama(model: Any) -> Ports:
    body = model.model
    layers = (
        Layer(b.self_attn, b.input_layernorm, b.self_attn.o_proj, getattr(b, "post_attention_layernorm", None),
              getattr(b, "mlp", None))
        for b in body.layers
    )  # fmt: skip
    embeddings = {"embed": body.embed_tokens, "pos_embed": getattr(body, "embed_positions", None)}
    present = {name: module for name, module in embeddings.items() if module is not None}
    return Ports(present, tuple(layers), getattr(body, "norm", model.lm_head), model.config.num_attention_heads)


def _olmo2(model: Any) -> Ports:
    body = model.model
    layers = (
        Layer(b.self_attn, b.self_attn, b.self_attn.o_proj, b.mlp, b.post_feedforward_layernorm,
              b.post_attention_layernorm)
        for b in body.layers
    )  # fmt: skip
    return Ports({"embed": body.embed_tokens}, tuple(layers), body.norm, model.config.num_attention_heads)
