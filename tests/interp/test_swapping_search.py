"""The search for configurations against all of them, where there are few enough to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from interp.swapping.controls import matched_states
from interp.swapping.search import Score, Search, State

COST = np.tile([0.0, 1.0, 2.0, 8.0], (4, 1))


def searching(loss: Callable[[State], float], bound: float, ran: list[State] | None = None) -> Search:
    """Over four heads and four classes, 3 being full attention."""

    def run(states: Sequence[State]) -> list[Score]:
        if ran is not None:
            ran.extend(states)
        return [Score(loss(state), -loss(state)) for state in states]

    return Search(run, COST, ((0, 1, 2, 3),) * 4, bound)


def cheapest(search: Search, loss: Callable[[State], float]) -> float:
    """Keys of the best of all 256 configurations."""
    return min(search.keys(state) for state in product(range(4), repeat=4) if loss(state) <= search.bound)


@pytest.mark.parametrize("seed", range(20))
def test_finds_the_best_where_heads_do_not_interact(seed: int) -> None:
    """Each head loses nothing from some class on, and far too much below it."""
    needs = np.random.default_rng(seed).integers(0, 4, 4)

    def loss(state: State) -> float:
        return float(sum(one < need for one, need in zip(state, needs, strict=True)))

    search = searching(loss, 0.5)
    for start in (search.full, (0, 0, 0, 0)):
        assert search.best(start) == tuple(needs.tolist())
    assert search.keys(search.full) == 8.0


@pytest.mark.parametrize("seed", range(20))
def test_what_it_finds_holds_and_nothing_in_it_can_be_made_cheaper(seed: int) -> None:
    """Losses with interactions of two heads: no claim to be the best, but to be a place where no step helps."""
    rng = np.random.default_rng(seed)
    own, pair = rng.uniform(0, 0.3, (4, 4)).cumsum(1)[:, ::-1], rng.uniform(0, 0.2, (4, 4))
    own = own - own[:, -1:]

    def loss(state: State) -> float:
        low = np.array(state) < 3
        return float(sum(own[head, one] for head, one in enumerate(state)) + (pair * np.outer(low, low)).sum())

    search = searching(loss, 0.6)
    found = search.cheapest([search.best(search.full), search.best((0, 0, 0, 0))])
    assert loss(found) <= 0.6
    for head in range(4):
        if found[head]:
            assert loss((*found[:head], found[head] - 1, *found[head + 1 :])) > 0.6
    assert search.keys(found) <= 1.5 * cheapest(search, loss) + 2


def test_of_two_heads_that_do_the_same_one_is_kept() -> None:
    """Restricting either alone costs nothing: a search by single effects would restrict both."""

    def loss(state: State) -> float:
        return 0.0 if max(state[1], state[2]) == 3 else 1.0

    search = searching(loss, 0.02)
    for start in (search.full, (0, 0, 0, 0)):
        found = search.best(start)
        assert sorted(found) == [0, 0, 0, 3] and 3 in found[1:3]


def test_two_heads_that_need_each_other_are_both_found() -> None:
    """Neither helps alone, so nothing points to them from below."""

    def loss(state: State) -> float:
        return 0.0 if state[0] == state[2] == 3 else 1.0

    search = searching(loss, 0.02)
    for start in (search.full, (0, 0, 0, 0)):
        assert search.best(start) == (3, 0, 3, 0)


def test_nothing_runs_twice_and_nothing_at_all_may_be_possible() -> None:
    ran: list[State] = []
    search = searching(lambda state: float(state != (3, 3, 3, 3)), 0.5, ran)
    assert search.best((0, 0, 0, 0)) == search.best(search.full) == search.full
    assert len(ran) == len(set(ran)) == len(search.scores)


def test_a_configuration_that_is_full_and_does_not_hold_is_given_as_it_is() -> None:
    search = searching(lambda state: 1.0, 0.5)
    assert search.give_back((0, 0, 0, 0)) == search.full


@pytest.mark.parametrize("seed", range(5))
def test_random_configurations_have_as_many_heads_of_each_class_in_each_layer(seed: int) -> None:
    layers = [0, 0, 0, 0, 1, 1, 1, 1]
    found: tuple[int, ...] = (3, 0, 0, 1, 3, 3, 0, 0)
    drawn = matched_states(found, layers, 10, seed)
    assert len(set(drawn.states)) == len(drawn.states) == drawn.n_within == 10 and not drawn.notes
    for state in drawn.states:
        assert state != found
        for half in (slice(0, 4), slice(4, 8)):
            assert sorted(state[half]) == sorted(found[half])
    assert drawn == matched_states(found, layers, 10, seed)


def test_where_layers_allow_few_choices_the_rest_is_drawn_over_all_layers() -> None:
    found = (3, 0, 0, 0, 0, 0)
    drawn = matched_states(found, [0, 0, 1, 1, 2, 2], 4, 0)
    assert drawn.n_within == 1 and drawn.states[0] == (0, 3, 0, 0, 0, 0)
    assert len(set(drawn.states)) == 4 and all(sorted(state) == sorted(found) for state in drawn.states)
    assert "Layers allow 1" in drawn.notes[0]
    few = matched_states(found, [0, 0, 1, 1, 2, 2], 20, 0)
    assert len(few.states) == 5 and "no more than 5" in few.notes[-1]
    assert matched_states((3, 3), [0, 0], 5, 0).states == ()
