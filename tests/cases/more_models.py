"""Tiny models of architectures beyond `interp.hooks.tiny.TINY`, each of which does something in a way of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from interp.hooks.architectures import SPREAD
from interp.hooks.model import HookedModel
from interp.hooks.tiny import CLIP_TEXT, LM, LM_MHA, TinySpec

EXPERTS = dict(num_experts=4, num_experts_per_tok=2)
GPT = dict(vocab_size=128, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
OPT = dict(**CLIP_TEXT, ffn_dim=64, word_embed_proj_dim=32)
NEO = dict(
    vocab_size=128,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    attention_types=[[["global", "local"], 1]],
    window_size=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
LATENT = dict(
    n_routed_experts=4,
    n_group=1,
    topk_group=1,
    num_experts_per_tok=2,
    q_lora_rank=None,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=16,
    moe_intermediate_size=32,
    first_k_dense_replace=1,
)

MORE: dict[str, TinySpec] = {
    "codegen": TinySpec("CodeGenForCausalLM", "CodeGenConfig", dict(**GPT, n_ctx=64, rotary_dim=8)),
    "deepseek_v2": TinySpec("DeepseekV2ForCausalLM", "DeepseekV2Config", {**LM_MHA, **LATENT}),
    "distilbert": TinySpec(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        dict(vocab_size=128, dim=64, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=64),
    ),
    "glm4": TinySpec("Glm4ForCausalLM", "Glm4Config", {**LM, "head_dim": 16}),
    "gpt_bigcode": TinySpec("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT),
    "gpt_neo": TinySpec("GPTNeoForCausalLM", "GPTNeoConfig", NEO),
    "granite": TinySpec(
        "GraniteForCausalLM", "GraniteConfig", {**LM, "residual_multiplier": 0.5, "logits_scaling": 2.0}
    ),
    "modernbert": TinySpec(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**LM_MHA, "sep_token_id": 3, "cls_token_id": 4, "reference_compile": False},
    ),
    "mpt": TinySpec("MptForCausalLM", "MptConfig", dict(vocab_size=128, d_model=64, n_layers=2, n_heads=4)),
    "nemotron": TinySpec("NemotronForCausalLM", "NemotronConfig", LM),
    "olmo": TinySpec("OlmoForCausalLM", "OlmoConfig", LM),
    "olmo_clipped": TinySpec("OlmoForCausalLM", "OlmoConfig", {**LM, "clip_qkv": 1.0}),
    "olmoe": TinySpec("OlmoeForCausalLM", "OlmoeConfig", {**LM, **EXPERTS}),
    "opt": TinySpec("OPTForCausalLM", "OPTConfig", OPT),
    "opt_post_norm": TinySpec("OPTForCausalLM", "OPTConfig", {**OPT, "do_layer_norm_before": False}),
}


@cache
def opened_more(name: str) -> HookedModel:
    """One of them with large weights, opened once."""
    import transformers

    spec = MORE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = getattr(transformers, spec.model)(getattr(transformers, spec.config)(**spec.settings)).eval()
        with torch.no_grad():
            for parameter in (one for one in model.parameters() if one.ndim > 1):
                torch.nn.init.normal_(parameter, std=SPREAD)
    return HookedModel.from_hf(model, name=name)
