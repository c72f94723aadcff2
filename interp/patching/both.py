"""`BothRuns`: the clean and the corrupt run of a task's pairs, one of which is patched with the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ablation.asking import choose_metric, tokenised
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
from interp.tasks.base import Task, TaskExamples

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Direction = Literal["denoise", "noise"]
DIRECTIONS = {
    "denoise": "the corrupt run, with clean activations put in",
    "noise": "the clean run, with corrupt activations put in",
}
Outputs = Iterator[tuple[Sequence[int], Float[Tensor, "cell batch d_out"]]]
"""Numbers of some cells, and what the metric sees of them."""

Make = Callable[[Batch, Batch, int, int, "Int[Tensor, ' column'] | None"], Outputs]
"""(base, source, start, stop, columns) of a batch -> what its patched runs put out."""


@dataclass(frozen=True, eq=False)
class BothRuns:
    """Made by `BothRuns.make`.

    Attributes:
        found: what the task gave.
        pairs: its prompts as the model reads them, each with its corrupt one.
        shared: the clean run.
        corrupt: metric of the corrupt run, with the answers of the clean prompts.
    """

    model: HookedModel
    task: Task
    direction: Direction
    metric: Metric
    found: TaskExamples
    pairs: Pairs
    shared: Shared
    corrupt: Float[np.ndarray, " prompt"]

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
        """Read the pairs and run both sides.

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
        question = shared.question
        output = plain_outputs(model, pairs.corrupt, question.read_at, batch_size)
        corrupt = question.measure(output, 0, len(pairs), shared.clean).double().numpy()
        return cls(model, task, direction, measure, found, pairs, shared, corrupt)  # type: ignore[arg-type]

    @property
    def clean(self) -> Float[np.ndarray, " prompt"]:
        """Metric of the clean run."""
        return self.shared.baseline.numpy()

    def sides(self, start: int, stop: int) -> dict[str, Batch]:
        """'clean' and 'corrupt' prompts start to stop; roles are where the clean prompts have them."""
        clean, corrupt = self.pairs.clean, self.pairs.corrupt
        assert corrupt is not None
        found = {"clean": clean, "corrupt": replace(corrupt, spans=clean.spans)}
        return {name: batch.rows(start, stop).to(self.model.device) for name, batch in found.items()}

    def values(
        self, make: Make, cells: Sequence[Cell], positions: Positions, progress: Progress | None
    ) -> Float[np.ndarray, "cell prompt"]:
        """The metric of every cell and prompt; nan where a prompt does not have the place.

        Args:
            make: patched runs of one batch.
            cells, positions: of the whole result.
            progress: called with (cells times batches done, all of them).
        """
        spans = list(batches(len(self.pairs), self.shared.batch_size))
        n, done = len(cells), 0
        values = np.full((n, len(self.pairs)), np.nan)
        for start, stop in spans:
            sides, columns = self.sides(start, stop), self._columns(start, stop)
            base, source = (sides[name] for name in self.names)
            for numbers, outputs in make(base, source, start, stop, columns):
                for number, output in zip(numbers, outputs, strict=True):
                    values[number, start:stop] = self._measure(output, start, stop, columns)
                done += len(numbers)
                if progress is not None:
                    progress(done, n * len(spans))
        return np.where(is_there(cells, positions, self.pairs), values, np.nan)

    @property
    def names(self) -> tuple[str, str]:
        """The run that is measured, and the run that activations are taken from."""
        return ("corrupt", "clean") if self.direction == "denoise" else ("clean", "corrupt")

    def _columns(self, start: int, stop: int) -> Int[Tensor, " column"] | None:
        if self.metric.reads_all:
            return None
        question = self.shared.question
        assert question.answer is not None and question.distractor is not None
        ids = torch.cat([question.answer[start:stop].flatten(), question.distractor[start:stop].flatten()]).unique()
        return ids[ids >= 0]

    def _measure(
        self, output: Float[Tensor, "batch d_out"], start: int, stop: int, columns: Int[Tensor, " column"] | None
    ) -> Float[np.ndarray, " batch"]:
        question = self.shared.question
        if columns is None:
            found = question.measure(output, start, stop, self.shared.clean[start:stop])
        else:
            ids = (question.answer, question.distractor)
            found = self.metric(output, *(_in_columns(one[start:stop], columns) for one in ids if one is not None))
        return found.double().numpy()

    def run_info(
        self,
        method: Mapping[str, Any],
        proof: Sequence[CanaryRow],
        warnings: Sequence[str],
        seed: int,
        **rest: Any,
    ) -> RunInfo:
        """Provenance; `rest` are further fields."""
        metric = self.metric
        task = {
            **self.task.to_dict(),
            "metric": metric.name,
            "metric_unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "kept": len(self.pairs),
            "dropped": len(self.found.drops) + len(self.pairs.drops),
        }
        told = (*self.found.notes, *self.pairs.warnings, *_moved_roles(self.pairs), *warnings)
        return RunInfo(
            model=self.model.describe(),
            task=task,
            method={"direction": self.direction, "batch_size": self.shared.batch_size, **method},
            seeds={"task": self.task.seed, "evidence": seed},
            versions=environment(),
            certificate=self.model.certificate.to_dict(),
            canary={"rows": [row.to_dict() for row in proof], "fired": "once a forward, checked at every forward"},
            warnings=tuple(dict.fromkeys(told)),
            **rest,
        )


def _in_columns(ids: Tensor, columns: Int[Tensor, " column"]) -> Tensor:
    """Places of token ids among the columns; -1 stays."""
    return torch.where(ids < 0, -1, torch.searchsorted(columns, ids.clamp(min=0)))


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
