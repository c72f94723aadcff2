"""Softmax attention with capped scores, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from interp.kernels.errors import InterpError
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Softcap(Softmax):
    """`s_ij = c tanh(scale <q_i, k_j> / c)`: no score beyond c.

    Raises:
        InterpError: E205, a cap that is not above 0.
    """

    name: ClassVar[str] = "softcap"
    source: ClassVar[str] = "Gemma 2, arXiv 2408.00118, section 2; c = 50 as there"

    softcap: float | None = 50.0

    def __post_init__(self) -> None:
        if self.softcap is None or self.softcap <= 0:
            raise InterpError("E205", f"softcap={self.softcap}", fix="a number above 0; 'softmax' has none")
