"""A curve of faithfulness over size, with what stands beside it: every baseline at the circuits' actual sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.edges.attribution import Contrast
from interp.circuits.graph.graph import Edges, Scores
from interp.circuits.judging.baselines import (
    Draw,
    drawn,
    magnitude,
    of_size,
    permuted_heads,
    ranked,
    shuffled,
    shuffled_within,
)
from interp.circuits.judging.curves import Area, Curve, curve
from interp.circuits.judging.selection import Selection
from interp.circuits.judging.trials import Trials
from interp.circuits.tables import Tabled, interval, number

Scorer = Callable[[Contrast], Float[np.ndarray, "place writer reader"]]
"""Mean score of every edge on some prompts."""


@dataclass(frozen=True, eq=False)
class Band:
    """Random circuits of each size.

    Attributes:
        f: of each draw at each size.
        edges: that they have.
        beaten: share of draws whose f is further from 1 than the method's, at each size.
    """

    f: Float[np.ndarray, "draw size"]
    edges: Int[np.ndarray, "draw size"]
    beaten: Float[np.ndarray, " size"]

    def quantile(self, share: float) -> Float[np.ndarray, " size"]:
        """Of the draws, size by size."""
        return np.quantile(self.f, share, axis=0)


@dataclass(frozen=True, eq=False)
class Comparison(Tabled):
    """Made by `compared`.

    Attributes:
        edges: of the method's circuits, after pruning.
        values, full, empty: the metric of these circuits, of the model and of no edge, prompt by prompt.
        own: their curve.
        others: name -> curve of another ranking, at the same sizes.
        bands: name -> random circuits.
    """

    edges: tuple[int, ...]
    values: Float[np.ndarray, "size prompt"]
    full: Float[np.ndarray, " prompt"]
    empty: Float[np.ndarray, " prompt"]
    own: Curve
    others: Mapping[str, Curve]
    bands: Mapping[str, Band]

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        columns = ["edges", "f", "interval", *self.others]
        for name in self.bands:
            columns += [f"{name}: median", "5 to 95 %", "beaten"]
        rows = []
        for size, n in enumerate(self.edges):
            row = [str(n), number(float(self.own.f[size])), interval(*(float(end[size]) for end in self._ends()))]
            row += [number(float(other.f[size])) for other in self.others.values()]
            for band in self.bands.values():
                low, middle, high = (float(band.quantile(share)[size]) for share in (0.05, 0.5, 0.95))
                row += [number(middle), interval(low, high), f"{band.beaten[size]:.0%}"]
            rows.append(row)
        return f"faithfulness over {self.own.n} prompts", columns, rows

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        return self.own.low, self.own.high

    def area(self, kind: str, **options: str) -> dict[str, Area]:
        """CPR or CMD of the method and of every other ranking, on actual sizes by default."""
        given = {"axis": "actual", **options}
        return {name: one.area(kind, **given) for name, one in {"": self.own, **self.others}.items()}


def compared(
    trials: Trials,
    circuits: Sequence[Selection],
    scores: Scores,
    *,
    absolute: bool = True,
    rescored: Mapping[str, Scores] | None = None,
    n_random: int = 100,
    level: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
) -> Comparison:
    """A method's circuits, smallest first, beside baselines of their sizes.

    Args:
        scores: that the circuits were chosen by; they are permuted within classes of readers.
        absolute: how the circuits were chosen.
        rescored: other rankings, such as `permuted_scores`; 'magnitude' is always there.
        n_random: random circuits of each kind.

    Raises:
        InterpError: E205, E407, E501 as `curve`; E206, E207 as `ranked`.
    """
    graph, sizes = trials.flow.graph, [one.actual for one in circuits]
    full, empty, *own = trials([graph.full, graph.none, *(one.edges for one in circuits)])
    nominal, actual = (
        np.array(shares) for shares in zip(*((c.asked_share, c.actual_share) for c in circuits), strict=True)
    )
    drawing = {"level": level, "n_boot": n_boot, "seed": seed}

    def line(values: Sequence[np.ndarray], shares: np.ndarray) -> Curve:
        return curve(np.stack(values), full, empty, nominal, shares, **drawing)  # type: ignore[arg-type]

    others = {}
    for name, found in {"magnitude": magnitude(trials.contrasts), **(rescored or {})}.items():
        order = ranked(graph, found, absolute=absolute)
        chosen = [of_size(graph, order, size) for size in sizes]
        others[name] = line(list(trials(chosen)), np.array([int(one.sum()) / graph.n_edges for one in chosen]))
    draws: dict[str, Draw] = {
        "random": lambda rng: shuffled(graph, rng),
        "permuted scores": lambda rng: shuffled_within(graph, scores, rng, absolute=absolute),
    }
    curve_of_own = line(own, actual)
    bands = {
        name: _band(trials, drawn(graph, draw, sizes, n_random, seed), curve_of_own, full, empty)
        for name, draw in draws.items()
    }
    return Comparison(tuple(sizes), np.stack(own), full, empty, curve_of_own, others, bands)


def permuted_scores(trials: Trials, scorer: Scorer, seed: int = 0) -> Scores:
    """What a method says of the same prompts when heads write through each other's output weights."""
    with permuted_heads(trials.flow.model, seed):
        parts = Trials(trials.flow, trials.posed, trials.stand, trials.prompts, trials.tokens).contrasts
        scores = np.stack([scorer(part) for part in parts])
    return np.average(scores, axis=0, weights=[len(part.question.read_at) for part in parts])


def _band(trials: Trials, circuits: Sequence[Sequence[Edges]], own: Curve, full: np.ndarray, empty: np.ndarray) -> Band:
    """Random circuits; one that came twice is run once."""
    different = {edges.tobytes(): edges for row in circuits for edges in row}
    values = dict(zip(different, trials(list(different.values())), strict=True))
    finite = np.isfinite(full) & np.isfinite(empty)
    gap = (full - empty)[finite].mean()
    f = np.array([[(values[one.tobytes()] - empty)[finite].mean() / gap for one in row] for row in circuits])
    beaten = (np.abs(1 - own.f) < np.abs(1 - f)).mean(0)
    return Band(f, np.array([[int(one.sum()) for one in row] for row in circuits]), beaten)
