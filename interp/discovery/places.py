"""Classes of positions that have edges of their own."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError, suggest

POSITIONS = ("none", "roles", "all")
REST = "rest"


def classes(pairs: Pairs, positions: str) -> tuple[tuple[str, ...], Int[Tensor, "batch pos"] | None]:
    """Names of the classes, and the class of each token; no table where all positions share edges.

    Tokens without a role, and padding, are `rest`; a token with two roles has the first one.

    Raises:
        InterpError: E201 no such choice; E313 roles are asked for, and the prompts name none; E205 prompts of several
            lengths, which have no common positions.
    """
    if positions not in POSITIONS:
        raise InterpError("E201", f"no positions {positions!r}", fix=suggest(positions, POSITIONS))
    if positions == "none":
        return ("",), None
    batch = pairs.clean
    lengths, (size, width) = batch.lengths.tolist(), batch.input_ids.shape
    if positions == "all":
        if len(set(lengths)) > 1:
            what = f"prompts have {min(lengths)} to {max(lengths)} tokens, so that position 3 of one is not that of another"
            raise InterpError("E205", what, where="--positions all", fix="--positions roles, or a task of one template")
        return tuple(map(str, range(width))), torch.arange(width).expand(size, width)
    if not batch.spans:
        raise InterpError("E313", "the prompts name no roles", fix="give spans, or --positions none")
    names = (*batch.spans, REST)
    found = torch.full((size, width), len(names) - 1)
    for number, spans in reversed(list(enumerate(batch.spans.values()))):
        for row, span in enumerate(spans):
            found[row, list(span)] = number
    return names, found
