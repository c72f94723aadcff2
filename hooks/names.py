"""Names: heads ("L5H1") with their one parser, and hook points with their axes.

Hook names are those of TransformerLens. In a model with several towers the language tower has no prefix and the
vision tower has `vision.`; so has a head: `L5H1`, `vision.L5H1`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from interp.kernels.errors import InterpError, suggest

_LABEL = re.compile(r"^(?:(?P<tower>[a-z_]+)\.)?(?:L(?P<l1>-?\d+)H(?P<h1>-?\d+)|a?(?P<l2>-?\d+)\.h?(?P<h2>-?\d+))$")
_LAYER = re.compile(r"^(?:(?P<tower>[a-z_]+)\.)?(?:L|a)?(?P<layer>-?\d+)(?:H\*|\.h?\*)$")


@dataclass(frozen=True, order=True)
class HeadId:
    """One attention (query) head: tower ('' for the main one), layer and head, counted from 0."""

    tower: str
    layer: int
    head: int

    @property
    def label(self) -> str:
        """`L5H1`, or `vision.L5H1` outside the main tower."""
        return f"{self.tower}.L{self.layer}H{self.head}" if self.tower else f"L{self.layer}H{self.head}"

    def __str__(self) -> str:
        return self.label


HeadLike = str | tuple[int, int] | HeadId


HeadSpec = HeadLike | Iterable[HeadLike]


def parse_head(text: HeadLike) -> HeadId:
    """`L5H1`, `5.1`, `a5.h1`, `(5, 1)` or a HeadId, with an optional tower prefix.

    Raises:
        InterpError: E202 not a head label; E203 a negative index (it would count from the end without a word).
    """
    if isinstance(text, HeadId):
        return text
    written = ".".join(map(str, text)) if isinstance(text, tuple) else str(text)
    match = _LABEL.match(written.strip())
    if match is None:
        raise InterpError(
            "E202", f"{text!r} is not a head label", fix="write L5H1, 5.1 or a5.h1; all heads of a layer: L5H*"
        )
    layer, head = int(match["l1"] or match["l2"]), int(match["h1"] or match["h2"])
    if layer < 0 or head < 0:
        raise InterpError(
            "E203", f"negative index in {text!r}", fix="layers and heads count from 0; negative indices are not used"
        )
    return HeadId(match["tower"] or "", layer, head)


def split_heads(spec: HeadSpec) -> tuple[HeadId | str, ...]:
    """The items of a head list; 'all' and whole layers stay text, since only a model can resolve them.

    Raises:
        InterpError: E202 not a label; E203 a negative index.
    """
    items: list[HeadLike]
    if isinstance(spec, str):
        items = [part for part in spec.split(",") if part.strip()]
    elif isinstance(spec, HeadId) or (isinstance(spec, tuple) and all(isinstance(part, int) for part in spec)):
        items = [spec]  # type: ignore[list-item]
    else:
        items = list(spec)  # type: ignore[arg-type]
    return tuple(
        item.strip() if isinstance(item, str) and _is_group(item.strip()) else parse_head(item) for item in items
    )


def _is_group(item: str) -> bool:
    return item == "all" or item.endswith(".all") or _LAYER.match(item) is not None


def parse_heads(spec: HeadSpec, shape: Mapping[str, tuple[int, ...]]) -> tuple[HeadId, ...]:
    """Heads named by `spec`, in order, without repeats.

    Args:
        spec: 'all' (every head of the main tower; `vision.all` for another one), one label, a comma-separated list,
            or an iterable of labels; `L5H*` and `5.*` take a whole layer.
        shape: number of heads per layer for each tower, `{"": (12, 12), "vision": (4, 4)}`.

    Raises:
        InterpError: E201 unknown tower; E202 not a label; E203 layer or head out of range; E401 layer without heads.
    """
    heads = dict.fromkeys(head for item in split_heads(spec) for head in _members(item, shape))
    if not heads:
        raise InterpError("E202", "no head named", fix="write 'all', L5H1 or L5H1,L6H0")
    return tuple(heads)


def _members(item: HeadId | str, shape: Mapping[str, tuple[int, ...]]) -> list[HeadId]:
    """The heads that one item of a list stands for."""
    if isinstance(item, HeadId):
        check_head(item, shape)
        return [item]
    layer = _LAYER.match(item)
    if layer is None:
        tower = item.removesuffix("all").removesuffix(".")
        check_tower(tower, shape, item)
        return [HeadId(tower, layer, head) for layer, n in enumerate(shape[tower]) for head in range(n)]
    first = HeadId(layer["tower"] or "", int(layer["layer"]), 0)
    check_head(first, shape)
    return [HeadId(first.tower, first.layer, head) for head in range(shape[first.tower][first.layer])]


def check_head(head: HeadId, shape: Mapping[str, tuple[int, ...]]) -> None:
    """Raise E201, E203 or E401 unless the model has this head."""
    check_tower(head.tower, shape, head.label)
    layers = shape[head.tower]
    if not 0 <= head.layer < len(layers):
        raise InterpError(
            "E203", f"layer {head.layer} does not exist", where=head.label, fix=f"layers are 0 to {len(layers) - 1}"
        )
    if layers[head.layer] == 0:
        attending = ", ".join(str(layer) for layer, n in enumerate(layers) if n)
        raise InterpError(
            "E401", f"layer {head.layer} has no attention", where=head.label, fix=f"layers with attention: {attending}"
        )
    if not 0 <= head.head < layers[head.layer]:
        raise InterpError(
            "E203",
            f"head {head.head} does not exist in layer {head.layer}",
            where=head.label,
            fix=f"heads are 0 to {layers[head.layer] - 1}",
        )


def check_tower(tower: str, shape: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise E201 unless the model has this tower."""
    if tower not in shape:
        names = ", ".join(name or "(main)" for name in shape)
        raise InterpError("E201", f"no tower {tower!r} in this model", where=where, fix=f"towers: {names}")


