"""Neighborhood attention against loops that pick the neighbours of each cell from a list, borders above all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends.primitives import Rows
from interp.kernels.errors import InterpError
from interp.kernels.variants.base import Variant
from interp.kernels.variants.neighborhood import Neighborhood
from interp.kernels.variants.softmax import Full, Softmax
from interp.kernels.variants.window import Window
from tests.kernels.rowwise_oracle import (
    Case,
    D,
    H,
    asks_for_itself,
    close,
    decodes,
    has_gradients,
    has_the_span_it_says,
    ignores_padding,
    inside,
    is_that_of_loops,
    is_what_its_flags_say,
    keeps_documents_apart,
    moved_by_later_tokens,
    positions,
    problem_of,
    repeated,
    tensors,
    weights,
)

GRID = (3, 4)


def fixed(variant: Variant) -> Callable[[Tensor], Variant]:
    return lambda where: variant


def neighbours(x: int, length: int, window: int, stride: int = 1, dilation: int = 1, causal: bool = False) -> list[int]:
    """Cells of one axis that a cell sees: a stretch of the list of cells of its group."""
    group = list(range(x % dilation, length, dilation))
    place = group.index(x)
    tile = place - place % stride
    if causal:
        leader = min(tile + stride - 1, len(group) - 1)
        return group[max(0, leader - window + 1) : place + 1]
    leader = min(tile + stride // 2, len(group) - 1)
    start = max(0, min(leader - window // 2, len(group) - window))
    return group[start : start + window]


def line(extra: int = 0, **rule: int) -> Callable[[int, int, int, int], bool]:
    def sees(i: int, j: int, h: int, n: int) -> bool:
        return i < extra or j < extra or j - extra in neighbours(i - extra, n - extra, **rule)

    return sees


def plane(
    down: dict[str, int], across: dict[str, int], grid: tuple[int, int] = GRID, extra: int = 0
) -> Callable[[int, int, int, int], bool]:
    def sees(i: int, j: int, h: int, n: int) -> bool:
        if i < extra or j < extra:
            return True
        (y, x), (y2, x2) = divmod(i - extra, grid[1]), divmod(j - extra, grid[1])
        return y2 in neighbours(y, grid[0], **down) and x2 in neighbours(x, grid[1], **across)

    return sees


SHAPED = (12, 12, 12)
CASES = {
    "line": Case(fixed(Neighborhood(window=5)), line(window=5)),
    "even window": Case(fixed(Neighborhood(window=4)), line(window=4)),
    "strided": Case(fixed(Neighborhood(window=5, stride=3)), line(window=5, stride=3)),
    "strided, even": Case(fixed(Neighborhood(window=6, stride=4)), line(window=6, stride=4)),
    "blocked": Case(fixed(Neighborhood(window=5, stride=5)), line(window=5, stride=5)),
    "dilated": Case(fixed(Neighborhood(window=3, dilation=3)), line(window=3, dilation=3)),
    "dilated and strided": Case(
        fixed(Neighborhood(window=3, stride=2, dilation=2)), line(window=3, stride=2, dilation=2)
    ),
    "causal": Case(fixed(Neighborhood(causal=True, window=4)), line(window=4, causal=True)),
    "causal, strided": Case(
        fixed(Neighborhood(causal=True, window=4, stride=3)), line(window=4, stride=3, causal=True)
    ),
    "causal, dilated": Case(
        fixed(Neighborhood(causal=True, window=2, dilation=3)), line(window=2, dilation=3, causal=True)
    ),
    "extra": Case(fixed(Neighborhood(window=5, extra=2)), line(window=5, extra=2), sizes=(3, 7, 17)),
    "extra, causal": Case(
        fixed(Neighborhood(causal=True, window=3, extra=2)),
        lambda i, j, h, n: j <= i and line(window=3, extra=2, causal=True)(i, j, h, n),
        sizes=(3, 7, 17),
    ),
    "grid": Case(fixed(Neighborhood(window=3, grid=GRID)), plane({"window": 3}, {"window": 3}), sizes=SHAPED),
    "grid, every axis its own": Case(
        fixed(Neighborhood(window=(2, 2), stride=(2, 1), dilation=(1, 2), causal_axes=(True, False), grid=GRID)),
        plane({"window": 2, "stride": 2, "causal": True}, {"window": 2, "dilation": 2}),
        sizes=SHAPED,
    ),
    "grid, causal": Case(
        fixed(Neighborhood(causal=True, window=(2, 3), grid=GRID)),
        plane({"window": 2, "causal": True}, {"window": 3, "causal": True}),
        sizes=SHAPED,
    ),
    "grid, extra": Case(
        fixed(Neighborhood(window=(2, 3), grid=(3, 4), extra=1)),
        plane({"window": 2}, {"window": 3}, extra=1),
        sizes=(13, 13, 13),
    ),
}
ORDERED = {"causal", "causal, strided", "causal, dilated", "extra, causal", "grid, causal"}
SPANS = {"line", "even window", "strided", "strided, even", "blocked", "causal", "causal, strided", "extra"}
SPANS |= {"extra, causal"}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("name, size", [(name, size) for name in CASES for size in sorted(set(CASES[name].sizes))])
def test_weights_and_output_are_those_of_loops(name: str, size: int) -> None:
    is_that_of_loops(CASES[name], size)


@each_case
def test_last_queries_alone_give_what_they_give_among_all(case: Case) -> None:
    decodes(case)


@each_case
def test_padding_changes_nothing(case: Case) -> None:
    ignores_padding(case)


@each_case
def test_packed_documents_give_what_they_give_alone(case: Case) -> None:
    keeps_documents_apart(case, (case.sizes[1], case.sizes[2]))


@pytest.mark.parametrize("name", CASES)
def test_later_tokens_move_what_they_may_and_nothing_else(name: str) -> None:
    variant = CASES[name].make(positions(CASES[name].sizes[2]))
    moved = moved_by_later_tokens(variant, CASES[name].sizes[2])
    assert moved == (name not in ORDERED)
    assert not moved or variant.looks_ahead


@each_case
def test_flags_say_what_the_weights_are(case: Case) -> None:
    is_what_its_flags_say(case)


@pytest.mark.parametrize("name", sorted(SPANS))
def test_span_is_what_is_seen_and_what_is_asked_for(name: str) -> None:
    has_the_span_it_says(CASES[name].make)
    asks_for_itself(CASES[name])


def test_span_of_a_line_that_is_given_as_a_grid() -> None:
    problem = problem_of(*tensors(17))
    for stride, extra in ((1, 0), (3, 2)):
        variant = Neighborhood(window=5, stride=stride, grid=(17 - extra,), extra=extra)
        rows = variant.rows(problem)
        assert isinstance(rows, Rows)
        assert torch.equal(inside(rows, 17), variant.allowed(problem.view()).expand(2, 1, 17, 17))


@pytest.mark.parametrize("name", sorted(set(CASES) - SPANS))
def test_what_is_no_interval_is_refused_with_a_reason(name: str) -> None:
    reason = CASES[name].make(positions(12)).request(problem_of(*tensors(CASES[name].sizes[2])))
    assert isinstance(reason, str) and "no interval" in reason


def test_the_window_moves_inwards_at_the_border_and_never_shrinks() -> None:
    seen = weights(Neighborhood(window=5), *tensors(9))[0, 0] > 0
    assert bool((seen.sum(-1) == 5).all())
    assert seen[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert seen[1].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert seen[8].nonzero().flatten().tolist() == [4, 5, 6, 7, 8]
    even = weights(Neighborhood(window=4), *tensors(9))[0, 0] > 0
    assert even[4].nonzero().flatten().tolist() == [2, 3, 4, 5]  # leans to the left by one
    padded = weights(Window(causal=False, size=3), *tensors(9))[0, 0] > 0
    assert torch.equal(seen[2:7], padded[2:7]) and not torch.equal(seen, padded)


@pytest.mark.parametrize("length", [5, 8, 12, 13])
def test_every_rule_of_one_axis_at_every_length(length: int) -> None:
    """All windows up to the length, strides up to the window, dilations; also past what NATTEN takes."""
    q, k, v = tensors(length, batch=1)
    problem = problem_of(q, k, v)
    for window, stride, dilation, causal in product(range(1, length + 2), range(1, 5), range(1, 4), (False, True)):
        if stride > window:
            continue
        variant = Neighborhood(causal=causal, window=window, stride=stride, dilation=dilation)
        found = variant.allowed(problem.view())[0, 0]
        for x in range(length):
            wanted = neighbours(x, length, window, stride, dilation, causal)
            assert found[x].nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize(
    "variant, same",
    [
        (Neighborhood(window=17), Full()),
        (Neighborhood(window=100), Full()),
        (Neighborhood(causal=True, window=17), Softmax()),
        (Neighborhood(causal=True, window=4), Window(size=4)),
        (Neighborhood(causal_axes=[True], window=4), Window(size=4)),
        (Neighborhood(window=4, grid=(17,)), Neighborhood(window=4)),
        (Neighborhood(window=(1, 5), grid=(1, 17)), Neighborhood(window=5)),
        (Neighborhood(window=17, extra=3), Full()),
        (Neighborhood(window=1, extra=17), Full()),
    ],
    ids=lambda variant: variant.name,
)
def test_is_the_other_one_where_they_coincide(variant: Variant, same: Variant) -> None:
    close(weights(variant, *tensors(17)), weights(same, *tensors(17)))


def test_blocks_of_a_grid_see_themselves_alone() -> None:
    found = weights(Neighborhood(window=2, stride=2, grid=(4, 6)), *tensors(24))[0, 0] > 0
    for i, j in product(range(24), repeat=2):
        assert bool(found[i, j]) == (i // 12 == j // 12 and i % 6 // 2 == j % 6 // 2)


@pytest.mark.parametrize("name", ["line", "causal, strided", "grid", "grid, every axis its own", "dilated"])
def test_a_gather_by_the_table_of_neighbours_is_the_operator(name: str) -> None:
    n = CASES[name].sizes[2]
    q, k, v = tensors(n)
    variant = CASES[name].make(positions(n))
    index, there = variant.neighbours(n)
    near_k, near_v = repeated(k)[:, :, index], repeated(v)[:, :, index]
    scores = torch.einsum("bhid,bhisd->bhis", q, near_k) * D**-0.5
    pattern = scores.masked_fill(~there, float("-inf")).softmax(-1)
    found = torch.einsum("bhis,bhisd->bhid", pattern, near_v)
    close(found, attention(q, k, v, variant, backend="eager").output)
    assert index.shape[1] == torch.tensor([axis.window for axis in variant.axes]).prod()


def test_gradients_are_those_of_differences() -> None:
    has_gradients(Neighborhood(window=3))
    has_gradients(Neighborhood(window=(1, 2), grid=(2, 2)))


def test_what_is_causal_says_so_only_where_nothing_later_counts() -> None:
    assert not Neighborhood(causal=True, window=4).looks_ahead
    assert not Neighborhood(causal_axes=(True, True), window=2, grid=GRID).looks_ahead
    assert Neighborhood(causal_axes=(True, False), window=2, grid=GRID).looks_ahead
    assert Neighborhood(causal_axes=[True], window=4, extra=1).looks_ahead
    assert "last tile" in Neighborhood(causal=True, window=4, stride=2).looks_ahead
    assert not Neighborhood(causal=True, window=4, stride=2, grid=(16,)).looks_ahead


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Neighborhood(window=0), "window=0"),
        (lambda: Neighborhood(window=3, stride=4), "stride=4"),
        (lambda: Neighborhood(dilation=0), "dilation=0"),
        (lambda: Neighborhood(window=(3, 3)), "2 values for 1 axes"),
        (lambda: Neighborhood(window=(3, 3, 3), grid=GRID), "3 values for 2 axes"),
        (lambda: Neighborhood(causal=True, causal_axes=(True, False), window=2, grid=GRID), "causal with an axis"),
        (lambda: Neighborhood(grid=(0, 4)), "grid"),
        (lambda: Neighborhood(extra=-1), "extra=-1"),
        (lambda: Neighborhood(window=2, grid=GRID).neighbours(11), "11 cells"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make: Callable[[], Variant], words: str) -> None:
    with pytest.raises(InterpError, match=words) as caught:
        make()
    assert caught.value.code == "E205"


def test_texts_that_do_not_fill_the_grid_are_refused() -> None:
    q, k, v = tensors(13)
    with pytest.raises(InterpError, match="a text of 13 tokens is no grid of 3 x 4"):
        attention(q, k, v, Neighborhood(window=2, grid=GRID))
    with pytest.raises(InterpError, match="a text of 12 tokens is no grid of 3 x 4 and 1 more"):
        attention(q, k, v, Neighborhood(window=2, grid=GRID, extra=1), key_mask=(torch.arange(13) > 0).expand(2, -1))
    with pytest.raises(InterpError, match="nowhere among the keys"):
        attention(torch.cat([q, q], 2), k, v, Neighborhood(window=2))
    assert attention(q, k, v, Neighborhood(window=2, grid=GRID, extra=1)).output.shape == (2, H, 13, 5)
