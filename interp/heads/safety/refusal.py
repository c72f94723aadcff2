"""Heads of the kind: without it the model refuses less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from interp.heads.effects.ablation import AblationScorer, ablations, measured
from interp.heads.safety.refusal_score import refusal_score
from interp.heads.scorer import Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Refusal(AblationScorer):
    """Refusal score of the prompt less that without the head: log odds of the tokens that begin a refusal, in nats.

    These tokens are the prompt's answers. Below 0 the head keeps the model from refusing. Chance is no change.
    """

    name: ClassVar[str] = "refusal"
    source: ClassVar[str] = "refusal score of Arditi et al. 2024, arXiv 2406.11717, of each head's ablation"
    says: ClassVar[str] = "a harmful request is refused less without it"
    chance: ClassVar[str] = "no change"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer"})
    task: ClassVar[str] = "safety"
    options: ClassVar[Mapping[str, Any]] = {"ask": "harmful"}

    operator: str = "zero"  # type: ignore[misc]  # here it is a parameter

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        tokens = pairs.answer
        assert tokens is not None
        sets = [(head,) for head in heads]
        variants = ablations(model, pairs, sets, self.operator, factor=self.factor, batch_size=batch_size)
        measures = {"refusal": lambda logits, _, rows: refusal_score(logits, tokens[rows])}
        values, base = measured(model, pairs, variants, measures, batch_size)["refusal"]
        effects = (base - values).numpy()
        return Scores(effects, effects * 0)
