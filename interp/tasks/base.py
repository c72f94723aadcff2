"""`Task`: where questions come from. One class a file; its fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from interp.hooks.examples import Drop, Example
from interp.kernels.errors import InterpError, suggest


@runtime_checkable
class Tokenizer(Protocol):
    """What tasks ask of a tokenizer; every transformers tokenizer has it."""

    @property
    def bos_token_id(self) -> Any: ...
    @property
    def all_special_ids(self) -> list[int]: ...
    def __call__(self, text: Any, *, add_special_tokens: bool = True) -> Any: ...
    def decode(self, token_ids: Any) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TaskExamples:
    """Questions of a task, the ones left out, and what a reader of the result should know.

    Attributes:
        examples: in order, ids unique.
        drops: questions left out, each with its reason.
        notes: full sentences, for instance which names the tokenizer splits and were not used.
    """

    examples: tuple[Example, ...]
    drops: tuple[Drop, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task(ABC):
    """A generator of questions with known answers: the same fields and tokenizer give the same questions.

    A subclass is a frozen dataclass; fields other than `n` and `seed` are its options.

    Attributes:
        name: name in the registry.
        metric: default metric, a name in `interp.hooks.metrics`; higher is better in all of them.
        description: one sentence.
        n: number of questions.
        seed: of everything that is drawn.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    description: ClassVar[str]

    n: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InterpError("E205", f"n is {self.n}", where=f"task {self.name}", fix="ask for at least one question")

    @abstractmethod
    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """The questions for this tokenizer."""

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the options, without `n` and `seed`."""
        return tuple(f.name for f in fields(cls) if f.init and f.name not in ("n", "seed"))

    @property
    def options(self) -> dict[str, Any]:
        """Option values by name."""
        return {name: getattr(self, name) for name in self.option_names()}

    def to_dict(self) -> dict[str, Any]:
        """What a run record keeps: name, n, seed, metric and options, JSON-ready."""
        kept = {key: value for key, value in asdict(self).items() if key in self.option_names()}
        return {"name": self.name, "n": self.n, "seed": self.seed, "metric": self.metric, "options": kept}


def check_choice(task: str, option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise E201 unless an option has one of its values."""
    allowed = list(allowed)
    if value not in allowed:
        raise InterpError("E201", f"{option} is {value!r}", where=f"task {task}", fix=suggest(str(value), allowed))


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
