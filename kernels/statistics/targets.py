"""Which keys heads of known kinds look at, from token ids: targets for `TargetedMass`. -1 stands for none.

All of them are causal: a target never lies after its query. Tokens at padding are no targets and have none, where a
`mask` says which are real.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError

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


def occurrences(ids: Ids, most: int, mask: Real | None = None, shift: int = 0) -> Int[Tensor, "batch 1 pos most"]:
    """The `most` latest earlier places of the same token, latest first, for the sum over all of them; `shift=1` the
    tokens after those (the induction pattern of TransformerLens' head detector, where `most` is large enough).

    Raises:
        InterpError: E205, fewer than 1 place.
    """
    if most < 1:
        raise InterpError("E205", f"the latest {most} places", fix="most=1 or more")
    step = last_occurrence(ids, mask)
    found, place = [], step
    for _ in range(most):
        found.append(torch.where(place >= 0, place + shift, -1))
        place = torch.where(place >= 0, step.gather(1, place.clamp(min=0)), -1)
    return torch.stack(found, -1)[:, None]


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
