"""Further tests of a circuit, which take longer: hypotheses about it, and parts that stand in for each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.findings import Finding, Rigour, Values
from interp.circuits.judging.hypotheses import hypotheses
from interp.circuits.judging.joint import Joint, Searching
from interp.circuits.judging.redundancy import heads_and_mlps, redundancy
from interp.circuits.tables import interval, number

MOST = 20
"""Pairs that are kept, at most."""


@dataclass(frozen=True)
class Checks:
    """What the tests said, on the prompts that judge.

    Attributes:
        findings: equivalence, independence, sufficiency, necessity, completeness, minimality.
        redundant: pairs and groups of heads and MLPs of the whole model that do one work: each of them alone costs little.
        tried: pairs that were tried.
        idle: heads and MLPs that cost little alone.
    """

    findings: tuple[Finding, ...]
    redundant: tuple[Joint, ...]
    tried: int
    idle: int

    @classmethod
    def of(cls, graph: Graph, edges: Edges, values: Values, seed: int) -> Checks:
        """Run them all (E205 for a circuit without edges)."""
        found = redundancy(graph, heads_and_mlps(graph), values, Searching(seed=seed))
        pairs = sorted(found.redundant, key=lambda one: -abs(one.interaction))[:MOST]
        groups = [one for one in found.groups if one.is_redundant]
        findings = hypotheses(graph, edges, values, Rigour(seed=seed)).found
        return cls(findings, (*groups, *pairs), found.n_tried, len(found.candidates))

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Checks:
        """From plain data, as `dataclasses.asdict` gives it and JSON keeps it."""
        findings = tuple(Finding(**_nan(one)) for one in data["findings"])
        joints = (
            Joint(**{**_nan(one), "labels": tuple(one["labels"]), "singles": tuple(one["singles"])})
            for one in data["redundant"]
        )
        return cls(findings, tuple(joints), data["tried"], data["idle"])

    def tested(self) -> list[list[str]]:
        """One row a finding: test, value, interval, null, p, verdict."""
        return [
            [one.test, number(one.value), interval(one.low, one.high), one.null, number(one.p), one.words]
            for one in self.findings
        ]

    def shared_work(self) -> list[list[str]]:
        """One row a pair or group: parts, effects alone, together, interaction, interval, q."""
        return [
            [
                " + ".join(one.labels), ", ".join(map(number, one.singles)), number(one.effect), number(one.interaction),
                interval(one.low, one.high), number(one.q),
            ]
            for one in self.redundant
        ]  # fmt: skip


def _nan(line: Mapping[str, Any]) -> dict[str, Any]:
    """Missing numbers are nan again; `holds` may truly be None."""
    return {name: float("nan") if value is None and name != "holds" else value for name, value in line.items()}
