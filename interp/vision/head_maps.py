"""Aligned maps of all heads of a vision tower, without a stored pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Part, Statistic
from interp.vision.aligned import Map, aligned_sums, among_patches
from interp.vision.geometry import Geometry, geometry

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class AlignedMap(Statistic):
    """Mean over patches of their aligned maps, see `interp.vision.aligned`: [batch head up_down left_right]."""

    name: ClassVar[str] = "aligned-map"
    kind: ClassVar[Kind] = "head"
    formula: ClassVar[str] = "mean_q A[q, q + offset]"
    high: ClassVar[float] = 1.0

    where: Geometry

    def begin(self, problem: Problem) -> Map:
        high, wide = (2 * n - 1 for n in self.where.shape)
        return problem.q.new_zeros(problem.batch, problem.heads, high, wide, dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        patches = torch.tensor(self.where.patches, device=total.device)
        start, stop, _ = part.view.rows.indices(self.where.n_tokens)
        here = (patches >= start) & (patches < stop)
        rows = among_patches(part.pattern[:, :, patches[here] - start][..., patches])
        found = aligned_sums(rows, here.nonzero()[:, 0], self.where.shape) / len(patches)
        total[:, part.view.heads] += found.to(total.dtype)


@torch.no_grad()
def aligned_heads(
    model: HookedModel, batch: Batch, *, layers: Sequence[int] | None = None
) -> Float[Tensor, "layer head up_down left_right"]:
    """Aligned maps of the heads of the vision tower, mean over the pictures of a batch.

    Args:
        layers: by default all; they must have as many heads each.

    Raises:
        InterpError: E403 a layer that attends window by window; what `geometry` raises.
    """
    where, tower = geometry(model, batch), model.adapter.seeing_tower
    assert tower is not None
    chosen = [layer for layer, n in enumerate(model.heads[tower]) if n] if layers is None else list(layers)
    _, found = model.run_with_statistics(batch, {"aligned": AlignedMap(where)}, layers=chosen, tower=tower)
    return torch.stack([found[layer]["aligned"].mean(0) for layer in chosen]).double().cpu()
