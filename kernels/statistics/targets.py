"""Which keys heads of known kinds look at, from token ids: targets for `TargetedMass`. -1 stands for none.

All of them are causal: a target never lies after its query. Tokens at padding are no targets and have none, where a
`mask` says which are real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Ids = Int[Tensor, "batch pos"]
Real = Bool[Tensor, "batch pos"]


def previous_token(ids: Ids, mask: Real | None = None) -> Ids:
    """The token before."""
    at = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return _real(at - 1, mask)


def last_occurrence(ids: Ids, mask: Real | None = None) -> Ids:
    """Where the same token stood last before: what duplicate-token heads look at."""
    known = ids if mask is None else ids.masked_fill(~mask, int(ids.min()) - 1)
    order = known.sort(stable=True, dim=-1)
    same = order.values[:, 1:] == order.values[:, :-1]
    before = torch.where(same, order.indices[:, :-1], -1)
    targets = torch.full_like(ids, -1, dtype=torch.int64).scatter(1, order.indices[:, 1:], before)
    return _real(targets, mask)


def after_last_occurrence(ids: Ids, mask: Real | None = None) -> Ids:
    """The token after that one: what induction heads look at."""
    last = last_occurrence(ids, mask)
    return torch.where(last >= 0, last + 1, -1)


@dataclass(frozen=True, eq=False)
class Chain:
    """All earlier places of the same token, one after the other, latest first: many targets a query in O(T) memory.

    Attributes:
        step: from every token to the latest earlier place of the same token, see `last_occurrence`.
        shift: 1 for the tokens after those places (the induction pattern of TransformerLens' head detector).
        barred: a key of each prompt that is no target.
    """

    step: Ids
    shift: int = 0
    barred: Int[Tensor, " batch"] | None = None

    def columns(self) -> Iterator[Int[Tensor, "batch 1 pos"]]:
        """The latest target of every query, the one before it, and so on; -1 where there is none."""
        place = self.step
        while bool((place >= 0).any()):
            target = torch.where(place >= 0, place + self.shift, -1)
            if self.barred is not None:
                target = target.masked_fill(target == self.barred[:, None], -1)
            yield target[:, None]
            place = torch.where(place >= 0, self.step.gather(1, place.clamp(min=0)), -1)


Targets = Int[Tensor, "batch #head pos target"] | Chain
"""Keys of every query, written out or one after the other."""


def columns(
    targets: Targets,
) -> Iterable[
    Int[
        Tensor,
        (
            batch  # head pos
        ),
    ]
]:
    """One key a query at a time."""
    return targets.columns() if isinstance(targets, Chain) else targets.unbind(-1)


def counts(
    targets: Targets,
) -> Int[
    Tensor,
    (
        batch  # head pos
    ),
]:
    """How many keys every query has."""
    if isinstance(targets, Chain):
        none = torch.zeros_like(targets.step)[:, None]
        return sum(((one >= 0).long() for one in targets.columns()), none)
    return (targets >= 0).sum(-1)


def next_emitted(ids: Ids, needle: Bool[Tensor, "batch pos"]) -> Ids:
    """Where in the needle the token stands that comes next: what a head looks at that copies from there, word by word
    (retrieval heads, Wu et al. 2024, arXiv 2404.15574). The latest such place that is not after the query.

    Args:
        needle: True at the tokens that are to be copied.
    """
    batch, n = ids.shape
    targets = torch.full_like(ids, -1, dtype=torch.int64)
    for row in range(batch):
        latest: dict[int, int] = {}
        inside, tokens = needle[row].tolist(), ids[row].tolist()
        for position in range(n - 1):
            if inside[position]:
                latest[tokens[position]] = position
            targets[row, position] = latest.get(tokens[position + 1], -1)
    return targets


def _real(targets: Ids, mask: Real | None) -> Ids:
    """Neither from padding nor to it."""
    if mask is None:
        return targets
    reached = mask.gather(1, targets.clamp(min=0)) & mask
    return torch.where(reached & (targets >= 0), targets, -1)
