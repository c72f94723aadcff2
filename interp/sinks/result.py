"""The report on sinks: numbers of four criteria for every head, prompt, role and domain, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.prompt_results import DROPS, PROMPTS, PromptRecord
from interp.circuits.results import Result, RunInfo, first_line
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.hooks.examples import Drop
from interp.hooks.names import HeadId, parse_head
from interp.kernels.errors import InterpError, suggest
from interp.sinks.spots import Spot
from interp.sinks.tables import finite_mean, frame, line
from interp.sinks.text import headline, remarks
from interp.sinks.verdicts import Changes, Criteria, State, Verdict, changes_of, criteria, states, verdict

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS, NUMBERS, SPOTS = "rows.parquet", "numbers.safetensors", "spots.jsonl"
GROUPS = ("by_role", "by_domain", "by_place", "by_length")
ARRAYS = ("rests", "effects", "control_effects")


@dataclass(frozen=True, eq=False, repr=False)
class SinkReport(Result):
    """Attention sinks of one model on some prompts.

    Attributes:
        run: provenance; thresholds stand in its method.
        heads: labels, in model order.
        roles: of keys: the first token, special tokens, roles of the task, all others.
        domains: of queries: all, roles of the task; resting on a sink and working last.
        prompts: kept prompts, in order.
        by_role: `received` (mean attention of the queries that may see a key; nan where fewer than `min_queries` may),
            `uniform` (what even attention gives), `written` and `values` (length of v W_O and of v over that of the other
            content tokens), `norm` and `peak` (length of the stream and its largest entry over the prompt's median token),
            `outlier` (share of the role's tokens where one of these is an outlier): [head prompt role].
        by_domain: `mass` of a row, `on_sinks` (of it, on the prompt's sinks), `output` (length of z W_O), `gate` (length of
            z after a gate over that before): [head prompt domain].
        rests: share of the queries that rest, the sinks themselves left out.
        by_place: means over prompts, position by position; `over` is the share of prompts that receive more than `eps`.
        by_length: `received`, `written`, `norm` as means over longer prompts: [length head role].
        lengths: of these.
        effects: change of the output without the head, for each query where it is taken away: [head prompt domain]; nan
            where a prompt has no such query, and everywhere unless `tested`.
        control_effects: the same for matched heads where this one rests, mean over them.
        controls: labels of these.
        spots: keys that receive more than `eps`.
        drops: prompts left out.
    """

    kind: ClassVar[str] = "sinks"
    unasked: ClassVar[frozenset[str]] = frozenset({"dimensions", "usual_dimensions", "sink_logits"})
    columns: ClassVar[tuple[str, ...]] = (
        "head", "looks at", "received", "even", "value", "stream", "rests", "change resting", "controls",
        "change working", "verdict", "criteria disagree",
    )  # fmt: skip

    run: RunInfo
    heads: tuple[str, ...]
    roles: tuple[str, ...]
    domains: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    by_role: Mapping[str, Float[np.ndarray, "head prompt role"]]
    by_domain: Mapping[str, Float[np.ndarray, "head prompt domain"]]
    rests: Float[np.ndarray, "head prompt"]
    by_place: Mapping[str, Float[np.ndarray, "head pos"]]
    by_length: Mapping[str, Float[np.ndarray, "length head role"]]
    lengths: tuple[int, ...]
    effects: Float[np.ndarray, "head prompt domain"]
    control_effects: Float[np.ndarray, "head prompt"]
    controls: tuple[tuple[str, ...], ...]
    spots: tuple[Spot, ...]
    drops: tuple[Drop, ...] = field(default=())

    @property
    def head_ids(self) -> tuple[HeadId, ...]:
        return tuple(map(parse_head, self.heads))

    @property
    def tested(self) -> bool:
        """Whether heads were taken away."""
        return bool(self.run.method["metric"])

    def mean(self, name: str) -> Float[np.ndarray, "head part"]:
        """A number of `by_role` or `by_domain`, mean over the prompts that have it.

        Raises:
            InterpError: E201, no such number.
        """
        known = {**self.by_role, **self.by_domain}
        if name not in known:
            raise InterpError("E201", f"no number {name!r}", fix=suggest(name, known))
        return finite_mean(known[name], 1)

    @cached_property
    def changes(self) -> Changes:
        """Effects over prompts, with intervals."""
        return changes_of(self)

    @cached_property
    def criteria(self) -> tuple[Criteria, ...]:
        """Four criteria side by side for each head."""
        return tuple(criteria(self, head) for head in range(len(self.heads)))

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """For each head dormant, active, mixed (by domain), unclear, or not tested."""
        return tuple(verdict(self, head) for head in range(len(self.heads)))

    def states(self, head: str) -> dict[str, State]:
        """Dormant or active, domain by domain.

        Raises:
            InterpError: E201, a head that was not measured.
        """
        return states(self, self.index(head))

    def index(self, head: str) -> int:
        """Row of a head (E201)."""
        if head not in self.heads:
            raise InterpError("E201", f"no head {head!r}", fix=suggest(head, self.heads))
        return self.heads.index(head)

    @property
    def sink_heads(self) -> tuple[str, ...]:
        """Heads with a sink by attention whose value is drained or whose stream is an outlier."""
        found = zip(self.heads, self.criteria, strict=True)
        return tuple(head for head, one in found if one.attention and (one.drained or one.outlier))

    @property
    def rates(self) -> Float[np.ndarray, " pos"]:
        """Sink_eps: share of heads and prompts, in per cent, where the key at a position receives more than `eps`; nan
        where too few queries may see it (Gu et al. 2024, arXiv 2410.10781, section 3)."""
        rates: np.ndarray = 100 * finite_mean(self.by_place["over"], 0)
        return rates

    @property
    def hidden(self) -> tuple[Spot, ...]:
        """Sinks beyond the first token: they receive much, and their value is drained or their stream an outlier."""
        bound = float(self.run.method["drained"])
        return tuple(one for one in self.spots if one.role != self.roles[0] and (one.written < bound or one.is_outlier))

    def headline(self) -> str:
        """Where the sinks are, and what the criteria say of them."""
        return headline(self)

    def remarks(self) -> list[str]:
        return remarks(self)

    def details(self) -> str:
        return f"; {len(self.heads)} heads x {len(self.prompts)} prompts"

    def table(self, k: int = 8) -> list[list[str]]:
        """Heads that receive most at one role first."""
        most = np.nan_to_num(self.mean("received"), nan=-1.0).max(1)
        return [line(self, int(index)) for index in np.argsort(-most, kind="stable")[:k]]

    def full_table(self) -> list[list[str]]:
        return self.table(len(self.heads))

    def to_frame(self) -> pd.DataFrame:
        """One row a head, prompt and role, with the numbers of the first three criteria."""
        return frame(self)

    def plot(self) -> go.Figure:
        """Attention that each role receives, head by head; a dot marks heads that are dormant where they rest."""
        from interp.report.sink_figures import received_heatmap

        return received_heatmap(self)

    def figures(self) -> dict[str, go.Figure]:
        """Attention received, and where they were measured the four criteria, longer texts and other domains."""
        from interp.report import sink_figures

        wanted = (
            (any(one.attention or one.outlier or one.drained for one in self.criteria), sink_figures.criteria_matrix),
            (self.lengths, sink_figures.sink_by_length),
            (self.tested and self.sink_heads, sink_figures.change_by_domain),
        )
        return super().figures() | {first_line(draw): draw(self) for asked, draw in wanted if asked}

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        numbers = {
            f"{group}.{name}": np.ascontiguousarray(values)
            for group in GROUPS
            for name, values in getattr(self, group).items()
            if values.size
        }
        numbers |= {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        writer.write_tensors(NUMBERS, numbers, {"run_id": self.run_id})
        writer.write_lines(SPOTS, (asdict(spot) for spot in self.spots))
        writer.write_lines(PROMPTS, (asdict(prompt) for prompt in self.prompts))
        writer.write_lines(DROPS, (asdict(drop) for drop in self.drops))
        names = ("heads", "roles", "domains", "lengths", "controls")
        return {name: list(getattr(self, name)) for name in names}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        tensors = run.read_tensors(NUMBERS)
        groups: dict[str, Any] = {group: {} for group in GROUPS}
        for name, values in tensors.items():
            group, dot, short = name.partition(".")
            if dot:
                groups[group][short] = values
        stored = run.manifest
        shape = (len(stored["heads"]), len(groups["by_role"]["received"][0]))
        prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
        if shape != groups["by_role"]["received"].shape[:2] or shape[1] != len(prompts):
            raise InterpError("E701", f"{NUMBERS} does not hold a row for each head and prompt", where=str(run.path))
        return {
            **groups,
            **{name: tensors[name] for name in ARRAYS},
            **{name: tuple(stored[name]) for name in ("heads", "roles", "domains", "lengths")},
            "controls": tuple(tuple(labels) for labels in stored["controls"]),
            "prompts": prompts,
            "spots": tuple(Spot(**line) for line in run.read_lines(SPOTS)),
            "drops": tuple(Drop(**line) for line in run.read_lines(DROPS)),
        }
