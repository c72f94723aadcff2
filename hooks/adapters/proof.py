"""Proof of the hook points: what `structure` guessed by name is kept only if the numbers of one forward agree.

Checked for every layer: the attention function is called; pattern times values is what enters the output projection;
attention and MLP writes add up from resid_pre to resid_post; the projections found hold the values that attention got
(or, where a model computes attention in its own code, edits of what they give do what they must); and whether the MLP
reads the attention's output (it does not in parallel blocks, which have no resid_mid).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.hooks.adapters.base import Fired, HookContext, Hooks
from interp.hooks.adapters.inlets import Calls, Inlets, find_inlets
from interp.hooks.adapters.own_code import proven_by_edits
from interp.hooks.adapters.projections import Projection, candidates
from interp.hooks.adapters.registry import OPERATOR, SITES, AttentionSite, registered
from interp.hooks.adapters.structure import Block, Tower, with_measured_heads
from interp.hooks.batch import Batch
from interp.hooks.capture import Recorder
from interp.hooks.names import POINTS, TOWER_POINTS, PointId

IN_CALL = ("attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_attn_scores", "attn.hook_pattern", OPERATOR)
PROJECTED = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
WRITES = ("hook_attn_out", "hook_mlp_out", "hook_resid_mid")
DERIVED = "attn.hook_result"
MLP_IN = "hook_mlp_in"

BYPASS = "this architecture computes attention in its own code and never calls the attention function; z works, and so do q, k and v where their projections were recognised; scores and pattern do not exist for us"
NOT_RUN = "the probe could not run this tower (no input recipe for this architecture in hooks/adapters/probe_inputs.py)"
GATED = "what enters the output projection is not pattern times values on this architecture"
NO_SUM = "attention and MLP writes do not add up from resid_pre to resid_post on this architecture"
PARALLEL = "the block is parallel: attention and MLP both read resid_pre, nothing stands between them"
NO_ROTARY = "positions are not rotary here; hook_q and hook_k are what attention gets"
NO_PROJECTION = "no linear layer was found whose output holds queries and keys before rotary positions"
REPEATED = "this layer runs several times in one forward; a hook on it would mix the passes"
NO_EPSILON = "the final norm does not say what it adds to the variance"
NO_INLET = "what the MLP reads, and the norm before it, were not recognised on this architecture"
NO_MODULE = "no module of this architecture was recognised as this point"

Points = dict[str, PointId]
Refusals = dict[str, str]


@runtime_checkable
class Provable(Protocol):
    """An adapter of a transformers model before its points are proven; `proof` fills in what the numbers tell it."""

    towers: dict[str, Tower]
    configs: list[Any]
    available: Mapping[str, PointId]
    projections: dict[tuple[str, int], dict[str, Projection]]
    inlets: dict[tuple[str, int], Inlets]
    rotary: set[tuple[str, int]]
    own_code: set[tuple[str, int]]
    probe_inputs: Mapping[str, Tensor]

    def sites(self) -> Iterator[tuple[AttentionSite, Block]]:
        """Every attention module with what the registered function keeps for it."""
        ...

    def attached(self, hooks: Hooks, batch: Batch | None) -> AbstractContextManager[Fired]:
        """Hooks are in place inside the block."""
        ...

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The output of one forward."""
        ...


@torch.no_grad()
def prove(adapter: Provable) -> tuple[Points, Refusals]:
    """The hook points that hold on this model, and the reason for each one that does not."""
    inputs = adapter.probe_inputs
    calls = count_calls(adapter, inputs)
    _measure_heads(adapter)
    _find_own_code(adapter, calls)
    refused: Refusals = {}
    points = [point for tower in adapter.towers.values() for point in _guesses(tower)]
    for point in points:
        reason = _missing(adapter, point, calls)
        if reason:
            refused[point.name] = reason
    adapter.available = {point.name: point for point in points if point.name not in refused}
    seen, outputs, calls_inside = _observe(adapter, inputs)
    for tower in adapter.towers.values():
        for block in tower.blocks.values():
            for kind, reason in _disproved(adapter, tower, block, seen, outputs):
                refused.setdefault(PointId(tower.name, kind, block.layer).name, reason)
        is_parallel = _is_parallel(adapter, tower, inputs, seen)
        if is_parallel:
            refused.update({PointId(tower.name, "hook_resid_mid", layer).name: PARALLEL for layer in tower.blocks})
        for block in tower.blocks.values():
            inlets = _inlets(adapter, tower, block, seen, calls_inside, is_parallel=is_parallel)
            adapter.inlets[tower.name, block.layer] = inlets
            if inlets.mlp is None:
                refused.setdefault(PointId(tower.name, MLP_IN, block.layer).name, NO_INLET)
    return {name: point for name, point in adapter.available.items() if name not in refused}, refused


