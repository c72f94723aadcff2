"""Angles between the spaces that two sets of states span."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError


def main_space(
    states: Float[Tensor, "*batch prompt d_model"], rank: int, *, centred: bool = False
) -> Float[Tensor, "*batch prompt rank"]:
    """The first left singular vectors of states, prompt by prompt: `M = U S V^T` with one row a prompt.

    Args:
        centred: take the mean state away first; else the first vector is mostly that of the mean.

    Raises:
        InterpError: E205, fewer prompts or dimensions than vectors.
    """
    if not 1 <= rank <= min(states.shape[-2:]):
        what = f"rank {rank} of {states.shape[-2]} prompts with states of {states.shape[-1]} numbers"
        raise InterpError("E205", what, fix="a rank from 1 up to both")
    rows = states.double()
    rows = rows - rows.mean(-2, keepdim=True) if centred else rows
    return torch.linalg.svd(rows, full_matrices=False).U[..., :rank]


def principal_angles(
    one: Float[Tensor, "*#batch prompt rank"], other: Float[Tensor, "*#batch prompt rank"]
) -> Float[Tensor, "*_ rank"]:
    """Principal angles of two spaces with orthonormal columns, in radians, from 0 to pi / 2, smallest first.

    Bjorck and Golub 1973: arccos is blind near 0 (a cosine of 1 - 1e-16 is all there is to tell 1e-8 from 0), so angles
    under pi / 4 are taken from the sines, which are the singular values of what `other` has outside `one`.
    """
    inner = one.mT @ other
    cosines = torch.linalg.svdvals(inner).clamp(max=1)
    sines = torch.linalg.svdvals(other - one @ inner).clamp(max=1).flip(-1)
    return torch.where(cosines.square() > 0.5, torch.asin(sines), torch.acos(cosines))


def official_angle(
    one: Float[Tensor, "*#batch prompt d_model"], other: Float[Tensor, "*#batch prompt d_model"]
) -> Float[Tensor, "*_"]:
    """`compute_subspace_similarity` of ydyjya/SafetyHeadAttribution, in degrees.

    Deviations from the paper's sum of principal angles in radians: one angle alone, that of the first left singular vectors,
    whatever r_main is; degrees; states as they are, so that the mean state makes most of the first vector; and arccos of the
    clamped cosine, which in the code's float32 tells no angle under about 0.03 degree from 0 (here it is float64).
    """
    cosine = (main_space(one, 1) * main_space(other, 1)).sum((-2, -1)).abs()
    return torch.acos(cosine.clamp(max=1)) * (180 / math.pi)
