"""`Changes`: what every variant changes first, found once and kept where it is small."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.names import PointId, point_name
from interp.hooks.rerun.change import Change, First, Z, apply, difference, stream_change
from interp.hooks.rerun.layers import LayerRuns
from interp.hooks.rerun.nodes import Mask
from interp.hooks.rerun.record import NodeView, Record


@dataclass(eq=False)
class Changes:
    """The changes of one recorded batch.

    Attributes:
        runs: forwards that begin at a layer, for edits whose change needs attention.
    """

    runs: LayerRuns
    _bases: dict[tuple[PointId, ...], Tensor] = field(default_factory=dict)
    _kept: dict[tuple[int, bool], Change] = field(default_factory=dict)
    _bytes: int = 0

    @property
    def record(self) -> Record:
        return self.runs.record

    def of(self, index: int, found: First, view: NodeView) -> Change | None:
        """What the first hooks of variant `index` change; None where prompts that share nodes would part."""
        key = (index, view.tree.is_shared)
        if key in self._kept:
            return self._kept[key]
        change = self._by_attention(found, view) if found.needs_attention else stream_change(found, view)
        if change is not None:
            self._keep(key, change)
        return change

    def _keep(self, key: tuple[int, bool], change: Change) -> None:
        """As long as all of them take no more memory than the recorded run."""
        self._bytes += change.value.untyped_storage().nbytes()
        if self._bytes <= self.record.n_bytes:
            self._kept[key] = change

    def _by_attention(self, found: First, view: NodeView) -> Change:
        """Against z computed the same way without edits, so that what is not edited differs by exactly nothing."""
        points = tuple(found.edits)
        if points not in self._bases:
            self._bases[points] = self.runs.z(found.layer, {point: [_identity] for point in points})
        new = self.runs.z(found.layer, found.edits)
        point = self.runs.adapter.available[point_name(Z, found.layer)]
        return difference(point, view.nodes(new), view.nodes(self._bases[points]), view)

    def later_nodes(self, found: First, view: NodeView) -> Mask:
        """Nodes that later hooks change on the recorded run; elsewhere they act only where something differs already."""
        nodes = np.zeros(view.tree.size, dtype=bool)
        for point, functions in found.later.items():
            old = self.record.named[point.name]
            differs = view.nodes(apply(functions, old, point, self.record.batch) != old)
            nodes |= differs.flatten(1).any(1).cpu().numpy()
        return nodes


def _identity(value: Tensor, _: HookContext) -> Tensor:
    return value
