"""How maps are judged, and how much of it is done."""

from __future__ import annotations

from dataclasses import dataclass

from interp.kernels.errors import InterpError, suggest
from interp.maps.removal import WAYS


@dataclass(frozen=True)
class Settings:
    """What is asked beside the maps.

    Attributes:
        ways: in which tokens are taken away, 'knockout' and 'neutral'; claims are made by the first.
        steps: of a deletion or insertion curve.
        draws: random orders that the control is the mean of.
        neutral: the token that stands for none, as text or id; None takes the mask token, or the unknown one, or padding.
        deceive: prompts on which patterns are moved while the answer stays; 0 leaves that out.
        moves: steps of the search for moved patterns.
        batch_size: prompts in one forward.
        seed: of random maps, ties, moves and the evidence.

    Raises:
        InterpError: E201, unknown way; E205, a number that makes no sense, no way or one twice.
    """

    ways: tuple[str, ...] = WAYS
    steps: int = 8
    draws: int = 3
    neutral: str | int | None = None
    deceive: int = 32
    moves: int = 60
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for way in self.ways:
            if way not in WAYS:
                raise InterpError("E201", f"tokens cannot be taken away by {way!r}", fix=suggest(way, WAYS))
        if not self.ways or len(set(self.ways)) < len(self.ways):
            raise InterpError("E205", "no way to take tokens away, or one twice", fix="ways=('knockout', 'neutral')")
        least = {"steps": 2, "draws": 1, "deceive": 0, "moves": 1, "batch_size": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InterpError("E205", f"{name}={getattr(self, name)}", fix=f"at least {bound}")
