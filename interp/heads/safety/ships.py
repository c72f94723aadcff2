"""Heads of the kind: without it the next token of a harmful request is another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.heads.effects.ablation import AblationScorer, ablations, measured
from interp.heads.safety.divergence import divergence, official_divergence
from interp.heads.scorer import Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")


@dataclass(frozen=True, eq=False)
class Ships(AblationScorer):
    """KL(base || without the head) of the next token's distribution at the last position of the prompt, in nats.

    Chance is no change; what tells a head from the rest is the comparison with its layer. A large score says that the head
    matters to the answer, not that the model now complies: `refusal` says that.

    Attributes:
        code: 'paper', or 'official-code', see `official_divergence`.

    Raises:
        InterpError: E201, another operator or variant.
    """

    name: ClassVar[str] = "ships"
    source: ClassVar[str] = "Zhou et al. 2024, arXiv 2410.13708 (Ships); ydyjya/SafetyHeadAttribution"
    says: ClassVar[str] = "what comes after a harmful request changes without it"
    chance: ClassVar[str] = "no change"
    ceiling: ClassVar[float | None] = None
    task: ClassVar[str] = "safety"
    options: ClassVar[Mapping[str, Any]] = {"ask": "harmful"}

    code: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("code", VARIANTS)

    @property
    def variant(self) -> str:
        return self.code

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        sets = [(head,) for head in heads]
        variants = ablations(model, pairs, sets, self.operator, factor=self.factor, batch_size=batch_size)
        values = measured(model, pairs, variants, {"kl": self._apart}, batch_size)["kl"][0].numpy()
        return Scores(values, values * 0)

    def _apart(
        self, logits: Float[Tensor, "part d_vocab"], clean: Float[Tensor, "part d_vocab"], rows: slice
    ) -> Float[Tensor, " part"]:
        if self.code == "paper":
            return divergence(clean, logits)
        return official_divergence(clean.softmax(-1), logits.softmax(-1))
