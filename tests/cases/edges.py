"""Circuits by hand: forwards in float64 in which every reader sums its own inputs, writer by writer, by loops.

Their maths is written out here from the definitions of the architectures and shares nothing with the toolkit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp.circuits.edges.attribution import Contrast
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch, pad
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel

ANSWER, DISTRACTOR = 11, 12
Mix = Callable[[str, Mapping[str, Tensor]], Tensor]
"""A reader's name and what was written so far -> what it reads of that [batch pos d_model]."""


@cache
def opened(architecture: str, **overrides: Any) -> HookedModel:
    """A tiny model with large weights, opened once."""
    return HookedModel.from_hf(sharp_model(architecture, **overrides), name=architecture)


def prompts(model: Any, lengths: tuple[int, ...], seed: int, side: str = "right") -> Batch:
    """Random prompts of these lengths."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(3, 100, length).tolist() for length in lengths]
    found: Batch = model.batch(pad(rows, 0, side))
    return found


def asked(batch: Batch, name: str = "logit_diff") -> Question:
    """One answer against another at the end of each prompt."""
    ids = [torch.full((batch.size,), token) for token in (ANSWER, DISTRACTOR)]
    return Question(batch, batch.end, metric(name), *ids)


def contrasted(flow: Flow, clean: Batch, corrupt: Batch, **options: Any) -> Contrast:
    """Corrupt writers stand in for those whose edges are out."""
    return Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt), **options)


def paired(
    model: Any, seed: int = 0, lengths: tuple[int, ...] = (9, 7), side: str = "right"
) -> tuple[Flow, Batch, Batch]:
    """A model's graph, and random clean and corrupt prompts."""
    return Flow.of(model), prompts(model, lengths, seed, side), prompts(model, lengths, seed + 100, side)


