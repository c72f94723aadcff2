"""The report in a real browser: it draws, answers to mouse and keyboard, loads nothing, and runs nothing but itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.ablation.result import AblationResult
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.results import RunInfo
from interp.hooks.examples import Drop
from interp.report.page import report
from tests.cases.browser import Tab

pytestmark = pytest.mark.browser


def made(tokens: tuple[str, ...] = ("<s>", " Ann", "\"&amp;'", " Ann"), n: int = 24) -> AblationResult:
    """Three layers of four heads; L1H2 (index 6) helps, the others do nothing."""
    rng = np.random.default_rng(1)
    labels = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    effects = 0.05 * rng.normal(size=(12, n))
    effects[6] += 1 + 0.1 * rng.normal(size=n)
    baseline = 3 + rng.normal(size=n)
    values = baseline - effects
    values[2, 0] = np.nan
    prompts = tuple(PromptRecord(f"p{i}", tokens, " yes", " no") for i in range(n))
    patterns = {f"p{i}": rng.dirichlet(np.ones(len(tokens)), (12, len(tokens))) for i in (0, 3)}
    controls = tuple(tuple(o for o in labels if o != label and o[:2] == label[:2]) for label in labels)
    run = RunInfo(
        model={"name": "tiny"},
        task={"name": "ioi", "metric": "logit_diff"},
        method={"operator": "mean", "positions": None},
        seeds={"evidence": 0},
        certificate={
            "max_abs": 2e-6, "mean_abs": 1e-7, "kl": 0.0, "top1": 1.0, "tolerance": 1e-4, "dtype": "float32", "n_points": 9
        },
        canary={"point": "z", "rows": [{"point": "z", "layer": "L0", "identity": 0.0, "large": 3.25}]},
        command="interp ablate --model tiny",
    )  # fmt: skip
    return AblationResult(run, tuple(labels), prompts, baseline, values, controls, (), patterns)


HOSTILE = (
    "</script><script>document.title='x'</script>",
    "<img src=x onerror=\"document.title='x'\">",
    "<a href=\"javascript:document.title='x'\">x</a>",
    "{{7*7}}",
    "';document.title='x';//\u2028document.title='x'",
    "\u202edesrever<b>x</b>",
    "%{x}<svg onload=document.title='x'>",
    "big" + "<i>" * 350_000,
)


def hostile() -> AblationResult:
    """The same with every text a stranger can write made an attack."""
    every = " ".join(HOSTILE[:7])
    source = made(HOSTILE)
    prompts = tuple(
        replace(p, id=f"{i} {every}", answer=HOSTILE[i % 8], distractor=HOSTILE[1])
        for i, p in enumerate(source.prompts)
    )
    patterns = {prompts[i].id: source.patterns[f"p{i}"] for i in (0, 3)}
    run = replace(
        source.run,
        model={"name": every, every: every, "deep": {every: [every]}},
        task={"name": every, "metric": every, "metric_unit": every},
        method={"operator": every, "description": every, "positions": every},
        versions={every: every},
        warnings=(every, HOSTILE[7]),
        command=every,
        started=every,
        canary={
            "point": every,
            "rows": [{"point": every, "layer": every, "identity": 0.0, "large": 3.25}],
            "fired": every,
        },
        certificate={**source.run.certificate, "dtype": every},
    )
    drops = (Drop(every, every, every, every), Drop(HOSTILE[7], "E305", HOSTILE[7]))
    return replace(source, run=run, prompts=prompts, patterns=patterns, drops=drops)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain report."""
    return report(made(), tmp_path_factory.mktemp("written") / "report.html")


@pytest.fixture
def page(tab: Tab, written: Path) -> Tab:
    """The plain report, open."""
    tab.open(written)
    return tab


def test_draws_every_figure_without_a_word_or_a_request(page: Tab) -> None:
    figures = page.js(
        "[...document.querySelectorAll('.figure')].map(node => [node.id, node.querySelectorAll('svg.main-svg').length > 0])"
    )
    assert dict(figures) == {f"{name}-0": True for name in ("clean", "heat", "top", "dots", "pattern")}
    assert page.js("document.querySelectorAll('#heat-0 .heatmaplayer image').length") == 1
    assert page.js("document.title") == "interp: ioi on tiny"
    assert page.complaints() == []
    assert page.requests() == page.opened


