"""Partial softmaxes, and how two become one: attention over any split of the keys.

The state of a row after some of its keys is `m = max s`, `l = sum exp(s - m)`, `o = sum exp(s - m) v` and the like.
States form a commutative monoid (Sanovar et al. 2024, LeanAttention, arXiv 2405.10480): parts of the keys may be taken
in any order, by any number of workers, and merged in any grouping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_KEY = -1e20
"""The maximum of a row that has seen no key: finite, so that differences stay numbers."""


@dataclass(frozen=True)
class Partial:
    """State of rows after some of their keys, natural logarithms; None where it was not asked. z = s - m.

    Attributes:
        m: largest score, `NO_KEY` where there was no key.
        mass: `sum exp(z)`.
        output: `sum exp(z) v`.
        entropy: `sum exp(z) z`. squares: `sum exp(2 z)`.
        argmax: key of the largest score, the lowest of equals.
        functionals: `sum exp(z) f`.
    """

    m: Float[Tensor, "*rows"]
    mass: Float[Tensor, "*rows"]
    output: Float[Tensor, "*rows d_value"] | None = None
    entropy: Float[Tensor, "*rows"] | None = None
    squares: Float[Tensor, "*rows"] | None = None
    argmax: Int[Tensor, "*rows"] | None = None
    functionals: Float[Tensor, "*rows functional"] | None = None

    @property
    def lse(self) -> Float[Tensor, "*rows"]:
        """`log sum exp(s)`; -inf where no key was seen."""
        return torch.where(self.mass > 0, self.m + self.mass.log(), -torch.inf)


def merge(parts: Sequence[Partial]) -> Partial:
    """The state after the keys of all parts."""

    def stacked(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.stack(values)

    return merge_stacked(Partial(**{field.name: stacked(field.name) for field in fields(Partial)}))


def merge_stacked(parts: Partial) -> Partial:
    """The state after the keys of all parts, which lie along the first axis."""
    m = parts.m.amax(0)
    below = parts.m - m
    keep = below.exp()
    return Partial(
        m=m,
        mass=(keep * parts.mass).sum(0),
        output=None if parts.output is None else (keep[..., None] * parts.output).sum(0),
        entropy=None if parts.entropy is None else (keep * (parts.entropy + below * parts.mass)).sum(0),
        squares=None if parts.squares is None else (keep * keep * parts.squares).sum(0),
        argmax=None if parts.argmax is None else _lowest(parts.argmax, (parts.m == m) & (parts.mass > 0)),
        functionals=None if parts.functionals is None else (keep[..., None] * parts.functionals).sum(0),
    )


def _lowest(keys: Int[Tensor, ...], among: Bool[Tensor, ...]) -> Int[Tensor, ...]:
    """The lowest key of the parts that hold the maximum; -1 where none does."""
    beyond = torch.iinfo(keys.dtype).max
    lowest = torch.where(among, keys, beyond).amin(0)
    return torch.where(lowest == beyond, -1, lowest)
