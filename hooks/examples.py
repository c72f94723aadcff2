"""Examples as text: one question each, as its author wrote it, and those that were left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Prompt = str | tuple[int, ...]
Span = tuple[int, int]
Option = str | int


@dataclass(frozen=True)
class Example:
    """One question as its author wrote it.

    Attributes:
        id: unique within the task.
        clean: the prompt, text or token ids.
        answer: what should come next, as text (with its leading space) or one token id; several where each of them is
            right; None where no answer is asked.
        distractor: the wrong answer, or answers, it competes with.
        corrupt: the prompt with the deciding information changed; same number of tokens as `clean`.
        spans: role -> (start, end) character offsets in a text `clean`, token offsets in a token-id `clean`.
        corrupt_spans: the same for `corrupt`.
        where: file and line, for messages.
        image: a picture that the prompt is about, uint8 [height width 3]; see `interp.hooks.pictures`.
        corrupt_image: that of `corrupt`, where it is another one.
    """

    id: str
    clean: Prompt
    answer: Option | tuple[Option, ...] | None = None
    distractor: Option | tuple[Option, ...] | None = None
    corrupt: Prompt | None = None
    spans: Mapping[str, Span] = field(default_factory=dict)
    corrupt_spans: Mapping[str, Span] = field(default_factory=dict)
    where: str = ""
    image: Any = field(default=None, compare=False, repr=False)
    corrupt_image: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Drop:
    """A prompt that was left out, and why."""

    id: str
    code: str
    reason: str
    where: str = ""
