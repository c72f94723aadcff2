"""What every method is: prompts in, one number a token out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.circuits.question import Question
    from interp.hooks.model import HookedModel
    from interp.maps.look import Look


@dataclass(frozen=True, eq=False)
class Method(ABC):
    """A way of saying how much each token of a prompt counts for what the model puts out.

    A method is a frozen record of its parameters. A prompt gets the same numbers alone as in a batch.

    Attributes:
        source: paper and equation.
        says: what a high number says of a token, in one line.
        reads: 'attention', 'gradients', 'changes' (the model runs with something changed) or 'nothing'.
        signed: whether a number below 0 says that a token speaks against the answer.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    says: ClassVar[str]
    reads: ClassVar[str]
    signed: ClassVar[bool] = False

    @abstractmethod
    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        """The number of each token; what stands at padding is not read."""

    def check(self, model: HookedModel, question: Question) -> None:  # noqa: B027  # most are defined everywhere
        """Raises InterpError where the method is not defined on this model or for these prompts."""

    @property
    def bears_edits(self) -> bool:
        """Whether it can be measured where scores of attention are edited already."""
        return True

    @property
    def label(self) -> str:
        """Its name, with the parameters that are not the default ones."""
        changed = [
            f"{one.name}={getattr(self, one.name)}" for one in fields(self) if getattr(self, one.name) != one.default
        ]
        return f"{self.name} ({', '.join(changed)})" if changed else self.name

    def describe(self) -> dict[str, Any]:
        """Name, source and parameters as plain data."""
        fixed = {"method": self.name, "source": self.source, "says": self.says, "reads": self.reads}
        return {**fixed, "signed": self.signed, **{one.name: getattr(self, one.name) for one in fields(self)}}

    def check_choice(self, option: str, known: tuple[str, ...]) -> None:
        """Raises E201 for a parameter that has none of its values."""
        given = getattr(self, option)
        if given not in known:
            raise InterpError(
                "E201", f"{option} is {given!r}", where=f"method {self.name}", fix=suggest(str(given), known)
            )
