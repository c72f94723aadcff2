"""Any transformers model: hooks on its modules, and on the attention function it calls."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from interp.hooks.adapters.base import Adapter, Fired, Hooks, MidStream, fire_at, replaced_heads
from interp.hooks.adapters.inlets import Inlets, MlpEntry
from interp.hooks.adapters.probe_inputs import probe_inputs
from interp.hooks.adapters.projections import Projection
from interp.hooks.adapters.proof import close, prove
from interp.hooks.adapters.registry import MASKLESS, NAME, OPERATOR, SITES, AttentionSite, registered
from interp.hooks.adapters.structure import Block, Tower, find_towers
from interp.hooks.batch import Batch
from interp.hooks.reader import answers_at_mask, n_positions
from interp.kernels.errors import InterpError

REGISTRY_KINDS = {
    "attn.hook_rot_q": "attn.registry_q",
    "attn.hook_rot_k": "attn.registry_k",
    "attn.hook_v": "attn.registry_v",
    "attn.hook_attn_scores": "attn.hook_attn_scores",
    "attn.hook_pattern": "attn.hook_pattern",
    OPERATOR: OPERATOR,
}
"""Hook points served inside the attention call. Without rotary positions, `hook_q` and `hook_k` are served there too."""

READS_MASK = frozenset({"bloom", "qwen2_vl", "qwen2_5_vl"})
"""Architectures that place tokens by the attention mask themselves, so that left padding needs no position ids."""

EPSILONS = ("eps", "variance_epsilon")
"""Where norms keep what they add to the variance; `proof` refuses `ln_final.hook_scale` where there is none of them."""

OUTPUTS = ("logits", "last_hidden_state", "logits_per_image", "pooler_output")


class HuggingFaceAdapter(Adapter):
    """Hooks for one transformers model. See `interp.hooks.adapters.base.Adapter`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.towers = {tower.name: tower for tower in find_towers(model)}
        if not self.towers:
            raise InterpError(
                "E401",
                f"{type(model).__name__} has no attention block that we recognise",
                fix="models need multi-head attention in their layers; state-space and convolution models have no heads",
            )
        self.takes = frozenset(inspect.signature(model.forward).parameters)
        self.configs = attention_configs(model)
        self.rotary: set[tuple[str, int]] = set()
        self.own_code: set[tuple[str, int]] = set()
        self.projections: dict[tuple[str, int], dict[str, Projection]] = {}
        self.inlets: dict[tuple[str, int], Inlets] = {}
        for tower in self.towers.values():
            for block in tower.blocks.values():
                config: Any = getattr(block.attn, "config", self.config)
                SITES[block.attn] = AttentionSite(config._attn_implementation or "eager")
        self.n_positions = n_positions(self.config)
        self.answers_at_mask = answers_at_mask(type(model).__name__)
        self.n_positions = _usable(self.n_positions, self.towers)
        embed = self.towers[""].embed if "" in self.towers else None
        self.n_tokens = embed.num_embeddings if isinstance(embed, nn.Embedding) else None
        self.probe_inputs = probe_inputs(model)
        self.position_ids = self._position_rule()
        self.output_name = ""
        self.available = {}
        self.available, self.refused = prove(self)
        self.heads = {name: tower.heads for name, tower in self.towers.items()}
        self.kv_heads = {name: tower.kv_heads for name, tower in self.towers.items()}

    @torch.no_grad()
    def _position_rule(self) -> str:
        """How left padding is told to this model; position ids are told only where counting from 0 changes nothing."""
        if self.config.model_type in READS_MASK:
            return "mask"
        if "position_ids" not in self.takes or "input_ids" not in self.probe_inputs:
            return "none"
        counted = torch.arange(self.probe_inputs["input_ids"].shape[1], device=self.device)[None]
        told = self.plain_forward({**self.probe_inputs, "position_ids": counted})
        return "argument" if close(told, self.plain_forward(self.probe_inputs)) else "none"

    def block(self, layer: int, tower: str = "") -> Block:
        return self.towers[tower].blocks[layer]

    def w_out(self, layer: int, tower: str = "") -> Tensor:
        """Output projection of a layer [head d_head d_model]."""
        return self.block(layer, tower).w_out

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def describe(self) -> dict[str, Any]:
        return {
            "architecture": type(self.model).__name__,
            "model_type": self.config.model_type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": sorted({site_label(site.native) for site, _ in self.sites()}),
        }

    def plain_forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The model's primary output with nothing of ours in the way."""
        if self.model.training:
            raise InterpError(
                "E205", "the model is in training mode; dropout would make every number random", fix="call model.eval()"
            )
        extra = {"use_cache": False} if "use_cache" in self.takes else {}
        output = self.model(**inputs, **extra)
        for name in OUTPUTS:
            if getattr(output, name, None) is not None:
                self.output_name = name
                return getattr(output, name)
        raise InterpError(
            "E405", f"{type(output).__name__} has none of {', '.join(OUTPUTS)}", where=type(self.model).__name__
        )

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The same, with whatever hooks are attached."""
        for site, _ in self.sites():
            site.seen = site.calls = 0
        return self.plain_forward(inputs)

    def new_cache(self) -> Any:
        """Every layer keeps all its keys, also where it sees a window of them: an edit may ask for any."""
        holder: Any
        for holder in self.model.modules():
            if hasattr(holder, "rope_deltas"):  # where Qwen's models keep what the last picture did to positions
                holder.rope_deltas = None
        return DynamicCache() if "past_key_values" in self.takes else None

    def cached_forward(self, inputs: Mapping[str, Any], cache: Any) -> Tensor:
        """Logits [batch 1 d_vocab] at the last token of a forward that continues what is in the cache, and joins it."""
        for site, _ in self.sites():
            site.seen = site.calls = 0
        wanted = {"use_cache": True, "logits_to_keep": 1}
        extra = {name: value for name, value in wanted.items() if name in self.takes}
        return self.model(**inputs, past_key_values=cache, **extra).logits[:, -1:]

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text by the model's own settings."""
        said = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return () if said is None else (said,) if isinstance(said, int) else tuple(said)

    def sites(self) -> Iterator[tuple[AttentionSite, Block]]:
        """Every layer with its place in the attention registry."""
        return ((SITES[block.attn], block) for tower in self.towers.values() for block in tower.blocks.values())

    @contextmanager
    def attached(self, hooks: Hooks, batch: Batch | None) -> Iterator[Fired]:
        """Hooks are in place inside the block and gone after it, also after an error."""
        fired: Fired = Counter()
        grouped: dict[tuple[str, int | None], dict[str, partial[Tensor]]] = {}
        for name, functions in hooks.items():
            point = self.available[name]
            grouped.setdefault((point.tower, point.layer), {})[point.kind] = partial(
                fire_at, functions, point, batch, fired
            )
        with ExitStack() as stack:
            in_call: set[str] = set()
            for (tower, layer), fires in grouped.items():
                if layer is None:
                    _attach_tower(stack, self.towers[tower], fires, batch.size if batch else 1)
                else:
                    in_call |= self._attach_block(stack, tower, layer, fires, batch.size if batch else 1)
            if in_call:
                stack.enter_context(self._registered(in_call))
            yield fired

    @contextmanager
    def _registered(self, kinds: set[str]) -> Iterator[None]:
        """The attention function is ours; masks of T x T are made only where something may read them."""
        maskless = kinds == {OPERATOR}
        try:
            for site, _ in self.sites():
                site.is_maskless = maskless
            with registered(self.configs, MASKLESS if maskless else NAME):
                yield
        finally:
            for site, _ in self.sites():
                site.is_maskless = False

    def _attach_block(
        self, stack: ExitStack, tower: str, layer: int, fires: dict[str, partial[Tensor]], size: int
    ) -> set[str]:
        """Hook one layer that runs `size` prompts; gives back the kinds that need the attention function itself."""
        block = self.block(layer, tower)
        in_call: dict[str, Callable[..., Tensor]] = {}
        for kind, fire in fires.items():
            which = kind.removeprefix("attn.hook_")
            if which in ("q", "k", "v") and (tower, layer) in self.own_code:
                _on_projection(stack, self.projections[tower, layer][which], fire)
            elif kind in REGISTRY_KINDS:
                in_call[REGISTRY_KINDS[kind]] = fire
            elif which in ("q", "k") and (tower, layer) not in self.rotary:
                in_call[f"attn.registry_{which}"] = fire
            elif which in ("q", "k"):
                _on_projection(stack, self.projections[tower, layer][which], fire)
            elif kind == "attn.hook_z":
                _on_input(stack, block.out, _per_head(fire, block))
            elif kind == "hook_resid_pre":
                _on_input(stack, block.module, fire)
            elif kind == "hook_resid_post":
                _on_output(stack, block.module, fire)
            elif kind == "hook_mlp_in":
                MlpEntry(stack, self.inlets[tower, layer], partial(_batched, fire, size=1 if tower else size))
            elif kind == "hook_mlp_out":
                assert block.mlp_write is not None
                write = partial(_on_a_copy, _multiplied(fire, block.times))
                _on_output(stack, block.mlp_write, write, 1 if tower else size)
            else:
                assert kind in ("hook_attn_out", "hook_resid_mid"), kind
        _attach_attention_write(stack, block, fires.get("hook_attn_out"), fires.get("hook_resid_mid"))
        if in_call:
            site = SITES[block.attn]
            stack.callback(site.clear)
            stack.callback(block.attn.register_forward_pre_hook(site.enter, with_kwargs=True).remove)
            site.kinds = frozenset(in_call)
            site.replaced = replaced_heads(fires[OPERATOR].args[0]) if OPERATOR in fires else frozenset()
            site.fire = lambda kind, *args: in_call[kind](*args)
        return set(in_call)


