"""Receivers of a path: the logits, what a head makes its queries, keys or values of, or what an MLP reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.hooks.names import HeadId, check_head, parse_head, point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

LOGITS, MLP = "logits", "mlp"
HEAD_INPUT = re.compile(r"(?P<head>L\d+(?P<kv>KV|H)\d+)\.(?P<part>[qkv])")
MLP_LABEL = re.compile(r"M(?P<layer>\d+)")
READABLE = "logits, L2H1.q, L2H1.k, L2H1.v, L2KV0.k or M3"


@dataclass(frozen=True, order=True)
class Receiver:
    """Where a path ends.

    Attributes:
        label: `logits`, `L2H1.q`, `L2KV0.k` (keys that several query heads share), `M3`.
        part: 'logits', 'q', 'k', 'v' or 'mlp'.
        layer: -1 for the logits.
        head: for 'q' a query head, for 'k' and 'v' a key/value head; -1 elsewhere.
    """

    label: str
    part: str
    layer: int = -1
    head: int = -1

    @property
    def point(self) -> str:
        """Hook point whose value is recorded and patched: patching what an MLP writes is patching what it reads."""
        return point_name("hook_mlp_out" if self.part == MLP else f"attn.hook_{self.part}", self.layer)


def parse_receivers(spec: str | Iterable[str], model: HookedModel) -> tuple[Receiver, ...]:
    """Receivers by their labels, each once.

    Under grouped-query attention `L2H1.k` is the key/value head that L2H1 reads, with all query heads that share it.

    Raises:
        InterpError: E201 no such receiver; E203 out of range; E205 the logits among others; E403 not open on this model.
    """
    labels = [spec] if isinstance(spec, str) else list(spec)
    found = tuple(dict.fromkeys(_receiver(label.strip(), model) for label in labels))
    if not found:
        raise InterpError("E201", "no receiver named", fix=READABLE)
    if len(found) > 1 and any(one.part == LOGITS for one in found):
        raise InterpError("E205", "the logits are asked for with other receivers", fix="ask for the logits alone")
    for one in found:
        if one.part != LOGITS:
            model.check_point(one.point)
    return found


def _receiver(label: str, model: HookedModel) -> Receiver:
    if label == LOGITS:
        return Receiver(LOGITS, LOGITS)
    if mlp := MLP_LABEL.fullmatch(label):
        layer = int(mlp["layer"])
        if layer >= model.n_layers:
            raise InterpError("E203", f"no layer {layer}: the model has {model.n_layers}", where=label)
        return Receiver(label, MLP, layer)
    match = HEAD_INPUT.fullmatch(label)
    if match is None or (match["kv"] == "KV" and match["part"] == "q"):
        raise InterpError("E201", f"no receiver is called {label!r}", fix=READABLE)
    head, part = parse_head(match["head"].replace("KV", "H")), match["part"]
    check_head(head, model.kv_heads if match["kv"] == "KV" else model.heads)
    if part == "q":
        return Receiver(label, part, head.layer, head.head)
    number = head.head if match["kv"] == "KV" else model.kv_head(head)
    return Receiver(f"{kv_label(model, head.layer, number)}.{part}", part, head.layer, number)


def reaches(head: HeadId, receivers: Sequence[Receiver]) -> bool:
    """Whether what a head writes can reach one of the receivers; an MLP also reads the heads of its own layer."""
    if head.tower:
        return False
    return any(one.part == LOGITS or head.layer < one.layer + (one.part == MLP) for one in receivers)


def kv_label(model: HookedModel, layer: int, number: int) -> str:
    """`L2H1` where each query head has keys and values of its own, else `L2KV0`."""
    shared = model.kv_heads[""][layer] != model.heads[""][layer]
    return f"L{layer}KV{number}" if shared else HeadId("", layer, number).label


def sharing(receivers: Iterable[Receiver], model: HookedModel) -> tuple[str, ...]:
    """For each receiver that is more than its name says, a sentence naming the query heads behind it."""
    found = []
    for one in receivers:
        if "KV" in one.label:
            size = model.heads[""][one.layer] // model.kv_heads[""][one.layer]
            heads = ", ".join(f"L{one.layer}H{one.head * size + number}" for number in range(size))
            found.append(f"{one.label} is read by {heads} alike.")
    return tuple(found)