def test_opens_on_the_strongest_head_and_a_click_shows_another(page: Tab) -> None:
    result = made()
    assert page.js("document.getElementById('head-0').textContent") == "L1H2"
    page.click("heat-0", 3, 2)
    page.wait("document.getElementById('head-0').textContent === 'L2H3'")
    shown = page.js("[0, 1].map(i => [...document.getElementById('dots-0').data[i].x])")
    np.testing.assert_allclose(shown[0], result.effects[11], rtol=1e-5)
    np.testing.assert_allclose(shown[1], result.effects[8:11].mean(axis=0), rtol=1e-4, atol=1e-6)
    pattern = page.js("document.getElementById('pattern-0').data[0].z.map(row => [...row])")
    np.testing.assert_allclose(pattern, result.patterns["p0"][11], atol=0.5 / 254 + 1e-3)
    effect = page.js("document.querySelector('#detail-0 [data-field=effect]').textContent")
    assert effect == f"{result.evidence.mean[11]:+.3g}"
    assert page.complaints() == []


def test_figures_of_top_heads_and_prompts_choose_head_and_prompt(page: Tab) -> None:
    page.click("heat-0", 0, 0)
    page.wait("document.getElementById('head-0').textContent === 'L0H0'")
    page.click("top-0", made().top(1)[0].mean, 0)
    page.wait("document.getElementById('head-0').textContent === 'L1H2'")
    x, y = page.js("(() => { const [own] = document.getElementById('dots-0').data; return [own.x[3], own.y[3]]; })()")
    page.click("dots-0", x, y)
    page.wait("document.getElementById('prompt-0').value === '1'")


def test_prompt_selector_changes_the_pattern(page: Tab) -> None:
    page.js(
        "(() => { const s = document.getElementById('prompt-0'); s.value = '1'; s.dispatchEvent(new Event('change')); })()"
    )
    pattern = page.js("document.getElementById('pattern-0').data[0].z.map(row => [...row])")
    np.testing.assert_allclose(pattern, made().patterns["p3"][6], atol=0.5 / 254 + 1e-3)


def test_hover_names_head_prompt_and_tokens(page: Tab) -> None:
    assert "L1H2effect +" in page.hover("heat-0", 2, 1)
    assert "claimed" in page.hover("heat-0", 2, 1)
    weight = float(made().patterns["p0"][6, 3, 1])
    shown = page.hover("pattern-0", 1, 3)
    assert shown.startswith("·Ann (3) → ·Ann (1): ") and float(shown.split(": ")[1]) == pytest.approx(weight, abs=0.01)
    x, y = page.js("(() => { const [own] = document.getElementById('dots-0').data; return [own.x[3], own.y[3]]; })()")
    assert "p3<s> Ann\"&amp;' Annanswer ·yes, distractor ·no" in page.hover("dots-0", x, y)


def test_two_equal_tokens_have_two_columns(page: Tab) -> None:
    labels = page.js("[...document.querySelectorAll('#pattern-0 .xtick text')].map(node => node.textContent)")
    assert labels == ["<s>", "·Ann", "\"&amp;'", "·Ann"]


def test_keyboard_moves_over_heads_and_stops_at_the_edge(page: Tab) -> None:
    page.js("document.getElementById('heat-0').focus()")
    for key, expected in (
        ("ArrowRight", "L1H3"),
        ("ArrowRight", "L1H3"),
        ("ArrowDown", "L2H3"),
        ("ArrowLeft", "L2H2"),
        ("ArrowUp", "L1H2"),
    ):
        page.press(key)
        assert page.js("document.getElementById('head-0').textContent") == expected
    page.press("Tab")
    assert page.js("document.activeElement.id") == "prompt-0"


def column(index: int) -> str:
    return f"[...document.querySelectorAll('#table-0 tbody tr')].map(row => row.cells[{index}].textContent)"


def test_table_sorts_and_opens_heads_by_keyboard(page: Tab) -> None:
    assert page.js(column(0))[0] == "L1H2"
    for expected in ("ascending", "descending"):
        page.js("document.querySelectorAll('#table-0 thead button')[1].focus()")
        page.press("Enter")
        assert page.js("document.querySelectorAll('#table-0 th')[1].getAttribute('aria-sort')") == expected
        numbers = [float(text) for text in page.js(column(1))]
        assert numbers == sorted(numbers, reverse=expected == "descending")
    page.js("document.querySelector('#table-0 tbody [data-head=\"4\"]').focus()")
    page.press("Enter")
    assert page.js("document.getElementById('head-0').textContent") == "L1H0"
    assert page.js("[...document.querySelectorAll('tr.chosen th')].map(cell => cell.textContent)") == ["L1H0"]


