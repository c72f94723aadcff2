"""Interventions as data: frozen, hashable, serialisable values that say what is changed, where and to what.

`with model.edit(Ablate(heads=["L3H1"], operator="zero")): ...` applies them; see `HookedModel.edit`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.hooks.edits import (
    Cells,
    Positions,
    first_key_pattern,
    freeze_positions,
    identity_pattern,
    key_mask,
    never_blind,
    replace_heads,
    replace_rows,
    replace_stream,
    uniform_pattern,
)
from interp.hooks.names import HeadSpec, parse_heads, point_name, split_heads
from interp.hooks.reference import Reference, fit
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Hook = tuple[str, HookFn]
HEAD_FIELDS = ("heads", "kv_heads")
POSITION_FIELDS = ("positions", "queries", "keys", "take", "give")


@dataclass(frozen=True)
class Intervention:
    """Base of all interventions: turns itself into hooks for one model and batch, and into plain data."""

    def __post_init__(self) -> None:
        """Heads and positions as hashable values, equal where they mean the same however they were written."""
        for names, freeze in ((HEAD_FIELDS, split_heads), (POSITION_FIELDS, freeze_positions)):
            for name in names:
                if getattr(self, name, None) is not None:
                    object.__setattr__(self, name, freeze(getattr(self, name)))

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain data; reference values stand as their digest and origin."""
        data: dict[str, Any] = {"kind": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Reference):
                value = {"sha256": value.digest, "origin": value.origin}
            elif field.name in HEAD_FIELDS and value is not None:
                value = [str(head) for head in value]
            data[field.name] = value
        return data

    def rows(self, start: int, stop: int) -> Intervention:
        """The same intervention for prompts start to stop: paired reference values are cut with them."""
        cut = {
            field.name: value.rows(start, stop)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Reference)
        }
        return replace(self, **cut) if cut else self


def by_layer(heads: HeadSpec, shape: Mapping[str, tuple[int, ...]]) -> dict[tuple[str, int], list[int]]:
    """(tower, layer) -> head numbers."""
    grouped: dict[tuple[str, int], list[int]] = defaultdict(list)
    for head in parse_heads(heads, shape):
        grouped[head.tower, head.layer].append(head.head)
    return dict(grouped)


Z_OPERATORS = ("zero", "mean", "resample")
PATTERN_OPERATORS = {"uniform": uniform_pattern, "identity": identity_pattern, "to-sink": first_key_pattern}
OPERATORS = (*Z_OPERATORS, *PATTERN_OPERATORS)


@dataclass(frozen=True)
class Ablate(Intervention):
    """Take away what heads contribute.

    Args:
        heads: labels; `L3H*` and 'all' work too.
        operator: on z, 'zero', 'mean' (reference: a mean over data, see `mean_reference`) or 'resample' (reference:
            z of other prompts, row by row); on the pattern, 'uniform' (over visible keys), 'identity' (each token sees
            itself) or 'to-sink' (first visible key).
        reference: values for 'mean' and 'resample'.
        positions: None everywhere, 'end', or token positions.

    Raises:
        InterpError: E201 unknown operator; E205 reference missing or not wanted.
    """

    heads: Any
    operator: str = "zero"
    reference: Reference | None = None
    positions: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator not in OPERATORS:
            raise InterpError("E201", f"no operator {self.operator!r}", fix=suggest(self.operator, OPERATORS))
        if (self.operator in ("mean", "resample")) != (self.reference is not None):
            need = "needs" if self.reference is None else "takes no"
            raise InterpError(
                "E205",
                f"operator {self.operator!r} {need} reference values",
                fix="reference=mean_reference(model, prompts) or z of a paired run",
            )

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        found: list[Hook] = []
        for (tower, layer), heads in by_layer(self.heads, model.heads).items():
            if self.operator in PATTERN_OPERATORS:
                name = point_name("attn.hook_pattern", layer, tower)
                found.append((name, replace_rows(batch, heads, self.positions, PATTERN_OPERATORS[self.operator])))
            else:
                name = point_name("attn.hook_z", layer, tower)
                found.append((name, replace_heads(batch, heads, self.positions, self._new)))
        return found

    def _new(self, z: Tensor, context: HookContext) -> Tensor:
        if self.reference is None:
            return torch.zeros_like(z)
        return fit(self.reference[context.name], z, context)


@dataclass(frozen=True)
class Scale(Intervention):
    """Multiply the output z of heads by a factor (0 takes them away, 2 doubles them)."""

    heads: Any
    factor: float
    positions: Positions = None

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        return [
            (
                point_name("attn.hook_z", layer, tower),
                replace_heads(batch, heads, self.positions, lambda z, _: z * self.factor),
            )
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]


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


@dataclass(frozen=True)
class Knockout(Intervention):
    """Forbid queries to look at keys: the scores become -inf and the rest is normalised again.

    Args:
        heads: labels or 'all'.
        queries: where the look comes from: None for all, 'end', a role of the task, or token positions.
        keys: what may not be looked at: a role or token positions.

    Forbidding every key that a query may see is refused (E205) when it runs: the softmax would have nothing left.
    """

    heads: Any
    queries: Positions
    keys: str | Cells

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def forbid(scores: Tensor, context: HookContext) -> Tensor:
            return scores.masked_fill(key_mask(batch, self.keys, context, scores), torch.finfo(scores.dtype).min)

        return [
            (
                point_name("attn.hook_attn_scores", layer, tower),
                never_blind(replace_rows(batch, heads, self.queries, forbid), batch),
            )
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]


@dataclass(frozen=True)
class Redistribute(Intervention):
    """Take a share of the attention on some keys and give it to others, in proportion to what they have.

    Args:
        heads: labels or 'all'.
        take: keys that give attention up: a role or token positions.
        give: keys that get it; None for all other visible keys.
        share: part taken, 0 to 1.
        queries: None for all, 'end', a role or token positions.

    Row sums stay as they were. A query that sees none of `give` is left as it is.
    """

    heads: Any
    take: str | Cells
    give: str | Cells | None = None
    share: float = 1.0
    queries: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InterpError("E205", f"share {self.share} is not between 0 and 1")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def move(pattern: Tensor, context: HookContext) -> Tensor:
            takes = key_mask(batch, self.take, context, pattern)
            gives = ~takes if self.give is None else key_mask(batch, self.give, context, pattern)
            if bool((takes & gives).any()):
                raise InterpError("E205", "a key cannot both give and get attention", where=context.name)
            taken = pattern * takes * self.share
            weights = pattern * gives
            total = weights.sum(-1, keepdim=True)
            moved = (
                pattern
                - taken
                + weights / total.clamp(min=torch.finfo(pattern.dtype).tiny) * taken.sum(-1, keepdim=True)
            )
            return torch.where(total > 0, moved, pattern)

        return [
            (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, self.queries, move))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]
