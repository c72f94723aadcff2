"""Values that an operator holds for each head of the model: whether they fit a problem, and those of the heads in view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.problem import Problem, View

PerHead = int | float | Sequence[int | float] | Tensor
"""One value for all heads, or one for each head of the model."""


def wrong_heads(problem: Problem, **given: PerHead | None) -> str | None:
    """Which of these parameters does not hold one value for each head; None where all do."""
    for name, values in given.items():
        if values is None or isinstance(values, int | float):
            continue
        if isinstance(values, Tensor) and values.ndim == 0:
            return f"{name} is a tensor without axes; one value for all heads is a plain number"
        if len(values) != problem.n_heads:
            return f"{name} holds {len(values)} values for {problem.n_heads} heads"
    return None


def chosen(values: PerHead, view: View) -> Float[Tensor, "#head 1 1"]:
    """Values for the heads in view, in float64 whatever the problem's dtype: for what is counted from them."""
    if isinstance(values, int | float):
        return torch.full((1, 1, 1), float(values), dtype=torch.float64, device=view.problem.q.device)
    heads = list(view.problem.head_index[view.heads])
    return torch.as_tensor(values, dtype=torch.float64, device=view.problem.q.device)[heads, None, None]


def lowest(values: PerHead) -> float:
    """The lowest of them, to be held against what a parameter may be."""
    if isinstance(values, int | float):
        return float(values)
    return float(values.min()) if isinstance(values, Tensor) else float(min(values))


def highest(values: PerHead) -> float:
    if isinstance(values, int | float):
        return float(values)
    return float(values.max()) if isinstance(values, Tensor) else float(max(values))


def in_view(values: Tensor, view: View) -> Tensor:
    """Rows of a tensor [head, ...] for the heads in view, in the dtype and on the device of the view."""
    return values.to(view.q)[list(view.problem.head_index[view.heads])]
