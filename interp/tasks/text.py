"""`TextTask`: a task that fills templates with words from lists."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Drop, Example, Span
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples, Tokenizer, check_choice, token_ids
from interp.tasks.split import SPLITS

Words = Mapping[str, tuple[str, ...]]

FEWEST = 5
"""Words of each list that a tokenizer must have as single tokens."""


@dataclass(frozen=True)
class TextTask(Task):
    """Questions from templates and word lists; words that a tokenizer splits are not used, and a note names them.

    Attributes:
        lists: words by kind; each must be one token after a space.
        split: which facts are asked about, see `interp.tasks.split`.
    """

    lists: ClassVar[Words]

    split: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "split", self.split, SPLITS)

    @abstractmethod
    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """Question number `index`, from these words."""

    def misfit(self, example: Example, tokenizer: Tokenizer) -> str | None:
        """Why this tokenizer can't ask this question; None where it can."""
        if example.corrupt is None:
            return None
        clean, corrupt = (len(token_ids(tokenizer, str(text))) for text in (example.clean, example.corrupt))
        return None if clean == corrupt else f"{clean} tokens clean, {corrupt} corrupt"

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`.

        Raises:
            InterpError: E311, the tokenizer has too few words of a list as single tokens.
        """
        words = {kind: single_tokens(tokenizer, listed) for kind, listed in self.lists.items()}
        for kind, found in words.items():
            if len(found) < min(FEWEST, len(self.lists[kind])):
                what = f"this tokenizer has {len(found)} of {len(self.lists[kind])} {kind} as single tokens; too few"
                raise InterpError("E311", what, where=f"task {self.name}")
        rng = random.Random(f"{self.name}/{self.seed}")
        kept, drops = [], []
        for index in range(self.n):
            example = self.draw(rng, index, words)
            if (why := self.misfit(example, tokenizer)) is None:
                kept.append(example)
            else:
                drops.append(Drop(example.id, "E305", why))
        return TaskExamples(tuple(kept), tuple(drops), split_notes(self.lists, words))


def single_tokens(tokenizer: Tokenizer, listed: tuple[str, ...]) -> tuple[str, ...]:
    """The words that are one token after a space."""
    return tuple(word for word in listed if len(token_ids(tokenizer, f" {word}")) == 1)


def split_notes(lists: Words, words: Words) -> tuple[str, ...]:
    """A note on the words of each list that are not among those used."""
    split = {kind: [word for word in listed if word not in words[kind]] for kind, listed in lists.items()}
    return tuple(
        f"{kind.capitalize()} not used, because the tokenizer splits them: {', '.join(missing)}."
        for kind, missing in split.items()
        if missing
    )


def fill(
    pattern: str, values: Mapping[str, str], roles: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Span]]:
    """A template filled in, and where things are.

    Args:
        pattern: text with `[KEY]` where a value goes.
        values: key -> text.
        roles: key -> name of its span; keys that are not here get none.

    Returns:
        The text, and the character spans of the roles and of `end`, the last word.
    """
    text, spans = "", {}
    for part in re.split(r"(\[[A-Z0-9_]+\])", pattern):
        key = part.strip("[]")
        if part.startswith("[") and key in values:
            if roles and key in roles:
                spans[roles[key]] = (len(text), len(text) + len(values[key]))
            text += values[key]
        else:
            text += part
    spans["end"] = (max(text.rfind(" "), text.rfind("\n")) + 1, len(text))
    return text, spans
