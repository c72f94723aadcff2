"""Mask classes: what a head may be reduced to, from nothing to full attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from interp.hooks.batch import Batch
from interp.hooks.interventions import Ablate, Intervention
from interp.hooks.reference import Reference
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError, suggest
from interp.kernels.variants import variant as variant_of
from interp.kernels.variants import variants
from interp.kernels.variants.base import Variant
from interp.kernels.variants.document import Mask
from interp.kernels.variants.streaming import Streaming
from interp.kernels.variants.window import Window
from interp.swapping.segments import SegmentSwap

FULL = "full"
TAKEN = ("mean", "zero")
LADDER = ("nothing", "sink", "window", "sink+recent", "document", "document+sink")
"""Classes that go by a word, beside the names of operators."""


@dataclass(frozen=True, eq=False)
class MaskClass(ABC):
    """One way to run a head.

    Attributes:
        name: how results call it.
    """

    kind: ClassVar[str]

    name: str

    @abstractmethod
    def edit(self, heads: tuple[str, ...]) -> Intervention | None:
        """What runs these heads so; None for full attention."""

    @abstractmethod
    def operator(self, batch: Batch) -> Variant | None:
        """The operator for these prompts; None where there is none."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, eq=False)
class Full(MaskClass):
    """The model's own attention."""

    kind: ClassVar[str] = FULL

    name: str = FULL

    def edit(self, heads: tuple[str, ...]) -> None:
        return None

    def operator(self, batch: Batch) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Nothing(MaskClass):
    """The head taken away: z is zero, or its mean over all tokens of prompts (`filled` says of which)."""

    kind: ClassVar[str] = "nothing"

    name: str = "nothing"
    taken: str = "mean"
    reference: Reference | None = None

    def edit(self, heads: tuple[str, ...]) -> Ablate:
        return Ablate(heads=heads, operator=self.taken, reference=self.reference)

    def operator(self, batch: Batch) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "taken": self.taken}

    def filled(self, reference: Reference | None) -> Nothing:
        """The same with the values that stand in for z."""
        return replace(self, reference=reference if self.taken == "mean" else None)


@dataclass(frozen=True, eq=False)
class Operated(MaskClass):
    """The head by an operator of `interp.kernels.variants`."""

    kind: ClassVar[str] = "operator"

    variant: Variant

    def edit(self, heads: tuple[str, ...]) -> Swap:
        return Swap(heads, self.variant)

    def operator(self, batch: Batch) -> Variant:
        return self.variant

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "variant": self.variant.describe()}


@dataclass(frozen=True, eq=False)
class Segmented(MaskClass):
    """The head by segments of the prompt, see `SegmentSwap`."""

    kind: ClassVar[str] = "segments"

    mask: Mask
    sink_tokens: int
    roles: tuple[str, ...] = ()

    def edit(self, heads: tuple[str, ...]) -> SegmentSwap:
        return SegmentSwap(heads, self.mask, self.sink_tokens, self.roles)

    def operator(self, batch: Batch) -> Variant:
        return self.edit(("all",)).document(batch)


@dataclass(frozen=True)
class Sizes:
    """What the classes that go by a word are made of.

    Args:
        sink_tokens: first tokens that a sink class sees.
        recent: nearest tokens that 'sink+recent' sees; 'window' sees as many keys as it in all.
        roles: segments of 'document' and 'document+sink'.
        taken: of 'nothing'.

    Raises:
        InterpError: E201 taken; E205 sizes under 1.
    """

    sink_tokens: int
    recent: int
    roles: tuple[str, ...] = ()
    taken: str = "mean"

    def __post_init__(self) -> None:
        if self.taken not in TAKEN:
            raise InterpError("E201", f"taken is {self.taken!r}", fix=suggest(self.taken, TAKEN))
        if min(self.sink_tokens, self.recent) < 1:
            raise InterpError("E205", f"sink_tokens={self.sink_tokens}, recent={self.recent}", fix="1 or more of each")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_class(given: str | Variant, sizes: Sizes) -> MaskClass:
    """A class by its word, by an operator's name, or an operator.

    Raises:
        InterpError: E201 unknown word; E205 segments of prompts without roles.
    """
    if isinstance(given, Variant):
        return Operated(given.name, given)
    if given not in LADDER:
        known = (*LADDER, *variants())
        if given not in known:
            raise InterpError("E201", f"no mask class {given!r}", fix=suggest(given, known))
        return Operated(given, variant_of(given))
    if given == "nothing":
        return Nothing(taken=sizes.taken)
    if given == "window":
        return Operated(given, Window(size=sizes.sink_tokens + sizes.recent))
    if given == "sink+recent":
        return Operated(given, Streaming(sink_tokens=sizes.sink_tokens, recent=sizes.recent))
    if given != "sink" and not sizes.roles:
        raise InterpError("E205", f"{given!r} without segments", fix="roles=('needle', ...), as the task names them")
    mask: Mask = "sink" if given == "sink" else "document" if given == "document" else "document+sink"
    return Segmented(given, mask, sizes.sink_tokens, sizes.roles if given != "sink" else ())


def make_classes(given: Sequence[str | Variant] | Mapping[str, str | Variant], sizes: Sizes) -> tuple[MaskClass, ...]:
    """Classes under their names, and full attention behind them.

    Raises:
        InterpError: E205 none, or two of one name; and as `make_class`.
    """
    named = given if isinstance(given, Mapping) else {}
    made = [make_class(one, sizes) for one in (named.values() if named else given)]
    names = [*named] if named else [one.name for one in made]
    if not made or len({*names, FULL}) != len(names) + 1:
        raise InterpError("E205", f"mask classes {names}", fix="one or more, each under a name of its own, not 'full'")
    return (*(replace(one, name=name) for one, name in zip(made, names, strict=True)), Full())


def read_class(data: Mapping[str, Any]) -> MaskClass:
    """The class that `to_dict` described.

    Raises:
        InterpError: E205 an operator that holds tensors or functions, which are not stored.
    """
    given = {key: value for key, value in data.items() if key != "kind"}
    if data["kind"] == Nothing.kind:
        return Nothing(**given)
    if data["kind"] == Segmented.kind:
        return Segmented(**{**given, "roles": tuple(given["roles"])})
    if data["kind"] == FULL:
        return Full()
    return Operated(data["name"], _variant(data["variant"]))


def _variant(described: Mapping[str, Any]) -> Variant:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in described.items()
    }
    name = given.pop("variant")
    plain = all(value is None or isinstance(value, bool | int | float | str | tuple) for value in given.values())
    if not plain or name not in variants():
        what = f"operator {name!r} holds what a folder does not"
        raise InterpError("E205", what, fix="make it again and hand it to Swap")
    return variants()[name](**given)
