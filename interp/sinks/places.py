"""Which tokens play which part: keys by role, queries by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

FIRST, OTHER, ALL = "first", "other", "all"
RESTING, WORKING = "resting", "working"
TokenRoles = Mapping[str, Sequence[str | int]]


@dataclass(frozen=True, eq=False)
class Places:
    """Parts that tokens of some prompts play.

    Attributes:
        roles: of keys: the first token, every special token by its text, roles of the task, roles by token, all others.
        keys: True where a token plays the role.
        domains: of queries: all, roles of the task, roles by token, all others.
        queries: True where a token belongs to the domain.
        real: False at padding.
        content: tokens that are neither first nor special; all where there are no others.
    """

    roles: tuple[str, ...]
    keys: Bool[Tensor, "role batch pos"]
    domains: tuple[str, ...]
    queries: Bool[Tensor, "domain batch pos"]
    real: Bool[Tensor, "batch pos"]
    content: Bool[Tensor, "batch pos"]

    def rows(self, start: int, stop: int) -> Places:
        """Prompts start to stop."""
        cut = (self.keys[:, start:stop], self.queries[:, start:stop], self.real[start:stop], self.content[start:stop])
        return Places(self.roles, cut[0], self.domains, cut[1], cut[2], cut[3])


def places_of(pairs: Pairs, tokenizer: Any, given: TokenRoles) -> Places:
    """Roles and domains of the clean prompts; a role of the task under a name of ours becomes 'role ...'.

    Args:
        given: role -> tokens that play it, as text or ids.

    Raises:
        InterpError: E201, a role under a name that is taken; E313, a role that no token plays.
    """
    batch = pairs.clean
    assert batch.mask is not None
    real = batch.mask.cpu()
    first = torch.zeros_like(real)
    first[torch.arange(len(real)), batch.first.cpu()] = True
    special = _special(batch, tokenizer, first)
    taken = {FIRST, OTHER, ALL, RESTING, WORKING, *special}
    told = {f"role {role}" if role in taken else role: rows for role, rows in batch.spans.items()}
    own = {role: _marked(rows, real.shape) for role, rows in told.items()}
    own |= _by_token(batch, pairs, given, {*taken, *own})
    named = {FIRST: first, **special, **own}
    rest = real & ~torch.stack(list(named.values())).any(0)
    content = real & ~torch.stack([first, *special.values()]).any(0)
    content = torch.where(content.any(-1, keepdim=True), content, real)
    left = {OTHER: real & ~torch.stack(list(own.values())).any(0) & ~first} if own else {}
    keys, queries = {**named, OTHER: rest}, {ALL: real, **own, **left}
    return Places(tuple(keys), torch.stack(list(keys.values())), tuple(queries), torch.stack(list(queries.values())),
                  real, content)  # fmt: skip


def _special(batch: Batch, tokenizer: Any, first: Bool[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """Special tokens beyond the first token, by their text."""
    if tokenizer is None:
        return {}
    ids = batch.input_ids.cpu()
    assert batch.mask is not None
    free = batch.mask.cpu() & ~first
    found = {index: free & (ids == index) for index in tokenizer.all_special_ids}
    return {tokenizer.decode([index]): where for index, where in found.items() if bool(where.any())}


def _by_token(batch: Batch, pairs: Pairs, given: TokenRoles, taken: set[str]) -> dict[str, Tensor]:
    """Roles that are named by the tokens that play them; text is compared without the blanks around it."""
    ids, found = batch.input_ids.cpu(), {}
    assert batch.mask is not None
    for role, tokens in given.items():
        if role in taken:
            raise InterpError("E201", f"{role!r} is a role already", fix="give the role another name")
        words = {word.strip() for word in tokens if isinstance(word, str)}
        where = torch.isin(ids, torch.tensor([index for index in tokens if isinstance(index, int)], dtype=ids.dtype))
        starts = batch.first.tolist()
        for row, pieces in enumerate(pairs.tokens):
            for place, text in enumerate(pieces):
                where[row, starts[row] + place] |= text.strip() in words
        found[role] = where & batch.mask.cpu()
        if not bool(found[role].any()):
            raise InterpError("E313", f"no token plays {role!r}", fix=f"tokens look like {pairs.tokens[0][:8]}")
    return found


def _marked(rows: Sequence[Sequence[int]], shape: torch.Size) -> Bool[Tensor, "batch pos"]:
    where = torch.zeros(shape, dtype=torch.bool)
    for row, span in enumerate(rows):
        where[row, list(span)] = True
    return where
