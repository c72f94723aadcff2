"""What a head x variant sweep is asked to do, apart from model and task."""

from __future__ import annotations

from dataclasses import dataclass

from interp.kernels.errors import InterpError, suggest
from interp.swapping.classes import LADDER
from interp.sweeps.job import MEMORY

LOSSES = ("accuracy", "metric")
LEAST_PROMPTS = 4
RECENT_SHARE = 8
"""`recent` is a prompt's length over this, where nothing else is said."""


@dataclass(frozen=True)
class Settings:
    """Settings of `interp.swap`, where they are explained.

    Raises:
        InterpError: E201 loss_of; E205 numbers that make no sense.
    """

    loss: float = 0.02
    loss_of: str = "accuracy"
    restricted: str = "sink+recent"
    n_controls: int = 10
    n_matched: int = 4
    n_choose: int | None = None
    batch_size: int = 32
    memory: int = MEMORY
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss_of not in LOSSES:
            raise InterpError("E201", f"loss of {self.loss_of!r}", fix=suggest(self.loss_of, LOSSES))
        if not 0 <= self.loss < 1:
            raise InterpError("E205", f"a loss of {self.loss}", fix="a share from 0 to 1: loss=0.02 for two points")
        if self.n_controls < 0 or self.n_matched < 0:
            raise InterpError("E205", "fewer than no controls", fix="n_controls=10")

    def ranks_and_chooses(self, n: int) -> tuple[int, int]:
        """How many of n prompts rank heads, and how many choose: these and as many that check; the others verify.

        Raises:
            InterpError: E205 too few of any.
        """
        n_choose = n // 2 if self.n_choose is None else self.n_choose
        if not LEAST_PROMPTS <= n_choose < n:
            what = f"{n} prompts of which {n_choose} choose: the others must verify"
            raise InterpError("E205", what, fix=f"n_choose from {LEAST_PROMPTS} on, and below the number of prompts")
        return n_choose // 2, n_choose


def default_classes(has_roles: bool) -> tuple[str, ...]:
    """Every class that needs no more than these prompts have."""
    return tuple(name for name in LADDER if has_roles or not name.startswith("document"))
