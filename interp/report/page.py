"""One offline HTML file for one or several results.

The file loads nothing: Plotly stands in it once, figures and numbers are data, and a content security policy lets only
our two scripts run. Text of prompts, tokens and names is escaped wherever it stands. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.ablation.result import AblationResult
from interp.circuits.files import plain, write_atomic
from interp.circuits.results import Result
from interp.circuits.tables import counted, number
from interp.kernels.errors import InterpError
from interp.report.cells import Cell, cells
from interp.report.circuit.picture import circuit_fragment, circuit_script
from interp.report.data import figure_data, patterns_note, section_data, shown_prompts
from interp.report.kinds import open_result, title_of
from interp.report.palette import DARK
from interp.report.rows import HeadRow, ranked_rows
from interp.report.text import visible
from interp.sweeps.text import cost_rows

FOLDER = Path(__file__).parent
SHOWN_DROPS = 200
RERUN = "make the result with interp.ablate or `interp ablate`"

Reportable = Result | str | Path


@dataclass(frozen=True)
class Section:
    """One run of any kind as `result.html` reads it.

    Attributes:
        title: of the kind.
        about: names of task and model, where it has them.
        facts: what was asked, name -> value as text.
        drawings: pictures that are text themselves, by caption.
        captions: of the figures, in order.
        rows: the table.
        tables: further ones, by caption: names of columns, and rows.
        details: provenance: group -> name -> value as text.
        data: what the script reads.
    """

    result: Result
    title: str
    about: tuple[str, ...]
    facts: Mapping[str, str]
    drawings: Mapping[str, Markup]
    captions: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]
    details: dict[str, dict[str, str]]
    data: Mapping[str, Any]
    template: str = "result.html"


@dataclass(frozen=True)
class AblationSection:
    """One ablation as `ablation.html` reads it.

    Attributes:
        result: the run.
        rows: its heads, most telling first.
        title, about: as in `Section`.
        shown: ids of the prompts with patterns.
        clean_mean, n_above: mean of the clean metric, and on how many prompts it is above 0.
        details: provenance: group -> name -> value as text.
        costs: of a sweep: what, planned, actual.
        data: what the script reads.
    """

    result: AblationResult
    rows: list[HeadRow]
    shown: list[str]
    clean_mean: float
    n_above: int
    details: dict[str, dict[str, str]]
    costs: list[tuple[str, str, str]]
    title: str
    about: tuple[str, ...]
    data: Mapping[str, Any]
    template: str = "ablation.html"


def report(results: Reportable | Sequence[Reportable], path: str | Path) -> Path:
    """Write results, or the run folders that hold them, as one HTML file that needs no network.

    Args:
        results: one or several, of any kind; each becomes a section.
        path: the file to write; an old report of that name is replaced.

    Raises:
        InterpError: E206 nothing to report; E404, E406 a run without canary or certificate; E602 not writable; what
            `open_result` raises for a folder.
    """
    given = [results] if isinstance(results, Result | str | Path) else list(results)
    loaded = [result if isinstance(result, Result) else open_result(result) for result in given]
    return write_atomic(path, render(loaded).encode("utf-8"))


def render(results: Sequence[Result]) -> str:
    """The page as text."""
    if not results:
        raise InterpError("E206", "no result to report", fix="give one result or run folder, or several")
    n = len(results)
    sections = [ablation(one, n) if isinstance(one, AblationResult) else section(one) for one in results]
    scripts = [get_plotlyjs(), (FOLDER / "report.js").read_text(encoding="utf-8")]
    if any(isinstance(part, Section) and part.drawings for part in sections):
        scripts.append(circuit_script())
    name = " on ".join(about(results[0])) if n == 1 else f"{n} runs"
    template = environment().get_template("page.html")
    return template.render(
        title=f"interp: {visible(name, 200)}",
        sections=sections,
        policy=policy(scripts),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(script_json({"dark": DARK, "sections": [part.data for part in sections]})),
        shown_drops=SHOWN_DROPS,
    )


def about(result: Result) -> tuple[str, ...]:
    """Task and model, where a result has them."""
    return tuple(str(part["name"]) for part in (result.run.task, result.run.model) if "name" in part)


def section(result: Result) -> Section:
    """What the template needs to know about a run of any kind."""
    figures = result.figures()
    rows = cells(result.full_table())
    return Section(
        result,
        title=title_of(result),
        about=about(result),
        facts=asked(result),
        drawings={caption: circuit_fragment(one) for caption, one in result.drawings().items()},
        captions=tuple(figures),
        rows=rows,
        tables=result.tables(),
        details=provenance(result),
        data={"figures": [figure_data(figure) for figure in figures.values()], "rows": len(rows)},
    )


def asked(result: Result) -> dict[str, str]:
    """The question in a few lines: prompts, and what was done that one value says."""
    prompts = getattr(result, "prompts", None)
    kept = {} if prompts is None else {"prompts": f"{len(prompts)} kept, {len(getattr(result, 'drops', ()))} dropped"}
    said = {name: value for name, value in result.run.method.items() if isinstance(value, str | int | float)}
    shown = {name.replace("_", " "): spoken(value) for name, value in sorted(said.items()) if name != "kind"}
    return {**kept, **{name: value for name, value in shown.items() if value}}


def spoken(value: str | int | float) -> str:
    """A setting as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def ablation(result: AblationResult, n_sections: int) -> AblationSection:
    """What the template needs to know about one ablation.

    Raises:
        InterpError: E404 without canary, E406 without certificate: then nothing proves that the edits happened.
    """
    name = f"{result.run.task['name']} on {result.run.model['name']}"
    if not result.run.canary:
        raise InterpError("E404", "no canary: nothing shows that edits reached the computation", where=name, fix=RERUN)
    if not result.run.certificate:
        raise InterpError("E406", "no certificate: the hooked model was not compared", where=name, fix=RERUN)
    finite = result.baseline[np.isfinite(result.baseline)]
    rows = ranked_rows(result)
    return AblationSection(
        result,
        rows=rows,
        shown=[result.prompts[index].id for index in shown_prompts(result)],
        clean_mean=float(finite.mean()) if finite.size else float("nan"),
        n_above=int((finite > 0).sum()),
        details=provenance(result),
        costs=cost_rows(result.sweep) if result.sweep else [],
        title=title_of(result),
        about=about(result),
        data=section_data(result, rows, n_sections),
    )


def provenance(result: Result) -> dict[str, dict[str, str]]:
    """The run record as text, group by group; what the page shows elsewhere is left out."""
    run = result.run
    groups: dict[str, Any] = {
        "run": {"run_id": result.run_id, "started": run.started, "seconds": run.seconds},
        **{name: getattr(run, name) for name in ("model", "task", "method", "seeds", "versions")},
    }
    return {
        group: {key: as_text(value) for key, value in sorted(plain(entries).items())}
        for group, entries in groups.items()
    }


def as_text(value: Any) -> str:
    """A value of the run record; names sorted, because a record keeps their order only until it is saved."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def environment() -> Environment:
    """Jinja with every value made visible and escaped, and no undefined name let through."""
    loader = FileSystemLoader(FOLDER, encoding="utf-8")
    jinja = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(number=number, counted=counted)
    jinja.globals.update(patterns_note=patterns_note)
    return jinja


def _shown(value: Any) -> Any:
    """Text of others made visible; what we vouch for (Markup) and numbers as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def policy(scripts: Sequence[str]) -> str:
    """Content security policy under which exactly these inline scripts run, and nothing is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in: only ASCII, no `<`, `>` or `&`."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
