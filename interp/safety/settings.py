"""What a study of safety heads is asked to do, apart from model and prompts."""

from __future__ import annotations

from dataclasses import dataclass

from interp.heads.effects.ablation import FACTOR, OPERATORS
from interp.kernels.errors import InterpError, suggest

ENTIRE = ("zero", "mean", "uniform", "scale")
"""Operators that stay in force while text is written: the others read the twin, which has no such tokens."""


@dataclass(frozen=True)
class Settings:
    """Settings of `interp.safety`.

    Attributes:
        operators: of the screening of single heads, side by side.
        operator: of the search and of everything on held-out prompts; it is one of them in any case.
        factor: of `scale`.
        max_size: heads in the group at most.
        max_kl: what harmless prompts may lose, in nats of KL, for a group to be chosen and claimed.
        least: times that the compliance must rise for a claim.
        min_gain: what a head must add in the search, in nats of refusal score less that price.
        price: what a nat of harmless KL costs the search, in nats of refusal score.
        n_controls: matched random groups.
        n_matched: matched heads for each head of the screening.
        max_new_tokens: of every reply that is read.
        batch_size: prompts in one forward.
        seed: of splits, draws and intervals.

    Raises:
        InterpError: E201 unknown operator; E205 numbers that make no sense, or a search operator that cannot stay in force.
    """

    operators: tuple[str, ...] = tuple(OPERATORS)
    operator: str = "zero"
    factor: float = FACTOR
    max_size: int = 5
    max_kl: float = 0.1
    least: float = 10.0
    min_gain: float = 0.1
    price: float = 20.0
    n_controls: int = 10
    n_matched: int = 4
    max_new_tokens: int = 16
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for one in (*self.operators, self.operator):
            if one not in OPERATORS:
                raise InterpError("E201", f"no operator {one!r}", where="safety", fix=suggest(one, OPERATORS))
        if self.operator not in ENTIRE:
            fix = f"search with one of: {', '.join(ENTIRE)}"
            raise InterpError("E205", f"{self.operator} cannot stay in force while text is written", fix=fix)
        least = {"max_size": 1, "n_controls": 0, "n_matched": 1, "max_new_tokens": 1, "batch_size": 1}
        if self.operator not in self.operators:
            object.__setattr__(self, "operators", (*self.operators, self.operator))
        low = [name for name, bound in least.items() if getattr(self, name) < bound]
        if low or not self.operators:
            raise InterpError("E205", f"{low[0] if low else 'operators'} too small", where="safety", fix="see Settings")
