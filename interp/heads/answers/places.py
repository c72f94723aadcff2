"""Where in a prompt the answer stands, and what heads give to these places from where the answer is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs, piece
from interp.kernels.errors import InterpError
from interp.kernels.statistics.per_head import PerHead
from interp.kernels.statistics.targeted import TargetedMass

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Spots = tuple[tuple[int, ...], ...]
"""Positions in each prompt, padding included."""


@dataclass(frozen=True)
class Places:
    """Positions of something in each prompt; empty where it does not stand there.

    Attributes:
        spots: the positions.
        what: it, in words.
    """

    spots: Spots
    what: str

    @property
    def left_out(self) -> dict[int, str]:
        """Prompts without it, and why they have no score."""
        return {row: f"{self.what} does not stand in the prompt" for row, spot in enumerate(self.spots) if not spot}


def find_places(
    model: HookedModel, pairs: Pairs, role: str, tokens: Int[Tensor, "prompt ..."] | None, what: str
) -> Places:
    """Positions of a role, or without one those where a token stands, see `standing`.

    The position at which the answer is read is none of them.

    Args:
        role: of the task; '' looks for the tokens.
        tokens: one a prompt, or several, with -1 where a prompt has fewer.
        what: they are, for messages.

    Raises:
        InterpError: E313, prompts without the role, or no prompt in which the token stands.
    """
    if role and role not in pairs.clean.spans:
        raise InterpError("E313", f"prompts have no role {role!r}", fix=f"roles: {', '.join(pairs.clean.spans)}")
    assert role or tokens is not None
    spots = pairs.clean.spans[role] if role else standing(model, pairs, tokens)
    read = pairs.read_at.tolist()
    found = tuple(tuple(spot for spot in row if spot != at) for row, at in zip(spots, read, strict=True))
    if not any(found):
        fix = "ask on a task whose prompts hold it, like ioi, mcqa or retrieval"
        raise InterpError("E313", f"{what} stands in none of the prompts", fix=fix)
    return Places(found, what)


def standing(model: HookedModel, pairs: Pairs, tokens: Int[Tensor, "prompt ..."] | None) -> Spots:
    """Positions of tokens that read like one of each prompt's, whatever spaces are around them."""
    assert tokens is not None
    rows = (tokens[:, None] if tokens.ndim == 1 else tokens).tolist()
    found = []
    for first, texts, options in zip(pairs.clean.first.tolist(), pairs.tokens, rows, strict=True):
        wanted = {_bare(piece(model.tokenizer, option)) for option in options if option >= 0}
        found.append(tuple(first + index for index, text in enumerate(texts) if _bare(text) in wanted))
    return tuple(found)


def _bare(text: str) -> str:
    """Without spaces around it, unless it is nothing else."""
    return text.strip() or text


def every_head(model: HookedModel) -> tuple[HeadId, ...]:
    """All heads of the main tower."""
    return tuple(HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n))


def attention_to(
    model: HookedModel, pairs: Pairs, spots: Spots, heads: Sequence[HeadId], batch_size: int
) -> Float[Tensor, "head prompt"]:
    """What each head gives to the places of each prompt, all together, from where the answer is read; no map is stored."""
    parts = []
    for start, stop in batches(len(pairs), batch_size):
        batch, read_at = pairs.clean.rows(start, stop).to(model.device), pairs.read_at[start:stop]
        targets, queries = _targets(batch, spots[start:stop], read_at)
        mass = {"mass": PerHead(of=TargetedMass(targets), queries=queries)}
        _, found = model.run_with_statistics(batch, mass, layers=sorted({head.layer for head in heads}))
        parts.append(torch.stack([found[head.layer]["mass"][:, head.head] for head in heads]).double().cpu())
    return torch.cat(parts, 1)


def _targets(batch: Batch, spots: Spots, read_at: Tensor) -> tuple[Int[Tensor, "batch 1 pos target"], Tensor]:
    """The places as targets of the read position, and the mask of that one query."""
    shape = batch.input_ids.shape
    targets = torch.full((shape[0], 1, shape[1], max(map(len, spots), default=0) or 1), -1)
    queries = torch.zeros(shape, dtype=torch.bool)
    for row, (found, at) in enumerate(zip(spots, read_at.tolist(), strict=True)):
        targets[row, 0, at, : len(found)] = torch.tensor(found, dtype=torch.long)
        queries[row, at] = True
    return targets.to(batch.input_ids.device), queries.to(batch.input_ids.device)


def some(pairs: Pairs, rows: Iterable[int]) -> Pairs:
    """The pairs of these numbers, at the width that they have."""
    index = torch.tensor(list(rows))
    chosen = index.tolist()
    answer, distractor = (None if ids is None else ids[index] for ids in (pairs.answer, pairs.distractor))
    return replace(
        pairs, examples=tuple(pairs.examples[row] for row in chosen), clean=_rows(pairs.clean, index),
        corrupt=None if pairs.corrupt is None else _rows(pairs.corrupt, index), answer=answer, distractor=distractor,
        read_at=pairs.read_at[index], tokens=tuple(pairs.tokens[row] for row in chosen),
    )  # fmt: skip


def _rows(batch: Batch, index: Int[Tensor, " row"]) -> Batch:
    inputs = {name: value[index] if isinstance(value, Tensor) else value for name, value in batch.inputs.items()}
    mask = None if batch.mask is None else batch.mask[index]
    spans = {role: tuple(rows[row] for row in index.tolist()) for role, rows in batch.spans.items()}
    truncated = tuple(batch.truncated[row] for row in index.tolist())
    return replace(batch, inputs=inputs, mask=mask, spans=spans, truncated=truncated)
