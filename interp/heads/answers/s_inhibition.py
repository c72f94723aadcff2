"""Heads of the kind: it looks at the name that was said twice, and keeps name movers away from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.heads.answers.effects import NO_DIFFERENCE, path_effects
from interp.heads.answers.movers import check_movers, find_movers, labels_of
from interp.heads.answers.places import Places, attention_to, find_places, some
from interp.heads.scorer import Scorer, Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class SInhibition(Scorer):
    """Effect on the logit difference through the queries of the name movers, weighted by attention to the last place of the
    wrong name; in logits.

    `(difference(clean) - difference(path head -> q of the movers from the corrupt run)) * attention(end -> wrong name)`.
    Prompts without a name mover have no score.

    Attributes:
        movers: labels of the name movers, with commas between them; '' finds them prompt by prompt.
        most: name movers of one prompt, at most.
        s2: role of the name that was said twice, in its last place; '' finds where the distractor's token stands last.
        io: role of the tokens that hold the answer, for finding movers; '' as there.

    Raises:
        InterpError: E202, E203, names of movers; E205, no mover; E313, a name that stands in no prompt.
    """

    name: ClassVar[str] = "s-inhibition"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.2, figure 5"
    says: ClassVar[str] = "it looks at the repeated name and keeps name movers away from it"
    chance: ClassVar[str] = NO_DIFFERENCE
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "ioi"

    movers: str = ""
    most: int = 3
    s2: str = ""
    io: str = ""

    def __post_init__(self) -> None:
        check_movers(self.name, self.movers, self.most)

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which ones are parameters here
        return tuple(role for role in (self.s2, self.io) if role)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        wrong = find_places(model, pairs, self.s2, pairs.distractor, "the distractor")
        last = Places(tuple(spots[-1:] for spots in wrong.spots), wrong.what)
        movers = find_movers(model, pairs, labels_of(self.movers), self.most, batch_size, io=self.io)
        values, null = np.full((2, len(heads), len(pairs)), np.nan)
        for found, rows in movers.groups.items():
            queries = [f"{head.label}.q" for head in found]
            effects = path_effects(model, some(pairs, rows), heads, batch_size, receivers=queries)
            values[:, rows], null[:, rows] = effects.values, effects.least
        values *= attention_to(model, pairs, last.spots, heads, batch_size).numpy()
        left_out = {**movers.left_out, **last.left_out}
        values[:, list(left_out)] = np.nan
        return Scores(values, null, notes=movers.notes, left_out=left_out)
