"""Partial softmaxes form a commutative monoid, and all of them together are the softmax."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from interp.kernels.backends.merge import NO_KEY, Partial, merge

ROWS, D = 5, 3


def part(scores: Tensor, first: int, dtype: torch.dtype = torch.float64) -> Partial:
    """State after the keys from `first` on; -inf hides a key."""
    if not scores.shape[1]:
        return empty()
    keys = torch.arange(first, first + scores.shape[1])
    m = scores.amax(-1).clamp(min=NO_KEY)
    z = scores - m[:, None]
    p = z.exp()
    v = torch.stack([keys.sin(), keys.cos(), keys.double()], -1).double()
    best = torch.where(m > NO_KEY, keys[scores.argmax(-1)], -1)
    return Partial(m, p.sum(-1), p @ v, (p * z.nan_to_num(neginf=0)).sum(-1), (p * p).sum(-1), best.int(), p @ v[:, :2])


def empty() -> Partial:
    none = torch.zeros(ROWS, dtype=torch.float64)
    minus = torch.full((ROWS,), -1, dtype=torch.int32)
    wide = torch.zeros(ROWS, D, dtype=torch.float64)
    return Partial(none + NO_KEY, none, wide, none, none, minus, wide[:, :2])


def scores(n: int) -> Tensor:
    """Scores with a row of large ones, a row that sees nothing, and ties."""
    s = 3 * torch.randn(ROWS, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    s[1] += 300
    s[2] = -torch.inf
    s[3] = 1.5
    s[4, : n // 2] = -torch.inf
    return s


def same(one: Partial, two: Partial) -> None:
    for field in fields(Partial):
        torch.testing.assert_close(getattr(one, field.name), getattr(two, field.name), atol=1e-12, rtol=1e-12)


def split(s: Tensor, ends: list[int]) -> list[Partial]:
    starts = [0, *ends]
    return [part(s[:, a:b], a) for a, b in zip(starts, [*ends, s.shape[1]], strict=True)]


@pytest.mark.parametrize("ends", [[4, 9], [1, 2], [6, 6], [0, 11]])
def test_grouping_and_order_do_not_matter(ends: list[int]) -> None:
    a, b, c = split(scores(12), ends)
    whole = part(scores(12), 0)
    for merged in (merge([a, b, c]), merge([merge([a, b]), c]), merge([a, merge([b, c])]), merge([c, a, b])):
        same(merged, whole)


def test_the_empty_part_changes_nothing() -> None:
    one = part(scores(8), 0)
    same(merge([one, empty()]), one)
    same(merge([empty(), one]), one)
    same(merge([empty(), empty()]), empty())


def test_ten_parts_are_the_softmax() -> None:
    s = scores(30)
    whole = merge(split(s, list(range(3, 30, 3))))
    pattern = s.softmax(-1).nan_to_num(0.0)
    torch.testing.assert_close(whole.lse, s.logsumexp(-1), atol=1e-12, rtol=0)
    mass = whole.mass.clamp(min=1e-300)
    seen = whole.mass > 0
    keys = torch.arange(30)
    v = torch.stack([keys.sin(), keys.cos(), keys.double()], -1).double()
    torch.testing.assert_close(whole.output / mass[:, None], pattern @ v, atol=1e-12, rtol=0)
    entropy = torch.where(seen, mass.log() - whole.entropy / mass, 0)
    torch.testing.assert_close(entropy, -torch.special.xlogy(pattern, pattern).sum(-1), atol=1e-12, rtol=0)
    torch.testing.assert_close(whole.squares, (pattern**2).sum(-1) * whole.mass**2, atol=1e-12, rtol=0)
    assert whole.argmax.tolist() == [int(s[0].argmax()), int(s[1].argmax()), -1, 0, int(s[4].argmax())]


def test_what_is_not_asked_stays_away() -> None:
    whole = part(scores(6), 0)
    bare = Partial(whole.m, whole.mass)
    merged = merge([bare, bare])
    assert all(getattr(merged, field.name) is None for field in fields(Partial)[2:])
    torch.testing.assert_close(merged.mass, 2 * whole.mass)
