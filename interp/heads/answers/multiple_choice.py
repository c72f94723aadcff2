"""Heads of the kind: it looks at the right option, and writes its letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from interp.heads.answers.effects import Effects, path_effects
from interp.heads.answers.places import Spots, attention_to, find_places
from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

AREAS = ("option", "letter")


@dataclass(frozen=True, eq=False)
class MultipleChoice(Scorer):
    """Direct effect on the logit difference of the right letter, weighted by attention to the right option; in logits.

    `(difference(clean) - difference(path head -> logits from the corrupt run)) * attention(end -> option)`. By chance is the
    same for the same letter in prompts in which it has changed places with the distractor's, so that it stands before a wrong
    option: a head that prefers a letter, or its place, keeps its score there.

    Attributes:
        area: 'option' counts attention to its whole line, from the letter on, because models gather at its end; 'letter'
            to the letter alone, as the paper's correct-letter heads.
        letter: role of the right letter; '' finds where the answer's letter stands.

    Raises:
        InterpError: E201, another area; E313, a letter that stands in no prompt.
    """

    name: ClassVar[str] = "multiple-choice"
    source: ClassVar[str] = "Lieberum et al. 2023, arXiv 2307.09458, 'correct letter heads'"
    says: ClassVar[str] = "it looks at the right option and writes its letter"
    chance: ClassVar[str] = "the same letter before a wrong option, and a hundredth of the logit difference at least"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "mcqa"

    area: str = "option"
    letter: str = ""

    def __post_init__(self) -> None:
        self.check_choice("area", AREAS)

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which one is a parameter here
        return (self.letter,) if self.letter else ()

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        right = find_places(model, pairs, self.letter, pairs.answer, "the answer")
        wrong = find_places(model, pairs, "", pairs.distractor, "the distractor")
        left_out = {**wrong.left_out, **right.left_out}
        first = [tuple(spots[:1] for spots in side.spots) for side in (right, wrong)]
        values, effects = self._weighted(model, pairs, heads, batch_size, first)
        null, _ = self._weighted(model, with_letters_swapped(pairs, *first), heads, batch_size, first[::-1])
        values[:, list(left_out)] = np.nan
        return Scores(values, np.maximum(null, effects.least), left_out=left_out)

    def _weighted(
        self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int, places: Sequence[Spots]
    ) -> tuple[Float[np.ndarray, "head prompt"], Effects]:
        """Effects times attention to where the answer's letter stands."""
        area = places[0] if self.area == "letter" else option_lines(pairs, *places)
        effects = path_effects(model, pairs, heads, batch_size)
        return effects.values * attention_to(model, pairs, area, heads, batch_size).numpy(), effects


def option_lines(pairs: Pairs, letters: Spots, others: Spots) -> Spots:
    """Positions from a letter to the end of its line, or to the other letter where that stands in it."""
    found = []
    texts_of = zip(pairs.clean.first.tolist(), pairs.tokens, pairs.read_at.tolist(), letters, others, strict=True)
    for first, texts, read_at, own, other in texts_of:
        line: list[int] = []
        for place in range(own[0], first + len(texts)) if own else ():
            if place in other or place == read_at:
                break
            line.append(place)
            if "\n" in texts[place - first]:
                break
        found.append(tuple(line))
    return tuple(found)


def with_letters_swapped(pairs: Pairs, one: Spots, other: Spots) -> Pairs:
    """The pairs with the tokens of two places changed over, in both prompts; as they are where one is missing."""
    assert pairs.corrupt is not None
    clean, corrupt = (_swapped(batch, one, other) for batch in (pairs.clean, pairs.corrupt))
    return replace(pairs, clean=clean, corrupt=corrupt)


def _swapped(batch: Batch, one: Spots, other: Spots) -> Batch:
    ids = batch.input_ids.clone()
    for row, (first, second) in enumerate(zip(one, other, strict=True)):
        if first and second:
            ids[row, [first[0], second[0]]] = ids[row, [second[0], first[0]]]
    return replace(batch, inputs={**batch.inputs, "input_ids": ids})
