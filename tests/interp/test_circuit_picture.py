"""The picture of a circuit: where things stand, what it says, and how it answers to mouse and keyboard."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from interp.circuits.graph.graph import Edges, Graph, LayerShape, Scores
from interp.kernels.errors import InterpError
from interp.report.circuit.layout import Layout, laid_out
from interp.report.circuit.nodes import MOST_NODES, Drawing, drawing
from interp.report.circuit.order import Bond, Column, across, crossings, spread
from interp.report.circuit.picture import COLOURS, circuit_fragment, circuit_script, circuit_svg
from interp.report.page import policy
from tests.cases.browser import Tab

SVG = "{http://www.w3.org/2000/svg}"
PLACES = ("io", "s1", "s2", "end")
HOSTILE = "</text><script>document.title='x'</script><img src=x onerror=\"document.title='x'\"> & \u202eleft"


def circuit(n: int, graph: Graph, seed: int = 0) -> tuple[Graph, Scores, Edges]:
    """The `n` strongest of random edges, as they come: some lead nowhere."""
    scores = np.where(graph.full, np.random.default_rng(seed).normal(0.02, 0.1, graph.full.shape), 0)
    edges = graph.none
    edges.flat[np.argsort(-np.abs(scores), axis=None)[:n]] = True
    return graph, scores, edges


def decoder(heads: int = 8, kv_heads: int = 4, layers: int = 4, *, is_parallel: bool = False) -> Graph:
    return Graph.of_shape([LayerShape(heads, kv_heads, is_parallel=is_parallel)] * layers)


def ioi() -> Drawing:
    """A few edges of a head that moves a name, with a duplicate-token head that tells it which."""
    graph = decoder(4, 4, 3).at_places(PLACES)
    strong = {
        "embed->L0H1.q@s2": 0.3, "embed->L0H1.k@s1": 0.2, "L0H1->L1H2.v@s2": 0.4, "L1H2->L2H3.q@end": 0.5,
        "embed->L2H3.v@io": 0.6, "L2H3->logits@end": 0.9, "M1->logits@end": -0.05, "embed->M1@end": 0.02,
    }  # fmt: skip
    scores = np.zeros(graph.full.shape)
    for label, score in strong.items():
        scores[graph.edge(label)] = score
    return drawing(graph, scores, graph.of_labels(strong), roles={"L2H3": "name mover"}, notes={"M1": "a note"})


CIRCUITS: dict[str, Callable[[], Drawing]] = {
    "none": lambda: drawing(*circuit(0, decoder())),
    "one": lambda: drawing(*circuit(1, decoder())),
    "twenty": lambda: drawing(*circuit(20, decoder())),
    "own keys": lambda: drawing(*circuit(60, decoder(8, 8))),
    "parallel": lambda: drawing(*circuit(60, decoder(is_parallel=True))),
    "many": lambda: drawing(*circuit(300, decoder()), roles={"L1H3": "previous token", "L2KV1": "shared"}),
    "straight": lambda: drawing(*circuit(1600, decoder(6, 6, 6))),
    "together": lambda: drawing(*circuit(500, decoder(16, 4, 12))),
    "places": lambda: drawing(*circuit(120, decoder(4, 4).at_places(PLACES))),
    "ioi": ioi,
}


@pytest.fixture(scope="module", params=CIRCUITS)
def made(request: pytest.FixtureRequest) -> Callable[[], Drawing]:
    return CIRCUITS[request.param]


@pytest.fixture(scope="module")
def drawn(made: Callable[[], Drawing]) -> tuple[Drawing, Layout]:
    found = made()
    return found, laid_out(found)


@pytest.fixture(scope="module")
def text(drawn: tuple[Drawing, Layout]) -> str:
    return circuit_svg(drawn[0])


def test_no_two_nodes_overlap_and_all_are_inside(drawn):
    _, layout = drawn
    for one, other in combinations(layout.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert beside or one.bottom <= other.y or other.bottom <= one.y
    for box in layout.boxes:
        assert box.x >= 0 and box.y >= 0 and box.x + box.width <= layout.width and box.bottom <= layout.height


def test_lines_and_links_go_up_from_their_source_to_their_target(drawn):
    found, layout = drawn
    pairs = [(line.source, line.target) for line in found.lines] + list(found.links)
    for (source, target), points in zip(pairs, (*layout.routes, *layout.links), strict=True):
        low, high = layout.boxes[source], layout.boxes[target]
        assert low.x <= points[0][0] <= low.x + low.width and points[0][1] == low.y
        assert high.x <= points[-1][0] <= high.x + high.width and points[-1][1] == high.bottom
        heights = [y for _, y in points]
        assert heights == sorted(set(heights), reverse=True)


def test_no_line_passes_through_a_node(drawn):
    _, layout = drawn
    for points in layout.routes:
        for (x, low), (_, high) in zip(points[1:-1:2], points[2:-1:2], strict=True):
            passed = [box for box in layout.boxes if box.y < low and box.bottom > high]
            assert all(x <= box.x or x >= box.x + box.width for box in passed)


def test_every_edge_is_in_the_picture_once(drawn):
    found, _ = drawn
    names = [name for line in found.lines for name in line.edges]
    assert len(names) == len(set(names)) == found.n_edges
    assert not found.lines or sum(line.share for line in found.lines) == pytest.approx(1)
    assert [line.share for line in found.lines] == sorted((line.share for line in found.lines), reverse=True)
    ends = {end for line in found.lines for end in (line.source, line.target)}
    assert ends == set(range(len(found.nodes)))


def test_the_same_circuit_gives_the_same_bytes(made, text):
    assert circuit_svg(made()) == text


def test_the_picture_holds_every_node_line_and_colour_without_scripts_or_addresses(drawn, text):
    found, _ = drawn
    root = ElementTree.fromstring(text)
    nodes = [node for node in root.iter(f"{SVG}g") if node.get("class", "").startswith("node ")]
    lines = [path for path in root.iter(f"{SVG}path") if path.get("class", "").startswith("line ")]
    assert (len(nodes), len(lines)) == (len(found.nodes), len(found.lines))
    assert all(element.find(f"{SVG}title").text for element in (*nodes, *lines))
    assert sum("negative" in line.get("class") for line in lines) == sum(line.score < 0 for line in found.lines)
    widths = [float(line.get("stroke-width")) for line in lines]
    assert widths == sorted(widths)  # the strongest on top
    assert not list(root.iter(f"{SVG}script")) and not list(root.iter(f"{SVG}image"))
    assert "href" not in text and "url(" not in text and "@import" not in text
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
    for light, dark in COLOURS.values():
        assert f":{light};" in text and f":{dark};" in text


def test_a_head_with_its_own_keys_is_one_node_with_three_ports():
    graph = decoder(2, 2, 2)
    edges = graph.of_labels(["embed->L1H0.q", "embed->L1H0.k", "L0H1->L1H0.v", "embed->L0H1.v", "L1H0->logits"])
    found = drawing(graph, np.where(edges, 1.0, 0.0), edges)
    assert [node.name for node in found.nodes] == ["embed", "L0H1", "L1H0", "logits"] and not found.links
    assert [node.parts for node in found.nodes] == ["", "v", "qkv", ""]
    layout = laid_out(found)
    enters = {
        line.part: points[-1][0] for line, points in zip(found.lines, layout.routes, strict=True) if line.target == 2
    }
    assert enters["q"] < enters["k"] < enters["v"]


def test_shared_keys_are_a_node_that_feeds_the_heads_that_share_them():
    graph = decoder(4, 2, 2)
    edges = graph.of_labels(["embed->L1KV1.k", "embed->L1H0.q", "embed->L1H2.q", "embed->L1H3.q", "L1H3->logits"])
    found = drawing(graph, np.where(edges, 1.0, 0.0), edges)
    named = [(found.nodes[low].name, found.nodes[high].name) for low, high in found.links]
    assert named == [("L1KV1", "L1H2"), ("L1KV1", "L1H3")]


def test_places_are_columns_and_only_heads_cross_them():
    found = ioi()
    layout = laid_out(found)
    for node, box in zip(found.nodes, layout.boxes, strict=True):
        left, right = layout.columns[PLACES.index(node.place)]
        assert left <= box.x and box.x + box.width <= right
    assert all(found.nodes[line.source].place == found.nodes[line.target].place for line in found.lines)
    named = {(found.nodes[low].name, found.nodes[high].name) for low, high in found.links}
    assert named == {("L0H1@s1", "L0H1@s2"), ("L1H2@s2", "L1H2@end"), ("L2H3@io", "L2H3@end")}
    starts = [left for left, _ in layout.columns]
    assert starts == sorted(starts)


def test_many_nodes_make_the_heads_of_a_layer_one():
    graph, scores, edges = circuit(500, decoder(16, 4, 12))
    apart, merged = (drawing(graph, scores, edges, together=flag) for flag in (False, None))
    assert len(apart.nodes) > MOST_NODES > len(merged.nodes)
    heads = {node.label for node in apart.nodes if node.kind == "head" and node.spot.layer == 3}
    layer = next(node for node in merged.nodes if node.kind == "head" and node.spot.layer == 3)
    assert layer.label == f"L3: {len(heads)} heads" and set(layer.note.split(", ")) == heads
    total = sum(line.score for line in apart.lines)
    assert sum(line.score for line in merged.lines) == pytest.approx(total) == pytest.approx(scores[edges].sum())


def test_text_of_others_is_escaped_and_made_visible():
    graph = decoder(2, 2, 1).at_places((HOSTILE, "end"))
    edges = graph.of_labels([f"embed->L0H0.v@{HOSTILE}", "embed->L0H0.q@end", "L0H0->logits@end"])
    words = dict.fromkeys(("L0H0", "embed", "logits"), HOSTILE + "long" * 50_000)
    text = circuit_fragment(drawing(graph, np.where(edges, 1.0, 0.0), edges, roles=words, notes=words))
    assert "<script" not in text and "<img" not in text and "\u202e" not in text and len(text) < 200_000
    titles = [title.text or "" for title in ElementTree.fromstring(text).iter(f"{SVG}title")]
    assert any("</text><script>document.title='x'</script>" in title and r"\u202eleft" in title for title in titles)


def test_what_does_not_fit_is_refused():
    graph, scores, edges = circuit(20, decoder())
    with pytest.raises(InterpError, match="no node is called 'L9H9'") as caught:
        drawing(graph, scores, edges, roles={"L9H9": "x"})
    assert caught.value.code == "E201"
    broken = np.where(edges, np.nan, scores)
    with pytest.raises(InterpError, match="no finite score") as caught:
        drawing(graph, broken, edges)
    assert caught.value.code == "E207" and caught.value.where == graph.labels(edges)[0]
    for wrong in ((scores[:, :-1], edges[:, :-1]), (scores, ~graph.full)):
        with pytest.raises(InterpError) as caught:
            drawing(graph, *wrong)
        assert caught.value.code == "E206"


def test_spread_is_the_nearest_place_without_overlap():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 6))
        wanted, weights, widths = rng.normal(0, 3, n), rng.uniform(0.5, 3, n), rng.uniform(0.5, 2, n)
        found = spread(wanted, weights, widths)
        gaps = (widths[1:] + widths[:-1]) / 2
        assert (np.diff(found) >= gaps - 1e-9).all()
        cost = float((weights * (found - wanted) ** 2).sum())
        for _ in range(200):  # no legal neighbour is better
            other = found + rng.normal(0, 0.05, n)
            if (np.diff(other) >= gaps).all():
                assert (weights * (other - wanted) ** 2).sum() >= cost - 1e-9


def test_crossings_are_counted_and_taken_out():
    bonds = tuple(Bond(low, 5 - low) for low in range(3))
    column = Column(((0, 1, 2), (3, 4, 5)), (10.0,) * 6, bonds)
    assert crossings(column, np.array([0.0, 10, 20, 0, 10, 20])) == 3
    x = across(column)
    assert crossings(column, x) == 0 and x.min() == 5
    np.testing.assert_allclose(x[:3], x[[5, 4, 3]])


def linear(colour: str) -> np.ndarray:
    """A colour of sRGB as amounts of light."""
    parts = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2 defines it."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


SIGHT = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What is left of colours where one kind of cones is missing: Machado, Oliveira and Fernandes, 2009, severity 1."""

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of amounts of light, white D65."""
    x, y, z = XYZ @ np.clip(light, 0, 1) / XYZ.sum(1)
    cube = [np.cbrt(value) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)]
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("sight", SIGHT)
def test_colour_blind_readers_tell_the_lines_apart(sight, theme):
    seen = {
        part: lab(np.array(SIGHT[sight]) @ linear(COLOURS[part][theme])) for part in ("q", "k", "v", "mlp", "logits")
    }
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 14, (one, other)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_from_the_page(theme):
    ground = [COLOURS[name][theme] for name in ("surface", "band", "head", "block")]
    for name, least in (("ink", 7), ("muted", 4.5), ("q", 3), ("k", 3), ("v", 3), ("mlp", 3), ("logits", 7)):
        assert min(contrast(COLOURS[name][theme], other) for other in ground) >= least, name


def page(path: Path, *pictures: Drawing) -> Path:
    """A page under the policy of reports."""
    script = circuit_script()
    body = "".join(map(circuit_fragment, pictures))
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy([script])}">'
    path.write_text(f"<!doctype html>{meta}<title>circuit</title>{body}<script>{script}</script>", encoding="utf-8")
    return path


SHOWN = "[...document.querySelectorAll('.{}:not(.gone)')].length"


@pytest.mark.browser
def test_the_slider_hides_weak_edges_and_the_nodes_they_leave_alone(tab: Tab, tmp_path: Path) -> None:
    found = CIRCUITS["twenty"]()
    tab.open(page(tmp_path / "page.html", found))
    assert (tab.js(SHOWN.format("line")), tab.js(SHOWN.format("node"))) == (20, len(found.nodes))
    tab.js(
        "(() => { const one = document.querySelector('input'); one.value = 5; one.dispatchEvent(new Event('input')); })()"
    )
    left = {end for line in found.lines[:5] for end in (line.source, line.target)}
    assert (tab.js(SHOWN.format("line")), tab.js(SHOWN.format("node"))) == (5, len(left))
    shown = "[...document.querySelectorAll('.node:not(.gone)')].map(node => Number(node.dataset.node))"
    assert set(tab.js(shown)) == left
    assert tab.js("document.querySelector('output').textContent").startswith("5 of 20, each at least ")
    tab.js("document.querySelector('[aria-label=\"reset the picture\"]').click()")
    assert tab.js(SHOWN.format("line")) == 20
    assert tab.complaints() == [] and tab.requests() == tab.opened


def lit(tab: Tab) -> set[str]:
    return set(tab.js("[...document.querySelectorAll('.node.lit')].map(node => node.dataset.name)"))


def middle(tab: Tab, selector: str) -> tuple[float, float]:
    tab.js(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    x, y = tab.js(f"(() => {{ const box = {box}; return [box.x + box.width / 2, box.y + box.height / 2]; }})()")
    return float(x), float(y)


@pytest.mark.browser
def test_nodes_are_pinned_by_mouse_and_keyboard(tab: Tab, tmp_path: Path) -> None:
    tab.open(page(tmp_path / "page.html", ioi()))
    mover, around = '[data-name="L2H3@end"]', {"L2H3@end", "L2H3@io", "L1H2@end", "logits@end"}
    x, y = middle(tab, mover)
    tab.mouse("mouseMoved", x, y)
    assert lit(tab) == around
    told = tab.js("document.querySelector('.circuit-told').textContent")
    assert told == "L2H3 at end\nname mover\nin: L1H2 (q) +0.5\nout: logits +0.9"
    for kind in ("mousePressed", "mouseReleased"):
        tab.mouse(kind, x, y)
    tab.mouse("mouseMoved", 2, 2)
    assert lit(tab) == around and tab.js(f"document.querySelector('{mover}').getAttribute('aria-pressed')") == "true"
    pins = "[...document.querySelectorAll('.circuit-pins button')].map(one => one.textContent)"
    assert tab.js(pins) == ["L2H3@end: name mover"]
    tab.js("document.querySelector('[data-name=\"M1@end\"]').focus()")
    tab.press("Enter")
    assert tab.js(pins) == ["L2H3@end: name mover", "M1@end"] and "M1@end" in lit(tab)
    tab.js("document.querySelector('.circuit-pins button').click()")
    assert tab.js(pins) == ["M1@end"]
    tab.js("document.querySelector('.circuit svg').focus()")
    tab.press("Tab")
    focused = tab.js(
        "(() => { const one = document.activeElement; return [one.dataset.name, one.getAttribute('role')]; })()"
    )
    assert focused == ["embed@io", "button"] and lit(tab) == {
        "M1@end",
        "embed@io",
        "L2H3@io",
        "embed@end",
        "logits@end",
    }
    assert tab.js("document.activeElement.getAttribute('aria-label')") == "embed at io. out: L2H3.v +0.6"
    assert tab.complaints() == []


@pytest.mark.browser
def test_a_line_says_what_it_is_and_hostile_text_stays_text(tab: Tab, tmp_path: Path) -> None:
    graph = decoder(2, 2, 1)
    edges = graph.of_labels(["embed->L0H0.v", "L0H0->logits"])
    found = drawing(graph, np.where(edges, -0.25, 0.0), edges, roles={"L0H0": HOSTILE})
    tab.open(page(tmp_path / "page.html", found, ioi()))
    tab.mouse("mouseMoved", *middle(tab, ".hit"))
    told = tab.js("document.querySelector('.circuit-told').textContent")
    assert told == "embed → L0H0.v\nscore -0.25: hurts\n50 % of the circuit"
    assert lit(tab) == {"embed", "L0H0"}
    tab.mouse("mouseMoved", *middle(tab, ".node.head"))
    assert "<script>document.title='x'</script>" in tab.js("document.querySelector('.circuit-told').textContent")
    assert tab.js("document.title") == "circuit" and tab.js("document.images.length") == 0
    assert tab.complaints() == []


@pytest.mark.browser
def test_zoom_and_pan_stay_inside_and_reset(tab: Tab, tmp_path: Path) -> None:
    tab.open(page(tmp_path / "page.html", CIRCUITS["twenty"]()))
    view = "document.querySelector('.scene').getAttribute('viewBox').split(' ').map(Number)"
    home = tab.js(view)
    tab.js("document.querySelector('[aria-label=\"zoom in\"]').click()")
    near = tab.js(view)
    assert near[2] == pytest.approx(home[2] / 1.35) and near[0] > home[0]
    x, y = middle(tab, ".circuit svg")
    tab.mouse("mouseMoved", x, y)
    tab.mouse("mousePressed", x, y)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 30, y=y, button="left", buttons=1)
    tab.mouse("mouseReleased", x + 30, y)
    assert tab.js(view)[0] < near[0] and tab.js(view)[2] == near[2]
    assert tab.js("document.querySelectorAll('.node.pinned').length") == 0
    tab.js("document.querySelector('.circuit svg').focus()")
    for _ in range(40):
        tab.press("ArrowRight")
    assert tab.js(view)[0] + near[2] == pytest.approx(home[0] + home[2])
    tab.js("document.querySelector('[aria-label=\"reset the picture\"]').click()")
    assert tab.js(view) == home and tab.complaints() == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 700])
def test_nothing_sticks_out(tab: Tab, tmp_path: Path, width: int) -> None:
    tab.open(page(tmp_path / "page.html", ioi(), CIRCUITS["many"]()))
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    tab.wait(f"window.innerWidth === {width}")
    assert tab.js("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('.label')].map(text => text.getBoundingClientRect().height)"
    assert min(tab.js(sizes)) > 8
    inside = (
        "[...document.querySelectorAll('.node')].every(node => { const shape = node.querySelector('.shape').getBBox();"
        "return [...node.querySelectorAll('text')].every(text => text.getBBox().width <= shape.width); })"
    )
    assert tab.js(inside)
