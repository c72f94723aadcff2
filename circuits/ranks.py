"""Rank correlation (Spearman's), in two steps so that the ranks of one side can be kept."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


def centred_ranks(values: Float[np.ndarray, "*rows item"]) -> Float[np.ndarray, "*rows item"]:
    """Ranks along the last axis, ties at their mean, less the mean of all."""
    ranks: np.ndarray = rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    return ranks


def correlation(one: Float[np.ndarray, "*rows item"], other: Float[np.ndarray, " item"]) -> Float[np.ndarray, "*rows"]:
    """Of values whose mean is 0; nan where either side is 0 everywhere."""
    size = np.sqrt((one**2).sum(-1) * (other**2).sum())
    return np.asarray((one @ other) / np.where(size > 0, size, np.nan))
