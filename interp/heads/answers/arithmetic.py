"""Heads of the kind: it brings what the result is made of to where the result is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.heads.answers.effects import NO_DIFFERENCE, path_effects
from interp.heads.scorer import Scorer, Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

WAYS = ("all", "direct", "mlps")


@dataclass(frozen=True, eq=False)
class ArithmeticMover(Scorer):
    """Effect on the logit difference of what a head writes at the end, on its way to the logits around all later heads.

    Operands of the corrupt prompt take the place of the clean ones in what the head writes, and nothing else changes but
    the MLPs behind it: `difference(clean) - difference(path head -> MLPs and logits from the corrupt run)`, in logits. The
    paper changes whole layers of attention and measures relative changes of two probabilities; here are heads, and the two
    logits of the results.

    Attributes:
        way: 'all' that is said above; 'direct', with all MLPs held; 'mlps', what is left of 'all' without 'direct'.

    Raises:
        InterpError: E201, another way.
    """

    name: ClassVar[str] = "arithmetic"
    source: ClassVar[str] = "Stolfo et al. 2023, arXiv 2305.15054, section 4; paths of Wang et al. 2022"
    says: ClassVar[str] = "it brings the operands, or the result, to the end"
    chance: ClassVar[str] = NO_DIFFERENCE
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "arithmetic"

    way: str = "all"

    def __post_init__(self) -> None:
        self.check_choice("way", WAYS)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        found = path_effects(model, pairs, heads, batch_size, through_mlps=self.way != "direct")
        values = found.values
        if self.way == "mlps":
            values = values - path_effects(model, pairs, heads, batch_size).values
        return Scores(np.asarray(values), found.least)
