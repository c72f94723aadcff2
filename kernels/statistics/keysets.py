"""Sets of keys: the first ones of each document, or any."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import unfit

KeySet = int | Tensor
"""How many keys, counted from each document's first real one; or a bool mask [batch key_pos]."""


def members(keys: KeySet, problem: Problem) -> Bool[Tensor, "batch 1 key_pos"]:
    """Which real keys are in the set."""
    at = problem.key_at
    inside = (at >= 0) & (at < keys) if isinstance(keys, int) else keys.to(at.device)
    return (inside & problem.real_keys)[:, None]


def check_keys(keys: KeySet) -> None:
    """Raises E205 for a count under 1, E206 for a tensor that is no mask."""
    if isinstance(keys, int) and keys < 1:
        raise InterpError("E205", f"the first {keys} keys", fix="1 or more, or a mask [batch, key_pos]")
    if isinstance(keys, Tensor) and str(keys.dtype) != "torch.bool":
        raise InterpError("E206", f"keys is {keys.dtype}", fix="a bool mask [batch, key_pos], or how many")


def unfit_keys(keys: KeySet, problem: Problem) -> str | None:
    """Why a set of keys is none of this problem's."""
    return None if isinstance(keys, int) else unfit("keys", keys, (problem.batch, problem.n_keys))
