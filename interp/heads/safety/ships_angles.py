"""Heads of the kind: without it the states of all harmful requests together turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.effects.ablation import AblationScorer, ablations
from interp.heads.safety.states import final_states
from interp.heads.safety.subspaces import main_space, official_angle, principal_angles
from interp.heads.scorer import Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")
LEAST = 3
"""Prompts: leaving one out must leave a space."""


@dataclass(frozen=True, eq=False)
class ShipsAngles(AblationScorer):
    """Sum of the principal angles between the spaces of the last states of all prompts, with the head and without it.

    The states are those that the output layer reads at the last position. This is one number of a whole set of prompts; what
    stands for a prompt is the whole angle plus `n - 1` times what leaving the prompt out takes from it, less the mean of that
    over prompts: their mean is the angle, and their spread gives the standard error of the jackknife. A prompt's number
    therefore depends on the others. Chance is no turn.

    Attributes:
        rank: singular vectors that make the space (r_main).
        centred: take the mean state away first.
        code: 'paper' in radians, or 'official-code' in degrees, see `official_angle`; it takes neither rank nor centring.

    Raises:
        InterpError: E201 another operator or variant; E205 too few prompts, or a rank beyond them.
    """

    name: ClassVar[str] = "ships-angles"
    source: ClassVar[str] = "Zhou et al. 2024, arXiv 2410.13708 (generalised Ships); ydyjya/SafetyHeadAttribution"
    says: ClassVar[str] = "what harmful requests have in common turns without it"
    chance: ClassVar[str] = "no turn"
    ceiling: ClassVar[float | None] = None
    task: ClassVar[str] = "safety"
    options: ClassVar[Mapping[str, Any]] = {"ask": "harmful"}
    pooled: ClassVar[bool] = True

    rank: int = 1
    centred: bool = False
    code: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("code", VARIANTS)

    @property
    def variant(self) -> str:
        return self.code

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        n = len(pairs)
        if n < LEAST:
            raise InterpError("E205", f"{n} prompts", where=f"scorer {self.name}", fix=f"{LEAST} or more")
        sets = [(head,) for head in heads]
        variants = ablations(model, pairs, sets, self.operator, factor=self.factor, batch_size=batch_size)
        base, states = final_states(model, pairs, variants, batch_size)
        whole = self.angle(base, states)
        without = torch.empty(len(heads), n, dtype=torch.float64)
        for left_out in range(n):
            keep = torch.arange(n) != left_out
            without[:, left_out] = self.angle(base[keep], states[:, keep])
        values = (whole[:, None] + (n - 1) * (without.mean(1, keepdim=True) - without)).numpy()
        return Scores(values, values * 0)

    def angle(
        self, base: Float[Tensor, "prompt d_model"], states: Float[Tensor, "head prompt d_model"]
    ) -> Float[Tensor, " head"]:
        """The score of each head on these prompts as a whole."""
        if self.code == "official-code":
            return official_angle(base, states)
        one, other = (main_space(side, self.rank, centred=self.centred) for side in (base, states))
        return principal_angles(one, other).sum(-1)
