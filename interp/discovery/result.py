"""`Circuit`: edges with scores, the circuit among them, and how it was judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.judging.curves import Area, Curve, curve
from interp.circuits.prompt_results import DROPS, PROMPTS, PromptRecord
from interp.circuits.results import Result, RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import interval, number
from interp.discovery.checks import Checks
from interp.discovery.choice import largest
from interp.discovery.explained import Explained, Subspace
from interp.discovery.measured import Curves, Measured, Steadiness
from interp.discovery.parts import PartOfCircuit, Without, parts_of
from interp.discovery.passports import Passports
from interp.discovery.record import as_record, from_record, numbers_of, roles_of
from interp.discovery.roles import Roles
from interp.discovery.tables import SHOWN, Table, asked_tables, edge_frame, failed, page_tables, part_frame
from interp.discovery.text import headline, remarks
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.report.circuit.nodes import Drawing
    from interp.report.circuit.picture import Svg

NUMBERS, TABLE, PASSPORTS = "numbers.safetensors", "ablations.jsonl", "passports.json"
RANKINGS = ("absolute", "signed")


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Result):
    """A circuit of one model on one task.

    Attributes:
        run: provenance.
        graph: all edges.
        scores: of every edge, mean over the prompts that chose; positive where the edge helps the metric.
        standard_errors: of these means; nan for methods without scores prompt by prompt.
        q: of the test that an edge's mean is 0, after false-discovery control over all edges; nan likewise.
        edges: the circuit.
        curves: circuits of growing size.
        values: metric of the circuit on the prompts that judge.
        random: mean metric of random circuits of as many edges.
        without: metric of the circuit without each of its heads and MLPs; `parts` reads it.
        beside: the circuit under other replacements than the one it was chosen for.
        prompts: those that judge.
        drops: prompts left out.
        stability: of the ranking, over halves of the prompts that chose: see `Steadiness`; None without their scores.
        roles: what scorers call the heads; None where they were not asked.
        checks: further tests; None where they were not asked for.
        explained: what the strongest edges carry, as many as were asked for.
        passports: every verdict on each head; None where they were not asked for.
    """

    kind: ClassVar[str] = "circuit"
    columns: ClassVar[tuple[str, ...]] = ("edge", "score", "standard error", "q")
    unasked: ClassVar[frozenset[str]] = frozenset({"chosen", "forwards", "plan"})

    run: RunInfo
    graph: Graph
    scores: Scores
    standard_errors: Scores
    q: Scores
    edges: Edges
    curves: Curves
    values: Float[np.ndarray, " prompt"]
    random: Float[np.ndarray, " draw"]
    without: Without
    beside: tuple[Measured, ...] = field(default=())
    prompts: tuple[PromptRecord, ...] = field(default=())
    drops: tuple[Drop, ...] = field(default=())
    stability: Steadiness | None = None
    roles: Roles | None = None
    checks: Checks | None = None
    explained: tuple[Subspace, ...] = ()
    passports: Passports | None = None

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    @property
    def share(self) -> float:
        """Of all edges of the graph."""
        return self.n_edges / self.graph.n_edges

    @cached_property
    def faithfulness(self) -> Area:
        """Share of the metric's gap that the circuit keeps on the prompts that judge, with its interval."""
        return self.curves.kept(self.values, self.run.seeds["evidence"])

    @property
    def ablations(self) -> tuple[Measured, ...]:
        """The circuit under each replacement, the one that it was chosen for first."""
        method = self.run.method
        full, value, empty = (float(one.mean()) for one in (self.curves.full, self.values, self.curves.empty))
        own = Measured(method["ablation"], method["taken_from"], full, value, empty, *self.faithfulness)
        return own, *self.beside

    @property
    def random_faithfulness(self) -> Float[np.ndarray, " draw"]:
        return self.curves.faithful(self.random)

    @property
    def beaten_by(self) -> int:
        """Random circuits of as many edges that keep at least as much."""
        return int((self.random_faithfulness >= self.faithfulness.value).sum())

    def curve(self, ranking: str = "absolute") -> Curve:
        """Faithfulness over size, with intervals; `Curve.area` gives CPR and CMD.

        The MIB benchmark takes CPR from the signed ranking and CMD from the absolute one.
        """
        index = RANKINGS.index(ranking)
        actual = self.curves.actual[index] / self.graph.n_edges
        return curve(
            self.curves.values[index], self.curves.full, self.curves.empty, self.curves.shares, actual,
            seed=self.run.seeds["evidence"],
        )  # fmt: skip

    @cached_property
    def cpr(self) -> Area:
        """MIB's CPR: area under faithfulness over the share of edges, signed ranking."""
        return self.curve("signed").area("cpr")

    @cached_property
    def cmd(self) -> Area:
        """MIB's CMD: area between faithfulness and 1, absolute ranking."""
        return self.curve("absolute").area("cmd")

    @property
    def heads(self) -> dict[str, float]:
        """Heads that write an edge of the circuit -> the sum of the sizes of these edges' scores, largest first."""
        return self._writers("head")

    @property
    def mlps(self) -> dict[str, float]:
        """The same for MLPs."""
        return self._writers("mlp")

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """What its heads are called, by roles or else by passports; heads without a name are left out."""
        if self.roles is not None or self.passports is None:
            return {} if self.roles is None else self.roles.names
        return {one.head: tuple(label.name for label in one.labels) for one in self.passports.heads if one.labels}

    @cached_property
    def parts(self) -> tuple[PartOfCircuit, ...]:
        """Heads and MLPs that write an edge of the circuit, the one that costs most first."""
        return parts_of(self)

    def _writers(self, kind: str) -> dict[str, float]:
        total = np.abs(np.where(self.edges, self.scores, 0.0)).sum((0, 2))
        is_in = np.any(self.edges, axis=(0, 2))
        found = {
            part.label: float(total[index])
            for index, part in enumerate(self.graph.writers)
            if part.kind == kind and is_in[index]
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def headline(self) -> str:
        return headline(self)

    def remarks(self) -> list[str]:
        return remarks(self)

    def table(self) -> list[list[str]]:
        return self.lines(SHOWN)

    def full_table(self) -> list[list[str]]:
        return self.lines(None)

    def lines(self, k: int | None) -> list[list[str]]:
        """The edges of the circuit by the size of their score."""
        return [self._line(*edge) for edge in largest(self.scores, self.edges, k)]

    def _line(self, place: int, writer: int, reader: int) -> list[str]:
        at = (place, writer, reader)
        numbers = number(float(self.scores[at]), signed=True), number(float(self.standard_errors[at]))
        return [self.graph.label(*at), *numbers, number(float(self.q[at]))]

    def ablation_table(self) -> list[list[str]]:
        """The circuit under each replacement: replacement, model, circuit, no edges, kept, interval, note."""
        return [
            [
                row.replacement, number(row.full), number(row.value), number(row.empty), number(row.f),
                interval(row.low, row.high), row.note or row.taken_from,
            ]
            for row in self.ablations
        ]  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row an edge of the graph: place, writer, reader, score, standard error, q, whether it is in the circuit."""
        return edge_frame(self)

    def parts_frame(self) -> pd.DataFrame:
        """One row a head or MLP of the circuit, see `parts`."""
        return part_frame(self)

    def plot(self) -> go.Figure:
        """Faithfulness over the size of the circuit, beside circuits that say nothing of the mechanism."""
        from interp.report.circuit.figures import faithfulness_curve

        return faithfulness_curve(self)

    def figures(self) -> dict[str, go.Figure]:
        from interp.report.circuit.figures import random_circuits, strongest_parts

        random = {f"{len(self.random)} random circuits of {self.n_edges} edges": random_circuits(self)}
        parts = {"What the parts of the circuit write": strongest_parts(self)} if self.n_edges else {}
        verdicts = {} if self.passports is None or not self.passports.heads else self._verdicts()
        return {**super().figures(), **(random if len(self.random) else {}), **parts, **verdicts}

    def _verdicts(self) -> dict[str, go.Figure]:
        from interp.report.circuit.passports import passport_map

        assert self.passports is not None
        return {"What scorers and ablations say of its heads (a dot: claimed)": passport_map(self.passports)}

    def drawings(self) -> dict[str, Drawing]:
        from interp.report.circuit.nodes import drawing

        names = {head: found[0] for head, found in self.names.items()}
        notes = {one.label: f"without it the circuit keeps {number(one.kept.value)}" for one in self.parts}
        return {"The circuit": drawing(self.graph, self.scores, self.edges, names, notes)} if self.n_edges else {}

    def svg(self) -> Svg:
        """The circuit as a picture that stands by itself, light or dark as the reader's screen is; notebooks show it.

        Raises:
            InterpError: E206 a circuit without edges.
        """
        from interp.report.circuit.picture import circuit_svg

        if not self.n_edges:
            raise InterpError("E206", "the circuit has no edge to draw", fix="choose a larger circuit")
        return circuit_svg(next(iter(self.drawings().values())))

    def tables(self) -> dict[str, Table]:
        return page_tables(self)

    def asked_tables(self) -> dict[str, Table]:
        """Those of them that stand there only where they were asked for, and that a terminal shows too."""
        return asked_tables(self)

    def failed(self, k: int = SHOWN) -> list[list[str]]:
        """Prompts of which the circuit keeps least: text, metric of the model, of the circuit, and with no edge."""
        return failed(self, k)

    def with_roles(self, results: Sequence[Result], refused: Mapping[str, str] | None = None) -> Circuit:
        """The same with what scorers call its heads; `interp.discovery.roles.score_roles` asks them.

        Args:
            refused: scorer -> why it could not be asked.

        Raises:
            InterpError: E205 results of another model, or that label no parts.
        """
        given = {str(result.run.model["name"]) for result in results}
        if given != {str(self.run.model["name"])}:
            what = f"scores of {', '.join(sorted(given)) or 'nothing'} for a circuit of {self.run.model['name']}"
            raise InterpError("E205", what, fix="score the heads of the same model")
        return replace(self, roles=Roles.of([*self.heads], results, refused))

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        arrays = {
            "scores": self.scores, "standard_errors": self.standard_errors, "q": self.q,
            "edges": self.edges.astype(np.uint8), "values": self.values, "random": self.random,
            **{f"curves.{name}": value for name, value in vars(self.curves).items() if name != "beside"},
            **{f"beside.{name}": value for name, value in self.curves.beside.items()},
            **{f"without.{name}": value for name, value in vars(self.without).items()},
            **{f"explained.{index}": one.basis for index, one in enumerate(self.explained)},
        }  # fmt: skip
        tensors = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        writer.write_tensors(NUMBERS, tensors, {"axes": "place writer reader"})
        writer.write_lines(TABLE, (asdict(row) for row in self.beside))
        writer.write_lines(PROMPTS, (asdict(prompt) for prompt in self.prompts))
        writer.write_lines(DROPS, (asdict(drop) for drop in self.drops))
        steady = None if self.stability is None else asdict(self.stability)
        roles = None if self.roles is None else asdict(self.roles)
        checks = None if self.checks is None else asdict(self.checks)
        explained = [one.record() for one in self.explained]
        if self.passports is not None:
            writer.write_json(PASSPORTS, self.passports.record())
        return {
            "graph": as_record(self.graph), "stability": steady, "roles": roles, "checks": checks,
            "explained": explained, "passports": self.passports is not None,
        }  # fmt: skip

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        graph, found = from_record(run.manifest["graph"]), run.read_tensors(NUMBERS)
        shaped = ("scores", "standard_errors", "q", "edges")
        if wrong := [name for name in shaped if found[name].shape != graph.full.shape]:
            raise InterpError("E701", f"{wrong[0]} in {NUMBERS} does not fit the graph", where=str(run.path))
        curves, beside, without = (
            {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}
            for start in ("curves.", "beside.", "without.")
        )
        return {
            "graph": graph,
            **{name: found[name] for name in ("scores", "standard_errors", "q", "values", "random")},
            "edges": found["edges"].astype(bool),
            "curves": Curves(**curves, beside=beside),
            "without": Without(**without),
            "beside": tuple(Measured(**numbers_of(line)) for line in run.read_lines(TABLE)),
            "prompts": tuple(
                PromptRecord(**{**one, "tokens": tuple(one["tokens"])}) for one in run.read_lines(PROMPTS)
            ),
            "drops": tuple(Drop(**line) for line in run.read_lines(DROPS)),
            "stability": None if (steady := run.manifest["stability"]) is None else Steadiness(**numbers_of(steady)),
            "checks": None if (checks := run.manifest["checks"]) is None else Checks.from_record(checks),
            "explained": tuple(
                Subspace(Explained.from_record(one), found[f"explained.{index}"])
                for index, one in enumerate(run.manifest["explained"])
            ),
            "passports": Passports.from_record(run.read_json(PASSPORTS)) if run.manifest["passports"] else None,
            "roles": None if (roles := run.manifest["roles"]) is None else roles_of(roles),
        }
