"""What a method against hallucination is, in a comparison: settings, and what the model says in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.hooks.interventions import Intervention
from interp.hooks.names import parse_head
from interp.hooks.rerun.sweep import sweep
from interp.vision.questions import Questions

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Setting = Mapping[str, Any]
Margins = Float[np.ndarray, "setting prompt"]


@dataclass(frozen=True)
class Method(ABC):
    """A way to change what a model says.

    Attributes:
        name: in the table.
        source: paper.
        grid: settings that are tried.
        point: of the heads, where its edits act; '' for a method that edits none.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    grid: ClassVar[tuple[Setting, ...]]
    point: ClassVar[str] = ""

    @abstractmethod
    def margins(self, model: HookedModel, asked: Questions, settings: Sequence[Setting], batch_size: int) -> Margins:
        """`Questions.margin` of every prompt in every setting."""

    def to_dict(self) -> dict[str, Any]:
        """What is asked of it."""
        return {"name": self.name, "grid": [dict(setting) for setting in self.grid]}

    def heads(self, setting: Setting) -> tuple[str, ...]:
        """Heads that it acts on, where these are the same in every prompt and not all; they get matched controls."""
        return ()

    def with_heads(self, heads: tuple[str, ...]) -> Method:
        """The same method on these heads instead."""
        raise NotImplementedError


Tried = tuple[Method, Setting]
"""A method in the setting that it was given."""


@dataclass(frozen=True)
class EditMethod(Method):
    """A method that is an intervention."""

    @abstractmethod
    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention | None:
        """For these prompts, in order; None where there is nothing to change."""

    def margins(self, model: HookedModel, asked: Questions, settings: Sequence[Setting], batch_size: int) -> Margins:
        edits = [self.edit(model, asked, setting) for setting in settings]
        made = [edit for edit in edits if edit is not None]
        values, clean = sweep(model, asked.pairs.clean, made, asked.pairs.read_at, asked.margin, batch_size=batch_size)
        found = iter(values.numpy())
        return np.stack([clean.numpy() if edit is None else next(found) for edit in edits])


@dataclass(frozen=True)
class ByHeads(EditMethod):
    """An intervention on heads of a ranking: the first of each layer (`per_layer`), or of all (`first`).

    Attributes:
        ranking: labels, best first.
        fixed: act on these, whatever the ranking.
    """

    ranking: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ranking is no part of it: it is measured."""
        return {**super().to_dict(), "fixed": list(self.fixed)}

    def heads(self, setting: Setting) -> tuple[str, ...]:
        if self.fixed:
            return self.fixed
        if "first" in setting:
            return self.ranking[: setting["first"]]
        seen: dict[int, int] = {}
        chosen = []
        for label in self.ranking:
            layer = parse_head(label).layer
            seen[layer] = seen.get(layer, 0) + 1
            chosen += [label] if seen[layer] <= setting["per_layer"] else []
        return tuple(sorted(chosen))

    def with_heads(self, heads: tuple[str, ...]) -> Method:
        return type(self)(self.ranking, heads)
