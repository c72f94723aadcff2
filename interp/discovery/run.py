"""Circuit discovery: score every edge, choose a circuit, and judge it on prompts that had no part in choosing it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.asking import prompt_records
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.methods import Method, Settings
from interp.circuits.edges.plan import PLANNED, EdgePlan, Shape
from interp.circuits.edges.plan import plan as planned
from interp.circuits.edges.replacements import StandIn, stand_in
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges, Scores
from interp.circuits.judging.baselines import drawn, shuffled
from interp.circuits.judging.comparison import compared, permuted_scores
from interp.circuits.judging.curves import curve
from interp.circuits.judging.faithfulness import Row, faithfulness
from interp.circuits.judging.selection import SHARES, Selection, sizes, top_n
from interp.circuits.judging.significance import edge_evidence
from interp.circuits.judging.stability import resampled_stability
from interp.circuits.judging.trials import Trials
from interp.circuits.results import RunInfo, environment
from interp.discovery.checks import Checks
from interp.discovery.choice import Choice
from interp.discovery.exports import read_scores
from interp.discovery.measured import Curves, Measured, Steadiness
from interp.discovery.proof import as_record, prove
from interp.discovery.request import Request
from interp.discovery.result import RANKINGS, Circuit
from interp.discovery.sides import Side, both_sides
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.kernels.errors import InterpError
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BESIDE = ("zero", "mean", "mean-positional")
ENDS = np.array([0.0, 1.0])


def circuit(
    model: HookedModel,
    task: Task,
    *,
    method: str = "eap-ig",
    ablation: str = "resample",
    size: float | int | None = None,
    threshold: float | None = None,
    faithful: float | None = None,
    absolute: bool = True,
    positions: str = "none",
    judge: Task | None = None,
    scores: str | Path | None = None,
    metric: str | Metric | None = None,
    settings: Settings | None = None,
    beside: Sequence[str] = BESIDE,
    n_random: int = 100,
    n_curve: int = 10,
    checks: bool = False,
    batch_size: int = 32,
    budget: int | None = None,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Circuit:
    """Find the edges of a model that do a task, and judge them.

    Args:
        method: how edges are scored, a name in `interp.circuits.edges.methods.METHODS`.
        ablation: what stands in where an edge is out: 'resample' (the corrupt prompt), 'zero', 'mean', ...
        size: of the circuit, a share of all edges (below 1) or their number.
        threshold: smallest score of an edge in the circuit, in units of the metric.
        faithful: choose the smallest size at which the circuit keeps this share of the metric's gap, on the prompts that
            choose. 0.85 where none of the three is given.
        absolute: rank edges by the size of their score, so that edges that hurt are in the circuit too.
        positions: 'none': all positions share edges; 'roles': each role of the task has edges of its own, and so has the
            rest; 'all': each position has.
        judge: prompts that judge; None draws others of the same task, and takes the second half of a file.
        scores: a file of another tool that holds the scores of all edges (see `interp.discovery.exports`); nothing is
            scored then.
        metric: a name in `interp.hooks.metrics`; None is the task's own.
        settings: of the method, see `interp.circuits.edges.methods.Settings`; each method reads its own.
        beside: other replacements that the finished circuit is judged under.
        n_random: random circuits of the circuit's size.
        n_curve: random circuits of each size of the curve.
        checks: test hypotheses about the circuit, and search the model for parts that stand in for each other; minutes.
        batch_size: prompts that are scored at a time.
        budget: MiB that scoring may hold beside the weights; fewer prompts go together where it asks for that. What is
            held is planned before anything runs, for methods that take gradients along a path of embeddings.
        seed: of intervals and random circuits.
        command: what a reader can type to repeat the run.
        progress: called with (prompts scored, all of them).

    Raises:
        InterpError: E201 unknown name; E203, E205 settings that do not fit; E303 to E313 for the prompts; E402, E407 a
            metric that is not defined, has no gradient, or has no gap between the model and the model without edges;
            E403 a model that cannot be taken apart; E404 edges are not taken out as they should be; E603 a budget that
            does not hold one prompt.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    if size is None and threshold is None and faithful is None:
        faithful = 0.85
    choice = Choice(size, threshold, faithful, absolute)
    request = Request.make(
        method, settings or Settings(seed=seed), seed, ablation=ablation, choice=choice, positions=positions,
        beside=tuple(name for name in beside if name != ablation), n_random=n_random, n_curve=n_curve,
        checks=checks, batch_size=batch_size, budget=budget,
    )  # fmt: skip
    chooses, judges = both_sides(
        model, task, judge, metric, ablation, positions, truncate=truncate, first_token=first_token
    )
    if scores is not None:
        request = request.with_scores(scores)
    found = Discovery(model, request, chooses, judges, progress).result()
    run = replace(found.run, command=command, started=started, seconds=round(time.monotonic() - clock, 3))
    return replace(found, run=run)


