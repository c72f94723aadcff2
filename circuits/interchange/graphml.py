"""GraphML, which networkx, Gephi, Cytoscape and yEd read: every graph, its scores and its circuit, without loss.

Nodes and edges are those of `interp.circuits.interchange.parts`. An edge has its name as `id`, a `score` and `in_circuit`;
what joins the readers of a head to its writer has the kind `inside` and neither.

Reading takes what `write_graphml` wrote. The parser is expat without document types: a file with one is refused, and
so there are no entities to expand and nothing outside the file is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.interchange.content import Imported, checked, write_text
from interp.circuits.interchange.parts import Line, Node, joints, lines, nodes
from interp.circuits.interchange.reading import Field, decode, read_bytes
from interp.kernels.errors import InterpError

LIMIT = 64 * 2**20
DEPTH = 16
SCHEMA = "1"
KEYS = {
    "schema": ("graph", "string"),
    "label": ("node", "string"),
    "part": ("node", "string"),
    "layer": ("node", "int"),
    "place": ("node", "string"),
    "kind": ("edge", "string"),
    "score": ("edge", "double"),
    "in_circuit": ("edge", "boolean"),
}
FLAGS = {"true": True, "false": False}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_graphml(path: str | Path, graph: Graph, scores: Scores, edges: Edges | None = None) -> None:
    """Write scores, and a circuit where there is one; any graph, at any places.

    Raises:
        InterpError: E204 the name of a place that XML cannot hold; E206, E207 or E201 see `checked`; E602 not writable.
    """
    for place in graph.places:
        if NOT_XML.search(place):
            raise InterpError("E204", f"place {place!r} has characters that XML cannot hold", fix="rename the place")
    scores, edges = checked(graph, scores, edges)
    write_text(path, "\n".join(_document(graph, scores, edges)))


def _document(graph: Graph, scores: Scores, edges: Edges) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
    for name, (domain, kind) in KEYS.items():
        yield f'<key id="{name}" for="{domain}" attr.name="{name}" attr.type="{kind}"/>'
    yield f'<graph id="circuit" edgedefault="directed">{_data("schema", SCHEMA)}'
    yield from map(_node, nodes(graph))
    for source, target in joints(graph):
        yield f"<edge source={_quoted(source)} target={_quoted(target)}>{_data('kind', 'inside')}</edge>"
    yield from map(_edge, lines(graph, scores, edges))
    yield "</graph>\n</graphml>\n"


def _node(node: Node) -> str:
    data = {"label": node.label, "part": node.kind, "layer": str(node.layer), "place": node.place}
    return f"<node id={_quoted(node.name)}>{''.join(_data(*item) for item in data.items())}</node>"


def _edge(line: Line) -> str:
    data = {"kind": "edge", "score": repr(line.score), "in_circuit": str(line.in_circuit).lower()}
    ends = f"id={_quoted(line.name)} source={_quoted(line.source)} target={_quoted(line.target)}"
    return f"<edge {ends}>{''.join(_data(*item) for item in data.items())}</edge>"


def _data(key: str, text: str) -> str:
    return f'<data key="{key}">{escape(text)}</data>'


def _quoted(text: str) -> str:
    return quoteattr(text, {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})


def read_graphml(path: str | Path, graph: Graph) -> Imported:
    """Scores (float64) and circuit of a file that `write_graphml` wrote; at most 64 MiB.

    Raises:
        InterpError: E204 no file, or too large; E301 not XML; E302 not UTF-8; E303 a document type, or an edge missing,
            twice, or with a score or mark that cannot be read; E310 a pickle; E201 an edge that the graph does not have;
            E702 not a file of ours, or of another version.
    """
    path = Path(path)
    root = _parse(decode(read_bytes(path, LIMIT), path), path)
    body = root.find("graph")
    if root.tag != "graphml" or body is None or _values(body).get("schema") != SCHEMA:
        fix = "read a file that write_graphml of this version wrote"
        raise InterpError("E702", f"not GraphML of interp, schema {SCHEMA}", where=str(path), fix=fix)
    elements = [one for one in body.iterfind("edge") if _values(one).get("kind") == "edge"]
    file = Field({}, path)
    for element in elements:
        name = element.get("id", "")
        if name in file.value:
            file.refuse(f"edge {name[:80]!r} is there twice")
        file.value[name] = element
    expected = {line.name: line for line in lines(graph, graph.full.astype(float), graph.full)}
    file.names(expected, "edge")
    scores, edges = graph.full.astype(float), graph.none
    for name, field in file.items():
        line = expected[name]
        scores[line.where], edges[line.where] = _edge_values(field, line)
    return Imported.of(scores, edges)


def _edge_values(field: Field, line: Line) -> tuple[float, bool]:
    element: Element = field.value
    if (element.get("source"), element.get("target")) != (line.source, line.target):
        field.refuse("source and target are not those of its name")
    values = _values(element)
    try:
        score = float(values["score"])
    except (KeyError, ValueError):
        field.refuse("the score is missing or no number")
    if values.get("in_circuit") not in FLAGS:
        field.refuse("in_circuit is missing or neither true nor false")
    return field._replace(value=score).number(), FLAGS[values["in_circuit"]]


def _values(element: Element) -> dict[str, str]:
    """Texts of its data by their keys."""
    return {data.get("key", ""): data.text or "" for data in element.iterfind("data")}


def _parse(text: str, path: Path) -> Element:
    """The tree of a document without a document type, nested no deeper than ours can be (E301, E303)."""
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise InterpError("E301", f"nested deeper than {DEPTH} elements", where=str(path))
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        what = "a document type, which can define entities and name other files, is not read"
        raise InterpError("E303", what, where=str(path), fix="remove the DOCTYPE")

    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.buffer_text = True
    try:
        parser.Parse(text.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise InterpError("E301", f"not XML: {error}", where=str(path)) from error
    return builder.close()
