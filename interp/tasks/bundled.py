"""The prompts that come with a bundled model whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from interp.kernels.errors import InterpError, suggest
from interp.tasks.file import FileTask
from interp.zoo.registry import ROOT

PROMPTS = "examples.jsonl"


@dataclass(frozen=True)
class Bundled(FileTask):
    """The questions in the folder of a bundled model, as a file of prompts.

    Attributes:
        model: name of the bundled model.
    """

    name: ClassVar[str] = "bundled"
    description: ClassVar[str] = "The prompts that come with a planted, compiled or trained-to-order model."

    model: str = ""

    def __post_init__(self) -> None:
        known = sorted(path.parent.name for path in ROOT.glob(f"*/{PROMPTS}"))
        if self.model not in known:
            what = f"no bundled model {self.model!r} has prompts"
            raise InterpError("E201", what, where="task bundled", fix=suggest(self.model, known))
        self._settle("path", str(ROOT / self.model / PROMPTS))
        super().__post_init__()

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """See `Task.option_names`; the path follows from the model."""
        return ("model",)
