"""Reports of every kind of result: what the page says, that its figures draw and its table sorts, and hostile names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.circuits.runfolder import RunFolder
from interp.kernels.errors import InterpError
from interp.report.cells import cells
from interp.report.kinds import KINDS, open_result
from interp.report.page import render, report
from tests.cases.browser import Tab


@cache
def found(kind: str) -> Any:
    """A small true result of a kind."""
    model = interp.load("planted-induction" if kind in ("scores", "sinks") else "mini")
    task = interp.task("ioi", n=8)
    match kind:
        case "scores":
            return interp.score(model, "induction", n=8)
        case "sinks":
            return interp.sinks(model, interp.task("induction", n=4), lengths=())
        case "patch":
            return interp.patch(model, task)
        case "paths":
            return interp.paths(model, task)
        case "attribution":
            return interp.dla(model, task)
        case "ablation":
            return interp.ablate(model, task)
    raise AssertionError(kind)


MADE = ("scores", "sinks", "patch", "paths", "attribution")


def words(page: str) -> str:
    """The page's text as a reader sees it."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def data(page: str) -> Any:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize("kind", MADE)
def test_a_page_says_all_that_the_result_says(kind: str) -> None:
    result, page = found(kind), render([found(kind)])
    text = words(page)
    shown = [result.headline(), KINDS[kind].title, *result.remarks(), *result.columns]
    shown += [cell for row in result.full_table() for cell in row]
    assert [one for one in shown if re.sub(r"\s+", " ", one).strip() not in text] == []
    (section,) = data(page)["sections"]
    assert section["rows"] == len(result.full_table()) and len(section["figures"]) == len(result.figures()) > 0


def test_all_rows_are_there_not_only_those_a_terminal_shows() -> None:
    result = found("patch")
    assert len(result.full_table()) == 32 > len(result.table())


@pytest.mark.parametrize("kind", MADE)
def test_a_folder_opens_as_its_own_kind_and_reports_the_same_bytes(kind: str, tmp_path: Path) -> None:
    folder = found(kind).save(tmp_path / "run")
    loaded = open_result(folder)
    assert type(loaded) is type(found(kind)) and loaded == found(kind)
    pages = [
        report(source, tmp_path / name).read_bytes() for source, name in ((found(kind), "a.html"), (folder, "b.html"))
    ]
    assert pages[0] == pages[1]


def test_every_kind_of_result_in_the_package_is_known() -> None:
    """A result that can be saved can be opened and reported."""
    from importlib import import_module

    assert {getattr(import_module(one.home), one.name).kind for one in KINDS.values()} == set(KINDS)
    root = Path(interp.__file__).parent
    sources = [path.read_text() for folder in (root, root / "circuits") for path in folder.rglob("*.py")]
    classes = [part for source in sources for part in re.split(r"^(?=class )", source, flags=re.M)]
    results = [part for part in classes if re.match(r"class \w+\((Result|PromptResult|PatchResult)\)", part)]
    named = {name for part in results for name in re.findall(r'^    kind(?:: ClassVar\[str\])? = "(.+)"$', part, re.M)}
    assert named == set(KINDS)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.finish("horoscope", found("scores").run)
    with pytest.raises(InterpError) as caught:
        open_result(tmp_path / "run")
    assert caught.value.code == "E702" and "horoscope" in caught.value.what


def test_hostile_names_stay_text() -> None:
    attack = "</script><img src=x onerror=alert(1)>\u202e"
    source = found("patch")
    run = replace(
        source.run, model={**source.run.model, "name": attack}, task={**source.run.task, "name": attack},
        method={**source.run.method, "description": attack}, warnings=(attack,), command=attack,
    )  # fmt: skip
    page = render([replace(source, run=run)])
    assert "<img" not in page and "\u202e" not in page
    assert page.count("<script") == render([source]).count("<script")


def test_cells_sort_by_number_where_every_cell_begins_with_one() -> None:
    table = [
        ["L0H1", "+0.5", "[0.1, 0.9]", "-", "b"],
        ["L0H0", "-2", "none", "1e-05", "a"],
        ["L1H0", "10", "[0, 1]", "0.3", "b"],
    ]
    keys = np.array([[cell.key for cell in row] for row in cells(table)])
    assert keys[:, 0].tolist() == [1, 0, 2] and keys[:, 1].tolist() == [0.5, -2, 10]
    assert keys[0, 2] == 0.1 and np.isnan(keys[1, 2]) and np.isnan(keys[0, 3]) and keys[1, 3] == 1e-5
    assert keys[:, 4].tolist() == [1, 0, 1]


@pytest.mark.browser
def test_figures_draw_the_table_sorts_and_opens(tab: Tab, tmp_path: Path) -> None:
    """Sections of several kinds beside an ablation, which keeps its own page."""
    tab.open(report([found("ablation"), *map(found, MADE)], tmp_path / "all.html"))
    n = 1 + len(MADE)
    tab.wait(f"document.querySelectorAll('section.run').length === {n}")
    drawn = "[...document.querySelectorAll('.figure')].filter((node) => node.querySelector('.main-svg')).length"
    figures = sum(len(found(kind).figures()) for kind in MADE)
    tab.wait(f"{drawn} >= {figures} + 4")
    place = 1 + MADE.index("patch")
    rows = f"[...document.querySelectorAll('#table-{place} tbody tr')]"
    shown = f"{rows}.filter((row) => row.offsetParent !== null).length"
    assert tab.js(shown) == 10
    tab.js(f"document.getElementById('more-{place}').click()")
    assert tab.js(shown) == 32
    column = found("patch").columns.index("effect")
    tab.js(f"document.querySelectorAll('#table-{place} thead button')[{column}].click()")
    values = tab.js(f"{rows}.map((row) => Number(row.cells[{column}].dataset.value))")
    assert values == sorted(values) and len(values) == 32
    assert tab.complaints() == [] and tab.requests() == tab.opened
