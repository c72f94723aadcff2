"""Any slice of a pattern, on demand: nothing beside it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.blockwise import CELLS
from interp.kernels.errors import InterpError
from interp.kernels.inputs import check_inputs
from interp.kernels.problem import Problem
from interp.kernels.variants import variant as variant_of
from interp.kernels.variants.base import Variant, pattern_of

Indices = slice | Sequence[int]


def pattern(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch kv_head key_pos d_head"],
    v: Float[Tensor, "batch kv_head key_pos d_value"] | None = None,
    variant: str | Variant = "softmax",
    *,
    heads: Sequence[int] | None = None,
    queries: Indices = slice(None),
    keys: Indices = slice(None),
    effective: bool = False,
    scale: float | None = None,
    key_mask: Bool[Tensor, "batch key_pos"] | None = None,
    documents: Int[Tensor, "batch key_pos"] | None = None,
    mask: Bool[Tensor, "#batch #head query_pos key_pos"] | None = None,
    bias: Float[Tensor, "#batch #head query_pos key_pos"] | None = None,
) -> Float[Tensor, "batch chosen query key"]:
    """What chosen queries of chosen heads give to chosen keys. Rows are computed whole, some at a time, and cut.

    Args:
        v: only operators whose weights depend on values need it.
        variant: one operator, or its name.
        heads, queries, keys: indices, in the order in which they are wanted; all of them by default.
        effective: the signed weights, `output_i = sum_j W_ij v_j`, instead of the pattern `|W_ij| / sum_j |W_ij|`.

    Returns:
        In float32 or better; 0 in rows of padding queries.

    Raises:
        InterpErrors, InterpError: as `attention` does for its tensors; E203 an index out of range; E205 a problem that
            the operator does not have.
    """
    v = k if v is None else v
    check_inputs(q, k, v, key_mask=key_mask, documents=documents, mask=mask, bias=bias)
    operator, n_heads = variant_of(variant), q.shape[1]
    problem = Problem(
        q, k, v, q.shape[3] ** -0.5 if scale is None else scale, key_mask, documents, mask, bias,
        head_index=tuple(range(n_heads)), n_heads=n_heads,
    ).of_heads(_indices("heads", slice(None) if heads is None else heads, n_heads), operator.aligned)  # fmt: skip
    reason = operator.check(problem)
    if reason:
        raise InterpError("E205", reason, where=operator.name)
    rows = _indices("queries", queries, problem.n_queries)
    columns = torch.tensor(_indices("keys", keys, problem.n_keys), device=q.device)
    found = q.new_empty(problem.batch, problem.heads, len(rows), len(columns), dtype=problem.wide)
    most = max(1, CELLS // (problem.batch * problem.n_keys))
    for head in range(problem.heads):
        for place, run in _runs(rows, most):
            weights = operator.weights(problem.view(slice(head, head + 1), run)).values
            weights = weights if effective else pattern_of(weights)
            found[:, head, place : place + run.stop - run.start] = weights[:, 0, :, columns]
    return found


def _indices(name: str, given: Indices, n: int) -> list[int]:
    if isinstance(given, slice):
        return list(range(n))[given]
    wrong = [index for index in given if not 0 <= index < n]
    if wrong:
        raise InterpError("E203", f"{name} names {wrong[0]} of {n}", fix=f"indices from 0 to {n - 1}")
    return list(given)


def _runs(rows: list[int], most: int) -> Iterator[tuple[int, slice]]:
    """Neighbouring rows as slices of at most so many, and where each starts in the list."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or place - start == most or rows[place] != rows[place - 1] + 1:
            yield start, slice(rows[start], rows[place - 1] + 1)
            start = place
