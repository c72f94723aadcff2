"""`PlainTransformer`: a transformer whose parts can be left out, for models whose weights are written or trained to order.

Real architectures always bring a norm, a causal mask and a softmax. Compiled programs need none of the first two, and
the attention-sink models compare the third. Everything else is as usual, so hooks find what they find elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.hooks.adapters.registry import attend as hooked_attention
from interp.kernels.backends.eager import NORMALISERS, attention_pattern, attention_scores, repeat_kv, z_from_pattern
from interp.kernels.errors import InterpError, suggest

NORMS = ("layer", "none")


class PlainConfig(PreTrainedConfig):
    """Sizes and switches of a `PlainTransformer`.

    Attributes:
        intermediate_size: width of the MLP; 0 leaves the MLPs out.
        norm: 'layer' puts a LayerNorm before every attention, every MLP and the output layer; 'none' leaves them out.
        causal: whether a position sees only itself and what is before it.
        normaliser: what makes a pattern of scores: 'softmax', 'relu' or 'sigmoid', see `attention_pattern`.

    Raises:
        InterpError: E201, unknown norm or normaliser.
    """

    model_type = "plain"

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int = 0,
        hidden_act: str = "relu",
        max_position_embeddings: int = 64,
        norm: str = "layer",
        causal: bool = True,
        normaliser: str = "softmax",
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (("norm", norm, NORMS), ("normaliser", normaliser, NORMALISERS)):
            if value not in known:
                raise InterpError("E201", f"no {name} {value!r}", where="PlainConfig", fix=suggest(str(value), known))
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.norm = norm
        self.causal = causal
        self.normaliser = normaliser
        self.initializer_range = initializer_range
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class PlainAttention(nn.Module):
    """Multi-head attention with biases.

    Raises:
        InterpError: E205 in a forward, the chosen attention implementation computes a softmax and no other pattern.
    """

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.is_causal = config.causal
        self.q_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size)

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], attention_mask: Tensor | None
    ) -> Float[Tensor, "batch pos d_model"]:
        per_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (
            project(hidden_states).view(per_head).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        options = {"scaling": self.head_dim**-0.5, "dropout": 0.0}
        if self.config.normaliser != "softmax":
            check_normaliser(attend, self.config)
            options["normaliser"] = self.config.normaliser
        z, _ = attend(self, q, k, v, attention_mask, **options)
        return self.o_proj(z.reshape(*hidden_states.shape[:-1], -1))


def check_normaliser(attend: Callable[..., Any], config: PlainConfig) -> None:
    """Refuse attention that would take `normaliser` among the options it ignores, and compute a softmax.

    Raises:
        InterpError: E205.
    """
    if attend is not hooked_attention and "normaliser" not in signature(attend).parameters:
        what = f"attention {config._attn_implementation!r} computes a softmax, this model needs {config.normaliser!r}"
        raise InterpError("E205", what, where="PlainTransformer", fix='model.set_attn_implementation("eager")')


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    normaliser: str = "softmax",
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, as transformers asks for it: z [batch pos head d_head] and the pattern."""
    n_rep = query.shape[1] // key.shape[1]
    scores = attention_scores(query, repeat_kv(key, n_rep), scaling, mask=attention_mask)
    pattern = attention_pattern(scores, normaliser=normaliser)
    return z_from_pattern(pattern, repeat_kv(value, n_rep)), pattern


class PlainMLP(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class PlainLayer(nn.Module):
    """Attention, then the MLP where there is one; each reads the stream (normalised or not) and adds to it."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = PlainAttention(config)
        if config.intermediate_size:
            self.post_attention_layernorm = _norm(config)
            self.mlp = PlainMLP(config)

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], attention_mask: Tensor | None
    ) -> Float[Tensor, "batch pos d_model"]:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), attention_mask)
        if hasattr(self, "mlp"):
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class PlainModel(PreTrainedModel):
    """Everything below the output layer: tokens, learned positions, layers, final norm."""

    config_class = PlainConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["PlainLayer"]

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([PlainLayer(config) for _ in range(config.num_hidden_layers)])
        if config.norm == "layer":
            self.norm = _norm(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden_states = self.embed_tokens(input_ids) + self.embed_positions(position_ids)
        make_mask = create_causal_mask if self.config.causal else create_bidirectional_mask
        mask = make_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask, past_key_values=None
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return self.norm(hidden_states) if hasattr(self, "norm") else hidden_states


class PlainTransformer(PreTrainedModel):
    """`PlainModel` with an output layer of its own. See `PlainConfig`."""

    config_class = PlainConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["PlainLayer"]

    def __init__(self, config: PlainConfig) -> None:
        if config.normaliser != "softmax" and config._attn_implementation is None:
            config._attn_implementation = "eager"  # no fast path of torch computes another one
        super().__init__(config)
        self.model = PlainModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch pos"] | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        logits = self.lm_head(self.model(input_ids, attention_mask, position_ids))
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)


def _norm(config: PlainConfig) -> nn.Module:
    return nn.LayerNorm(config.hidden_size) if config.norm == "layer" else nn.Identity()


AutoConfig.register(PlainConfig.model_type, PlainConfig)
AutoModelForCausalLM.register(PlainConfig, PlainTransformer)
