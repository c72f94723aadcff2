"""Some of the prompts of a task, and places counted from their end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.pairs import Pairs


def chosen(pairs: Pairs, rows: Iterable[int]) -> Pairs:
    """Some of the pairs, in this order; widths stay as they are."""
    at = list(rows)

    def batch(side: Batch) -> Batch:
        inputs = {name: value[at] if isinstance(value, Tensor) else value for name, value in side.inputs.items()}
        spans = {role: tuple(each[row] for row in at) for role, each in side.spans.items()}
        mask = None if side.mask is None else side.mask[at]
        return replace(side, inputs=inputs, mask=mask, spans=spans, truncated=tuple(side.truncated[row] for row in at))

    return replace(
        pairs,
        examples=tuple(pairs.examples[row] for row in at),
        clean=batch(pairs.clean),
        corrupt=None if pairs.corrupt is None else batch(pairs.corrupt),
        answer=None if pairs.answer is None else pairs.answer[at],
        distractor=None if pairs.distractor is None else pairs.distractor[at],
        read_at=pairs.read_at[at],
        tokens=tuple(pairs.tokens[row] for row in at),
    )


def shared_end(pairs: Pairs) -> tuple[int, ...]:
    """Positions, counted from the end, where all prompts and their twins have the same token: what follows the request."""
    sides = [pairs.clean] if pairs.corrupt is None else [pairs.clean, pairs.corrupt]
    rows = [ids[keep].tolist() for side in sides for ids, keep in zip(side.input_ids.cpu(), _mask(side), strict=True)]
    same = 0
    while all(len(row) > same + 1 for row in rows) and len({row[-1 - same] for row in rows}) == 1:
        same += 1
    return tuple(range(-max(same, 1), 0))


def places(batch: Batch, positions: Sequence[int]) -> Int[Tensor, "batch position"]:
    """Positions counted from the end of each prompt."""
    return batch.end.cpu()[:, None] + 1 + torch.tensor(positions)


def _mask(batch: Batch) -> Tensor:
    assert batch.mask is not None
    return batch.mask.cpu()
