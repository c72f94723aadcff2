"""What the strongest edges of a circuit carry: a low-rank subspace each, with the runs that prove it.

Directions and ranks come from the prompts that choose, and are judged on those that judge; see
`interp.circuits.understanding.carried`. The rest of the model is in: an edge is explained in the model, not in the circuit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.circuits.edges.attribution import Contrast
from interp.circuits.tables import interval, number
from interp.circuits.understanding.carried import carried
from interp.circuits.understanding.carrying import Carried, Carrying
from interp.circuits.understanding.margins import SAID
from interp.circuits.understanding.subspaces import ways_to_read
from interp.kernels.errors import InterpError

NOT_HERE = ("E205", "E403", "E407")
"""Errors that say that an edge cannot be explained in this way on these prompts or this model."""

NAN = float("nan")


@dataclass(frozen=True)
class Explained:
    """One edge.

    Attributes:
        edge: its label.
        score: in the circuit.
        read: how directions of what is read were found, in `interp.circuits.understanding.subspaces.READ`; '' where none was.
        rank: of the subspace; `full_rank` of all directions that the writer writes.
        whole, low, high: effect of the edge in the model, with its interval; in the metric's unit.
        inside: share of it with the edge out within the subspace alone.
        outside: share of it with the edge out everywhere but there.
        random: as `inside`, mean over random subspaces of what the writer writes, of equal rank; nan without one.
        beaten_by: share of them that do as much.
        verdicts: 'inside', 'outside', 'random' -> whether that holds; None where the prompts do not tell.
        note: why there is no subspace, or why it was not found in the usual way.
        n: prompts that judged.
    """

    edge: str
    score: float
    read: str = ""
    rank: int = 0
    full_rank: int = 0
    whole: float = NAN
    low: float = NAN
    high: float = NAN
    inside: float = NAN
    outside: float = NAN
    random: float = NAN
    beaten_by: float = NAN
    verdicts: Mapping[str, bool | None] | None = None
    note: str = ""
    n: int = 0

    @property
    def is_proved(self) -> bool:
        """Whether the effect is inside, none is outside, and random subspaces do not do it."""
        return bool(self.verdicts) and all(holds is True for holds in (self.verdicts or {}).values())

    @property
    def says(self) -> str:
        """The verdict in words."""
        if not self.verdicts:
            return self.note
        if self.is_proved:
            return "proved" + (f"; {self.note}" if self.note else "")
        left = [f"{name} {SAID[holds].partition(':')[0]}" for name, holds in self.verdicts.items() if holds is not True]
        return "; ".join([f"not proved: {', '.join(left)}", *([self.note] if self.note else [])])

    @classmethod
    def of(cls, found: Carried, score: float, note: str, n: int) -> Explained:
        """From what `carried` gave."""
        whole = found.whole.mean
        return cls(
            found.edge, score, found.read, found.rank, found.full_rank, whole, found.whole.ci_low, found.whole.ci_high,
            found.share, found.outside.mean / whole, found.random.mean / whole, found.beaten_by,
            {one.test: one.holds for one in found.findings.found}, note, n,
        )  # fmt: skip

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Explained:
        """From plain data, as `dataclasses.asdict` gives it and JSON keeps it."""
        given: dict[str, Any] = {name: NAN if value is None else value for name, value in data.items()}
        return cls(**{**given, "verdicts": data["verdicts"]})

    def line(self) -> list[str]:
        """Edge, score, effect, interval, rank, inside, outside, random, as much, by, verdict."""
        rank = f"{self.rank} of {self.full_rank}" if self.read else "-"
        effect = [number(self.whole, signed=True), interval(self.low, self.high)] if self.read else ["-", "-"]
        shares = [number(one) for one in (self.inside, self.outside, self.random, self.beaten_by)]
        return [self.edge, number(self.score, signed=True), *effect, rank, *shares, self.read, self.says]


@dataclass(frozen=True, eq=False)
class Subspace:
    """An edge and its directions, orthonormal columns of the stream, most read first; none where there is a reason."""

    about: Explained
    basis: Float[np.ndarray, "d_model rank"]

    def record(self) -> dict[str, Any]:
        """All but the directions."""
        return asdict(self.about)


COLUMNS = (
    "edge", "score", "effect in the model", "interval", "rank", "inside", "outside", "random inside",
    "random as much", "read by", "verdict",
)  # fmt: skip


def explained(chosen: Contrast, judged: Contrast, edge: str, score: float, seed: int) -> Subspace:
    """The subspace of one edge, or why there is none: ways to read are tried in turn until one is defined."""
    refused, n = list[str](), judged.question.batch.size
    graph = chosen.flow.graph
    for how in ways_to_read(graph.readers[graph.edge(edge)[2]]):
        try:
            found = carried(chosen, edge, judged, Carrying(read=how, seed=seed))
        except InterpError as error:
            if error.code not in NOT_HERE:
                raise
            refused.append(f"not by {how}: {error.what}")
            continue
        note = "; ".join(refused)
        return Subspace(Explained.of(found, score, note, n), found.basis.cpu().numpy())
    width = chosen.flow.model.w_out(0).shape[-1]
    note = "; ".join(dict.fromkeys(one.partition(": ")[2] for one in refused))
    return Subspace(Explained(edge, score, note=note, n=n), np.zeros((width, 0), dtype=np.float32))
