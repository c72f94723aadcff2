"""TransformerLens bridges as hooked models, and hooked models as bridges."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.adapters.base import Adapter, Fired, Hooks, MidStream, fire_at
from interp.hooks.adapters.probe_inputs import N_TOKENS
from interp.hooks.adapters.proof import close
from interp.hooks.batch import Batch
from interp.hooks.names import POINTS, READ_ONLY, SQUARE, TOWER_POINTS, PointId
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from interp.hooks.model import HookedModel

Pair = tuple[str, Callable[..., Any]]
DERIVED = "attn.hook_result"
SCORES = "attn.hook_attn_scores"
ABSENT = "this bridge has no such hook point"
NO_SUM = (
    "resid_pre and attn_out do not add up to this bridge's resid_mid; an edit of it would not reach what skips the MLP"
)
DEAD = "the bridge fires this hook on a tensor that was already used; a change of it is dropped"


class BridgeAdapter(Adapter):
    """A booted or native `TransformerBridge`, read and edited through its own hook points.

    Every point is tried once with a large edit; those that change nothing are refused.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        if bridge.training:
            raise InterpError(
                "E205",
                "the bridge is in training mode; dropout would make every number random",
                fix="call bridge.eval()",
            )
        if getattr(bridge.original_model, "main_input_name", "input_ids") != "input_ids":
            raise InterpError(
                "E403",
                "this bridge does not read tokens",
                fix="open the transformers model itself with HookedModel.from_hf",
            )
        self.bridge = bridge
        config = bridge.cfg
        n_layers, n_heads = config.n_layers, config.n_heads
        self.heads: Mapping[str, tuple[int, ...]] = {"": (n_heads,) * n_layers}
        self.kv_heads: Mapping[str, tuple[int, ...]] = {"": (config.n_key_value_heads or n_heads,) * n_layers}
        self.output_name = "logits"
        self.n_positions: int | None = config.n_ctx
        self.n_tokens: int | None = config.d_vocab
        self.answers_at_mask = (config.architecture or "").endswith("ForMaskedLM")
        self.position_ids = "none"
        self.probe_inputs = {"input_ids": torch.arange(3, 3 + N_TOKENS)[None] % config.d_vocab}
        self.available, self.refused = self._prove()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.bridge.parameters()).device

    def w_out(self, layer: int, tower: str = "") -> Tensor:
        """Output projection of a layer [head d_head d_model]."""
        return self.bridge.blocks[layer].attn.W_O.detach()

    def describe(self) -> dict[str, Any]:
        return {
            "architecture": self.bridge.cfg.architecture or type(self.bridge).__name__,
            "model_type": "transformer_lens",
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": ["eager"],
        }

    def plain_forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The bridge's logits with no hooks of ours."""
        return self.bridge(
            inputs["input_ids"].to(self.device), attention_mask=inputs.get("attention_mask"), return_type="logits"
        )

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The same; hooks act inside the bridge."""
        return self.plain_forward(inputs)

    @contextmanager
    def attached(self, hooks: Hooks, batch: Batch | None) -> Iterator[Fired]:
        """Hooks are in place inside the block and gone after it, also after an error."""
        fired: Fired = Counter()
        visible = VisibleKeys()
        first: list[Pair] = []
        middle: list[Pair] = []
        last: list[Pair] = []
        for layer in {self.available[name].layer for name in hooks if name.endswith("hook_pattern")}:
            scores = PointId("", SCORES, layer)
            if scores.name in self.available:
                first.append((scores.name, lambda x, hook, layer=layer: visible.note(layer, x)))
        for name, functions in hooks.items():
            point = self.available[name]
            run = partial(fire_at, functions, point, batch, fired)
            if point.kind == "hook_resid_mid":
                last += _through_attn_out(point, run)
            else:
                middle.append((name, lambda x, hook, run=run, point=point: run(x, 0, None, visible.at(point, x))))
        with self.bridge.hooks(fwd_hooks=[*first, *middle, *last]):
            yield fired

    @torch.no_grad()
    def _prove(self) -> tuple[dict[str, PointId], dict[str, str]]:
        """Points the bridge has, less those whose kind drops edits in the first layer."""
        plain, seen = self.bridge.run_with_cache(self.probe_inputs["input_ids"].to(self.device))
        cache = dict(seen.items())
        points = [PointId("", kind) for kind in TOWER_POINTS]
        points += [
            PointId("", kind, layer)
            for kind in POINTS
            if kind not in TOWER_POINTS
            for layer in range(self.bridge.cfg.n_layers)
        ]
        refused = {point.name: ABSENT for point in points if point.name not in cache and point.kind != DERIVED}
        for kind in set(POINTS) - READ_ONLY - {"hook_resid_mid"}:
            first = PointId("", kind, None if kind in TOWER_POINTS else 0)
            if first.name in cache and not self._is_live(first.name, plain):
                refused.update({point.name: DEAD for point in points if point.kind == kind})
        for point in points:
            if point.kind == "hook_resid_mid" and point.name not in refused and not _adds_up(point, cache, refused):
                refused[point.name] = NO_SUM
        return {point.name: point for point in points if point.name not in refused}, refused

    def _is_live(self, name: str, plain: Tensor) -> bool:
        with warnings.catch_warnings(), self.bridge.hooks(fwd_hooks=[(name, lambda x, hook: _disturbed(x))]):
            warnings.simplefilter("ignore", UserWarning)  # the bridge's own word that it drops the edit
            edited = self.plain_forward(self.probe_inputs)
        return float((edited - plain).abs().max()) > 1e-4


class VisibleKeys:
    """Which keys each query may see, taken from what the bridge shows."""

    def __init__(self) -> None:
        self.by_layer: dict[int | None, Tensor] = {}

    def note(self, layer: int | None, scores: Tensor) -> None:
        self.by_layer[layer] = scores > torch.finfo(scores.dtype).min / 2

    def at(self, point: PointId, x: Tensor) -> Tensor | None:
        """None off the attention map; where a bridge shows no live scores, a key with no attention at all is hidden."""
        if point.kind == SCORES:
            return x > torch.finfo(x.dtype).min / 2
        return self.by_layer.get(point.layer, x > 0) if point.kind in SQUARE else None


def _through_attn_out(point: PointId, run: Callable[..., Tensor]) -> list[Pair]:
    """Hooks that carry an edit of resid_mid by attn_out: the bridge's own resid_mid feeds the MLP and nothing else."""
    stream = MidStream(run)
    before, write = (replace(point, kind=kind).name for kind in ("hook_resid_pre", "hook_attn_out"))
    return [(before, lambda x, hook: stream.remember(x)), (write, lambda x, hook: stream.shift(x))]


