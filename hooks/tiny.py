"""Tiny randomly initialised models of every supported architecture, with inputs that run them; offline, in seconds.

They carry no knowledge. They exist to prove that a hook is read where it should be and that an edit lands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LM = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LM_MHA = {key: value for key, value in LM.items() if key != "num_key_value_heads"}
VIT = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
)
EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
CLIP_TEXT = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=32,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
IMAGE_TOKEN = 120


@dataclass(frozen=True)
class TinySpec:
    """One architecture: the transformers class and configuration names, and the settings that make it tiny."""

    model: str
    config: str
    settings: dict[str, Any]
    bypasses_registry: bool = False


def _sub(config: str, **settings: Any) -> Callable[[], Any]:
    """A sub-configuration, built only when its model is."""

    def build() -> Any:
        import transformers

        return getattr(transformers, config)(**settings)

    return build


TINY: dict[str, TinySpec] = {
    "gpt2": TinySpec(
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(vocab_size=128, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    ),
    "gpt_neox": TinySpec("GPTNeoXForCausalLM", "GPTNeoXConfig", {**LM_MHA}),
    "llama": TinySpec("LlamaForCausalLM", "LlamaConfig", LM),
    "qwen2": TinySpec("Qwen2ForCausalLM", "Qwen2Config", LM),
    "qwen3": TinySpec("Qwen3ForCausalLM", "Qwen3Config", {**LM, "head_dim": 16}),
    "olmo2": TinySpec("Olmo2ForCausalLM", "Olmo2Config", LM),
    "phi3": TinySpec("Phi3ForCausalLM", "Phi3Config", LM),
    "gemma2": TinySpec("Gemma2ForCausalLM", "Gemma2Config", {**LM, "head_dim": 16, "sliding_window": 4}),
    "gemma3": TinySpec(
        "Gemma3ForCausalLM", "Gemma3TextConfig", {**LM, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 4}
    ),
    "mistral": TinySpec("MistralForCausalLM", "MistralConfig", {**LM, "sliding_window": 4}),
    "mixtral": TinySpec("MixtralForCausalLM", "MixtralConfig", {**LM, **EXPERTS}),
    "gpt_oss": TinySpec("GptOssForCausalLM", "GptOssConfig", {**LM, **EXPERTS, "head_dim": 16, "sliding_window": 4}),
    "bert": TinySpec(
        "BertForMaskedLM",
        "BertConfig",
        dict(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        ),
    ),
    "vit": TinySpec("ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 5}),
    "clip": TinySpec(
        "CLIPModel",
        "CLIPConfig",
        dict(
            text_config={**CLIP_TEXT, "projection_dim": 16},
            vision_config={**VIT, "projection_dim": 16},
            projection_dim=16,
        ),
    ),
    "siglip": TinySpec(
        "SiglipModel", "SiglipConfig", dict(text_config={**CLIP_TEXT, "projection_size": 32}, vision_config=VIT)
    ),
    "dinov2_with_registers": TinySpec(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        dict(
            hidden_size=32,
            mlp_ratio=2,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            num_register_tokens=4,
        ),
    ),
    "llava": TinySpec(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        dict(
            vision_config=_sub("CLIPVisionConfig", **VIT, projection_dim=16),
            text_config=_sub("LlamaConfig", **LM),
            image_token_id=IMAGE_TOKEN,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        ),
    ),
    "qwen2_5_vl": TinySpec(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        dict(
            text_config={
                **LM,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            },
            vision_config=dict(
                depth=2,
                hidden_size=32,
                intermediate_size=64,
                num_heads=4,
                patch_size=8,
                spatial_merge_size=2,
                temporal_patch_size=2,
                out_hidden_size=64,
                window_size=32,
                fullatt_block_indexes=[1],
                in_channels=3,
            ),
            image_token_id=IMAGE_TOKEN,
            video_token_id=121,
            vision_start_token_id=122,
            vision_end_token_id=123,
        ),
    ),
    "gemma3_vlm": TinySpec(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        dict(
            text_config=_sub("Gemma3TextConfig", **{**LM, "head_dim": 16, "sliding_window": 4}),
            vision_config=_sub("SiglipVisionConfig", **VIT),
            mm_tokens_per_image=4,
            image_token_id=IMAGE_TOKEN,
            boi_token_id=121,
            eoi_token_id=122,
        ),
    ),
    "bloom": TinySpec(
        "BloomForCausalLM",
        "BloomConfig",
        dict(vocab_size=128, hidden_size=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
        True,
    ),
    "falcon": TinySpec(
        "FalconForCausalLM",
        "FalconConfig",
        dict(
            vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2
        ),
        True,
    ),
    "gptj": TinySpec(
        "GPTJForCausalLM",
        "GPTJConfig",
        dict(
            vocab_size=128, n_positions=64, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, bos_token_id=1, eos_token_id=2
        ),
        True,
    ),
}


def tiny_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """A randomly initialised transformers model in evaluation mode; `overrides` change its configuration."""
    import transformers

    spec = TINY[name]
    settings = {key: value() if callable(value) else value for key, value in spec.settings.items()}
    config = getattr(transformers, spec.config)(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, spec.model)(config)
        for parameter in model.parameters():
            if (
                parameter.ndim > 1 and not parameter.any()
            ):  # projections that start at zero would hide every edit before them
                torch.nn.init.normal_(parameter, std=0.02)
    return model.to(dtype).eval()
