"""What is measured in a run of patches, and what each unit of it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.ablation.shared import Controls, Shared
from interp.circuits.controls import grouped, matched_controls, matched_random_sets
from interp.circuits.receivers import kv_label
from interp.hooks.names import HeadId
from interp.patching.cells import Cell, Place, Unit


@dataclass(frozen=True)
class Measured:
    """Units of a run, with controls.

    Attributes:
        units: asked for, and what they are compared with.
        controls: for each unit the places of its controls in `units`; empty for units that are measured only as
            controls, and for layers.
        notes: where controls are not what was asked for.
    """

    units: tuple[Unit, ...]
    controls: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()

    def cells(self, places: Sequence[Place]) -> tuple[tuple[Cell, ...], tuple[tuple[int, ...], ...]]:
        """Every unit at every place, units outermost, each beside its controls at the same place."""
        cells = tuple(Cell(unit, place) for unit in self.units for place in places)
        n = len(places)
        controls = tuple(tuple(one * n + at for one in found) for found in self.controls for at in range(n))
        return cells, controls

    @classmethod
    def heads(cls, shared: Shared, chosen: tuple[HeadId, ...], n: int) -> Measured:
        """Query heads beside heads of their layer that write about as much."""
        found = Controls.match(shared, chosen, n)
        place = {head.label: index for index, head in enumerate(found.measured)}
        controls = tuple(tuple(place[label] for label in labels) for labels in found.labels)
        return cls(tuple(map(Unit.of_head, found.measured)), controls, found.notes)

    @classmethod
    def kv_heads(cls, shared: Shared, chosen: tuple[HeadId, ...], n: int) -> Measured:
        """The key/value heads that these query heads read, beside others of their layer.

        All of a layer are measured; what one writes is what the query heads that share it write together.
        """
        model = shared.model
        layers = sorted({head.layer for head in chosen})
        readers = tuple(HeadId("", layer, head) for layer in layers for head in range(model.heads[""][layer]))
        groups: dict[HeadId, list[HeadId]] = {}
        for head in readers:
            groups.setdefault(HeadId("", head.layer, model.kv_head(head)), []).append(head)
        norm = dict(zip(readers, shared.output_norms(readers).tolist(), strict=True))
        sums = np.array([sum(norm[head] for head in members) for members in groups.values()])
        matched = matched_controls(sums, np.array([one.layer for one in groups]), n)
        asked = {HeadId("", head.layer, model.kv_head(head)) for head in chosen}
        units = tuple(
            Unit(kv_label(model, one.layer, one.head), one.layer, one.head, tuple(members))
            for one, members in groups.items()
        )
        controls = tuple(found if one in asked else () for one, found in zip(groups, matched.indices, strict=True))
        noted = zip(units, matched.notes, controls, strict=True)
        return cls(units, controls, grouped((unit.label, note) for unit, note, found in noted if found))

    @classmethod
    def group(cls, shared: Shared, chosen: tuple[HeadId, ...], n: int, seed: int) -> Measured:
        """A set of heads beside random sets: as many heads in each layer, similar output norms.

        Raises:
            InterpError: E205 where a layer has too few other heads.
        """
        every = [
            HeadId("", layer, head)
            for layer, count in enumerate(shared.model.heads[""])
            if layer in {one.layer for one in chosen}
            for head in range(count)
        ]
        norms, layers = shared.output_norms(tuple(every)), np.array([head.layer for head in every])
        target = [every.index(head) for head in chosen]
        drawn = matched_random_sets(target, norms, layers, n_sets=n, rng=np.random.default_rng([seed, 2]))
        sets = list(dict.fromkeys(drawn))
        units = [Unit.of_group(sorted(chosen)), *(Unit.of_group([every[index] for index in one]) for one in sets)]
        notes = [f"{len(sets)} different random sets were found, not {n}."] if len(sets) < n else []
        return cls(tuple(units), (tuple(range(1, len(units))), *(() for _ in sets)), tuple(notes))

    @classmethod
    def layers(cls, layers: Sequence[int], point: str) -> Measured:
        """Layers, which have no equals to be compared with."""
        return cls(tuple(Unit(f"L{layer}.{point}", layer) for layer in layers), tuple(() for _ in layers))
