"""Attribution of nodes and of single dimensions, by the same gradients as edges.

What a writer wrote is read by all readers after it. The gradient of the metric at what it wrote is the sum of the
gradients at these readers, so the score of a node is the sum of the scores of its edges, and it splits over the dimensions
of the stream (the 'neurons' of the MIB benchmark, Mueller et al. 2025, arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.attribution import Contrast, Point, Written
from interp.circuits.graph.graph import Scores


def node_scores(scores: Scores) -> Float[np.ndarray, "place writer"]:
    """Scores of writers from those of their edges; for methods whose scores are gradients times differences."""
    return scores.sum(2)


def unit_scores(contrast: Contrast, path: Sequence[Point]) -> Float[Tensor, "batch writer d_model"]:
    """What each dimension of what each writer wrote does to the metric, positive where it helps; positions are summed.

    Args:
        path: points between the ablated and the clean run, see `interp.circuits.edges.attribution.points`.
    """
    total: Tensor | None = None
    written = Written(contrast)
    for share, weight in path:
        pull = contrast.gradients(share)
        for rows, values in written:  # [writer batch pos d_model]
            gradient = torch.zeros_like(values)
            for readers, each in pull.at(rows):
                gradient[: int(contrast.flow.graph.seen[readers.start])] += each.sum(2)
            some = weight * (values * gradient).sum(2).transpose(0, 1)
            total = some if total is None else total + some
    assert total is not None
    return total
