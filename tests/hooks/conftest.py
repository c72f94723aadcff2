"""Tiny opened models, tokenizers made on the spot, and forwards written out by hand to hold them against."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Edit = Callable[[str, Tensor], Tensor]
Naive = Callable[..., tuple[Tensor, dict[str, Tensor]]]

NAMES = ("Mary", "John", "Anna", "Paul", "Lucy", "Mark")
CORPUS = [
    f"When {a} and {b} went to the store, {a} gave a drink to {b}. The cat sat on the mat and {c} laughed."
    for a in NAMES
    for b in NAMES
    for c in NAMES
]


@pytest.fixture(scope="session")
def hooked() -> Callable[..., Any]:
    """hooked("llama", dtype=..., **config) -> HookedModel of a tiny model; the same arguments give the same object."""
    from interp.hooks.architectures import sharp_model
    from interp.hooks.model import HookedModel

    @cache
    def build(architecture: str, tokenizer: Any = None, **overrides: Any) -> HookedModel:
        return HookedModel.from_hf(sharp_model(architecture, **overrides), tokenizer, name=architecture)

    return build


@pytest.fixture(scope="session")
def bpe() -> Any:
    """A byte-level tokenizer that puts <s> first, knows every byte, and has ' Mary' and the like as one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def wordpiece() -> Any:
    """A BERT tokenizer over the same words: [CLS] first, [SEP] last, [MASK] asks."""
    from transformers import BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.lower() for text in CORPUS for word in re.findall(r"\w+", text)})
    pieces = [".", ",", "[", "]", "##s", "##ed", *words]
    return BertTokenizerFast(vocab={token: index for index, token in enumerate([*special, *pieces])})


@pytest.fixture(scope="session")
def naive() -> Callable[[nn.Module], Naive]:
    """naive(hf_model)(ids, real=None, edit=None) -> logits and every named activation, by hand in float64."""

    def choose(model: Any) -> Naive:
        forward = {"gpt2": gpt2_by_hand, "llama": llama_by_hand}[model.config.model_type]
        return lambda *args, **kwargs: forward(model, *args, **kwargs)

    return choose


class Notes(dict[str, Tensor]):
    """Records a value under its name and lets `edit` change it first."""

    def __init__(self, edit: Edit | None) -> None:
        self.edit = edit

    def at(self, name: str, value: Tensor) -> Tensor:
        self[name] = value if self.edit is None else self.edit(name, value)
        return self[name]


