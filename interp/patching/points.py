"""What a patch puts where: hook points, the run each of them comes from, and the units they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interp.hooks.batch import Batch
from interp.hooks.edits import Positions
from interp.hooks.interventions import Patch
from interp.hooks.names import HeadId, point_name
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError, suggest
from interp.patching.cells import Cell

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Source = str | Reference
Axis = Literal["query_head", "kv_head", "layer"]

QUERY_POINTS = ("z", "q", "pattern")
KV_POINTS = ("k", "v")
STREAM_POINTS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
POINTS = (*QUERY_POINTS, *KV_POINTS, *STREAM_POINTS)
SIDES = ("clean", "corrupt")


@dataclass(frozen=True, eq=False)
class Points:
    """Points that are patched together, and where each one's values come from; made by `Points.parse`.

    Attributes:
        sources: point -> 'clean', 'corrupt', or values of a third run.
        axis: what one unit is.
    """

    sources: Mapping[str, Source]
    axis: Axis

    @classmethod
    def parse(cls, spec: str | Sequence[str] | Mapping[str, Source], default: str, model: HookedModel) -> Points:
        """Read what a user gave.

        Args:
            spec: one point, several, or a mapping from points to sources.
            default: the source of points without one.

        Raises:
            InterpError: E201 unknown point or source; E205 points that do not go together.
        """
        names = [spec] if isinstance(spec, str) else list(spec)
        sources = dict(spec) if isinstance(spec, Mapping) else dict.fromkeys(names, default)
        if not sources:
            raise InterpError("E201", "no point to patch", fix=suggest("", POINTS))
        for name, source in sources.items():
            if name not in POINTS:
                raise InterpError("E201", f"cannot patch {name!r}", fix=suggest(str(name), POINTS))
            if isinstance(source, str) and source not in SIDES:
                fix = f"{suggest(source, SIDES)}, or values of another run (paired_reference)"
                raise InterpError("E201", f"{name} comes from {source!r}", fix=fix)
        streams = [name for name in sources if name in STREAM_POINTS]
        if streams and len(sources) > 1:
            raise InterpError("E205", f"{streams[0]} is patched by itself", fix="patch points of heads together")
        return cls(sources, _axis(sources, model))

    @property
    def text(self) -> str:
        """`z`; `q + k (corrupt)` names sources that are not all alike."""
        origins = {name: source if isinstance(source, str) else source.origin for name, source in self.sources.items()}
        if len(set(origins.values())) == 1:
            return " + ".join(origins)
        return " + ".join(f"{name} ({origin})" for name, origin in origins.items())

    def described(self) -> dict[str, object]:
        """Sources as a record keeps them."""
        return {
            name: source if isinstance(source, str) else {"sha256": source.digest, "origin": source.origin}
            for name, source in self.sources.items()
        }

    def references(
        self, model: HookedModel, sides: Mapping[str, Batch], layers: Sequence[int], start: int, stop: int
    ) -> dict[str, Reference]:
        """Values for prompts start to stop, by point."""
        found = {}
        for name, source in self.sources.items():
            if isinstance(source, Reference):
                found[name] = source.rows(start, stop)
                continue
            _, cache = model.run_with_cache(sides[source], [hook_name(name, layer) for layer in layers])
            found[name] = Reference(dict(cache), f"the {source} run", paired=True)
        return found

    def variant(
        self, model: HookedModel, cell: Cell, positions: Positions, references: Mapping[str, Reference]
    ) -> tuple[Patch, ...]:
        """The patches of one cell."""
        where = cell.positions(positions)
        return tuple(_patch(model, name, cell, where, values) for name, values in references.items())


def hook_name(point: str, layer: int) -> str:
    """The hook point behind a short name."""
    return point_name(f"hook_{point}" if point in STREAM_POINTS else f"attn.hook_{point}", layer)


def _axis(points: Mapping[str, Source], model: HookedModel) -> Axis:
    if set(points) & set(STREAM_POINTS):
        return "layer"
    shares = model.heads[""] != model.kv_heads[""]
    return "kv_head" if shares and set(points) & set(KV_POINTS) else "query_head"


def _patch(model: HookedModel, point: str, cell: Cell, positions: Positions, values: Reference) -> Patch:
    if point in STREAM_POINTS:
        assert cell.unit.layer is not None
        return Patch(point, values, layers=(cell.unit.layer,), positions=positions)
    if point in KV_POINTS:
        shared = dict.fromkeys(HeadId(head.tower, head.layer, model.kv_head(head)) for head in cell.unit.heads)
        return Patch(point, values, kv_heads=tuple(shared), positions=positions)
    return Patch(point, values, heads=cell.unit.heads, positions=positions)
