"""`Study`: an ablation with everything fixed before the first head is taken away, and everything that is said after it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from interp.ablation.asking import (
    choose_metric,
    finite_notes,
    prompt_records,
    shown_patterns,
    task_record,
    tokenised,
)
from interp.ablation.result import AblationResult
from interp.ablation.settings import OPERATORS, Settings
from interp.ablation.shared import Controls, Shared
from interp.circuits.results import RunInfo, environment
from interp.hooks.interventions import Ablate
from interp.hooks.metrics import Metric
from interp.hooks.names import parse_head, parse_heads
from interp.hooks.pairs import Pairs
from interp.hooks.probe import CanaryRow, canary
from interp.sweeps.code import code_version
from interp.sweeps.job import Job, make_work
from interp.sweeps.rerun import RerunWork
from interp.sweeps.units import CHUNK, Unit, cut
from interp.sweeps.work import NaiveWork
from interp.tasks.base import Task, TaskExamples

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Study:
    """Made by `Study.make`.

    Attributes:
        found: what the task gave.
        pairs: its prompts as the model reads them.
        proof: canary of the edits.
        controls: heads that are measured, and controls of each.
        job: prompts, metric and one variant a measured head.
        work: what computes the job in this process; it keeps what it recorded for the baseline.
        way: how it will be computed, in words.
    """

    model: HookedModel
    task: Task
    settings: Settings
    metric: Metric
    found: TaskExamples
    pairs: Pairs
    proof: tuple[CanaryRow, ...]
    controls: Controls
    job: Job
    work: NaiveWork | RerunWork
    way: str
    command: str = ""

    @classmethod
    def make(
        cls, model: HookedModel, task: Task, settings: Settings, metric: str | Metric | None = None, command: str = ""
    ) -> Study:
        """Read the prompts, prove that edits land, run the clean model and choose controls.

        Args:
            metric: instead of the one that the settings name, a metric that is not in the registry.
            command: what a reader can type to repeat the run.

        Raises:
            InterpError: as `interp.ablate`.
        """
        chosen = parse_heads(settings.heads, model.heads)
        found = task.examples(model.tokenizer)
        measure = choose_metric(model, metric or settings.metric, task)
        asked = {"truncate": settings.truncate, "first_token": settings.first_token}
        pairs = tokenised(model, task, found.examples, measure, settings.operator, **asked)
        proof = canary(model, settings.point, chosen, pairs.clean)
        shared = Shared(model, pairs, measure, settings.batch_size)
        controls = Controls.match(shared, chosen, settings.n_controls)
        variants = tuple(
            Ablate(heads=(head,), operator=settings.bare_operator, reference=reference, positions=settings.positions)
            for head, reference in shared.references(controls.measured, settings.operator)
        )
        how = (settings.engine, settings.memory)
        work = make_work(model, shared.question, variants, settings.batch_size, *how)
        job = Job(shared.question, variants, settings.batch_size, torch.from_numpy(work.baseline()), *how)
        return cls(
            model, task, settings, measure, found, pairs, proof, controls, job, work, work.description(), command
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(head.label for head in self.controls.measured)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        return tuple(example.id for example in self.pairs.examples)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        layers = [parse_head(label).layer for label in self.labels]
        return cut(len(self.pairs), self.settings.batch_size, layers)

    def config(self, threads: int) -> dict[str, Any]:
        """Everything that decides the numbers of the sweep; how it is sharded and by whom it is computed does not."""
        about = self.model.describe()
        asked = (
            "operator",
            "positions",
            "n_controls",
            "batch_size",
            "seed",
            "truncate",
            "first_token",
            "engine",
            "memory",
        )
        return {
            "code": code_version(),
            "model": {
                **{name: about[name] for name in ("architecture", "dtype", "attention")},
                "device": self.model.device.type,
                **(self.model.source or {"weights_sha256": weights_digest(self.model)}),
            },
            "task": {**self.task.to_dict(), "metric": self.metric.name},
            "prompts": {"rows": len(self.pairs), "sha256": self.job.prompts_digest()},
            "heads": self.labels,
            "intervention": {name: getattr(self.settings, name) for name in asked},
            "references": sorted(self.job.references),
            "baseline_sha256": hashlib.sha256(self.job.baseline.numpy().tobytes()).hexdigest(),
            "chunk": CHUNK,
            "threads": threads,
        }

    def result(
        self,
        values: Float[np.ndarray, "head prompt"],
        *,
        started: str,
        seconds: float,
        sweep: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> AblationResult:
        """What the table says, with where it comes from.

        Args:
            sweep: what it cost, against what was expected.
            notes: on the way it was computed.
        """
        patterns, pattern_notes = shown_patterns(
            self.model, self.pairs, self.controls.measured, self.settings.shown_prompts
        )
        warnings = (
            *self.found.notes,
            *self.pairs.warnings,
            *pattern_notes,
            *self.controls.notes,
            *finite_notes(self.model, self.pairs, torch.from_numpy(values), self.job.baseline),
            *notes,
        )
        return AblationResult(
            run=self._run(tuple(dict.fromkeys(warnings)), started, seconds),
            heads=self.labels,
            prompts=prompt_records(self.model, self.pairs),
            baseline=self.job.baseline.numpy(),
            values=values,
            controls=self.controls.labels,
            drops=(*self.found.drops, *self.pairs.drops),
            patterns=patterns,
            sweep=sweep or {},
        )

    def _run(self, warnings: tuple[str, ...], started: str, seconds: float) -> RunInfo:
        """Provenance."""
        settings = self.settings
        positions = settings.positions
        return RunInfo(
            model=self.model.describe(),
            task=task_record(self.task, self.found, self.pairs, self.metric),
            method={
                "kind": "ablation",
                "operator": settings.operator,
                "description": OPERATORS[settings.operator],
                "positions": list(positions) if isinstance(positions, tuple) else positions,
                "heads": list(settings.heads),
                "n_controls": settings.n_controls,
                "batch_size": settings.batch_size,
                "sweep": self.way,
            },
            seeds={"task": self.task.seed, "evidence": settings.seed},
            versions=environment(),
            certificate=self.model.certificate.to_dict(),
            canary={
                "point": settings.point,
                "rows": [row.to_dict() for row in self.proof],
                "fired": "once a forward, checked at every forward",
            },
            warnings=warnings,
            command=self.command,
            started=started,
            seconds=seconds,
        )


def weights_digest(model: HookedModel) -> str:
    """SHA-256 over the weights of a model that came from no file."""
    sha = hashlib.sha256()
    state = model.adapter.model.state_dict()  # type: ignore[attr-defined]
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
