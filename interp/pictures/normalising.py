"""Queries and keys in one space: what can be moved and scaled without any change of attention.

Yeh et al. 2023, AttentionViz, arXiv 2305.03210, section on vector normalisation: one vector is added to all keys (of a
query, every score changes alike, so softmax gives the same), and queries are multiplied by what keys are divided by (no
product changes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Vectors = Float[np.ndarray, "vector d_head"]


@dataclass(frozen=True, eq=False)
class Normalising:
    """A change of queries and keys under which rows of softmax stay as they are.

    Attributes:
        factor: what queries are multiplied by, and keys divided by.
        shift: added to keys after that.
    """

    factor: float
    shift: Float[np.ndarray, " d_head"]

    @classmethod
    def of(cls, queries: Vectors, keys: Vectors, factor: float) -> Normalising:
        """With this factor, and the shift under which queries and keys have one centre."""
        return cls(factor, factor * queries.mean(0) - keys.mean(0) / factor)

    def queries(self, queries: Vectors) -> Vectors:
        moved: np.ndarray = self.factor * queries
        return moved

    def keys(self, keys: Vectors) -> Vectors:
        moved: np.ndarray = keys / self.factor + self.shift
        return moved


def balanced(queries: Vectors, keys: Vectors) -> float:
    """The factor under which queries and keys spread about their centres alike; 1 where either does not spread."""
    sizes = [float(np.sqrt(((one - one.mean(0)) ** 2).sum(1).mean())) for one in (queries, keys)]
    return float(np.sqrt(sizes[1] / sizes[0])) if min(sizes) > 0 else 1.0
