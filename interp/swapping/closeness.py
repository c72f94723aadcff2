"""How near each mask class comes to a head's own attention on the clean prompts, and how many keys it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import AttentionCall, HookContext
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId, point_name
from interp.hooks.statistics import own_operator
from interp.hooks.swap import fitted, seen_by
from interp.kernels.backends.blockwise import blocks
from interp.kernels.errors import InterpError
from interp.kernels.fidelity import fidelity
from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant
from interp.kernels.variants.rowwise import Rowwise
from interp.swapping.classes import FULL, MaskClass, Nothing

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

MEASURES = ("recall", "output_error", "variation", "keys")

Sums = dict[str, Float[Tensor, "batch head"]]


@dataclass(frozen=True, eq=False)
class Closeness:
    """Means over the queries of each prompt.

    Attributes:
        recall: share of the head's own attention on keys that the class keeps, `exp(L_kept - L)`; 0 for nothing.
        output_error: `|z - z_own| / |z_own|`.
        variation: total variation between the two patterns, from 0 to 1; 1 for nothing.
        keys: keys that a query reads: those that the operator's rule allows, or, where it has none, that get weight.
    """

    recall: Float[np.ndarray, "head class prompt"]
    output_error: Float[np.ndarray, "head class prompt"]
    variation: Float[np.ndarray, "head class prompt"]
    keys: Float[np.ndarray, "head class prompt"]


def closeness(
    model: HookedModel, parts: Sequence[Batch], heads: Sequence[HeadId], classes: Sequence[MaskClass]
) -> Closeness:
    """Every head and class on the untouched model's own queries, keys and values.

    Args:
        parts: the prompts, batch by batch.
    """
    found = [_of_batch(model, part, heads, classes) for part in parts]
    return Closeness(**{name: np.concatenate([one[name] for one in found], axis=2) for name in MEASURES})


@torch.no_grad()
def _of_batch(
    model: HookedModel, batch: Batch, heads: Sequence[HeadId], classes: Sequence[MaskClass]
) -> dict[str, Float[np.ndarray, "head class prompt"]]:
    layers = sorted({(head.tower, head.layer) for head in heads})
    watches = {layer: _Watch(classes, batch) for layer in layers}
    model.run_with_hooks(
        batch, {point_name(OPERATOR, layer, tower): watch for (tower, layer), watch in watches.items()}
    )
    return {
        name: np.stack([watches[head.tower, head.layer].means(name)[:, :, head.head] for head in heads])
        for name in MEASURES
    }


class _Watch:
    """Hook that compares, and changes nothing."""

    def __init__(self, classes: Sequence[MaskClass], batch: Batch) -> None:
        self.classes, self.batch = classes, batch
        self.found: list[Sums] = []

    def means(self, name: str) -> Float[np.ndarray, "class prompt head"]:
        return torch.stack([one[name] for one in self.found]).double().cpu().numpy()

    def __call__(self, value: Tensor, context: HookContext) -> None:
        call = context.call
        assert call is not None, f"{context.name} was not told what attention was called with"
        if context.length not in (None, value.shape[1]):
            raise InterpError("E403", "attention runs window by window here", where=context.name)
        problem, causal = _problem(call)
        full = fitted(own_operator(call), call, causal)
        for one in self.classes:
            if isinstance(one, Nothing):
                self.found.append(_of_nothing(value, one, context, problem))
                continue
            operator = full if one.name == FULL else fitted(_operator(one, self.batch), call, causal)
            self.found.append(_of_operator(problem, operator, full))


def _operator(one: MaskClass, batch: Batch) -> Variant:
    operator = one.operator(batch)
    assert operator is not None, f"class {one.name} has no operator"
    return operator


def _problem(call: AttentionCall) -> tuple[Problem, bool]:
    key_mask, mask, bias, causal = seen_by(call)
    n = call.q.shape[1]
    problem = Problem(call.q, call.k, call.v, call.scaling, key_mask, None, mask, bias, tuple(range(n)), n)
    return problem, causal


def _of_operator(problem: Problem, operator: Variant, full: Variant) -> Sums:
    same = dict(scale=problem.scale, key_mask=problem.key_mask, mask=problem.mask, bias=problem.bias)
    found = fidelity(problem.q, problem.k, problem.v, operator, full, **same)  # type: ignore[arg-type]
    means = {name: getattr(found, name).nanmean(-1) for name in MEASURES if name != "keys"}
    return {**means, "keys": keys_read(problem, operator)}


def keys_read(problem: Problem, operator: Variant) -> Float[Tensor, "batch head"]:
    """Keys that a query reads, mean over the real queries."""
    total = torch.zeros(problem.batch, problem.heads, dtype=torch.float64, device=problem.q.device)
    for view in blocks(problem):
        if isinstance(operator, Rowwise):
            read = operator.allowed(view)
        else:
            read = operator.weights(view).values != 0
        total[:, view.heads] += _counted(read, problem.batch)
    return total / problem.real_queries.sum(-1, keepdim=True)


def _counted(read: Bool[Tensor, "#batch #head row key_pos"], batch: int) -> Float[Tensor, "batch _"]:
    return read.sum((-2, -1)).double().expand(batch, -1)


def _of_nothing(value: Tensor, one: Nothing, context: HookContext, problem: Problem) -> Sums:
    """value: z [batch pos head d_head]."""
    put = torch.zeros_like(value)
    if one.reference is not None:
        put = one.reference[context.name.replace(OPERATOR, "attn.hook_z")].to(value).expand_as(value)
    error = (put - value).norm(dim=-1) / value.norm(dim=-1)
    real = problem.real_queries[..., None]
    none = error.new_zeros(error.shape[0], error.shape[2])
    means = (error * real).nan_to_num(0.0).sum(1) / real.sum(1)
    return {"recall": none, "output_error": means, "variation": none + 1, "keys": none}
