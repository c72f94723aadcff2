"""What every intervention is: a frozen value that turns itself into hooks for one model and batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from interp.hooks.adapters.base import HookFn
from interp.hooks.batch import Batch
from interp.hooks.edits import freeze_positions
from interp.hooks.names import HeadSpec, parse_heads, split_heads
from interp.hooks.reference import Reference

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Hook = tuple[str, HookFn]
HEAD_FIELDS = ("heads", "kv_heads")
POSITION_FIELDS = ("positions", "queries", "keys", "take", "give")


@dataclass(frozen=True)
class Intervention:
    """Base of all interventions: turns itself into hooks for one model and batch, and into plain data.

    What `hooks` gives back must hold for one forward. To be used by `HookedModel.generate` as well, where a first
    forward reads the prompts and each later one a single token, an intervention keeps these rules:

    - `hooks(model, batch)` is asked anew for every forward. `batch` is the whole text so far: ids, mask and roles of
      prompt and written tokens, `batch.written` of which the model wrote. Rows end in one column, padding stands left.
    - A tensor that a hook is shown begins at `context.start` of that text, and an attention map's keys at
      `context.key_start`: in a later forward the rest is in a cache. Values, and keys after rotary positions, are shown
      whole each time, because the cache holds them as they were before the hook.
    - What is decided once and must be known later (columns, heads, counts) is kept in `batch.memory`, under a key that
      holds the intervention; where that is None, nothing follows the forward.
    - Outputs of earlier tokens stay as they are, so a hook must not change them because of later tokens.
    - Token positions stand in fields called `positions`, `queries`, `keys`, `take` or `give`: numbers there count in
      the text as it was given, and are translated to where rows stand. 'end' is each newest token. References hold no
      position axis.
    """

    def __post_init__(self) -> None:
        """Heads and positions as hashable values, equal where they mean the same however they were written."""
        for names, freeze in ((HEAD_FIELDS, split_heads), (POSITION_FIELDS, freeze_positions)):
            for name in names:
                if getattr(self, name, None) is not None:
                    object.__setattr__(self, name, freeze(getattr(self, name)))

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        """Functions at hook points, for one forward on this batch."""
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
