"""Softmax over the keys that a search down a tree finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import View
from interp.kernels.variants.selected import Selected


@dataclass(frozen=True, eq=False)
class Hierarchical(Selected):
    """Each query searches its keys top down: the sequence is halved again and again, a part is judged by its middle key
    (or, where the query stands before that, by the query's own), and the `keep` best parts are halved further, until
    parts are `leaf` keys long. O(keep log T) scores a query decide.

    Args:
        keep: parts to a query, at every level.
        leaf: keys to a part at the end.

    Raises:
        InterpError: E205, a count under 1.
    """

    name: ClassVar[str] = "hierarchical"
    source: ClassVar[str] = (
        "Lee et al. 2024, HiP, arXiv 2406.09827, section 3.1: the search in words, for single queries"
    )

    keep: int = 64
    leaf: int = 1

    def __post_init__(self) -> None:
        if min(self.keep, self.leaf) < 1:
            raise InterpError("E205", f"{self.keep} parts of {self.leaf} keys", fix="1 or more of each")

    def chosen(
        self, view: View, open: Bool[Tensor, "#batch #head row key_pos"]
    ) -> Bool[Tensor, "batch head row key_pos"]:
        scores = view.products
        place = view.key.expand(open.shape[0], -1, -1, -1)
        index = torch.arange(view.problem.n_keys, device=open.device)
        limit = torch.where(open, place + 1, 0).amax(-1, keepdim=True)
        first = torch.where(open, index - place, 0).amax(-1, keepdim=True)
        parts = self._search(scores, limit, first)
        n_parts = -(-view.problem.n_keys // self.leaf)
        found = torch.zeros(*scores.shape[:3], n_parts + 1, dtype=torch.bool, device=open.device)
        found.scatter_(-1, parts.clamp(max=n_parts), True)
        of_key = place.clamp(min=0).div(self.leaf, rounding_mode="floor")
        return found.gather(-1, of_key.expand(scores.shape[0], *scores.shape[1:]))

    def _search(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        limit: Int[Tensor, "#batch #head row 1"],
        first: Int[Tensor, "#batch #head row 1"],
    ) -> Int[Tensor, "batch head row part"]:
        """Numbers of the parts found; parts that don't exist have a number beyond all others."""
        longest, width = int(limit.max()), self.leaf
        while width * self.keep < longest:
            width *= 2
        nowhere = scores.shape[-1]
        parts = torch.arange(min(self.keep, nowhere), device=scores.device).expand(*scores.shape[:3], -1)
        parts = parts.where(parts * width < limit, nowhere)
        while width > self.leaf:
            width //= 2
            halves = torch.cat([parts * 2, parts * 2 + 1], dim=-1)
            exists = (halves * width < limit) & (halves < 2 * nowhere)
            judges = torch.minimum(halves * width + width // 2, limit - 1).clamp(min=0) + first
            judged = scores.gather(-1, judges.clamp(max=nowhere - 1)).masked_fill(~exists, float("-inf"))
            best = judged.topk(min(self.keep, judged.shape[-1]), dim=-1).indices
            parts = halves.where(exists, nowhere).gather(-1, best)
        return parts