@torch.no_grad()
def count_calls(adapter: Provable, inputs: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    """How often each layer called the registered attention function in one forward."""
    with ExitStack() as stack:
        for site, block in adapter.sites():
            stack.callback(block.attn.register_forward_pre_hook(site.enter, with_kwargs=True).remove)
        stack.enter_context(registered(adapter.configs))
        adapter.forward(inputs)
    return {
        (name, layer): SITES[block.attn].calls
        for name, tower in adapter.towers.items()
        for layer, block in tower.blocks.items()
    }


def _guesses(tower: Tower) -> Iterator[PointId]:
    for kind in POINTS:
        if kind in TOWER_POINTS:
            yield PointId(tower.name, kind)
        else:
            yield from (PointId(tower.name, kind, layer) for layer in tower.blocks)


def _measure_heads(adapter: Provable) -> None:
    """Head counts as the attention call showed them, where it was called."""
    for name, tower in adapter.towers.items():
        blocks = {
            layer: with_measured_heads(block, *SITES[block.attn].heads) if SITES[block.attn].heads[0] else block
            for layer, block in tower.blocks.items()
        }
        adapter.towers[name] = replace(tower, blocks=blocks)


def _find_own_code(adapter: Provable, calls: Mapping[tuple[str, int], int]) -> None:
    """Projections of the layers that never called the attention function."""
    blocks = {
        (name, layer): block
        for name, tower in adapter.towers.items()
        for layer, block in tower.blocks.items()
        if not calls[name, layer]
    }
    found = proven_by_edits(blocks, lambda: adapter.forward(adapter.probe_inputs)) if blocks else {}
    adapter.projections |= found
    adapter.own_code |= set(found)


def _missing(adapter: Provable, point: PointId, calls: Mapping[tuple[str, int], int]) -> str | None:
    """The reason why a point cannot even be tried."""
    from interp.hooks.adapters.huggingface import EPSILONS

    tower = adapter.towers[point.tower]
    if point.layer is not None and SITES[tower.blocks[point.layer].attn].is_repeated:
        return REPEATED
    if point.layer is None:
        module = {
            "hook_embed": tower.embed,
            "hook_pos_embed": tower.pos_embed,
            "ln_final.hook_scale": tower.final_norm,
        }[point.kind]
        if module is None:
            return NO_MODULE
        has_epsilon = any(hasattr(module, name) for name in EPSILONS)
        return None if has_epsilon or point.kind != "ln_final.hook_scale" else NO_EPSILON
    if point.kind in (*IN_CALL, *PROJECTED) and not calls[point.tower, point.layer]:
        is_proven = point.kind in PROJECTED and (point.tower, point.layer) in adapter.own_code
        return None if is_proven else BYPASS
    if point.kind == "hook_mlp_out" and tower.blocks[point.layer].mlp_write is None:
        return NO_MODULE
    return None


def _observe(adapter: Provable, inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[int, Tensor], Calls]:
    """One forward with everything recorded: hook points by name, projection outputs by module identity, calls inside."""
    recorder = Recorder()
    outputs: dict[int, Tensor] = {}
    names = [
        name
        for name, point in adapter.available.items()
        if point.kind not in (DERIVED, OPERATOR, MLP_IN, "attn.hook_q", "attn.hook_k")  # those are proven by `hook_v`
    ]
    with ExitStack() as stack:
        for tower in adapter.towers.values():
            for block in tower.blocks.values():
                for module in {projection.module for found in candidates(block) for projection in found.values()}:
                    handle = module.register_forward_hook(
                        lambda m, _, out: outputs.__setitem__(id(m), (out if out.ndim == 3 else out[None]).clone())
                    )
                    stack.callback(handle.remove)
        blocks = {
            (tower.name, layer): block for tower in adapter.towers.values() for layer, block in tower.blocks.items()
        }
        calls = Calls(stack, blocks)
        stack.enter_context(adapter.attached({name: [recorder] for name in names}, None))
        adapter.forward(inputs)
    return recorder.tensors(), outputs, calls


def _inlets(
    adapter: Provable, tower: Tower, block: Block, seen: Mapping[str, Tensor], calls: Calls, *, is_parallel: bool
) -> Inlets:
    """Where this layer reads the stream; nothing where the stream itself is not known."""
    key = (tower.name, block.layer)
    before, attn_out = (
        seen.get(PointId(tower.name, kind, block.layer).name) for kind in ("hook_resid_pre", "hook_attn_out")
    )
    if before is None or attn_out is None:
        return Inlets()
    between = before if is_parallel else before + attn_out
    if block.norms is not None:
        between = block.norms[0](between)
    return find_inlets(block, calls.of[key], adapter.projections.get(key, {}), before, between)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of the model's dtype."""
    tolerance = 1e-4 if a.dtype in (torch.float32, torch.float64) else 5e-2
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0))