def attended(notes: Notes, block: str, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """z [batch pos head d_head] from q [batch pos head d_head] and k, v [batch pos kv_head d_head], head by head."""
    heads = range(q.shape[2])
    group = q.shape[2] // k.shape[2]
    scores = torch.stack([torch.einsum("bqd,bkd->bqk", q[:, :, h], k[:, :, h // group]) for h in heads], 1)
    scores = (scores / q.shape[-1] ** 0.5).masked_fill(~allowed[:, None], float("-inf"))
    scores = notes.at(f"{block}.attn.hook_attn_scores", scores)
    pattern = notes.at(f"{block}.attn.hook_pattern", scores.softmax(-1).nan_to_num(0.0))
    z = torch.stack([torch.einsum("bqk,bkd->bqd", pattern[:, h], v[:, :, h // group]) for h in heads], 2)
    return notes.at(f"{block}.attn.hook_z", notes.at(f"{block}.attn.hook_operator", z))


def visible_keys(ids: Tensor, real: Tensor | None) -> Tensor:
    """Which keys each query may see [batch query_pos key_pos]: real ones that are not later."""
    n = ids.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    return causal[None].expand(len(ids), n, n) if real is None else causal[None] & real[:, None, :]


@torch.no_grad()
def gpt2_by_hand(model: Any, ids: Tensor, real: Tensor | None = None, edit: Edit | None = None) -> tuple[Tensor, Notes]:
    """GPT-2: learned positions, LayerNorm before each part, fused q k v, GELU by its tanh formula."""
    notes, w = Notes(edit), {name: value.double() for name, value in model.state_dict().items()}
    n_heads, eps = model.config.n_head, model.config.layer_norm_epsilon
    allowed = visible_keys(ids, real)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        if name == "ln_f":
            notes.at("ln_final.hook_scale", scale)
        return centred / scale * w[f"transformer.{name}.weight"] + w[f"transformer.{name}.bias"]

    positions = torch.arange(ids.shape[1]).expand_as(ids)
    x = notes.at("hook_embed", w["transformer.wte.weight"][ids])
    x = x + notes.at("hook_pos_embed", w["transformer.wpe.weight"][positions])
    for layer in range(model.config.n_layer):
        h, block = f"h.{layer}", f"blocks.{layer}"
        x = notes.at(f"{block}.hook_resid_pre", x)
        fused = norm(x, f"{h}.ln_1") @ w[f"transformer.{h}.attn.c_attn.weight"]
        fused = fused + w[f"transformer.{h}.attn.c_attn.bias"]
        q, k, v = (part.unflatten(-1, (n_heads, -1)) for part in fused.chunk(3, -1))
        q, k, v = (notes.at(f"{block}.attn.hook_{name}", part) for name, part in (("q", q), ("k", k), ("v", v)))
        z = attended(notes, block, q, k, v, allowed)
        w_out = w[f"transformer.{h}.attn.c_proj.weight"].unflatten(0, (n_heads, -1))
        result = notes.at(f"{block}.attn.hook_result", torch.einsum("bphd,hdm->bphm", z, w_out))
        out = notes.at(f"{block}.hook_attn_out", result.sum(2) + w[f"transformer.{h}.attn.c_proj.bias"])
        x = notes.at(f"{block}.hook_resid_mid", x + out)
        entering = notes.at(f"{block}.hook_mlp_in", x)
        inner = (
            norm(entering, f"{h}.ln_2") @ w[f"transformer.{h}.mlp.c_fc.weight"] + w[f"transformer.{h}.mlp.c_fc.bias"]
        )
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        out = inner @ w[f"transformer.{h}.mlp.c_proj.weight"] + w[f"transformer.{h}.mlp.c_proj.bias"]
        x = notes.at(f"{block}.hook_resid_post", x + notes.at(f"{block}.hook_mlp_out", out))
    return norm(x, "ln_f") @ w["transformer.wte.weight"].T, notes


@torch.no_grad()
def llama_by_hand(
    model: Any, ids: Tensor, real: Tensor | None = None, edit: Edit | None = None
) -> tuple[Tensor, Notes]:
    """Llama: rotary positions, RMSNorm before each part, grouped keys and values, gated SiLU."""
    notes, w = Notes(edit), {name.removeprefix("model."): value.double() for name, value in model.state_dict().items()}
    config = model.config
    n_heads, n_kv, d_head = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    allowed = visible_keys(ids, real)

    def norm(x: Tensor, name: str) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        if name == "norm":
            notes.at("ln_final.hook_scale", scale)
        return x / scale * w[f"{name}.weight"]

    def rotated(x: Tensor) -> Tensor:
        """Pairs (i, i + d_head / 2) turned by position * theta^(-2 i / d_head)."""
        theta = config.rope_parameters["rope_theta"]
        angle = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(0, d_head, 2) / d_head)[None]
        cos, sin = angle.double().cos()[None, :, None], angle.double().sin()[None, :, None]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    x = notes.at("hook_embed", w["embed_tokens.weight"][ids])
    for layer in range(config.num_hidden_layers):
        h, block = f"layers.{layer}", f"blocks.{layer}"
        x = notes.at(f"{block}.hook_resid_pre", x)
        normed = norm(x, f"{h}.input_layernorm")
        counts = {"q": n_heads, "k": n_kv, "v": n_kv}
        q, k, v = (
            notes.at(
                f"{block}.attn.hook_{name}",
                (normed @ w[f"{h}.self_attn.{name}_proj.weight"].T).unflatten(-1, (count, d_head)),
            )
            for name, count in counts.items()
        )
        q, k = (notes.at(f"{block}.attn.hook_rot_{name}", rotated(part)) for name, part in (("q", q), ("k", k)))
        z = attended(notes, block, q, k, v, allowed)
        w_out = w[f"{h}.self_attn.o_proj.weight"].T.unflatten(0, (n_heads, d_head))
        result = notes.at(f"{block}.attn.hook_result", torch.einsum("bphd,hdm->bphm", z, w_out))
        x = notes.at(f"{block}.hook_resid_mid", x + notes.at(f"{block}.hook_attn_out", result.sum(2)))
        normed = norm(notes.at(f"{block}.hook_mlp_in", x), f"{h}.post_attention_layernorm")
        gate = nn.functional.silu(normed @ w[f"{h}.mlp.gate_proj.weight"].T)
        out = (gate * (normed @ w[f"{h}.mlp.up_proj.weight"].T)) @ w[f"{h}.mlp.down_proj.weight"].T
        x = notes.at(f"{block}.hook_resid_post", x + notes.at(f"{block}.hook_mlp_out", out))
    return norm(x, "norm") @ w["lm_head.weight"].T, notes
