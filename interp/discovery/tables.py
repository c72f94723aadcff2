"""A circuit as tables: for a page, a terminal and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import interval, number
from interp.discovery.explained import COLUMNS as EDGE_COLUMNS
from interp.discovery.parts import PartOfCircuit, Scored
from interp.discovery.passports import COLUMNS as HEAD_COLUMNS
from interp.discovery.passports import Passports
from interp.discovery.roles import Roles
from interp.discovery.text import refutations

if TYPE_CHECKING:
    import pandas as pd

    from interp.discovery.result import Circuit

Table = tuple[Sequence[str], list[list[str]]]
"""Names of columns, and rows."""

ABLATION_COLUMNS = ("ablation", "model", "circuit", "no edges", "kept", "interval", "note")
FAILED_COLUMNS = ("prompt", "model", "circuit", "no edges")
REFUTED_COLUMNS = ("claim", "would be refuted by", "seen")
CHECK_COLUMNS = ("test", "value", "interval", "held against", "p", "verdict")
JOINT_COLUMNS = ("parts", "each alone", "together", "beyond the sum", "interval", "q")
ROLE_COLUMNS = ("scorer", "prompts", "claimed heads", "of them in the circuit", "by chance", "p", "note")
PART_COLUMNS = (
    "part", "called", "reads", "writes to", "edges", "share of scores", "kept without it", "interval",
    "without random edges", "draws as costly",
)  # fmt: skip
ENDS = 2
"""Other ends that are named of each side of a part."""
SHOWN = 12


def page_tables(found: Circuit) -> dict[str, Table]:
    """Every table of the page by its caption."""
    tables: dict[str, Table] = {}
    if found.parts:
        tables["Heads and MLPs of the circuit, and what it keeps without each"] = (PART_COLUMNS, part_table(found))
    tables |= asked_tables(found)
    if found.passports is not None:
        tables |= passport_tables(found.passports)
    tables["Under each ablation"] = (ABLATION_COLUMNS, found.ablation_table())
    tables["Prompts on which the circuit falls short"] = (FAILED_COLUMNS, failed(found, SHOWN))
    tables["What would refute it"] = (REFUTED_COLUMNS, refutations(found))
    if found.checks is not None:
        tables["Tests of the circuit"] = (CHECK_COLUMNS, found.checks.tested())
        caption = f"Parts that stand in for each other ({found.checks.tried} pairs of {found.checks.idle} idle parts)"
        tables[caption] = (JOINT_COLUMNS, found.checks.shared_work())
    if found.roles is not None:
        tables["Do scorers claim the heads of the circuit?"] = (ROLE_COLUMNS, role_table(found.roles))
    return tables


def asked_tables(found: Circuit) -> dict[str, Table]:
    """Of what is there only where it was asked for; a terminal shows these too."""
    tables: dict[str, Table] = {}
    if found.explained:
        tables["What the strongest edges carry, and the runs that prove it"] = (EDGE_COLUMNS, explained_table(found))
    if found.passports is not None:
        tables["Passports of the heads"] = (HEAD_COLUMNS, [one.line() for one in found.passports.heads])
    return tables


def passport_tables(found: Passports) -> dict[str, Table]:
    """Where the verdicts on a head contradict each other, and what was not asked."""
    flags = [line for one in found.heads for line in one.contradictions()]
    unasked = [[name, why] for name, why in found.left_out.items()]
    tables: dict[str, Table] = {
        "Where verdicts on a head disagree": (("head", "what disagrees", "in words"), flags),
        "What the passports leave out": (("question", "why not"), unasked),
    }
    return {caption: table for caption, table in tables.items() if table[1]}


def part_table(found: Circuit) -> list[list[str]]:
    """One row a head or MLP, the one that costs most first."""
    return [
        [
            one.label, ", ".join(one.names), reads(one), ends(one.writes), f"{one.n_in} in, {len(one.writes)} out",
            f"{one.share:.1%}", number(one.kept.value), interval(one.kept.low, one.kept.high), reach(one.random),
            f"{one.as_costly} of {len(one.random)}" if one.random else "-",
        ]
        for one in found.parts
    ]  # fmt: skip


def explained_table(found: Circuit) -> list[list[str]]:
    """One row an edge, the strongest first."""
    return [one.about.line() for one in found.explained]


def reads(one: PartOfCircuit) -> str:
    """`q: L0H1 +0.3, embed +0.1; v: embed +0.2`."""
    sides = {side: found for side, found in one.reads.items() if found}
    if one.kind == "mlp":
        return "; ".join(map(ends, sides.values()))
    return "; ".join(f"{side}: {ends(found)}" for side, found in sides.items())


def ends(found: Sequence[Scored]) -> str:
    """The strongest, and how many more there are."""
    named = ", ".join(f"{name} {number(score, signed=True)}" for name, score in found[:ENDS])
    return f"{named} and {len(found) - ENDS} more" if len(found) > ENDS else named


def reach(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    if not values:
        return "none drawn"
    return f"{number(float(np.median(values)))} ({number(min(values))} to {number(max(values))})"


def role_table(roles: Roles) -> list[list[str]]:
    """One row a scorer."""
    return [
        [one.scorer, one.task, str(one.claimed), str(one.inside), number(one.expected), number(one.p), one.note]
        for one in roles.shares
    ]


def failed(found: Circuit, k: int) -> list[list[str]]:
    """Prompts of which the circuit keeps least: text, metric of the model, of the circuit, and with no edge."""
    order = np.argsort(found.values - found.curves.full, kind="stable")[:k]
    columns = (found.curves.full, found.values, found.curves.empty)
    return [
        ["".join(found.prompts[index].tokens), *(number(float(column[index])) for column in columns)]
        for index in map(int, order)
    ]


def edge_frame(found: Circuit) -> pd.DataFrame:
    """One row an edge of the graph."""
    import pandas as pd

    graph, at = found.graph, found.graph.full
    places, writers, readers = np.nonzero(at)
    return pd.DataFrame(
        {
            "edge": graph.labels(),
            "place": [graph.places[index] for index in places],
            "writer": [graph.writers[index].label for index in writers],
            "reader": [graph.readers[index].label for index in readers],
            "score": found.scores[at],
            "standard_error": found.standard_errors[at],
            "q": found.q[at],
            "in_circuit": found.edges[at],
        }
    )


def part_frame(found: Circuit) -> pd.DataFrame:
    """One row a head or MLP of the circuit."""
    import pandas as pd

    return pd.DataFrame([plain_part(one) for one in found.parts])


def plain_part(one: PartOfCircuit) -> Mapping[str, object]:
    """A part as plain numbers."""
    random = float(np.median(one.random)) if one.random else float("nan")
    return {
        "part": one.label, "kind": one.kind, "names": ", ".join(one.names), "edges_in": one.n_in,
        "edges_out": len(one.writes), "mass": one.mass, "share": one.share, "kept": one.kept.value,
        "low": one.kept.low, "high": one.kept.high, "random": random, "as_costly": one.as_costly,
        "draws": len(one.random),
    }  # fmt: skip
