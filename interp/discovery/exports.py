"""Circuits as files of other tools, by the end of the file's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from interp.circuits.graph.graph import Graph
from interp.circuits.interchange.attribution_graph import read_attribution_graph, write_attribution_graph
from interp.circuits.interchange.content import Imported
from interp.circuits.interchange.dot import write_dot
from interp.circuits.interchange.graphml import read_graphml, write_graphml
from interp.circuits.interchange.mib_json import read_mib_json, write_mib_json
from interp.circuits.interchange.mib_pt import read_mib_pt, write_mib_pt
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.discovery.result import Circuit

READERS: Mapping[str, Callable[[str | Path, Graph], Imported]] = {
    ".graph.json": read_attribution_graph,
    ".json": read_mib_json,
    ".pt": read_mib_pt,
    ".graphml": read_graphml,
}
"""End of a name -> reader; the first that fits."""

WRITTEN = (*READERS, ".dot")


def export(found: Circuit, path: str | Path) -> tuple[str, ...]:
    """Write a circuit for another tool: `.json` and `.pt` as the MIB benchmark, `.graph.json` as circuit-tracer's pages,
    `.graphml` and `.dot` for drawing programs. Gives sentences on what the format holds in another form.

    Raises:
        InterpError: E204 another end of the name; E205 a graph that the format cannot hold; E602 not writable.
    """
    graph, scores, edges, name = found.graph, found.scores, found.edges, str(found.run.model["name"])
    kind = _kind(path, WRITTEN)
    if kind == ".graph.json":
        return write_attribution_graph(path, graph, scores, edges, model_name=name, prompt=found.about()) or ()
    if kind in (".json", ".pt"):
        write = write_mib_json if kind == ".json" else write_mib_pt
        return write(path, graph, scores, edges, d_model=int(found.run.method["d_model"]), model_name=name)
    (write_graphml if kind == ".graphml" else write_dot)(path, graph, scores, edges)
    return ()


def read_scores(path: str | Path, graph: Graph) -> Imported:
    """Scores of edges from a file of another tool.

    Raises:
        InterpError: E204 another end of the name; what the reader of the format raises.
    """
    return READERS[_kind(path, tuple(READERS))](path, graph)


def _kind(path: str | Path, known: tuple[str, ...]) -> str:
    name = Path(path).name
    for end in known:
        if name.endswith(end):
            return end
    raise InterpError("E204", f"{name!r} has an unknown end", where=str(path), fix=f"known: {', '.join(known)}")
