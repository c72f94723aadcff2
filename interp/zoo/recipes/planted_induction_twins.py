"""The program of `planted_induction` in other architectures, where the previous position is found by rotation.

The slowest pairs of a head's dimensions turn by next to nothing over a whole prompt and hold words; three fast ones
hold a constant, turned back by one position in the query.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.zoo.recipes.planted_induction import HEADS, Induction

FAST = 3
"""Pairs of dimensions by which the previous position is found."""


@dataclass(frozen=True)
class Rotary(Induction):
    """The program with rotary positions.

    Attributes:
        theta: base of the angles: pair i turns by theta ** (-2 i / rotated) a position.
        d_head: dimensions of a head.
        rotated: how many of them turn, the first ones; the first half is paired with the second.
        slow: the first pair that holds words.
    """

    offset: ClassVar[tuple[str, str]] = ("embed->L0H0.q", "embed->L0H0.k")

    theta: float = 1e10
    d_head: int = 48
    rotated: int = 48
    slow: int = 7

    @property
    def content(self) -> Sequence[int]:
        half = self.rotated // 2
        turning_slowly = [*range(self.slow, half), *range(half + self.slow, self.rotated)]
        return [*turning_slowly, *range(self.rotated, self.d_head)][: self.n_words + 1]

    @property
    def angles(self) -> Float[Tensor, " pair"]:
        """By which the fast pairs turn from one position to the next."""
        return self.theta ** (-2 * torch.arange(FAST) / self.rotated)

    def write_offset(self, model: Any, q: Tensor, k: Tensor) -> None:
        one, half = self.parts["ONE"].start, self.rotated // 2
        q[one, :FAST] = self.angles.cos() / FAST**0.5
        q[one, half : half + FAST] = -self.angles.sin() / FAST**0.5
        k[one, :FAST] = FAST**-0.5

    @property
    def shape(self) -> dict[str, Any]:
        """What all configurations share."""
        return {
            "vocab_size": self.n_words + 2, "hidden_size": self.parts["ONE"].stop, "intermediate_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": HEADS, "max_position_embeddings": self.positions,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.theta},
        }  # fmt: skip


@dataclass(frozen=True)
class Llama(Rotary):
    """In Llama: RMSNorm and rotary positions."""

    kv_heads: ClassVar[int]

    def empty(self) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig(**self.shape, num_key_value_heads=self.kv_heads, head_dim=self.d_head))

    def norms(self, model: Any) -> Iterable[tuple[Any, float, float]]:
        first, second = model.model.layers
        norms = (first.input_layernorm, first.post_attention_layernorm, second.input_layernorm,
                 second.post_attention_layernorm, model.model.norm)  # fmt: skip
        return ((norm, ones, ones) for norm, ones in zip(norms, (2.0, 3.0, 3.0, 4.0, 4.0), strict=True))


@dataclass(frozen=True)
class PlantedInductionRmsnorm(Llama):
    """In Llama with multi-head attention."""

    name: ClassVar[str] = "planted-induction-rmsnorm"
    data: ClassVar[str] = (
        "Written by hand, from no data: the program of planted-induction in Llama, multi-head attention."
    )
    kv_heads: ClassVar[int] = HEADS


@dataclass(frozen=True)
class PlantedInductionGqa(Llama):
    """In Llama with two query heads to a key/value head."""

    name: ClassVar[str] = "planted-induction-gqa"
    data: ClassVar[str] = "Written by hand, from no data: the program of planted-induction in Llama, grouped queries."
    kv_heads: ClassVar[int] = HEADS // 2


@dataclass(frozen=True)
class PlantedInductionParallel(Rotary):
    """In GPT-NeoX: attention and MLP side by side, LayerNorm, a part of each head rotates."""

    name: ClassVar[str] = "planted-induction-parallel"
    data: ClassVar[str] = (
        "Written by hand, from no data: the program of planted-induction in GPT-NeoX, parallel blocks."
    )

    theta: float = 50.0
    d_head: int = 40
    rotated: int = 2 * FAST
    slow: int = FAST

    def empty(self) -> Any:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        rope = {**self.shape["rope_parameters"], "partial_rotary_factor": self.rotated / self.d_head}
        shape = {**self.shape, "hidden_size": HEADS * self.d_head, "rope_parameters": rope}
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, use_parallel_residual=True))

    def norms(self, model: Any) -> Iterable[tuple[Any, float, float]]:
        first, second = model.gpt_neox.layers
        norms = (first.input_layernorm, first.post_attention_layernorm, second.input_layernorm,
                 second.post_attention_layernorm, model.gpt_neox.final_layer_norm)  # fmt: skip
        return ((norm, ones, ones) for norm, ones in zip(norms, (2.0, 2.0, 3.0, 3.0, 4.0), strict=True))


@dataclass(frozen=True)
class PlantedInductionPostnorm(Rotary):
    """In OLMo 2: norms after attention and MLP instead of before them, and on all queries and keys of a layer."""

    name: ClassVar[str] = "planted-induction-postnorm"
    data: ClassVar[str] = (
        "Written by hand, from no data: the program of planted-induction in OLMo 2, norms after blocks."
    )

    def empty(self) -> Any:
        from transformers import Olmo2Config, Olmo2ForCausalLM

        shape = {**self.shape, "num_key_value_heads": HEADS, "head_dim": self.d_head}
        return Olmo2ForCausalLM(Olmo2Config(**shape))

    def norms(self, model: Any) -> Iterable[tuple[Any, float, float]]:
        for layer in model.model.layers:
            yield layer.post_attention_layernorm, 1.0, 1.0
            yield layer.post_feedforward_layernorm, self.noise**2, self.noise**2
            yield layer.self_attn.q_norm, 1.0, 1.0
            yield layer.self_attn.k_norm, 1.0, 1.0
        yield model.model.norm, 4.0, 4.0

    def sharpen(self, model: Any, layer: int, head: int, q: Tensor, score: float) -> None:
        """The norm on queries would undo a factor in their weights, so it carries it."""
        mine = slice(head * self.d_head, (head + 1) * self.d_head)
        model.model.layers[layer].self_attn.q_norm.weight[mine] *= score * self.d_head**0.5


RECIPES = (
    PlantedInductionRmsnorm(),
    PlantedInductionGqa(),
    PlantedInductionParallel(),
    PlantedInductionPostnorm(),
)
