"""Search for the cheapest way to run all heads together that keeps a loss within bounds.

Heads interact: where two do the same work, each alone can go and both together cannot; where one prepares what another
reads, neither helps alone. So every step is judged by a run of the whole configuration:

- `give_back`: from a configuration that loses too much, heads get costlier classes, those first that win back most for
  the keys they read; one, then two more, then four more.
- `take`: from one that holds, heads get cheaper classes, those first that lose least for the keys they save, as many at
  once as hold together; a head whose next class breaks the bound is left alone from then on.

Heads are ranked once a pass, and passes go on until there is nothing more to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

State = tuple[int, ...]
"""The class of each head, by number."""

LEAST_KEYS = 1e-3
"""Classes whose costs differ by less cost the same."""


class Score(NamedTuple):
    """Of one configuration, on the prompts that choose: what is bounded, and what is ranked by (higher is better)."""

    loss: float
    metric: float


class Move(NamedTuple):
    head: int
    to: int


@dataclass(frozen=True, eq=False)
class Search:
    """A search and all it has run.

    Attributes:
        run: scores of configurations.
        cost: mean keys that a query reads under each class.
        classes: for each head, the classes it may have, by cost; the last one is full attention.
        bound: of the loss.
    """

    run: Callable[[Sequence[State]], Sequence[Score]]
    cost: Float[np.ndarray, "head class"]
    classes: tuple[tuple[int, ...], ...]
    bound: float
    scores: dict[State, Score] = field(default_factory=dict)

    def score(self, states: Iterable[State]) -> list[Score]:
        """Scores, each configuration run once."""
        states = list(states)
        new = [state for state in dict.fromkeys(states) if state not in self.scores]
        self.scores.update(zip(new, self.run(new), strict=True))
        return [self.scores[state] for state in states]

    def holds(self, state: State) -> bool:
        return self.score([state])[0].loss <= self.bound

    def keys(self, state: State) -> float:
        """Keys that a query reads, mean over heads."""
        return float(np.mean([self.cost[head, one] for head, one in enumerate(state)]))

    @property
    def full(self) -> State:
        return tuple(ladder[-1] for ladder in self.classes)

    def best(self, start: State) -> State:
        """The cheapest configuration found from this one."""
        return self.take(self.give_back(start))

    def cheapest(self, states: Iterable[State]) -> State:
        """Of these configurations; the one with the higher metric where costs are equal."""
        return min(states, key=lambda state: (self.keys(state), -self.score([state])[0].metric))

    def give_back(self, state: State) -> State:
        """Costlier classes until the bound holds; all heads in full at the worst."""
        while state != self.full and not self.holds(state):
            moves = [Move(head, to) for head in range(len(state)) for to in self._costlier(state, head)]
            ranked, n = self._by_gain(state, moves), 1
            while ranked and not self.holds(state):
                state, ranked = _moved(state, ranked[:n]), ranked[n:]
                n *= 2
        return state

    def take(self, state: State) -> State:
        """Cheaper classes while the bound holds."""
        closed: set[Move] = set()
        while True:
            moves = [move for move in self._cheaper(state) if move not in closed]
            good = [move for move in self._by_harm(state, moves) if self.holds(_moved(state, [move]))]
            if not good:
                return state
            closed.update(set(moves) - set(good))
            n = len(good)
            while good:
                n = min(n, len(good))
                if self.holds(_moved(state, good[:n])):
                    state, good = _moved(state, good[:n]), good[n:]
                elif n > 1:
                    n //= 2
                else:
                    closed.add(good.pop(0))

    def _costlier(self, state: State, head: int) -> tuple[int, ...]:
        """The next class, and full attention."""
        ladder = self.classes[head]
        above = ladder[ladder.index(state[head]) + 1 :]
        return tuple(dict.fromkeys((*above[:1], *above[-1:])))

    def _cheaper(self, state: State) -> list[Move]:
        """For each head the next class down."""
        places = [ladder.index(one) for ladder, one in zip(self.classes, state, strict=True)]
        return [Move(head, self.classes[head][place - 1]) for head, place in enumerate(places) if place]

    def _by_gain(self, state: State, moves: Sequence[Move]) -> list[Move]:
        """One move for each head, those first that win most for the keys they read."""
        before, *after = self.score([state, *(_moved(state, [move]) for move in moves)])
        worth = {
            move: (score.metric - before.metric) / self._price(state, move)
            for move, score in zip(moves, after, strict=True)
        }
        chosen: dict[int, Move] = {}
        for move in sorted(moves, key=lambda move: -worth[move]):
            chosen.setdefault(move.head, move)
        return list(chosen.values())

    def _by_harm(self, state: State, moves: Sequence[Move]) -> list[Move]:
        """Those first that lose least for the keys they save."""
        before, *after = self.score([state, *(_moved(state, [move]) for move in moves)])
        harm = {
            move: (before.metric - score.metric) / self._price(state, move)
            for move, score in zip(moves, after, strict=True)
        }
        return sorted(moves, key=lambda move: harm[move])

    def _price(self, state: State, move: Move) -> float:
        return max(abs(float(self.cost[move.head, move.to] - self.cost[move.head, state[move.head]])), LEAST_KEYS)


def _moved(state: State, moves: Iterable[Move]) -> State:
    new = list(state)
    for head, to in moves:
        new[head] = to
    return tuple(new)