def _attach_attention_write(
    stack: ExitStack, block: Block, attn_out: Callable[..., Tensor] | None, resid_mid: Callable[..., Tensor] | None
) -> None:
    if resid_mid is not None:
        stream = MidStream(resid_mid)
        _on_input(stack, block.module, stream.remember)
        _on_output(stack, block.attn_write, _multiplied(stream.shift, block.times))
    if attn_out is not None:  # attached last, so that it runs first and resid_mid is made of what it leaves
        _on_output(stack, block.attn_write, partial(_on_a_copy, _multiplied(attn_out, block.times)))


def _on_a_copy(fire: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The model goes on with a copy of what hooks saw and gave: some add the stream to a write in place (Falcon)."""
    return fire(x).clone()


def _multiplied(fire: Callable[..., Tensor], times: float) -> Callable[[Tensor], Tensor]:
    """A write as it arrives in the stream, where the block multiplies it on the way."""
    if times == 1:
        return fire

    def show(x: Tensor) -> Tensor:
        arriving = x * times
        new = fire(arriving)
        return x if new is arriving and not torch.is_grad_enabled() else new / times

    return show


def _attach_tower(stack: ExitStack, tower: Tower, fires: Mapping[str, Callable[..., Tensor]], size: int) -> None:
    """Hook the points outside the layers; one table of positions for all prompts is shown once for each of `size`."""
    modules = {"hook_embed": tower.embed, "hook_pos_embed": tower.pos_embed, "ln_final.hook_scale": tower.final_norm}
    for kind, fire in fires.items():
        module = modules[kind]
        assert module is not None
        if kind == "ln_final.hook_scale":
            _on_input(stack, module, _showing_scale(fire, module))
        elif kind == "hook_pos_embed":
            _on_output(stack, module, _for_each_prompt(fire, size))
        else:
            _on_output(stack, module, fire)


def _per_head(fire: Callable[..., Tensor], block: Block) -> Callable[[Tensor], Tensor]:
    """The input of the output projection, shown head by head; with gradients, what was shown goes on."""

    def show(x: Tensor) -> Tensor:
        z = x.view(*x.shape[:-1], block.n_heads, block.d_head)
        new = fire(z)
        return x if new is z and not torch.is_grad_enabled() else new.flatten(-2)

    return show


def _for_each_prompt(fire: Callable[..., Tensor], size: int) -> Callable[[Tensor], Tensor]:
    """One row for all prompts, shown once for each."""
    return lambda x: fire(x.expand(size, -1, -1))


def _showing_scale(fire: Callable[..., Tensor], norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """Show what a norm divides by; what it reads stays as it is."""

    def show(x: Tensor) -> Tensor:
        fire(norm_scale(norm, x))
        return x

    return show


def norm_scale(norm: nn.Module, x: Tensor) -> Tensor:
    """The divisor of a norm: sqrt(variance + eps) of a LayerNorm, sqrt(mean square + eps) of an RMSNorm [batch pos 1]."""
    eps = next(float(getattr(norm, name)) for name in EPSILONS if hasattr(norm, name))
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    return (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _batched(fire: Callable[[Tensor], Tensor], x: Tensor, size: int = 1) -> Tensor:
    """Some vision models run without a batch axis, OPT's MLP on all prompts in one row; hooks always see the axis."""
    return fire(x) if x.ndim == 3 else fire(x.unflatten(0, (size, -1))).flatten(0, 1)


def _on_input(stack: ExitStack, module: nn.Module, fire: Callable[[Tensor], Tensor]) -> None:
    stack.callback(module.register_forward_pre_hook(partial(_before, fire), with_kwargs=True).remove)


def _before(
    fire: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    x = args[0] if args else kwargs["hidden_states"]
    new = _batched(fire, x)
    if new is x:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _on_output(stack: ExitStack, module: nn.Module, fire: Callable[[Tensor], Tensor], size: int = 1) -> None:
    # Before other hooks: transformers notes hidden states in hooks of its own, and some models read those notes.
    stack.callback(module.register_forward_hook(partial(_after, fire, size), prepend=True).remove)


def _after(fire: Callable[[Tensor], Tensor], size: int, module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (_batched(fire, output[0], size), *output[1:])
    return _batched(fire, output, size)


def _on_projection(stack: ExitStack, projection: Projection, fire: Callable[[Tensor], Tensor]) -> None:
    _on_output(stack, projection.module, partial(_edit_projection, projection, fire))


def _edit_projection(projection: Projection, fire: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    seen = projection.view(output)
    new = fire(seen)
    if new is seen and not torch.is_grad_enabled():
        return output
    output = output.clone()
    projection.put(output, new)
    return output


def _usable(n_positions: int | None, towers: Mapping[str, Tower]) -> int | None:
    """Positions that tokens can have: a table with a padding row starts to count after it (RoBERTa)."""
    padding = getattr(towers[""].pos_embed, "padding_idx", None) if "" in towers else None
    return n_positions if n_positions is None or padding is None else n_positions - padding - 1


def site_label(native: str) -> str:
    """The attention a layer runs, and what stands in for it while another layer's attention call is hooked."""
    return native if native in ("eager", "sdpa") else f"{native} (sdpa in forwards with a hooked attention call)"


def attention_configs(model: nn.Module) -> list[Any]:
    """Every configuration object that decides which attention function is called."""
    owners = {
        id(module.config): module.config
        for module in model.modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation_internal")
    }
    return list(owners.values())
