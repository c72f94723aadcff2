"""How near an operator comes to another one, on the same queries, keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.blockwise import blocks
from interp.kernels.errors import InterpError
from interp.kernels.inputs import check_inputs
from interp.kernels.problem import Problem, View
from interp.kernels.variants import variant as variant_of
from interp.kernels.variants.base import Variant, Weights, pattern_of

MEASURES = ("recall", "output_error", "divergence", "variation", "kept")


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Two operators compared, one number a query; NaN for padding queries.

    Attributes:
        recall: mass that the reference gives to the keys that the operator keeps (weights other than 0): `exp(L_kept - L)`.
        output_error: `|o - o_ref| / |o_ref|`.
        divergence: `KL(p || p_ref)` in nats, p being the operator's pattern: `-log recall` where keys are left out and the
            rest keeps its proportions. What the reference gives nothing counts as the least number there is (87 nats in
            float32), and so does a row that keeps nothing.
        variation: total variation, `sum_j |p_ij - p_ref_ij| / 2`, in [0, 1]; 1 for a row that keeps nothing.
        kept: keys that the operator keeps, over those that the reference gives weight.
    """

    variant: str
    against: str
    recall: Float[Tensor, "batch head query_pos"]
    output_error: Float[Tensor, "batch head query_pos"]
    divergence: Float[Tensor, "batch head query_pos"]
    variation: Float[Tensor, "batch head query_pos"]
    kept: Float[Tensor, "batch head query_pos"]

    def per_head(self) -> dict[str, Float[Tensor, " head"]]:
        """Means over prompts and real queries, by measure."""
        return {name: getattr(self, name).nanmean(dim=(0, 2)) for name in MEASURES}

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {float(getattr(self, name).nanmean()):.4g}" for name in MEASURES)
        return f"Fidelity({self.variant} against {self.against}: {means})"


def fidelity(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch kv_head key_pos d_head"],
    v: Float[Tensor, "batch kv_head key_pos d_value"],
    variant: str | Variant,
    against: str | Variant = "softmax",
    *,
    scale: float | None = None,
    key_mask: Bool[Tensor, "batch key_pos"] | None = None,
    documents: Int[Tensor, "batch key_pos"] | None = None,
    mask: Bool[Tensor, "#batch #head query_pos key_pos"] | None = None,
    bias: Float[Tensor, "#batch #head query_pos key_pos"] | None = None,
) -> Fidelity:
    """Compares an operator with a reference, in blocks of rows: no pattern is stored.

    Args:
        against: the reference; its weights must not be negative.
        scale, key_mask, documents, mask, bias: as in `attention`; operators that have no scores go without the bias.

    Raises:
        InterpErrors, InterpError: E206, E207 what is wrong with the tensors; E201 unknown names; E205 a problem that one
            of the operators doesn't take, a reference with negative weights.
    """
    check_inputs(q, k, v, key_mask=key_mask, documents=documents, mask=mask, bias=bias)
    made, reference = variant_of(variant), variant_of(against)
    heads = q.shape[1]
    problem = Problem(
        q, k, v, q.shape[3] ** -0.5 if scale is None else scale, key_mask, documents, mask, bias,
        head_index=tuple(range(heads)), n_heads=heads,
    )  # fmt: skip
    _check(problem, made, reference)
    found = {name: q.new_full(q.shape[:3], float("nan"), dtype=problem.wide) for name in MEASURES}
    with torch.no_grad():
        for view in blocks(problem):
            padding = ~problem.real_queries[:, None, view.rows]
            for name, value in _compared(view, made, reference).items():
                found[name][:, view.heads, view.rows] = value.masked_fill(padding, float("nan"))
    return Fidelity(made.name, reference.name, **found)


def _check(problem: Problem, made: Variant, reference: Variant) -> None:
    if not reference.non_negative:
        raise InterpError("E205", f"weights of {reference.name} have either sign: no share of them is kept")
    for operator in (made, reference):
        reason = operator.check(problem)
        if reason:
            raise InterpError("E205", reason, where=operator.name)


def _compared(view: View, made: Variant, reference: Variant) -> dict[str, Float[Tensor, "batch head row"]]:
    ours, theirs = made.weights(view), reference.weights(view)
    p, p_ref = pattern_of(ours.values), pattern_of(theirs.values)
    kept, there = ours.values != 0, p_ref > 0
    output, output_ref = _output(ours, view), _output(theirs, view)
    least = torch.finfo(p.dtype).tiny
    divergence = (p * (p.clamp(min=least) / p_ref.clamp(min=least)).log()).sum(-1)
    empty = ~kept.any(-1)
    return {
        "recall": (p_ref * kept).sum(-1),
        "output_error": _length(output - output_ref) / _length(output_ref),
        "divergence": divergence.masked_fill(empty, -math.log(least)),
        "variation": ((p - p_ref).abs().sum(-1) / 2).masked_fill(empty, 1.0),
        "kept": kept.sum(-1) / there.sum(-1).clamp(min=1),
    }


def _output(weights: Weights, view: View) -> Float[Tensor, "batch head row d_value"]:
    output = torch.matmul(weights.values, view.v)
    return output if weights.side is None else output + weights.side


def _length(x: Float[Tensor, "batch head row d_value"]) -> Float[Tensor, "batch head row"]:
    return x.square().sum(-1).sqrt()
