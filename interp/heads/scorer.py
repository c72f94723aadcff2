"""What every scorer is: one number a head and prompt, what it would be by chance, and the most it can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Scores:
    """What a scorer found; NaN where it is not defined.

    Attributes:
        values: the score of each head on each prompt.
        null: what it would be on that prompt by chance alone; the scorer says by which chance.
        kernel: which backend computed attention; '' where none did.
        notes: what a reader must know.
        p: of each head, where its score is held against random draws and not tested over prompts.
        left_out: number of a prompt -> why it has no score; its columns are dropped.
    """

    values: Float[np.ndarray, "head prompt"]
    null: Float[np.ndarray, "head prompt"]
    kernel: str = ""
    notes: tuple[str, ...] = ()
    p: Float[np.ndarray, " head"] | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scorer(ABC):
    """A way of asking what heads do.

    A scorer is a frozen record of its parameters. It reads prompts that a task made and never writes to them; a prompt
    that is scored alone gets the same number as in a batch.

    Attributes:
        source: paper and equation.
        says: what a high score says of a head, in one line.
        chance: what `Scores.null` is.
        ceiling: the most a head can score; None where nothing bounds it.
        needs: what every example must have, see `interp.hooks.pairs.tokenise`.
        roles: spans that every prompt must have.
        task, options: the task whose prompts are used where none is given; '' for scorers that read weights alone.
        operator: what is done to heads, where the score is of what that changes; '' where nothing is.
        axis: what a score is of: 'query_head', or 'expert' (then `every_part` names them).
        sees: whether it is of the heads that read pictures, those of the vision tower, and not of the main tower's.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    says: ClassVar[str]
    chance: ClassVar[str]
    ceiling: ClassVar[float | None] = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    roles: ClassVar[tuple[str, ...]] = ()
    task: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    operator: ClassVar[str] = ""
    axis: ClassVar[str] = "query_head"
    sees: ClassVar[bool] = False

    @property
    def variant(self) -> str:
        """'paper', or 'official-code' where the published code computes something else, and that is asked for."""
        return "paper"

    @abstractmethod
    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        """Scores of these heads on these prompts."""

    def every_part(self, model: HookedModel) -> tuple[HeadId, ...]:
        """All that is scored on another axis than that of query heads."""
        raise NotImplementedError(f"scorer {self.name} names no parts")

    def flagged(self, scores: Scores, heads: Sequence[HeadId]) -> Scores:
        """The scores with what a reader must know of heads that fall out of the ordinary; by default as they are."""
        return scores

    def describe(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        fixed = {"scorer": self.name, "operator": self.operator, "variant": self.variant, "axis": self.axis}
        return {**fixed, **{one.name: getattr(self, one.name) for one in fields(self)}}

    def check_choice(self, option: str, known: Sequence[str]) -> None:
        """Raises E201 for a parameter that has none of its values."""
        given = getattr(self, option)
        if given not in known:
            what = f"{option} is {given!r}"
            raise InterpError("E201", what, where=f"scorer {self.name}", fix=suggest(str(given), known))
