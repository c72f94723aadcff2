"""`BothRuns`: the clean and the corrupt run of a task's pairs, one of which is patched with the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ablation.asking import choose_metric, task_record, tokenised
from interp.ablation.shared import Shared
from interp.circuits.results import RunInfo, environment
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress, batches, plain_outputs
from interp.hooks.pairs import Pairs
from interp.hooks.probe import CanaryRow
from interp.kernels.errors import InterpError, suggest
from interp.patching.cells import Cell, is_there
from interp.sweeps.rerun import narrowed
from interp.tasks.base import Task, TaskExamples

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Direction = Literal["denoise", "noise"]
DIRECTIONS = {
    "denoise": "the corrupt run, with clean activations put in",
    "noise": "the clean run, with corrupt activations put in",
}
Outputs = Iterator[tuple[Sequence[int], Float[Tensor, "cell batch d_out"], Float[Tensor, "batch d_out"]]]
"""Numbers of some cells, what the metric sees of them, and what it sees of the run without patches, computed alike."""

Make = Callable[[Batch, Batch, int, int, "Int[Tensor, ' column'] | None"], Outputs]
"""(base, source, start, stop, columns) of a batch -> what its patched runs put out."""


@dataclass(frozen=True, eq=False)
class Values:
    """The metric of both runs and of every patched one, always with the answers of the clean prompts.

    Attributes:
        cells: nan where a prompt does not have the place.
    """

    clean: Float[np.ndarray, " prompt"]
    corrupt: Float[np.ndarray, " prompt"]
    cells: Float[np.ndarray, "cell prompt"]


@dataclass(frozen=True, eq=False)
class BothRuns:
    """Made by `BothRuns.make`.

    Attributes:
        found: what the task gave.
        pairs: its prompts as the model reads them, each with its corrupt one.
        shared: the clean run.
    """

    model: HookedModel
    task: Task
    direction: Direction
    metric: Metric
    found: TaskExamples
    pairs: Pairs
    shared: Shared

    @classmethod
    def make(
        cls,
        model: HookedModel,
        task: Task,
        direction: str,
        metric: str | Metric | None,
        batch_size: int,
        *,
        truncate: bool,
        first_token: bool,
    ) -> BothRuns:
        """Read the pairs.

        Raises:
            InterpError: E201 no such direction; E303 to E313 for the prompts; E402, E407 for the metric.
        """
        if direction not in get_args(Direction):
            raise InterpError("E201", f"no direction {direction!r}", fix=suggest(direction, get_args(Direction)))
        measure = choose_metric(model, metric, task)
        found = task.examples(model.tokenizer)
        pairs = tokenised(model, task, found.examples, measure, "resample", truncate=truncate, first_token=first_token)
        assert pairs.corrupt is not None
        if model.adapter.answers_at_mask and measure.kind == "logits":
            _check_masks(pairs)
        shared = Shared(model, pairs, measure, batch_size)
        return cls(model, task, direction, measure, found, pairs, shared)  # type: ignore[arg-type]

    def sides(self, start: int, stop: int) -> dict[str, Batch]:
        """'clean' and 'corrupt' prompts start to stop; roles are where the clean prompts have them."""
        clean, corrupt = self.pairs.clean, self.pairs.corrupt
        assert corrupt is not None
        found = {"clean": clean, "corrupt": replace(corrupt, spans=clean.spans)}
        return {name: batch.rows(start, stop).to(self.model.device) for name, batch in found.items()}

    def values(self, make: Make, cells: Sequence[Cell], positions: Positions, progress: Progress | None) -> Values:
        """The metric of every cell and prompt, and of both runs.

        The run that is patched is measured as the patched ones are: a patch that changes nothing gives its value exactly.

        Args:
            make: patched runs of one batch.
            cells, positions: of the whole result.
            progress: called with (cells times batches done, all of them).
        """
        spans = list(batches(len(self.pairs), self.shared.batch_size))
        n, done = len(cells), 0
        values, own = np.full((n, len(self.pairs)), np.nan), np.full(len(self.pairs), np.nan)
        for start, stop in spans:
            columns, question = narrowed(self.shared.question, start, stop)
            base, source = (self.sides(start, stop)[name] for name in self.names)
            for numbers, outputs, unpatched in make(base, source, start, stop, columns):
                reference = self._reference(unpatched, start, stop)
                own[start:stop] = question.measure(unpatched, start, stop, reference).double().numpy()
                for number, output in zip(numbers, outputs, strict=True):
                    values[number, start:stop] = question.measure(output, start, stop, reference).double().numpy()
                done += len(numbers)
                if progress is not None:
                    progress(done, n * len(spans))
        both = dict(zip(self.names, (own, self._other()), strict=True))
        return Values(**both, cells=np.where(is_there(cells, positions, self.pairs), values, np.nan))

    def _reference(
        self, unpatched: Float[Tensor, "batch d_out"], start: int, stop: int
    ) -> Float[Tensor, "batch d_out"] | None:
        """Output of the clean run, where the metric compares with it."""
        if "reference" not in self.metric.needs:
            return None
        return unpatched if self.names[0] == "clean" else self.shared.clean[start:stop]

    def _other(self) -> Float[np.ndarray, " prompt"]:
        """Metric of the run that activations are taken from."""
        shared, question = self.shared, self.shared.question
        if self.names[1] == "clean":
            return shared.baseline.numpy()
        assert self.pairs.corrupt is not None
        output = plain_outputs(self.model, self.pairs.corrupt, question.read_at, shared.batch_size)
        reference = shared.clean if "reference" in self.metric.needs else None
        return question.measure(output, 0, len(self.pairs), reference).double().numpy()

    @property
    def names(self) -> tuple[str, str]:
        """The run that is measured, and the run that activations are taken from."""
        return ("corrupt", "clean") if self.direction == "denoise" else ("clean", "corrupt")

    def run_info(
        self,
        method: Mapping[str, Any],
        proof: Sequence[CanaryRow],
        warnings: Sequence[str],
        seed: int,
        **rest: Any,
    ) -> RunInfo:
        """Provenance; `rest` are further fields."""
        told = (*self.found.notes, *self.pairs.warnings, *_moved_roles(self.pairs), *warnings)
        return RunInfo(
            model=self.model.describe(),
            task=task_record(self.task, self.found, self.pairs, self.metric),
            method={"direction": self.direction, "batch_size": self.shared.batch_size, **method},
            seeds={"task": self.task.seed, "evidence": seed},
            versions=environment(),
            certificate=self.model.certificate.to_dict(),
            canary={"rows": [row.to_dict() for row in proof], "fired": "once a forward, checked at every forward"},
            warnings=tuple(dict.fromkeys(told)),
            **rest,
        )


def _moved_roles(pairs: Pairs) -> tuple[str, ...]:
    """A note where the corrupt prompts have a role at other tokens than the clean ones."""
    assert pairs.corrupt is not None
    found = []
    for role, spans in pairs.clean.spans.items():
        others = pairs.corrupt.spans.get(role, spans)
        if moved := sum(one != other for one, other in zip(spans, others, strict=True)):
            found.append(f"Role {role!r} is at other tokens in {moved} corrupt prompts; the clean prompt decides.")
    return tuple(found)


def _check_masks(pairs: Pairs) -> None:
    """Raise E303 unless both prompts of each pair ask at the same token."""
    assert pairs.corrupt is not None
    rows = torch.arange(len(pairs))
    asked = [batch.input_ids[rows, pairs.read_at] for batch in (pairs.clean, pairs.corrupt)]
    if bool((asked[0] != asked[1]).any()):
        row = int((asked[0] != asked[1]).int().argmax())
        example = pairs.examples[row]
        raise InterpError(
            "E303",
            f"{example.id}: clean and corrupt prompt ask at different tokens",
            where=example.where,
            fix="write the mask at the same place in both",
        )