@dataclass(frozen=True, eq=False)
class Discovery:
    """One discovery, stage by stage."""

    model: HookedModel
    request: Request
    chooses: Side
    judges: Side
    progress: Progress | None = None

    @cached_property
    def flow(self) -> Flow:
        flow = Flow.of(self.model)
        return replace(flow, graph=flow.graph.at_places(self.chooses.places))

    def _plan(self) -> EdgePlan | None:
        """What scoring will hold (E603 a budget that is too small); None without a budget, or where nothing is scored."""
        request, flow = self.request, self.flow
        if request.budget is None or request.scores is not None:
            return None
        width = int(self.chooses.pairs.clean.input_ids.shape[1])
        return planned(
            flow.graph, Shape.of(flow), prompts=len(self.chooses), width=width, method=request.method.name,
            settings=request.settings, paired=request.ablation == "resample",
            behind_norm=any(norm is not None for norm in flow.norms.values()), budget=request.budget << 20,
        )  # fmt: skip

    @cached_property
    def stand(self) -> StandIn:
        """What stands in for edges that are out."""
        return stand_in(self.request.ablation, self.flow, self.chooses.posed)

    @cached_property
    def choosing(self) -> Trials:
        return Trials(self.flow, self.chooses.posed, self.stand, prompts=self.request.batch_size)

    @cached_property
    def judging(self) -> Trials:
        return Trials(self.flow, self.judges.posed, self.stand, prompts=self.request.batch_size)

    def result(self) -> Circuit:
        """All stages."""
        graph, request = self.flow.graph, self.request
        plan = self._plan()
        proof = prove(self.flow, self.chooses.posed, self.stand)
        ends = self._ends(self.choosing)
        self._ends(self.judging)
        per_prompt, forwards = self._scores(plan)
        evidence = edge_evidence(graph, per_prompt, seed=request.seed) if len(per_prompt) > 1 else None
        scores = per_prompt.mean(0) if evidence is None else evidence.mean
        chosen, how = request.choice.select(graph, scores, partial(self._faithful, ends))
        curves = self._curves(scores)
        circuit_values = self.judging([chosen.edges])[0]
        table, notes = self._beside(chosen.edges)
        nothing = np.full_like(scores, np.nan)
        return Circuit(
            run=self._run_info(proof, how, chosen, forwards, notes, plan),
            graph=graph,
            scores=scores,
            standard_errors=nothing if evidence is None else evidence.standard_error,
            q=nothing if evidence is None else evidence.q,
            edges=chosen.edges,
            curves=curves,
            values=circuit_values,
            random=self._random(int(chosen.edges.sum())),
            beside=table,
            prompts=prompt_records(self.model, self.judges.pairs)[self.judges.start : self.judges.stop],
            checks=self._checks(chosen.edges),
            stability=self._stability(per_prompt, int(chosen.edges.sum())),
            drops=tuple(dict.fromkeys((*self._drops(self.chooses), *self._drops(self.judges)))),
        )

    def _ends(self, trials: Trials) -> np.ndarray:
        """The metric of the model and with no edge in (E407 where the two are not told apart)."""
        ends = trials([self.flow.graph.full, self.flow.graph.none])
        curve(ends[::-1], ends[0], ends[1], ENDS, ENDS, seed=self.request.seed)
        return ends

    def _drops(self, side: Side) -> Sequence[Any]:
        return (*side.found.drops, *side.pairs.drops)

    def _scores(self, plan: EdgePlan | None) -> tuple[np.ndarray, float]:
        """Scores prompt by prompt (one row for methods that have none), and what they cost in forwards of a prompt."""
        if self.request.scores is not None:
            return read_scores(self.request.scores, self.flow.graph).scores.astype(np.float32)[None], 0.0
        method: Method = self.request.method
        rows, forwards = [], 0.0
        size = self.request.batch_size if method.by_prompt else len(self.chooses)
        size = size if plan is None else min(size, plan.batch)
        same = size == self.request.batch_size  # then these prompts have been recorded
        trials = self.choosing if same else Trials(self.flow, self.chooses.posed, self.stand, prompts=size)
        done = 0
        for contrast in trials.contrasts:
            found, n = method.run(contrast, self.request.settings), contrast.question.batch.size
            rows.append(found.scores.float().cpu().numpy())
            forwards += found.forwards * n / len(self.chooses)
            done += n
            if self.progress is not None:
                self.progress(done, len(self.chooses))
        return np.concatenate(rows), forwards

    def _checks(self, edges: Edges) -> Checks | None:
        """Further tests, on the prompts that judge."""
        asked = self.request.checks and bool(edges.any())
        return Checks.of(self.flow.graph, edges, self.judging, self.request.seed) if asked else None

    def _stability(self, per_prompt: np.ndarray, n: int) -> Steadiness | None:
        """Of the best edges, as many as the circuit has; None where scores do not come prompt by prompt."""
        if len(per_prompt) < 4 or not n:
            return None
        graph, choice = self.flow.graph, self.request.choice
        found = resampled_stability(graph, per_prompt, n, absolute=choice.absolute, seed=self.request.seed)
        low, high = np.quantile(found.jaccard, [0.025, 0.975])
        return Steadiness(
            n, float(found.jaccard.mean()), float(low), float(high), found.chance, float(found.spearman.mean())
        )

    def _faithful(self, ends: np.ndarray, circuits: Sequence[Edges]) -> np.ndarray:
        """Share of the gap that circuits keep on the prompts that choose."""
        full, empty = ends.mean(1)
        return (self.choosing(circuits).mean(1) - empty) / (full - empty)

    def _curves(self, scores: Scores) -> Curves:
        """The metric at every size, for both rankings, beside what says nothing of the mechanism."""
        graph, request, method = self.flow.graph, self.request, self.request.method
        shares = [share for share, n in zip(SHARES, sizes(graph), strict=True) if n >= 1]
        wanted = [int(share * graph.n_edges) for share in shares]
        found = {name: [top_n(graph, scores, n, absolute=name == "absolute") for n in wanted] for name in RANKINGS}
        rescored = {}
        if method.name in PLANNED:  # a pass or two more
            score = partial(_mean_scores, method, request.settings)
            rescored["permuted heads"] = permuted_scores(self.judging, score, request.seed)
        held = compared(
            self.judging,
            found["absolute"],
            scores,
            rescored=rescored,
            n_random=request.n_curve,
            seed=request.seed,
        )
        values = np.stack([held.values, self.judging([one.edges for one in found["signed"]])])
        actual = np.array([[one.actual for one in found[name]] for name in RANKINGS])
        beside = {name: band.f for name, band in held.bands.items()}
        beside |= {name: one.f[None] for name, one in held.others.items()}
        return Curves(np.array(shares), actual, values, held.full, held.empty, beside)

    def _random(self, n: int) -> np.ndarray:
        """Mean metric of random circuits of n edges."""
        graph = self.flow.graph
        found = drawn(graph, partial(shuffled, graph), [n], self.request.n_random, self.request.seed + 1)
        return self.judging([some[0] for some in found]).mean(1) if found else np.zeros(0)

    def _beside(self, edges: Edges) -> tuple[tuple[Measured, ...], list[str]]:
        """The circuit under other replacements, and notes on those that these prompts do not allow."""
        rows: list[Row] = []
        notes = []
        for name in self.request.beside:
            try:
                found = faithfulness(
                    self.flow, {"circuit": edges}, self.judges.posed, self.chooses.posed,
                    replacements=[name], seed=self.request.seed,
                )  # fmt: skip
            except InterpError as error:
                if error.code != "E205":
                    raise
                notes.append(f"Not judged under {name}: {error.what}.")
                continue
            rows += found.rows
        return tuple(Measured.of(row) for row in rows), notes

    def _run_info(
        self, proof: Any, how: str, chosen: Selection, forwards: float, notes: Sequence[str], plan: EdgePlan | None
    ) -> RunInfo:
        sides = (self.chooses, self.judges)
        told = (note for side in sides for note in (*side.found.notes, *side.pairs.warnings))
        lost = chosen.asked - chosen.actual
        pruned = (f"{lost} of {chosen.asked} chosen edges lead nowhere and were taken out.",) if lost else ()
        return RunInfo(
            model=self.model.describe(),
            task=self.chooses.record(),
            method={
                "kind": Circuit.kind, **self.request.record(), "judge": self.judges.record(), "chosen": how,
                "forwards": round(forwards, 3), "plan": "" if plan is None else str(plan), "taken_from": self.stand.taken_from, "d_model": self.model.w_out(0).shape[-1],
            },
            seeds={"task": self.chooses.task.seed, "judge": self.judges.task.seed, "evidence": self.request.seed},
            versions=environment(),
            certificate=self.model.certificate.to_dict(),
            canary=as_record(proof, self.flow),
            warnings=tuple(dict.fromkeys((*told, *pruned, *notes))),
        )  # fmt: skip


def _mean_scores(method: Method, settings: Settings, contrast: Contrast) -> Scores:
    """Of some prompts."""
    found: Scores = method.run(contrast, settings).scores.double().mean(0).cpu().numpy()
    return found
