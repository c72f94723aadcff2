"""The picture of a circuit as SVG: complete as it stands; `circuit.js` adds zoom, hover, a threshold and pins.

It fetches nothing and holds no script. Labels and roles are text of others: made visible, and escaped by the writer of the
XML. Colour says what an edge enters, width its share of the circuit, and dashes that it hurts.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from interp.circuits.receivers import LOGITS, MLP
from interp.circuits.tables import counted, number
from interp.report.circuit.columns import port, shown_name, shown_role, slots
from interp.report.circuit.layout import HEIGHT, ROLE, Layout, laid_out
from interp.report.circuit.nodes import Drawing, Node
from interp.report.circuit.routes import Box, Points
from interp.report.circuit.words import line_text, node_text
from interp.report.palette import DARK, GRID, HEAD, INK, MUTED, SURFACE
from interp.report.text import visible

FOLDER = Path(__file__).parent
COLOURS = {
    "q": (HEAD, DARK[HEAD]), "k": ("#c8641e", "#ef9a5c"), "v": ("#1f6b3a", "#9be59b"), "mlp": ("#a02c6c", "#f06aa8"),
    "logits": (INK, DARK[INK]), "ink": (INK, DARK[INK]), "muted": (MUTED, DARK[MUTED]), "line": (GRID, DARK[GRID]),
    "surface": (SURFACE, DARK[SURFACE]), "head": ("#eaf2f9", "#1d2a38"), "block": ("#faeef5", "#35202d"),
    "band": ("#f4f6f8", "#1c222b"),
}  # fmt: skip
"""Name of a colour in `circuit.css` -> on a light page, on a dark one. Five lines that colour-blind readers tell apart."""

ENTERS = {"q": "into queries", "k": "into keys", "v": "into values", MLP: "into MLPs", LOGITS: "to the logits"}
WIDTHS = (0.9, 8.0)
NAMESPACE = "http://www.w3.org/2000/svg"

LARGEST = 1.15
"""How much a wide page may enlarge the picture."""

PORT = 9.0
"""Room for the letters of the in-ports."""

LEFT, PLACES, ROW, LETTER, SAMPLE, LEAST = 16.0, 26.0, 22.0, 6.4, 30.0, 640.0
"""Pixels: left end of texts, height of the names of places and of a row of the legend, a letter of it, a line of it; least width."""


class Svg(str):
    """The text of a picture, which notebooks show as one."""

    def _repr_svg_(self) -> str:
        return str(self)


def circuit_svg(drawing: Drawing) -> Svg:
    """The picture by itself, light or dark as the reader's screen is; it may be written into a file."""
    layout = laid_out(drawing)
    width = max(layout.width, LEAST)
    height = layout.height + (PLACES if any(drawing.places) else 0)
    said = f"Circuit of {counted(drawing.n_edges, 'edge')} between {counted(len(drawing.nodes), 'node')}"
    root = Element("svg", {"xmlns": NAMESPACE, "class": "circuit-drawing", "role": "img", "aria-label": said})
    SubElement(root, "style").text = _style()
    box = {"width": _n(width), "height": _n(height)}
    scene = SubElement(
        root,
        "svg",
        {"class": "scene", **box, "viewBox": f"{_n((layout.width - width) / 2)} 0 {_n(width)} {_n(height)}"},
    )
    _ground(scene, drawing, layout, height)
    _lines(scene, drawing, layout)
    for index in range(len(drawing.nodes)):
        _node(scene, drawing, index, layout.boxes[index])
    whole = height + _legend(root, drawing, width, height)
    root.attrib |= {"viewBox": f"0 0 {_n(width)} {_n(whole)}", "width": _n(width), "height": _n(whole)}
    root.set("style", f"max-width: {_n(LARGEST * width)}px")
    return Svg(ElementTree.tostring(root, encoding="unicode"))


def circuit_fragment(drawing: Drawing) -> Markup:
    """The picture for a page whose policy lets `circuit.js` run."""
    return Markup(f'<div class="circuit">{circuit_svg(drawing)}</div>')  # noqa: S704


def circuit_script() -> str:
    """What a page with such pictures runs."""
    return (FOLDER / "circuit.js").read_text(encoding="utf-8")


def _n(value: float) -> str:
    """A length as short text."""
    return f"{value:.1f}".removesuffix(".0")


def _style() -> str:
    light, dark = ("".join(f"--c-{name}:{pair[side]};" for name, pair in COLOURS.items()) for side in (0, 1))
    where = ".circuit,.circuit-drawing"
    themes = f"{where}{{{light}}}\n@media screen and (prefers-color-scheme: dark){{{where}{{{dark}}}}}\n"
    return themes + (FOLDER / "circuit.css").read_text(encoding="utf-8")


def _text(parent: Element, text: str, x: float, y: float, kind: str) -> Element:
    found = SubElement(parent, "text", {"x": _n(x), "y": _n(y), "class": kind})
    found.text = visible(text, 200)
    return found


