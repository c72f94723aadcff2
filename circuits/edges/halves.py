"""`Side`: some of the prompts, and how far a circuit's metric is from the whole model's on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.graph import Edges
from interp.hooks.probe import TOLERANCE


class Side:
    """Prompts that choose, or that judge.

    Attributes:
        unit: mean squared distance of the empty circuit's metric to the whole model's, at least that of rounding.
    """

    def __init__(self, contrast: Contrast) -> None:
        self.runs = MaskedRuns(contrast)
        graph = contrast.flow.graph
        self.whole, empty = self.values([graph.full, graph.none])
        rounding = TOLERANCE[contrast.flow.model.dtype] * max(1.0, float(np.abs(self.whole).max()))
        self.unit = max(float(np.square(empty - self.whole).mean()), rounding**2)

    def values(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit batch"]:
        """The metric, in double precision."""
        found: Float[np.ndarray, "circuit batch"] = self.runs.values(circuits).double().cpu().numpy()
        return found

    def distances(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit batch"]:
        """Squared distance to the whole model's metric, in shares of `unit`."""
        found: Float[np.ndarray, "circuit batch"] = np.square(self.values(circuits) - self.whole) / self.unit
        return found

    def far(self, circuit: Edges) -> float:
        """Mean distance of one circuit."""
        return float(self.distances([circuit]).mean())
