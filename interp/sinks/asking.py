"""Prompts of a task, or prompts as they are, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.ablation.asking import choose_metric, task_record, tokenised
from interp.hooks.batch import Batch
from interp.hooks.examples import Drop, Example
from interp.hooks.metrics import Metric
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.prompts import Prompts, as_list
from interp.kernels.errors import InterpError
from interp.tasks.base import Task
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts as a model reads them.

    Attributes:
        record: of the task, for the run.
        seed: it was drawn with.
        notes: what the task had to say.
        drops: prompts left out.
    """

    pairs: Pairs
    record: Mapping[str, Any]
    seed: int
    notes: tuple[str, ...]
    drops: tuple[Drop, ...]


def ask(model: HookedModel, prompts: Task | Prompts, *, truncate: bool) -> Asked:
    """Read a task or prompts; answers play no part.

    Raises:
        InterpError: E303 to E313 for the prompts.
    """
    options = {"processor": model.processor, "limit": model.adapter.n_positions, "truncate": truncate}
    if isinstance(prompts, Task):
        found = prompts.examples(model.tokenizer)
        pairs = tokenise(model.tokenizer, found.examples, strict=isinstance(prompts, FileTask), **options)  # type: ignore[arg-type]
        record = {**prompts.to_dict(), "kept": len(pairs), "dropped": len(found.drops) + len(pairs.drops)}
        return Asked(pairs, record, prompts.seed, found.notes, (*found.drops, *pairs.drops))
    given = _from_batch(prompts) if isinstance(prompts, Batch) else as_list(prompts)
    examples = [Example(f"prompt-{i}", text if isinstance(text, str) else _ids(text)) for i, text in enumerate(given)]
    pairs = tokenise(model.tokenizer, examples, **options)  # type: ignore[arg-type]
    if isinstance(prompts, Batch) and prompts.spans:
        pairs = replace(pairs, clean=replace(pairs.clean, spans=_shifted(prompts)))
    return Asked(pairs, {"name": "prompts", "kept": len(pairs), "dropped": 0}, 0, (), ())


def ask_metric(model: HookedModel, task: Task, metric: str | Metric | None, *, truncate: bool) -> tuple[Asked, Metric]:
    """The same with a metric and what it needs.

    Raises:
        InterpError: as `choose_metric`, and E303 to E313 for the prompts.
    """
    measure = choose_metric(model, metric, task)
    found = task.examples(model.tokenizer)
    pairs = tokenised(model, task, found.examples, measure, "", truncate=truncate, first_token=False)
    drops = (*found.drops, *pairs.drops)
    return Asked(pairs, task_record(task, found, pairs, measure), task.seed, found.notes, drops), measure


def _ids(item: Any) -> tuple[int, ...]:
    """Token ids (E303)."""
    ids = item.tolist() if hasattr(item, "tolist") else item
    if not isinstance(ids, Sequence) or not all(isinstance(index, int) for index in ids):
        raise InterpError("E303", f"a prompt of type {type(item).__name__}", fix="prompts are text or token ids")
    return tuple(ids)


def _from_batch(batch: Batch) -> list[tuple[int, ...]]:
    assert batch.mask is not None
    return [tuple(ids[keep].tolist()) for ids, keep in zip(batch.input_ids, batch.mask, strict=True)]


def _shifted(batch: Batch) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Roles of a batch, counted from the first real token of each prompt."""
    starts = batch.first.tolist()
    return {
        role: tuple(tuple(at - start for at in span) for span, start in zip(rows, starts, strict=True))
        for role, rows in batch.spans.items()
    }
