"""What a model wrote, and which interventions acted while it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch

NOTHING = -1
"""Stands in `Generation.tokens` where a text has ended before."""


@dataclass(frozen=True)
class Step:
    """One forward.

    Attributes:
        kind: 'prefill' reads the prompts, 'decode' the newest token of each, 'whole' the whole texts anew.
        start, stop: columns of the texts that it computed.
        rows: first prompt and the one after the last.
        fired: for each intervention, at how many hook points it ran.
    """

    kind: Literal["prefill", "decode", "whole"]
    start: int
    stop: int
    rows: tuple[int, int]
    fired: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Generation:
    """Texts that a model wrote.

    Attributes:
        prompts: what it was given.
        tokens: what it wrote, the token that ends a text included; -1 after it.
        texts: the same as text, without special tokens; token ids where the model has no tokenizer.
        ended: for each text, 'stop' or 'length'.
        logits: from which each token was chosen, NaN after the end; None unless they were asked for.
        steps: every forward, in order.
        edits: interventions in force, as data.
        method: 'cached', or why whole texts were run anew for every token.
    """

    prompts: Batch
    tokens: Int[Tensor, "batch step"]
    texts: tuple[str, ...]
    ended: tuple[str, ...]
    logits: Float[Tensor, "batch step d_vocab"] | None
    steps: tuple[Step, ...]
    edits: tuple[dict[str, Any], ...]
    method: str

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        kinds = [step.kind for step in self.steps]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        head = f"Generation({len(self)} texts, {self.method}; forwards: {counts})"
        lines = [f"  edit {index}: {self._fired(index)}" for index in range(len(self.edits))]
        shown = [f"  {text!r} ({end})" for text, end in zip(self.texts[:5], self.ended, strict=False)]
        more = [f"  ... and {len(self) - 5} more"] if len(self) > 5 else []
        return "\n".join([head, *lines, *shown, *more])

    def _fired(self, index: int) -> str:
        """One intervention, and at how many hook points it ran in forwards of each kind."""
        by_kind: dict[str, list[int]] = {}
        for step in self.steps:
            by_kind.setdefault(step.kind, []).append(step.fired[index])
        points = "; ".join(f"{kind} {_span(counts)}" for kind, counts in by_kind.items())
        return f"{self.edits[index]['kind']}, hook points a forward: {points}"


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def joined(parts: Sequence[Generation], prompts: Batch) -> Generation:
    """Generations of the rows of one batch, in order."""
    if len(parts) == 1:
        return replace(parts[0], prompts=prompts)
    longest = max(part.tokens.shape[1] for part in parts)
    logits = [_widened(part.logits, longest, float("nan")) for part in parts if part.logits is not None]
    return replace(
        parts[0],
        prompts=prompts,
        tokens=torch.cat([_widened(part.tokens, longest, NOTHING) for part in parts]),
        texts=tuple(text for part in parts for text in part.texts),
        ended=tuple(end for part in parts for end in part.ended),
        logits=torch.cat(logits) if logits else None,
        steps=tuple(step for part in parts for step in part.steps),
    )


def _widened(value: Tensor, n: int, fill: int | float) -> Tensor:
    """A tensor of n steps."""
    return torch.cat([value, value.new_full((len(value), n - value.shape[1], *value.shape[2:]), fill)], 1)
