"""What computes a sweep, unit by unit: the protocol, and its plain implementation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks.interventions import Intervention
from interp.hooks.naive import batches, sweep
from interp.sweeps.units import Unit

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Values = Float[np.ndarray, "variant prompt"]
Tables = tuple[Float[np.ndarray, "_ _"], ...]
"""Values of several units, which need not be of one shape."""


@runtime_checkable
class Work(Protocol):
    """Something that fills in units of a table. The numbers of a unit depend on the unit alone."""

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        """Each unit with its values, in float64."""
        ...

    def halve(self) -> bool:
        """Hold half as much at once from now on, after memory ran out; False where it is the least already."""
        ...

    def restore(self) -> None:
        """Hold as much at once as in the beginning."""
        ...

    @property
    def size(self) -> str:
        """How much is held at once, in words."""
        ...


class NaiveWork:
    """One full forward for each variant and batch.

    Args:
        question: prompts and metric.
        variants: interventions; reference values with a batch axis are aligned with the prompts.
        batch_size: prompts in one forward, the length of a unit.
    """

    def __init__(
        self, model: HookedModel, question: Question, variants: Sequence[Intervention], batch_size: int
    ) -> None:
        self.model, self.question, self.variants = model, question, variants
        self.rows = self.batch_size = batch_size
        self._clean: tuple[tuple[int, int, int], Tensor] | None = None

    @property
    def size(self) -> str:
        return f"{self.rows} prompts a forward"

    def baseline(self) -> Float[np.ndarray, " prompt"]:
        """The metric of the untouched model for every prompt, computed as the units are."""
        found = []
        for start, stop in batches(self.question.batch.size, self.rows):
            clean = self._clean_output(start, stop)
            found.append(self.question.measure(clean, start, stop, clean).double())
        return torch.cat(found).numpy()

    def description(self) -> str:
        """How units are computed, for the record."""
        return "one full forward for each variant and batch"

    def halve(self) -> bool:
        self.rows, before = max(1, self.rows // 2), self.rows
        return self.rows < before

    def restore(self) -> None:
        self.rows = self.batch_size

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        for unit in units:
            yield unit, self._values(unit)

    def _values(self, unit: Unit) -> Values:
        question, (start, stop) = self.question, (unit.start, unit.stop)
        clean = self._clean_output(start, stop) if "reference" in question.metric.needs else None

        def measure(output: Tensor, low: int, high: int) -> Tensor:
            own = None if clean is None else clean[low:high]
            return question.measure(output, start + low, start + high, own)

        part, read_at = question.batch.rows(start, stop), question.read_at[start:stop]
        variants = [variant.rows(start, stop) for variant in self.variants[unit.first : unit.last]]
        values: Values = sweep(self.model, part, variants, read_at, measure, batch_size=self.rows).numpy()
        return values

    def _clean_output(self, start: int, stop: int) -> Tensor:
        """Of the untouched model; kept for the next unit of the same batch."""
        key = (start, stop, self.rows)
        if self._clean is None or self._clean[0] != key:
            self._clean = key, self.question.clean(self.model, start, stop, self.rows)
        return self._clean[1]
