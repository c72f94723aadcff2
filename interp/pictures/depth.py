"""Sinks, spread and distance of all heads by depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from interp.heads.result import HeadScores
from interp.heads.run import score
from interp.hooks.names import parse_head
from interp.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

SHOWN = ("sink-share", "entropy", "attention-distance")


@dataclass(frozen=True, eq=False)
class DepthProfile:
    """Scores of all heads, to be read by layer.

    Attributes:
        scores: by scorer: share of the strongest sink, normalised entropy, distance in tokens.
    """

    scores: Mapping[str, HeadScores]

    @property
    def layers(self) -> Int[np.ndarray, " head"]:
        """Layer of each head."""
        first = next(iter(self.scores.values()))
        return np.array([parse_head(label).layer for label in first.heads])

    def by_layer(self, name: str) -> Float[np.ndarray, " layer"]:
        """Mean over the heads of each layer that have a score; nan for layers without attention."""
        layers, mean = self.layers, self.scores[name].mean
        of_layer = [mean[(layers == layer) & np.isfinite(mean)] for layer in range(int(layers.max()) + 1)]
        return np.array([float(found.mean()) if found.size else np.nan for found in of_layer])

    def to_frame(self) -> pd.DataFrame:
        """One row a scorer and head: mean, standard error, chance."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "scorer": name, "label": list(found.heads), "layer": self.layers, "score": found.mean,
                    "stderr": found.stderr, "chance": found.null.mean(1),
                }
            )
            for name, found in self.scores.items()
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """A dot a head and a line through the means of layers; grey, what chance gives."""
        from interp.report.picture_figures import depth_figure

        return depth_figure(self)


def depth_profile(
    model: HookedModel, task: Task | None = None, *, n: int | None = None, batch_size: int = 32, seed: int = 0
) -> DepthProfile:
    """Share of the strongest sink, entropy and distance of every head, from one forward a batch.

    Args:
        task: None takes repeated random tokens.
        n: prompts of that.

    Raises:
        InterpError: as `interp.score`.
    """
    return DepthProfile(score(model, SHOWN, task, n=n, batch_size=batch_size, seed=seed))
