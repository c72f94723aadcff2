"""Activations that are replaced by those of another run, or moved along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions, replace_heads, replace_rows, replace_stream
from interp.hooks.interventions.base import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, fit
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

KV_POINTS = ("attn.hook_k", "attn.hook_rot_k", "attn.hook_v")
STREAM_POINTS = ("hook_embed", "hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


@dataclass(frozen=True)
class Patch(Intervention):
    """Put activations of another run in place of this one's.

    Args:
        point: 'z', 'q', 'k', 'v', 'rot_q', 'rot_k', 'pattern', or a residual point: 'resid_pre', 'attn_out',
            'resid_mid', 'mlp_out', 'resid_post'.
        source: activations by hook name, from a cache: `Reference(cache, "corrupt run")`.
        heads: query heads for z, q and pattern; for k and v these are key/value heads, named by `kv_heads`.
        kv_heads: (layer, kv_head) pairs or labels, for k and v.
        layers: for residual points.
        positions: None everywhere, 'end', or token positions (queries, for the pattern).

    Raises:
        InterpError: E201 unknown point; E205 the selector does not fit the point (under grouped-query attention a
            query-head number must not index key/value heads).
    """

    point: str
    source: Reference
    heads: Any = None
    kv_heads: Any = None
    layers: Sequence[int] | None = None
    positions: Positions = None

    _known: ClassVar[tuple[str, ...]] = (
        "z",
        "q",
        "k",
        "v",
        "rot_q",
        "rot_k",
        "pattern",
        "resid_pre",
        "attn_out",
        "resid_mid",
        "mlp_out",
        "resid_post",
    )

    def __post_init__(self) -> None:
        if self.point not in self._known:
            raise InterpError("E201", f"cannot patch {self.point!r}", fix=suggest(self.point, self._known))
        wanted = "kv_heads" if self.kind in KV_POINTS else "layers" if self.kind in STREAM_POINTS else "heads"
        given = [name for name in ("heads", "kv_heads", "layers") if getattr(self, name) is not None]
        if given != [wanted]:
            why = "k and v have one head a group of query heads; " if wanted == "kv_heads" else ""
            raise InterpError(
                "E205",
                f"patching {self.point!r} is selected by {wanted}=, not by {', '.join(given) or 'nothing'}",
                fix=f"{why}pass {wanted}= alone",
            )
        super().__post_init__()
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def kind(self) -> str:
        short = f"hook_{self.point}"
        return short if short in STREAM_POINTS else f"attn.{short}"

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        if self.layers is not None:
            return [
                (point_name(self.kind, layer), replace_stream(batch, self.positions, self._new))
                for layer in self.layers
            ]
        chosen = (
            by_layer(self.kv_heads, model.kv_heads) if self.kind in KV_POINTS else by_layer(self.heads, model.heads)
        )
        make = replace_rows if self.point == "pattern" else replace_heads
        return [
            (point_name(self.kind, layer, tower), make(batch, heads, self.positions, self._new))
            for (tower, layer), heads in chosen.items()
        ]

    def _new(self, x: Tensor, context: HookContext) -> Tensor:
        return fit(self.source[context.name], x, context)


@dataclass(frozen=True)
class Steer(Intervention):
    """Add `coefficient * vector` to the residual stream that enters a layer.

    Args:
        layer: the vector is added to resid_pre of this layer.
        vector: a Reference with one tensor [d_model] under the layer's `hook_resid_pre` name; [pos d_model] and
            [batch pos d_model] work too.
        coefficient: its weight; 0 is the identity.
    """

    layer: int
    vector: Reference
    coefficient: float = 1.0
    positions: Positions = None

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def add(x: Tensor, context: HookContext) -> Tensor:
            return x + self.coefficient * fit(self.vector[context.name], x, context)

        return [(point_name("hook_resid_pre", self.layer), replace_stream(batch, self.positions, add))]
