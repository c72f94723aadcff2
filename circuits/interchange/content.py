"""`Imported`, what a file of another tool holds, and the checks on what is to be written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interp.circuits.files import write_atomic
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.kernels.errors import InterpError

UNMARKED = "no edge is marked as part of a circuit: the file is read as scores alone"


@dataclass(frozen=True, eq=False)
class Imported:
    """What was read onto a graph.

    Attributes:
        scores: at every edge of the graph; 0 where there is no edge. float64, or what the file's tensor holds.
        edges: of the circuit; None where the file marks no edge, as one with scores alone does.
        notes: sentences on what the file holds in another form than the graph, or holds and was not read.
    """

    scores: Scores
    edges: Edges | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, scores: Scores, edges: Edges, notes: tuple[str, ...] = ()) -> Imported:
        """With None for a circuit of no edges, which no format tells from no circuit."""
        return cls(scores, edges, notes) if edges.any() else cls(scores, None, (*notes, UNMARKED))


def checked(graph: Graph, scores: Scores, edges: Edges | None) -> tuple[Scores, Edges]:
    """Scores that are 0 where there is no edge, and a circuit, empty where None is given.

    Raises:
        InterpError: E206 a shape that is not the graph's, or scores that are not float32 or float64; E207 a score that
            is not finite; E201 a circuit with an edge that the graph does not have.
    """
    for name, given in (("scores", scores), ("edges", edges)):
        if given is not None and given.shape != graph.full.shape:
            what = f"{name} of shape {given.shape} on a graph of {graph.full.shape} places, writers and readers"
            raise InterpError("E206", what, fix="give the scores and edges of this graph")
    if scores.dtype not in (np.float32, np.float64):
        raise InterpError("E206", f"scores in {scores.dtype}", fix="convert them to float32 or float64")
    if (wrong := graph.full & ~np.isfinite(scores)).any():
        what = f"{int(wrong.sum())} scores are not finite, the first at {graph.labels(wrong)[0]}"
        raise InterpError("E207", what, fix="find out where they come from; files of scores hold numbers alone")
    if edges is None:
        edges = graph.none
    if (wrong := edges & ~graph.full).any():
        raise InterpError(
            "E201", f"the circuit has edges that the graph does not have, such as {graph.labels(wrong)[0]}"
        )
    return np.where(graph.full, scores, scores.dtype.type(0)), edges


def write_text(path: str | Path, text: str) -> None:
    """Write a file of UTF-8 (E204 a name that UTF-8 cannot hold, E602 not writable)."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"{error.object[error.start : error.end]!r} is half a character, and no file of text can hold it"
        raise InterpError("E204", what, where=str(path), fix="rename what has it in its name") from error
    write_atomic(path, data)
