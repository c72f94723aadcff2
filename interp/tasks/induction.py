"""Induction: a random sequence of tokens begins again; what comes next?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Example
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples, Tokenizer, token_ids


@dataclass(frozen=True)
class Induction(Task):
    """Repeated random tokens, drawn without replacement: `[BOS] t1 ... tL t1 ... tk` -> t(k+1).

    The corrupt prompt has a first half of L other tokens and the same second part, so nothing tells the answer.
    Prompts are token ids, so that no text is split anew. Spans (token offsets): `first`, where the answer stood
    before; `previous`, the token before it, equal to the last one; `end`, the last token.

    Attributes:
        length: L, number of different tokens in the first half.
        repeat: k, how many of them come again; half of L where it is None.
    """

    name: ClassVar[str] = "induction"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Induction: continue the second occurrence of a sequence of random tokens."

    length: int = 16
    repeat: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 2 or not 1 <= self.repeated < self.length:
            what = f"length {self.length} with repeat {self.repeat}"
            raise InterpError("E205", what, where="task induction", fix="length from 2, repeat from 1 to length - 1")

    @property
    def repeated(self) -> int:
        """k, with its default filled in."""
        return self.length // 2 if self.repeat is None else self.repeat

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`."""
        rng = random.Random(f"induction/{self.seed}")
        known: dict[int, bool] = {}
        return TaskExamples(tuple(self._draw(rng, index, tokenizer, known) for index in range(self.n)))

    def _draw(self, rng: random.Random, index: int, tokenizer: Tokenizer, known: dict[int, bool]) -> Example:
        drawn = draw_ordinary(rng, tokenizer, 2 * self.length, known)
        first, other = drawn[: self.length], drawn[self.length :]
        start = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        k = self.repeated
        answer = len(start) + k
        clean, corrupt = (start + half + first[:k] for half in (first, other))
        spans = {"first": (answer, answer + 1), "previous": (answer - 1, answer), "end": (len(clean) - 1, len(clean))}
        distractor = rng.choice(first[:k] + first[k + 1 :])
        return Example(f"induction-{index:04d}", clean, first[k], distractor, corrupt, spans, dict(spans))


def is_ordinary(tokenizer: Tokenizer, token: int) -> bool:
    """Whether a token is printable text that the tokenizer reads back as this one token."""
    text = tokenizer.decode([token])
    return "\ufffd" not in text and bool(text.strip()) and text.isprintable() and token_ids(tokenizer, text) == [token]


def draw_ordinary(rng: random.Random, tokenizer: Tokenizer, count: int, known: dict[int, bool]) -> tuple[int, ...]:
    """Different ordinary tokens, uniformly; `known` remembers which tokens are ordinary.

    Raises:
        InterpError: E311, the tokenizer has fewer ordinary tokens than asked for.
    """
    special = set(tokenizer.all_special_ids)
    seen: set[int] = set()
    drawn: list[int] = []
    while len(drawn) < count and len(seen) < len(tokenizer):
        token = rng.randrange(len(tokenizer))
        if token in seen:
            continue
        seen.add(token)
        if token not in known:
            known[token] = token not in special and is_ordinary(tokenizer, token)
        if known[token]:
            drawn.append(token)
    if len(drawn) == count:
        return tuple(drawn)
    what = f"only {len(drawn)} ordinary tokens; {count} needed"
    raise InterpError("E311", what, where="task induction", fix="choose a smaller length")