def _ground(scene: Element, drawing: Drawing, layout: Layout, height: float) -> None:
    """Bands of layers, and columns of places."""
    for layer in sorted({node.spot.layer for node in drawing.nodes if node.kind not in ("embed", "logits")}):
        top, bottom = layout.layers[layer]
        tall = _n(bottom - top + 26)
        box = {"x": "6", "y": _n(top - 13), "width": _n(layout.width - 12), "height": tall, "rx": "10"}
        SubElement(scene, "rect", {"class": "band", **box})
        _text(scene, f"layer {layer}", LEFT, (top + bottom) / 2 + 4, "layer")
    for place, (left, right) in enumerate(layout.columns):
        if name := drawing.places[place]:
            _text(scene, shown_name(name), (left + right) / 2, height - 8, "place")
        if place:
            x = _n((layout.columns[place - 1][1] + left) / 2)
            SubElement(scene, "line", {"class": "rule", "x1": x, "x2": x, "y1": "8", "y2": _n(height - 6)})
    if not drawing.nodes:
        _text(scene, "No edge is in this circuit.", LEFT, HEIGHT, "layer")


def _lines(scene: Element, drawing: Drawing, layout: Layout) -> None:
    """What moves inside heads, then the edges, the strongest on top."""
    for (source, target), points in zip(drawing.links, layout.links, strict=True):
        ends = {"data-source": str(source), "data-target": str(target)}
        SubElement(scene, "path", {"class": "link", "d": _path(points), **ends})
    most = max((line.share for line in drawing.lines), default=0.0) or 1.0
    for line, points in reversed(list(zip(drawing.lines, layout.routes, strict=True))):
        ends = {"data-source": str(line.source), "data-target": str(line.target), "data-share": f"{line.share:.6g}"}
        width = WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * line.share / most
        kind = f"line {line.part}{' negative' if line.score < 0 else ''}"
        found = SubElement(scene, "path", {"class": kind, "d": _path(points), "stroke-width": f"{width:.2f}", **ends})
        SubElement(found, "title").text = visible(line_text(drawing, line))


def _path(points: Points) -> str:
    """Curves that leave and arrive upright, and straight lines where a row is passed."""
    x, y = points[0]
    found = [f"M{_n(x)} {_n(y)}"]
    for index, (right, up) in enumerate(points[1:]):
        if index % 2:
            found.append(f"V{_n(up)}")
        else:
            bend = _n(y + 0.5 * (up - y))
            found.append(f"C{_n(x)} {bend} {_n(right)} {bend} {_n(right)} {_n(up)}")
        x, y = right, up
    return "".join(found)


def _node(scene: Element, drawing: Drawing, index: int, box: Box) -> None:
    node = drawing.nodes[index]
    said = {"data-node": str(index), "data-name": visible(node.name, 200), "data-role": visible(node.role, 200)}
    found = SubElement(scene, "g", {"class": f"node {node.kind}", **said})
    SubElement(found, "title").text = visible(node_text(drawing, index))
    _shape(found, node, box)
    names = slots(drawing, index)
    role = shown_role(node)
    base = box.y + (box.height - ROLE * len(role) - (PORT if node.parts else 0)) / 2 + 5
    _text(found, shown_name(node.label), box.middle, base, "label")
    for row, words in enumerate(role, 1):
        _text(found, words, box.middle, base + ROLE * row, "role")
    for part in node.parts:
        _text(found, part, box.middle + port(names, part, box.width), box.y + box.height - 5, f"port {part}")


def _shape(parent: Element, node: Node, box: Box) -> None:
    """Heads are boxes with round corners, MLPs have cut ones, embeddings and logits round ends."""
    if node.kind == "mlp":
        left, top, right, bottom, cut = box.x, box.y, box.x + box.width, box.y + box.height, 9.0
        corners = [(left + cut, top), (right - cut, top), (right, top + cut), (right, bottom - cut), (right - cut, bottom),
                   (left + cut, bottom), (left, bottom - cut), (left, top + cut)]  # fmt: skip
        SubElement(parent, "polygon", {"class": "shape", "points": " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)})
        return
    place = {"x": _n(box.x), "y": _n(box.y), "width": _n(box.width), "height": _n(box.height)}
    round_ = _n(box.height / 2) if node.kind in ("embed", "logits") else "7"
    SubElement(parent, "rect", {"class": "shape", **place, "rx": round_})


def _legend(root: Element, drawing: Drawing, width: float, top: float) -> float:
    """What colours, dashes and widths say; its height."""
    entries = [("", f"{counted(drawing.n_edges, 'edge')} of {drawing.of:,}")]
    entries += [(part, text) for part, text in ENTERS.items() if any(line.part == part for line in drawing.lines)]
    if drawing.lines:
        entries.append(("plain", f"helps (widest: {number(100 * drawing.lines[0].share)} % of the circuit)"))
    if any(line.score < 0 for line in drawing.lines):
        entries.append(("plain negative", "hurts"))
    if drawing.links:
        entries.append(("link", "moved inside a head"))
    legend = SubElement(root, "g", {"class": "legend"})
    x, y = LEFT, top + ROW
    for kind, text in entries:
        room = (SAMPLE + 6 if kind else 0.0) + LETTER * len(text) + 20
        if x + room > width and x > LEFT:
            x, y = LEFT, y + ROW
        if kind:
            line = {"x1": _n(x), "x2": _n(x + SAMPLE), "y1": _n(y - 4), "y2": _n(y - 4), "stroke-width": "3"}
            SubElement(legend, "line", {"class": kind if kind == "link" else f"sample {kind}", **line})
        _text(legend, text, x + (SAMPLE + 6 if kind else 0.0), y, "")
        x += room
    return y - top + 12
