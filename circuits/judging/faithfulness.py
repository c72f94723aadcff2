"""How much of what the model does a circuit does: f = (m(circuit) - m(empty)) / (m(full) - m(empty)), a ratio of means.

`faithfulness` holds circuits against everything that may stand in for what is out, in one table. `held` puts baselines
beside a curve over sizes, all at the circuits' actual sizes. The prompts that judge are not those that circuits, means or
constants were taken from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.edges.masked import TOKENS
from interp.circuits.edges.optimal import Learning
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import REPLACEMENTS, stand_in
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges
from interp.circuits.judging.curves import Area, curve
from interp.circuits.judging.trials import Trials
from interp.circuits.tables import Tabled, interval, number
from interp.kernels.errors import InterpError

NAN = Area(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Row:
    """One circuit under one replacement.

    Attributes:
        taken_from: where the replacement comes from, in words.
        n_edges, share: of the circuit as it was run, pruned.
        full, values, empty: metric of the model, of the circuit, and of no edge, prompt by prompt.
        f: with its bootstrap interval; nan where `note` says why there is none.
    """

    circuit: str
    replacement: str
    taken_from: str
    n_edges: int
    share: float
    full: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, " prompt"]
    empty: Float[np.ndarray, " prompt"]
    f: Area
    note: str = ""


@dataclass(frozen=True, eq=False)
class Faithfulness(Tabled):
    """Made by `faithfulness`.

    Attributes:
        rows: replacement by replacement.
        level: 1 - coverage of the intervals.
        shared: prompts that judge and were taken from as well, by chance.
        forwards: what the runs cost, in forwards of all prompts; learning constants is left out.
    """

    rows: tuple[Row, ...]
    level: float
    shared: int
    forwards: float

    def row(self, circuit: str, replacement: str) -> Row:
        """One row by its names."""
        return next(row for row in self.rows if (row.circuit, row.replacement) == (circuit, replacement))

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        columns = ["circuit", "edges", "instead of what is out", "full", "circuit", "empty", "f", "interval", "note"]
        rows = [
            [
                row.circuit, f"{row.n_edges} ({row.share:.1%})", f"{row.replacement}: {row.taken_from}",
                *(number(float(np.mean(one))) for one in (row.full, row.values, row.empty)),
                number(row.f.value), interval(row.f.low, row.f.high), row.note,
            ]
            for row in self.rows
        ]  # fmt: skip
        remarks = [f"{self.shared} prompts that judge were taken from as well"] if self.shared else []
        return f"faithfulness over {len(self.rows[0].full)} prompts", columns, rows, remarks


def faithfulness(
    flow: Flow,
    circuits: Mapping[str, Edges],
    judged: Posed,
    taken: Posed,
    *,
    replacements: Sequence[str] = tuple(REPLACEMENTS),
    learning: Learning | None = None,
    level: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
    tokens: int = TOKENS,
) -> Faithfulness:
    """Every circuit under every replacement.

    Args:
        circuits: by name; pruned before they are run.
        judged: prompts that judge.
        taken: prompts that means and constants come from.
        learning: of 'optimal', which is learned anew for each circuit; the empty circuit then stands beside it under the
            same constants.

    Raises:
        InterpError: E201 no such replacement; E205 no prompt judges that was not taken from; what `StandIn` raises.
    """
    pruned = {name: flow.graph.pruned(edges) for name, edges in circuits.items()}
    shared = _shared(judged, taken) if any(REPLACEMENTS[name].is_taken for name in _known(replacements)) else 0
    if shared == len(judged):
        what = "every prompt that judges is one that the replacement is taken from"
        raise InterpError("E205", what, where="faithfulness", fix="judge on other prompts: another seed of the task")
    rows: list[Row] = []
    forwards = 0.0
    for name in replacements:
        groups = [{one: edges} for one, edges in pruned.items()] if REPLACEMENTS[name].is_fitted else [pruned]
        for group in groups:
            trials = Trials(flow, judged, stand_in(name, flow, taken, list(group.values()), learning), tokens=tokens)
            rows += _rows(trials, group, level, n_boot, seed)
            forwards += trials.forwards
    return Faithfulness(tuple(rows), level, shared, forwards)


def _rows(trials: Trials, circuits: Mapping[str, Edges], level: float, n_boot: int, seed: int) -> list[Row]:
    graph, stand = trials.flow.graph, trials.stand
    full, empty, *values = trials([graph.full, graph.none, *circuits.values()])
    found = []
    for (name, edges), value in zip(circuits.items(), values, strict=True):
        share = int(edges.sum()) / graph.n_edges
        f, note = _judged(value, full, empty, share, level, n_boot, seed)
        row = Row(name, stand.name, stand.taken_from, int(edges.sum()), share, full, value, empty, f, note)
        found.append(row)
    return found


def _judged(
    value: np.ndarray, full: np.ndarray, empty: np.ndarray, share: float, level: float, n_boot: int, seed: int
) -> tuple[Area, str]:
    """f with its interval; without a gap there is none, and the note says so."""
    ends = np.array([share, 1.0])
    try:
        found = curve(np.stack([value, full]), full, empty, ends, ends, level=level, n_boot=n_boot, seed=seed)
    except InterpError as error:
        if error.code != "E407":
            raise
        return NAN, f"no f: {error.what}"
    note = f"{found.dropped} prompts not finite, left out" if found.dropped else ""
    return Area(float(found.f[0]), float(found.low[0]), float(found.high[0])), note


def _known(replacements: Sequence[str]) -> Sequence[str]:
    """Names, refused before anything runs."""
    for name in replacements:
        if name not in REPLACEMENTS:
            raise InterpError("E201", f"no replacement {name!r}", fix=f"known: {', '.join(REPLACEMENTS)}")
    return replacements


def _shared(judged: Posed, taken: Posed) -> int:
    """How many prompts that judge are among the others."""
    known = set(_prompts(taken))
    return sum(one in known for one in _prompts(judged))


def _prompts(posed: Posed) -> list[tuple[int, ...]]:
    """Real tokens of each prompt."""
    ids = posed.question.batch.input_ids
    return [tuple(row[keep].tolist()) for row, keep in zip(ids, posed.mask, strict=True)]