def _adds_up(mid: PointId, cache: Mapping[str, Tensor], refused: Mapping[str, str]) -> bool:
    """Is resid_mid what enters the block plus what attention writes, both open to edits?"""
    before, write = (replace(mid, kind=kind).name for kind in ("hook_resid_pre", "hook_attn_out"))
    if not {before, write} <= cache.keys() - refused.keys():
        return False
    return close(cache[before] + cache[write], cache[mid.name])


def _disturbed(x: Tensor) -> Tensor:
    """Something quite different; masked scores stay masked, or the softmax would be of infinities."""
    return torch.where(x > torch.finfo(x.dtype).min / 2, 1 - 3 * x, x)


def bridge_copy(model: HookedModel) -> TransformerBridge:
    """A bridge over a copy of the model.

    Raises:
        InterpError: E403 for vision-language models (booting one may install packages) and for architectures that
            TransformerLens has no adapter for.
    """
    from interp.hooks.adapters.huggingface import HuggingFaceAdapter, attention_configs

    if isinstance(model.adapter, BridgeAdapter):
        return copy.deepcopy(model.adapter.bridge)
    assert isinstance(model.adapter, HuggingFaceAdapter)
    if "vision" in model.heads:
        raise InterpError(
            "E403",
            f"{model.name} sees images; TransformerLens may install packages when it boots such a model",
            fix="use the HookedModel itself",
        )
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model.adapter.model).__name__
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise InterpError(
            "E403", f"TransformerLens has no adapter for {architecture}", fix="use the HookedModel itself"
        )
    twin = copy.deepcopy(model.adapter.model)
    for config in attention_configs(twin):
        config._attn_implementation_internal = "eager"  # the only attention that hands its pattern to the bridge
    bridge = build_bridge_from_module(
        twin, architecture, hf_config=twin.config, tokenizer=model.tokenizer, dtype=model.dtype
    )
    return bridge.eval()


def attribution_patch(
    bridge: TransformerBridge,
    clean: Int[Tensor, "batch pos"],
    corrupt: Int[Tensor, "batch pos"],
    measure: Callable[[Tensor], Tensor],
) -> dict[Any, float]:
    """Scores of edges by TransformerLens' own tool, its nodes as keys: what ours is held against.

    Args:
        clean, corrupt: one pair.
        measure: of the logits [1 pos d_vocab].
    """
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch as theirs

    return dict(theirs(bridge, clean, corrupt, measure, EdgeAttributionConfig(granularity="edge")).edge_scores)
