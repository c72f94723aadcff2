"""`Discovery`: the stages of a circuit discovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.asking import prompt_records
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.methods import Method, Settings
from interp.circuits.edges.plan import ALONG_INPUTS, EdgePlan
from interp.circuits.edges.replacements import StandIn, stand_in
from interp.circuits.files import digest
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges, Scores
from interp.circuits.judging.baselines import drawn, shuffled
from interp.circuits.judging.comparison import compared, permuted_scores
from interp.circuits.judging.curves import curve
from interp.circuits.judging.faithfulness import faithfulness
from interp.circuits.judging.selection import SHARES, Selection, sizes, top_n
from interp.circuits.judging.significance import edge_evidence
from interp.circuits.judging.stability import resampled_stability
from interp.circuits.judging.trials import Trials
from interp.circuits.results import RunInfo, environment
from interp.discovery.checks import Checks
from interp.discovery.choice import largest
from interp.discovery.explained import Explained, Subspace, explained
from interp.discovery.exports import read_scores
from interp.discovery.kept import KeptTrials
from interp.discovery.measured import Curves, Measured, Steadiness
from interp.discovery.parts import Without
from interp.discovery.passports import Passports, passports_of
from interp.discovery.planning import planned
from interp.discovery.proof import ProofRow, as_record, prove
from interp.discovery.record import roles_of
from interp.discovery.request import Request
from interp.discovery.result import RANKINGS, Circuit
from interp.discovery.roles import Roles, score_roles
from interp.discovery.sides import Side
from interp.hooks.naive import Progress
from interp.kernels.errors import InterpError
from interp.sweeps.entries import Entry
from interp.sweeps.ledger import Ledger

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ENDS = np.array([0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Discovery:
    """One discovery, stage by stage.

    Attributes:
        roles: scorers that are asked about the circuit's heads.
        ledger: keeps what takes time, in a run with a folder.
    """

    model: HookedModel
    request: Request
    chooses: Side
    judges: Side
    progress: Progress | None = None
    roles: tuple[str, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)

    @cached_property
    def flow(self) -> Flow:
        return Flow.of(self.model).at_places(self.chooses.places)

    @cached_property
    def plan(self) -> EdgePlan | None:
        return self._plan()

    def _plan(self) -> EdgePlan | None:
        """What scoring will hold (E603 a budget that is too small); None without a budget, or where nothing is scored."""
        if self.request.budget is None or self.request.scores is not None:
            return None
        return planned(self.flow, self.chooses, self.request)

    @cached_property
    def stand(self) -> StandIn:
        """What stands in for edges that are out."""
        return stand_in(self.request.ablation, self.flow, self.chooses.posed)

    @cached_property
    def proof(self) -> list[ProofRow]:
        """That edges are taken out as they should be (E404)."""
        return prove(self.flow, self.chooses.posed, self.stand)

    @cached_property
    def choosing(self) -> Trials:
        return self._trials("chooses", self.chooses)

    @cached_property
    def judging(self) -> Trials:
        return self._trials("judges", self.judges)

    def _trials(self, name: str, side: Side) -> Trials:
        size = self.request.batch_size
        return KeptTrials(self.flow, side.posed, self.stand, prompts=size, ledger=self.ledger, side=name)

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """On the prompts that choose and on those that judge, the metric of the model and with no edge in (E407)."""
        return self._ends(self.choosing), self._ends(self.judging)

    def result(self) -> Circuit:
        """All stages."""
        graph, request = self.flow.graph, self.request
        plan, proof = self.plan, self.proof
        ends, _ = self.ends
        per_prompt, forwards = self._scores(plan)
        evidence = edge_evidence(graph, per_prompt, seed=request.seed) if len(per_prompt) > 1 else None
        scores = per_prompt.mean(0) if evidence is None else evidence.mean
        chosen, how = request.choice.select(graph, scores, partial(self._faithful, ends))
        curves = self._curves(scores)
        circuit_values = self.judging([chosen.edges])[0]
        table, notes = self._beside(chosen.edges)
        nothing = np.full_like(scores, np.nan)
        found = Circuit(
            run=self._run_info(proof, how, chosen, forwards, notes, plan),
            graph=graph,
            scores=scores,
            standard_errors=nothing if evidence is None else evidence.standard_error,
            q=nothing if evidence is None else evidence.q,
            edges=chosen.edges,
            curves=curves,
            values=circuit_values,
            random=self._random(int(chosen.edges.sum())),
            without=Without.of(graph, chosen.edges, self.judging, request.n_random, request.seed),
            beside=table,
            prompts=prompt_records(self.model, self.judges.pairs)[self.judges.start : self.judges.stop],
            checks=self._checks(chosen.edges),
            explained=self._explained(scores, chosen.edges),
            stability=self._stability(per_prompt, int(chosen.edges.sum())),
            drops=tuple(dict.fromkeys((*self._drops(self.chooses), *self._drops(self.judges)))),
        )
        found = replace(found, roles=self._roles(found)) if self.roles else found
        return replace(found, passports=self._passports(found)) if request.passports else found

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
        tokens = None if plan is None else plan.tokens
        for start in range(0, len(self.chooses), size):
            stop = min(start + size, len(self.chooses))
            asked = {"what": "scores", "prompts": [start, stop]}
            found = self.ledger.kept(asked, partial(self._batch_scores, start, stop, tokens))
            rows.append(found.arrays["scores"])
            forwards += found.data["forwards"] * (stop - start) / len(self.chooses)
            if self.progress is not None:
                self.progress(stop, len(self.chooses))
        return np.concatenate(rows), forwards

    def _batch_scores(self, start: int, stop: int, tokens: int | None) -> Entry:
        """Scores of some prompts, and what they cost in forwards of one of them."""
        size = self.request.batch_size
        if start % size == 0 and stop == min(start + size, len(self.chooses)):  # these prompts have been recorded
            contrast = self.choosing.contrasts[start // size]
        else:
            contrast = self.stand.contrast(self.flow, self.chooses.posed.rows(start, stop))
        found = self.request.method.run(replace(contrast, tokens=tokens), self.request.settings)
        return Entry({"scores": found.scores.float().cpu().numpy()}, {"forwards": found.forwards})

    def _roles(self, found: Circuit) -> Roles:
        """What scorers call the heads of the circuit."""

        def asked() -> Entry:
            results, refused = score_roles(self.model, self.chooses.task, self.roles)
            return Entry(data=asdict(Roles.of([*found.heads], results, refused)))

        what = {"what": "roles", "scorers": self.roles, "heads": [*found.heads]}
        return roles_of(self.ledger.kept(what, asked).data)

    def _passports(self, found: Circuit) -> Passports:
        """What each question about heads says of each head of the circuit."""
        request, heads = self.request, [*found.heads]

        def asked() -> Entry:
            made = passports_of(self.model, heads, self.chooses.task, request.passports, batch_size=request.batch_size)
            return Entry(data=made.record())

        what = {"what": "passports", "scorers": request.passports, "heads": heads}
        return Passports.from_record(self.ledger.kept(what, asked).data)

    def _checks(self, edges: Edges) -> Checks | None:
        """Further tests, on the prompts that judge."""
        asked = self.request.checks and bool(edges.any())
        return Checks.of(self.flow.graph, edges, self.judging, self.request.seed) if asked else None

    def _explained(self, scores: Scores, edges: Edges) -> tuple[Subspace, ...]:
        """What the strongest edges carry, on as many prompts of either side as go together."""
        asked = largest(scores, edges, self.request.explain)
        return tuple(self._subspace(self.flow.graph.label(*at), float(scores[at])) for at in asked)

    def _subspace(self, edge: str, score: float) -> Subspace:
        """What one edge carries."""

        def asked() -> Entry:
            chosen, judged = self.choosing.contrasts[0], self.judging.contrasts[0]
            found = explained(chosen, judged, edge, score, self.request.seed)
            return Entry({"basis": found.basis}, found.record())

        kept = self.ledger.kept({"what": "explained", "edge": edge}, asked)
        return Subspace(Explained.from_record(kept.data), kept.arrays["basis"])

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
        if method.name in ALONG_INPUTS:  # a pass or two more
            rescored["permuted heads"] = self.ledger.kept({"what": "permuted heads"}, self._permuted).arrays["scores"]
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

    def _permuted(self) -> Entry:
        """Scores of the model whose heads write through each other's weights."""
        score = partial(_mean_scores, self.request.method, self.request.settings)
        return Entry({"scores": permuted_scores(self.judging, score, self.request.seed)})

    def _random(self, n: int) -> np.ndarray:
        """Mean metric of random circuits of n edges."""
        graph = self.flow.graph
        found = drawn(graph, partial(shuffled, graph), [n], self.request.n_random, self.request.seed + 1)
        return self.judging([some[0] for some in found]).mean(1) if found else np.zeros(0)

    def _beside(self, edges: Edges) -> tuple[tuple[Measured, ...], list[str]]:
        """The circuit under other replacements, and notes on those that these prompts do not allow."""
        rows, notes = [], []
        for name in self.request.beside:
            asked = {"what": "beside", "name": name, "edges_sha256": digest(edges.tobytes())}
            found = self.ledger.kept(asked, partial(self._under, name, edges)).data
            rows += [Measured(**row) for row in found["rows"]]
            notes += found["notes"]
        return tuple(rows), notes

    def _under(self, name: str, edges: Edges) -> Entry:
        """The circuit under another replacement, or why these prompts do not allow it."""
        try:
            found = faithfulness(
                self.flow, {"circuit": edges}, self.judges.posed, self.chooses.posed,
                replacements=[name], seed=self.request.seed,
            )  # fmt: skip
        except InterpError as error:
            if error.code != "E205":
                raise
            return Entry(data={"rows": [], "notes": [f"Not judged under {name}: {error.what}."]})
        return Entry(data={"rows": [asdict(Measured.of(row)) for row in found.rows], "notes": []})

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