POINTS: dict[str, str] = {
    "hook_embed": "batch pos d_model",
    "hook_pos_embed": "batch pos d_model",
    "hook_resid_pre": "batch pos d_model",
    "attn.hook_q": "batch pos head d_head",
    "attn.hook_k": "batch pos kv_head d_head",
    "attn.hook_v": "batch pos kv_head d_head",
    "attn.hook_rot_q": "batch pos head d_head",
    "attn.hook_rot_k": "batch pos kv_head d_head",
    "attn.hook_attn_scores": "batch head query_pos key_pos",
    "attn.hook_pattern": "batch head query_pos key_pos",
    "attn.hook_operator": "batch pos head d_head",
    "attn.hook_z": "batch pos head d_head",
    "attn.hook_result": "batch pos head d_model",
    "hook_attn_out": "batch pos d_model",
    "hook_resid_mid": "batch pos d_model",
    "hook_mlp_in": "batch pos d_model",
    "hook_mlp_out": "batch pos d_model",
    "hook_resid_post": "batch pos d_model",
    "ln_final.hook_scale": "batch pos 1",
}
"""Axes of every hook point; names without a block (`hook_embed`, `ln_final...`) stand once for each tower."""

SQUARE = frozenset({"attn.hook_attn_scores", "attn.hook_pattern"})
"""Points with one cell for each query and key: what needs the attention map itself."""

NAMED_ONLY = frozenset({"attn.hook_operator", "attn.hook_result", "hook_mlp_in"})
"""Points that a glob leaves out unless it names them: they show once more what stands elsewhere, or are large."""

TOWER_POINTS = frozenset({"hook_embed", "hook_pos_embed", "ln_final.hook_scale"})

READ_ONLY = frozenset({"ln_final.hook_scale"})
"""Points that are computed beside the forward: an edit of them would be lost."""


@dataclass(frozen=True)
class PointId:
    """One hook point: tower, kind (a key of `POINTS`) and layer (None for the points of the whole tower)."""

    tower: str
    kind: str
    layer: int | None = None

    @property
    def name(self) -> str:
        """TransformerLens name: `blocks.3.attn.hook_z`, `vision.blocks.0.hook_resid_pre`, `hook_embed`."""
        prefix = f"{self.tower}." if self.tower else ""
        return f"{prefix}{self.kind}" if self.layer is None else f"{prefix}blocks.{self.layer}.{self.kind}"

    @property
    def axes(self) -> str:
        return POINTS[self.kind]


def point_name(kind: str, layer: int, tower: str = "") -> str:
    """Name of a block's hook point: `point_name("attn.hook_z", 3)` is `blocks.3.attn.hook_z`."""
    return PointId(tower, kind, layer).name


def match_names(patterns: str | Iterable[str], known: Iterable[str]) -> list[str]:
    """Known names that match any of the globs, in the order of `known`.

    Raises:
        InterpError: E201 where a pattern matches nothing (an empty capture would look like an answer).
    """
    known = list(known)
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    matched = {pattern: fnmatch.filter(known, pattern) for pattern in wanted}
    for pattern, names in matched.items():
        if not names:
            raise InterpError("E201", f"no hook point matches {pattern!r}", fix=suggest(pattern, known))
    found = set().union(*matched.values()) if matched else set()
    return [name for name in known if name in found]
