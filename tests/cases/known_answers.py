"""The known-answer table: every bundled model whose true heads and edges are known. Every method is held against it.

A model gets into the table by its card, so adding one means adding its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interp.zoo.registry import list_models
from interp.zoo.truth import Truth


@dataclass(frozen=True)
class Case:
    """One model with its known answer.

    Attributes:
        name: of the bundled model.
        kind: how it came about.
        truth: what its heads do, and which edges carry it.
    """

    name: str
    kind: str
    truth: Truth

    def model(self) -> Any:
        """The model, hooked."""
        import interp

        return interp.load(self.name)

    def task(self) -> Any:
        """The prompts that come with it."""
        import interp

        return interp.task("bundled", model=self.name)


CASES = {
    name: Case(name, card["kind"], Truth(**card["truth"])) for name, card in list_models().items() if "truth" in card
}
