"""Outliers among tokens: median and median absolute deviation, of real tokens alone."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_SPREAD = 0.1
"""Of the median: tokens that are nearly of one length have hardly a deviation; with k = 10 an outlier is at least twice
the median."""

LEAST_TOKENS = 8
"""Real tokens under which a prompt has no outliers."""

ABSOLUTE, OVER_MEDIAN = 100.0, 1000.0


def outliers(
    values: Float[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], k: float
) -> tuple[Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Each token's value over the median of its prompt, and whether it is above median + k MAD."""
    known = values.masked_fill(~real, float("nan"))
    median = known.nanmedian(-1, keepdim=True).values
    spread = (known - median).abs().nanmedian(-1, keepdim=True).values.maximum(LEAST_SPREAD * median.abs())
    enough = real.sum(-1, keepdim=True) >= LEAST_TOKENS
    return known / median, (known > median + k * spread) & enough


def massive(
    stream: Float[Tensor, "batch pos d_model"], real: Bool[Tensor, "batch pos"], k: float, rule: str
) -> tuple[Float[Tensor, "batch pos"], Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Largest entry of each token over the median token's largest, its dimension, and whether it is massive.

    A dimension that is large at every token alike is no outlier under 'robust'. 'absolute' is the rule of Sun et al. 2024,
    arXiv 2402.17762, section 2: above 100 and above 1000 times the median entry of the layer.
    """
    peak, dimension = stream.abs().max(-1)
    ratio, found = outliers(peak, real, k)
    if rule == "absolute":
        entries = stream.abs().masked_fill(~real[..., None], float("nan")).flatten(1)
        found = (peak > ABSOLUTE) & (peak > OVER_MEDIAN * entries.nanmedian(-1, keepdim=True).values) & real
    return ratio, dimension, found