def test_ten_heads_first_then_all(page: Tab) -> None:
    visible = "[...document.querySelectorAll('#table-0 tbody tr')].filter(row => row.offsetHeight > 0).length"
    assert page.js(visible) == 10
    page.js("document.getElementById('more-0').click()")
    assert page.js(visible) == 12
    assert page.js("document.getElementById('more-0').getAttribute('aria-expanded')") == "true"


def test_dark_screens_get_dark_figures_and_paper_gets_light_ones(page: Tab) -> None:
    ink = "getComputedStyle(document.querySelector('#heat-0 .xtick text')).fill"
    assert page.js(ink) == "rgb(29, 39, 51)"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.wait(f"{ink} === 'rgb(227, 232, 238)'")
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js(ink) == "rgb(29, 39, 51)"
    assert page.js("[...document.querySelectorAll('details')].every(node => node.open)")


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_sticks_out(page: Tab, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    page.wait(f"window.innerWidth === {width}")
    page.wait(
        "[...document.querySelectorAll('.figure')].every(node => Math.abs(node._fullLayout.width - node.clientWidth) < 2)"
    )
    assert page.js("document.documentElement.scrollWidth") <= width


def test_several_runs_are_independent_sections(tab: Tab, tmp_path: Path) -> None:
    bare = replace(made(), patterns={}, run=replace(made().run, warnings=("No attention patterns: a reason.",)))
    tab.open(report([made(), bare], tmp_path / "two.html"))
    tab.click("heat-1", 0, 0)
    tab.wait("document.getElementById('head-1').textContent === 'L0H0'")
    assert tab.js("document.getElementById('head-0').textContent") == "L1H2"
    assert "holds no attention patterns" in tab.js("document.getElementById('detail-1').innerText")
    assert tab.complaints() == []


def test_hostile_text_stays_text(tab: Tab, tmp_path: Path) -> None:
    path = report(hostile(), tmp_path / "hostile.html")
    assert path.stat().st_size < 8e6
    tab.open(path)
    title = tab.js("document.title")
    assert title.startswith("interp: </script><script>document.title='x'</script> <img src=x")
    assert tab.js("document.querySelectorAll('.figure svg.main-svg').length") >= 5
    assert tab.js("document.scripts.length") == 3
    assert (
        tab.js("document.querySelectorAll('img, iframe, object, [onerror], [onload], main a, main svg a').length") == 0
    )
    tab.hover("heat-0", 2, 1)
    tab.click("heat-0", 0, 0)
    shown = tab.js("document.body.innerText") + tab.js("document.querySelector('#pattern-0 svg').textContent")
    for text in (
        "</script><script>document",
        "onerror=",
        "javascript:document",
        "{{7*7}}",
        r"\u2028",
        r"\u202edesrever",
        "<b>x</b>",
    ):
        assert text in shown, text
    assert "49" not in tab.js("document.querySelector('.eyebrow').textContent")
    assert "\u202e" not in shown and "\u2028" not in shown
    labels = tab.js("[...document.querySelectorAll('#pattern-0 .ytick text')].map(node => node.textContent)")
    assert labels[:2] == ["</script><script…", "<img·src=x·onerr…"] and len(labels) == 8
    for column_index in range(8):
        assert " → " in tab.hover("pattern-0", column_index, 0)
    x, y = tab.js("(() => { const [own] = document.getElementById('dots-0').data; return [own.x[0], own.y[0]]; })()")
    assert "</script><script>document.title='x'</script>" in tab.hover("dots-0", x, y)
    assert tab.js("document.title") == title
    assert tab.complaints() == [] and tab.requests() == tab.opened


def test_the_policy_is_what_lets_the_scripts_run(tab: Tab, written: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "blocked.html", written.read_text(encoding="utf-8")
    start, stop = text.index("script-src "), text.index("; style-src")
    path.write_text(f"{text[:start]}script-src &#39;none&#39;{text[stop:]}", encoding="utf-8")
    tab.open(path)
    assert tab.js("document.querySelectorAll('svg').length") == 0
    assert len([event for event in tab.complaints() if "Content Security Policy" in str(event)]) == 2
    assert "matters for ioi" in tab.js("document.querySelector('h1').textContent")


def test_a_script_smuggled_into_the_page_does_not_run(tab: Tab, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "smuggled.html"
    smuggled = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\"></body>"
    path.write_text(written.read_text(encoding="utf-8").replace("</body>", smuggled), encoding="utf-8")
    tab.open(path)
    assert tab.js("document.title") == "interp: ioi on tiny"
    assert tab.js("document.querySelectorAll('.figure svg.main-svg').length") >= 5
