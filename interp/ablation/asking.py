"""What is asked of a model and shown of the answer: its metric, its prompts, the patterns and prompts of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.prompt_results import PromptRecord
from interp.hooks.metrics import Metric
from interp.hooks.metrics import metric as find_metric
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs, piece, tokenise
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def choose_metric(model: HookedModel, name: str | Metric | None, task: Task) -> Metric:
    """The metric asked for, or the task's own; refused where this model cannot give it.

    Raises:
        InterpError: E402 the output layer was never trained; E407 the model has no such output.
    """
    output = model.adapter.output_name
    default = task.metric if output == "logits" else "cosine"
    metric = find_metric(name or default)
    if metric.kind == "logits" and not model.has_trained_head:
        raise InterpError(
            "E402",
            f"metric {metric.name!r} reads logits, but the output layer of {model.name} was not in the files and is random",
            fix="use --metric cosine on the encoder, or a checkpoint with its head",
        )
    if (metric.kind == "logits") != (output == "logits"):
        allowed = (
            "logits: use a metric such as logit_diff"
            if output == "logits"
            else "embeddings and no logits: use --metric cosine"
        )
        raise InterpError(
            "E402" if output != "logits" else "E407",
            f"metric {metric.name!r} is not defined on {model.name}, whose output is {output}",
            fix=f"this model gives {allowed}",
        )
    return metric


def tokenised(
    model: HookedModel, task: Task, examples: Any, metric: Metric, operator: str, *, truncate: bool, first_token: bool
) -> Pairs:
    """The task's prompts as this model reads them. A user's file is refused with all its mistakes; a generator drops."""
    needs = set(metric.needs & {"answer", "distractor"}) | ({"corrupt"} if operator == "resample" else set())
    return tokenise(
        model.tokenizer,
        examples,
        processor=model.processor,
        needs=frozenset(needs),
        at_mask=metric.kind == "logits" and model.adapter.answers_at_mask,
        limit=model.adapter.n_positions,
        truncate=truncate,
        first_token=first_token,
        strict=isinstance(task, FileTask),
    )


def task_record(task: Task, found: TaskExamples, pairs: Pairs, metric: Metric) -> dict[str, Any]:
    """`RunInfo.task`: what was asked of how many prompts."""
    return {
        **task.to_dict(),
        "metric": metric.name,
        "metric_unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "kept": len(pairs),
        "dropped": len(found.drops) + len(pairs.drops),
    }


def shown_patterns(
    model: HookedModel, pairs: Pairs, heads: tuple[HeadId, ...], n: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Attention of the measured heads on the first prompts, or the reason why there is none."""
    names = sorted({point_name("attn.hook_pattern", head.layer, head.tower) for head in heads})
    refused = [name for name in names if name in model.adapter.refused]
    if refused:
        return {}, (f"No attention patterns: {model.adapter.refused[refused[0]]}.",)
    shown = {}
    for row in range(min(n, len(pairs))):
        part = pairs.clean.rows(row, row + 1)
        _, cache = model.run_with_cache(part, names)
        length = len(pairs.tokens[row])
        maps = [
            cache[point_name("attn.hook_pattern", head.layer, head.tower)][0, head.head, :length, :length]
            for head in heads
        ]
        shown[pairs.examples[row].id] = torch.stack(maps).float().cpu().numpy()
    return shown, ()


def prompt_records(model: HookedModel, pairs: Pairs) -> tuple[PromptRecord, ...]:
    """The prompts as the report shows them."""

    def word(ids: Tensor | None, row: int) -> str:
        """The answer as text; of several, the first and the last."""
        if ids is None:
            return ""
        options = [piece(model.tokenizer, token) for token in ids[row].flatten().tolist() if token >= 0]
        return options[0] if len(options) == 1 else f"{options[0]} ...{options[-1]}"

    return tuple(
        PromptRecord(example.id, pairs.tokens[row], word(pairs.answer, row), word(pairs.distractor, row))
        for row, example in enumerate(pairs.examples)
    )


def finite_notes(
    model: HookedModel, pairs: Pairs, values: Float[Tensor, "head prompt"], baseline: Float[Tensor, " prompt"]
) -> tuple[str, ...]:
    """How many numbers are not finite, and the first layer where that starts in the clean run."""
    bad = int((~(values.isfinite() & baseline.isfinite())).sum())
    if not bad:
        return ()
    rows = pairs.clean.rows(0, 1) if baseline.isfinite().all() else pairs.clean
    names = [name for name in model.adapter.available if name.endswith("hook_resid_post")]
    _, cache = model.run_with_cache(rows, names)
    first = next((name for name in names if not bool(cache[name].isfinite().all())), None)
    where = f"first in the clean run at {first}" if first else "only under ablation"
    return (f"{bad} of {values.numel()} values are not finite ({where}); they are left out of every mean.",)