class Hand:
    """A forward of one family; see the subclasses for what is its own."""

    parallel = False
    eps = 1e-5

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.w = {name: value.double() for name, value in model.state_dict().items()}
        self.unembed: Tensor = model.get_output_embeddings().weight.detach().double()
        self.layers: int = model.config.num_hidden_layers
        self.heads: int = model.config.num_attention_heads
        self.kv_heads: int = getattr(model.config, "num_key_value_heads", None) or self.heads

    def run(self, ids: Tensor, real: Tensor, mix: Mix) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what was written; `real` is True at tokens."""
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        writes = self.embeddings(ids, positions)
        constant = torch.zeros(())
        for layer in range(self.layers):

            def read(label: str, writes: dict[str, Tensor] = writes, constant: Tensor = constant) -> Tensor:
                return mix(label, writes) + constant

            shared = "H" if self.kv_heads == self.heads else "KV"
            counts = {"q": ("H", self.heads), "k": (shared, self.kv_heads), "v": (shared, self.kv_heads)}
            qkv = {
                part: torch.stack(
                    [self.project(layer, part, n, read(f"L{layer}{kind}{n}.{part}")) for n in range(count)], 2
                )
                for part, (kind, count) in counts.items()
            }
            inner = self.mlp(layer, read(f"M{layer}")) if self.parallel else None
            z = self.attend(layer, qkv, positions, real)
            heads, bias = self.write(layer, z)
            writes |= {f"L{layer}H{n}": heads[:, :, n] for n in range(self.heads)}
            constant = constant + bias
            writes[f"M{layer}"] = self.mlp(layer, mix(f"M{layer}", writes) + constant) if inner is None else inner
        return self.readout(mix("logits", writes) + constant), writes

    def attend(self, layer: int, qkv: Mapping[str, Tensor], positions: Tensor, real: Tensor) -> Tensor:
        """z [batch pos head d_head], head by head."""
        q, k = (self.turned(layer, part, qkv[part], positions) for part in "qk")
        index = torch.arange(real.shape[1])
        allowed = (index[:, None] >= index[None]) & (index[:, None] - index[None] < self.window(layer))
        allowed = allowed[None] & real[:, None]
        found = []
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            scores = self.capped(q[:, :, head] @ k[:, :, shared].mT * self.scaling(q.shape[-1]))
            pattern = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
            found.append(pattern @ qkv["v"][:, :, shared])
        return torch.stack(found, 2)

    def embeddings(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def project(self, layer: int, part: str, head: int, x: Tensor) -> Tensor:
        """What one head makes of the stream that it reads, the norm before its projections included."""
        raise NotImplementedError

    def write(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """What each head adds to the stream, and what none does."""
        raise NotImplementedError

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        raise NotImplementedError

    def readout(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def turned(self, layer: int, part: str, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def window(self, layer: int) -> int:
        return 1 << 30

    def scaling(self, d_head: int) -> float:
        return float(d_head**-0.5)

    def capped(self, scores: Tensor) -> Tensor:
        return scores


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def rms(x: Tensor, eps: float) -> Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotated(x: Tensor, positions: Tensor, theta: float, n: int) -> Tensor:
    """Pairs (i, i + n / 2) of the first n numbers turned by position * theta^(-2 i / n)."""
    angle = positions[..., None].double() * theta ** (-torch.arange(0, n, 2).double() / n)
    cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
    a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class Gpt2(Hand):
    """Learned positions, LayerNorm, q, k and v from one matrix."""

    def embeddings(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        return {
            "embed": self.w["transformer.wte.weight"][ids],
            "pos_embed": self.w["transformer.wpe.weight"][positions],
        }

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, self.w[f"transformer.{name}.weight"], self.w[f"transformer.{name}.bias"], self.eps)

    def project(self, layer: int, part: str, head: int, x: Tensor) -> Tensor:
        name = f"transformer.h.{layer}.attn.c_attn"
        d = self.w[f"{name}.weight"].shape[0]
        start = "qkv".index(part) * d + head * d // self.heads
        some = slice(start, start + d // self.heads)
        return self.norm(f"h.{layer}.ln_1", x) @ self.w[f"{name}.weight"][:, some] + self.w[f"{name}.bias"][some]

    def write(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        name = f"transformer.h.{layer}.attn.c_proj"
        each = self.w[f"{name}.weight"].unflatten(0, (self.heads, -1))
        return torch.stack([z[:, :, n] @ each[n] for n in range(self.heads)], 2), self.w[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        w, name = self.w, f"transformer.h.{layer}.mlp"
        inner = self.norm(f"h.{layer}.ln_2", x) @ w[f"{name}.c_fc.weight"] + w[f"{name}.c_fc.bias"]
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        return inner @ w[f"{name}.c_proj.weight"] + w[f"{name}.c_proj.bias"]

    def readout(self, x: Tensor) -> Tensor:
        return self.norm("ln_f", x) @ self.unembed.T


class Neox(Hand):
    """Heads and MLP side by side, rotary positions on a quarter of each head."""

    parallel = True

    def embeddings(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        return {"embed": self.w["gpt_neox.embed_in.weight"][ids]}

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, self.w[f"gpt_neox.{name}.weight"], self.w[f"gpt_neox.{name}.bias"], self.eps)

    def project(self, layer: int, part: str, head: int, x: Tensor) -> Tensor:
        name = f"gpt_neox.layers.{layer}.attention.query_key_value"
        weight = self.w[f"{name}.weight"].unflatten(0, (self.heads, 3, -1))[head, "qkv".index(part)]
        bias = self.w[f"{name}.bias"].unflatten(0, (self.heads, 3, -1))[head, "qkv".index(part)]
        return self.norm(f"layers.{layer}.input_layernorm", x) @ weight.T + bias

    def turned(self, layer: int, part: str, x: Tensor, positions: Tensor) -> Tensor:
        about = self.config.rope_parameters
        return rotated(x, positions, about["rope_theta"], int(x.shape[-1] * about["partial_rotary_factor"]))

    def write(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        name = f"gpt_neox.layers.{layer}.attention.dense"
        each = self.w[f"{name}.weight"].T.unflatten(0, (self.heads, -1))
        return torch.stack([z[:, :, n] @ each[n] for n in range(self.heads)], 2), self.w[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        w, name = self.w, f"gpt_neox.layers.{layer}.mlp"
        normed = self.norm(f"layers.{layer}.post_attention_layernorm", x)
        inner = nn.functional.gelu(normed @ w[f"{name}.dense_h_to_4h.weight"].T + w[f"{name}.dense_h_to_4h.bias"])
        return inner @ w[f"{name}.dense_4h_to_h.weight"].T + w[f"{name}.dense_4h_to_h.bias"]

    def readout(self, x: Tensor) -> Tensor:
        return self.norm("final_layer_norm", x) @ self.unembed.T


class Llama(Hand):
    """RMSNorm, rotary positions, shared keys and values, gated SiLU; with norms of each head's q and k, Qwen 3."""

    before, before_mlp = "input_layernorm", "post_attention_layernorm"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.eps = model.config.rms_norm_eps

    def embeddings(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        return {"embed": self.w["model.embed_tokens.weight"][ids]}

    def gain(self, name: str) -> Tensor:
        return self.w[f"model.{name}.weight"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / rms(x, self.eps) * self.gain(name)

    def project(self, layer: int, part: str, head: int, x: Tensor) -> Tensor:
        name = f"model.layers.{layer}.self_attn.{part}_proj"
        count = self.heads if part == "q" else self.kv_heads
        normed = self.norm(f"layers.{layer}.{self.before}", x) if self.before else x
        made = normed @ self.w[f"{name}.weight"].unflatten(0, (count, -1))[head].T
        bias = self.w.get(f"{name}.bias")
        return made if bias is None else made + bias.unflatten(0, (count, -1))[head]

    def turned(self, layer: int, part: str, x: Tensor, positions: Tensor) -> Tensor:
        if f"model.layers.{layer}.self_attn.{part}_norm.weight" in self.w:
            x = self.normed(f"layers.{layer}.self_attn.{part}_norm", x)
        return rotated(x, positions, self.config.rope_parameters["rope_theta"], x.shape[-1])

    def normed(self, name: str, x: Tensor) -> Tensor:
        """Queries or keys of all heads, each by itself."""
        return self.norm(name, x)

    def write(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        each = self.w[f"model.layers.{layer}.self_attn.o_proj.weight"].T.unflatten(0, (self.heads, -1))
        return torch.stack([z[:, :, n] @ each[n] for n in range(self.heads)], 2), torch.zeros(())

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"model.layers.{layer}.mlp"
        normed = self.norm(f"layers.{layer}.{self.before_mlp}", x) if self.before_mlp else x
        gate = self.activation(normed @ self.w[f"{name}.gate_proj.weight"].T)
        return (gate * (normed @ self.w[f"{name}.up_proj.weight"].T)) @ self.w[f"{name}.down_proj.weight"].T

    def activation(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)

    def readout(self, x: Tensor) -> Tensor:
        return self.norm("norm", x) @ self.unembed.T


class Sandwich(Llama):
    """Norms between what is written and the stream; the heads share the divisor of the norm of their sum."""

    behind_mlp = "post_feedforward_layernorm"

    def write(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        heads, bias = super().write(layer, z)
        gain = self.gain(f"layers.{layer}.post_attention_layernorm")
        return heads / rms(heads.sum(2), self.eps)[:, :, None] * gain, bias

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.norm(f"layers.{layer}.{self.behind_mlp}", super().mlp(layer, x))


class Olmo2(Sandwich):
    """Nothing but the stream is read; queries of all heads share one norm, and so do keys."""

    before, before_mlp = "", ""

    def normed(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x.flatten(-2)).view_as(x)


class Gemma2(Sandwich):
    """Gains less one, scaled embeddings, soft caps, every other layer with a window."""

    before_mlp = "pre_feedforward_layernorm"

    def embeddings(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        return {"embed": self.w["model.embed_tokens.weight"][ids] * self.config.hidden_size**0.5}

    def gain(self, name: str) -> Tensor:
        return 1 + super().gain(name)

    def window(self, layer: int) -> int:
        is_short = self.config.layer_types[layer] == "sliding_attention"
        return int(self.config.sliding_window) if is_short else super().window(layer)

    def scaling(self, d_head: int) -> float:
        return float(self.config.query_pre_attn_scalar**-0.5)

    def capped(self, scores: Tensor) -> Tensor:
        cap = self.config.attn_logit_softcapping
        return torch.tanh(scores / cap) * cap

    def activation(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate="tanh")

    def readout(self, x: Tensor) -> Tensor:
        cap = self.config.final_logit_softcapping
        return torch.tanh(super().readout(x) / cap) * cap


HANDS: dict[str, type[Hand]] = {
    "gpt2": Gpt2,
    "gpt_neox": Neox,
    "llama": Llama,
    "qwen2": Llama,
    "qwen3": Llama,
    "olmo2": Olmo2,
    "gemma2": Gemma2,
}


@torch.no_grad()
def all_in(hand: Hand, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The plain forward: logits, and what was written."""
    return hand.run(batch.input_ids, real(batch), lambda _, writes: sum(writes.values(), torch.zeros(())))


@torch.no_grad()
def by_hand(
    hand: Hand, flow: Flow, clean: Batch, stands_in: Mapping[str, Tensor], circuit: Any, place_of: Tensor | None = None
) -> Tensor:
    """The logit difference of each prompt where the edges out of a circuit [place writer reader] are out."""
    keep = torch.from_numpy(np.asarray(circuit)).double()
    at = torch.zeros_like(clean.input_ids) if place_of is None else place_of
    graph = flow.graph

    def mix(reader: str, writes: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for writer, value in writes.items():
            share = keep[at, graph.writer_index[writer], graph.reader_index[reader], None]
            total = total + share * value + (1 - share) * stands_in[writer]
        return total

    logits = hand.run(clean.input_ids, real(clean), mix)[0]
    last = logits[torch.arange(clean.size), clean.end]
    return last[:, ANSWER] - last[:, DISTRACTOR]


def real(batch: Batch) -> Tensor:
    """Where there are tokens."""
    assert batch.mask is not None
    return batch.mask.bool()
