"""What an intervention changes first: its hooks, run on recorded activations, tell without a forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn, run_hooks
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.names import PointId
from interp.hooks.rerun.record import NodeView

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Variant = Intervention | Sequence[Intervention]
"""One intervention, or several that are in force together."""

Edits = Mapping[PointId, Sequence[HookFn]]
"""The hooks of a variant at each hook point."""

Where = Literal["attention", "write", "entry"]

Z = "attn.hook_z"
IN_CALL = frozenset(
    f"attn.hook_{part}" for part in ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "operator")
)
ORDER: tuple[tuple[frozenset[str], Where, int], ...] = (
    (frozenset(("hook_resid_pre",)), "entry", 0),
    (IN_CALL | {Z}, "attention", 0),
    (frozenset(("hook_attn_out",)), "write", 0),
    (frozenset(("hook_resid_mid",)), "write", 0),
    (frozenset(("hook_mlp_out",)), "entry", 1),
    (frozenset(("hook_resid_post",)), "entry", 1),
)
"""Points of a layer in the order in which they are passed, what an edit there changes first, and how many layers on."""

IN_FLIGHT = frozenset((Z, "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"))
"""Points that can also be edited after the first one."""


@dataclass(frozen=True, eq=False)
class First:
    """Which hooks of a variant act first, and what they change.

    Attributes:
        where: 'attention', z of `layer`; 'write', what attention adds to the stream there; 'entry', the stream that
            enters `layer`.
        edits: hooks that act first, all in one layer.
        later: the others, which are run in flight.
    """

    where: Where
    layer: int
    edits: Edits
    later: Edits

    @property
    def needs_attention(self) -> bool:
        """Attention must be computed to know the change."""
        return any(point.kind in IN_CALL for point in self.edits)


def edits(model: HookedModel, batch: Batch, variant: Variant) -> dict[PointId, list[HookFn]]:
    """The hooks of a variant by hook point.

    Raises:
        InterpError: E403, E201 as `HookedModel.check_point`.
    """
    found: dict[PointId, list[HookFn]] = {}
    for intervention in [variant] if isinstance(variant, Intervention) else variant:
        for name, function in intervention.hooks(model, batch):
            model.check_point(name)
            found.setdefault(model.adapter.available[name], []).append(function)
    return found


def first(hooks: Edits) -> First | str:
    """What acts first, or the reason why the rest of these hooks cannot be run in flight."""
    if outside := [point.name for point in hooks if point.tower or point.layer is None]:
        return f"{outside[0]} is outside the layers of the main tower"
    layer = min(point.layer for point in hooks if point.layer is not None)
    kinds, where, ahead = next(
        stage for stage in ORDER if any(point.layer == layer and point.kind in stage[0] for point in hooks)
    )
    now = {point: functions for point, functions in hooks.items() if point.layer == layer and point.kind in kinds}
    later = {point: functions for point, functions in hooks.items() if point not in now}
    passed = {
        "entry": IN_FLIGHT if ahead else frozenset(),
        "attention": {Z, "hook_attn_out"},
        "write": {"hook_attn_out"},
    }
    for point in later:
        if point.kind not in IN_FLIGHT or (point.layer == layer and point.kind in passed[where]):
            return f"{point.name} is edited after another edit"
    return First(where, layer + ahead, now, later)


def apply(functions: Sequence[HookFn], value: Tensor, point: PointId, batch: Batch) -> Tensor:
    """An activation as these hooks leave it."""
    return run_hooks(functions, value, HookContext(point, batch), Counter())


@dataclass(frozen=True, eq=False)
class Change:
    """What one variant changes first, at the nodes that differ.

    Attributes:
        nodes: which ones differ from the recorded run.
        value: there, in their order: the difference of z [changed head d_head]; or the new write or stream
            [changed d_model].
        heads: heads whose z differs; empty unless it is z.
    """

    nodes: Bool[np.ndarray, " node"]
    value: Float[Tensor, "changed ..."]
    heads: tuple[int, ...] = ()


def stream_change(found: First, view: NodeView) -> Change | None:
    """The change where first hooks act on a recorded activation; None where prompts that share nodes would part."""
    (point, functions), *others = found.edits.items()
    assert not others and point.kind not in IN_CALL
    old = view.record.named[point.name]
    seen = view.tokens(view.nodes(old)) if view.tree.is_shared else old
    new = apply(functions, seen, point, view.record.batch)
    at = view.nodes(new)
    if view.tree.is_shared and not same(view.tokens(at)[view.real], new[view.real]):
        return None
    return difference(point, at, view.nodes(seen), view)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding: rows of one product may differ in their last bits."""
    return bool((a - b).abs().max() <= 16 * torch.finfo(a.dtype).eps * b.abs().max())


def difference(point: PointId, new: Tensor, old: Tensor, view: NodeView) -> Change:
    """The change from old to new values at every node."""
    differs = new != old
    nodes = differs.flatten(1).any(1)
    if point.kind == Z:
        heads = differs.any(0).any(-1).nonzero().flatten()
        return Change(nodes.cpu().numpy(), new[nodes][:, heads] - old[nodes][:, heads], tuple(heads.tolist()))
    if point.kind == "hook_resid_mid":
        write = view.nodes(view.record.named[PointId(point.tower, "hook_attn_out", point.layer).name])
        return Change(nodes.cpu().numpy(), write[nodes] + (new[nodes] - old[nodes]))
    if point.kind == "hook_mlp_out":
        after = view.nodes(view.record.named[PointId(point.tower, "hook_resid_post", point.layer).name])
        return Change(nodes.cpu().numpy(), after[nodes] + (new[nodes] - old[nodes]))
    return Change(nodes.cpu().numpy(), new[nodes])


def names_needed(found: First) -> set[str]:
    """Activations that must be recorded to know a change, and to run later hooks."""
    names = {point.name for point in (*found.edits, *found.later) if point.kind not in IN_CALL}
    for point in found.edits:
        if point.kind in IN_CALL:
            names.add(PointId(point.tower, Z, point.layer).name)
        if point.kind == "hook_resid_mid":
            names.add(PointId(point.tower, "hook_attn_out", point.layer).name)
        if point.kind == "hook_mlp_out":
            names.add(PointId(point.tower, "hook_resid_post", point.layer).name)
    return names