def _disproved(
    adapter: Provable, tower: Tower, block: Block, seen: Mapping[str, Tensor], outputs: Mapping[int, Tensor]
) -> Iterator[tuple[str, str]]:
    """(kind, reason) of every point of this layer that the numbers refute."""

    def at(kind: str) -> Tensor | None:
        return seen.get(PointId(tower.name, kind, block.layer).name)

    z, pattern, v = at("attn.hook_z"), at("attn.hook_pattern"), at("attn.hook_v")
    if z is None:
        yield from ((kind, NOT_RUN) for kind in POINTS if kind not in TOWER_POINTS)
        return
    if pattern is not None and v is not None:
        values = v.repeat_interleave(block.n_heads // block.n_kv_heads, dim=2)
        if not close(torch.einsum("bhqk,bkhd->bqhd", pattern, values), z):
            yield from (("attn.hook_z", GATED), (DERIVED, GATED))
        yield from _projection_points(adapter, tower, block, v, at("attn.hook_rot_q"), outputs)
    before, attn_out, after = (at(kind) for kind in ("hook_resid_pre", "hook_attn_out", "hook_resid_post"))
    if before is None or attn_out is None or after is None:
        yield from ((kind, NO_SUM) for kind in WRITES)
    elif not close(_rebuilt(block, before, attn_out, at("hook_mlp_out")), after):
        yield from ((kind, NO_SUM) for kind in WRITES)


def _rebuilt(block: Block, resid_pre: Tensor, attn_out: Tensor, mlp_out: Tensor | None) -> Tensor:
    """resid_post from its parts, by the rule of the block; attention-only models have no MLP."""
    if mlp_out is None:
        return resid_pre + attn_out
    if block.norms is None:
        return resid_pre + attn_out + mlp_out
    first, second = block.norms
    rebuilt: Tensor = second(first(resid_pre + attn_out) + mlp_out)
    return rebuilt


def _projection_points(
    adapter: Provable, tower: Tower, block: Block, v: Tensor, q: Tensor | None, outputs: Mapping[int, Tensor]
) -> Iterator[tuple[str, str]]:
    """Keep the projections whose v is the v that attention got; their q then tells whether positions are rotary."""
    key = (tower.name, block.layer)
    proven = next((found for found in candidates(block) if _holds(found["v"], outputs, v)), None)
    if proven is not None:
        adapter.projections[key] = proven
    if proven is not None and q is not None and _holds(proven["q"], outputs, q):
        yield from (("attn.hook_rot_q", NO_ROTARY), ("attn.hook_rot_k", NO_ROTARY))
        return
    adapter.rotary.add(key)
    if proven is None:
        yield from (("attn.hook_q", NO_PROJECTION), ("attn.hook_k", NO_PROJECTION))


def _holds(projection: Projection, outputs: Mapping[int, Tensor], value: Tensor) -> bool:
    output = outputs.get(id(projection.module))
    return output is not None and close(projection.view(output), value)


def _is_parallel(adapter: Provable, tower: Tower, inputs: Mapping[str, Any], seen: Mapping[str, Tensor]) -> bool:
    """Does the MLP of the first layer with attention ignore a change of the attention's output?"""
    layer = min(tower.blocks)
    write, read = (PointId(tower.name, kind, layer).name for kind in ("hook_attn_out", "hook_mlp_out"))
    if write not in seen or read not in seen:
        return False
    recorder = Recorder()

    def double(value: Tensor, _: HookContext) -> Tensor:
        return 2 * value + 1

    hooks: dict[str, list[Any]] = defaultdict(list, {write: [double], read: [recorder]})
    with adapter.attached(hooks, None):
        adapter.forward(inputs)
    return torch.equal(recorder.tensors()[read], seen[read])
