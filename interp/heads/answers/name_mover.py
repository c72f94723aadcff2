"""Heads of the kind: it looks at the answer where it stands in the prompt, and writes it where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.heads.answers.copied import copied_share
from interp.heads.answers.effects import NO_DIFFERENCE, path_effects
from interp.heads.answers.places import attention_to, find_places
from interp.heads.scorer import Scorer, Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class NameMover(Scorer):
    """Direct effect on the logit difference, weighted by attention to the answer and by whether that is copied; in logits.

    `(difference(clean) - difference(path head -> logits from the corrupt run)) * attention(end -> answer) * copied`,
    where copied is the share of the answer's places whose values alone, read out by the final norm and the output
    layer, have the answer among the k highest. A head that moves the answer from another place than where it stands has a
    direct effect and no score: `gated=False` leaves both weights out.

    Attributes:
        io: role of the tokens that hold the answer; '' finds where its token stands.
        k: how many of the highest count as copied.
        gated: whether the effect is weighted.

    Raises:
        InterpError: E205, k under 1; E313, the answer stands in no prompt.
    """

    name: ClassVar[str] = "name-mover"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.1, figures 3 and 4"
    says: ClassVar[str] = "it looks at the answer and copies it"
    chance: ClassVar[str] = NO_DIFFERENCE
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "ioi"
    sign: ClassVar[int] = 1

    io: str = ""
    k: int = 5
    gated: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InterpError("E205", f"k={self.k}", where=f"scorer {self.name}", fix="1 or more")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which one is a parameter here
        return (self.io,) if self.io else ()

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        places = find_places(model, pairs, self.io, pairs.answer, "the answer")
        effects = path_effects(model, pairs, heads, batch_size)
        values = self.sign * effects.values
        if self.gated:
            looks = attention_to(model, pairs, places.spots, heads, batch_size)
            copied = copied_share(model, pairs, places.spots, heads, batch_size, k=self.k, sign=self.sign)
            values = values * (looks * copied).numpy()
        values[:, list(places.left_out)] = np.nan
        return Scores(values, effects.least, left_out=places.left_out)
