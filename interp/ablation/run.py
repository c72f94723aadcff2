"""Head ablation: replace one head at a time and see, prompt by prompt, what a metric loses."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.ablation.plan import Controls, Plan
from interp.ablation.result import AblationResult, PromptRecord
from interp.circuits.results import RunInfo, environment
from interp.hooks.interventions import PATTERN_OPERATORS, Ablate
from interp.hooks.metrics import Metric
from interp.hooks.metrics import metric as find_metric
from interp.hooks.naive import Progress, sweep
from interp.hooks.names import HeadId, HeadLike, parse_heads, point_name
from interp.hooks.pairs import Pairs, piece, tokenise
from interp.hooks.probe import canary
from interp.kernels.errors import InterpError, suggest
from interp.tasks.base import Task
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

OPERATORS = {
    "zero": "z of the head set to zero",
    "mean": "z set to its mean over all tokens of the task's clean prompts",
    "positional-mean": "z set to its mean over the task's clean prompts at the same position",
    "resample": "z set to what it is on the paired corrupt prompt",
    **{name: f"attention pattern replaced by the {name} one" for name in PATTERN_OPERATORS},
}
SHOWN_PROMPTS = 4


def ablate(
    model: HookedModel,
    task: Task,
    *,
    heads: str | HeadLike | Iterable[HeadLike] = "all",
    operator: str = "mean",
    metric: str | Metric | None = None,
    positions: None | str | tuple[int, ...] = None,
    n_controls: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    shown_prompts: int = SHOWN_PROMPTS,
    command: str = "",
    progress: Progress | None = None,
) -> AblationResult:
    """The effect of ablating each head on a task: metric(clean) - metric(ablated), so positive means the head helps.

    Args:
        heads: 'all', labels, or `L3H*`; matched control heads are measured with them.
        operator: a key of `OPERATORS`.
        metric: a name in `interp.hooks.metrics`; None is the task's own, or cosine where the model has no logits.
        positions: where z is replaced: None everywhere, 'end', a role of the task, or token positions.
        n_controls: matched control heads for each head.
        seed: of the bootstrap and the permutation tests.
        truncate: cut prompts that are too long instead of refusing them.
        first_token: use the first token of answers that have several.
        shown_prompts: prompts whose attention patterns are kept for the report.
        command: what a reader can type to repeat the run.
        progress: called with (forwards done, forwards in all).

    Raises:
        InterpError: E201 unknown name; E402, E407 metric not defined on this model; E404 edits do not land; E303 to
            E313 for the prompts; E401 to E403 for the model.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    if operator not in OPERATORS:
        raise InterpError("E201", f"no operator {operator!r}", fix=suggest(operator, OPERATORS))
    chosen = parse_heads(heads, model.heads)
    found = task.examples(model.tokenizer)
    measure = choose_metric(model, metric, task)
    pairs = tokenised(model, task, found.examples, measure, operator, truncate=truncate, first_token=first_token)
    point = "pattern" if operator in PATTERN_OPERATORS else "z"
    proof = canary(model, point, chosen, pairs.clean)
    plan = Plan(model, pairs, measure, batch_size)
    controls = Controls.match(plan, chosen, n_controls)
    variants = [
        Ablate(heads=(head,), operator=_bare(operator), reference=reference, positions=positions)
        for head, reference in plan.references(controls.measured, operator)
    ]
    values = sweep(model, pairs.clean, variants, plan.read_at, plan.measure, batch_size=batch_size, progress=progress)
    baseline = plan.measure(plan.clean, 0, len(pairs)).double()
    patterns, pattern_notes = shown_patterns(model, pairs, controls.measured, shown_prompts)
    notes = (
        *found.notes,
        *pairs.warnings,
        *pattern_notes,
        *controls.notes,
        *finite_notes(model, pairs, values, baseline),
    )
    run = RunInfo(
        model=model.describe(),
        task={
            **task.to_dict(),
            "metric": measure.name,
            "metric_unit": measure.unit,
            "higher_is_better": measure.higher_is_better,
            "kept": len(pairs),
            "dropped": len(found.drops) + len(pairs.drops),
        },
        method={
            "kind": "ablation",
            "operator": operator,
            "description": OPERATORS[operator],
            "positions": list(positions) if isinstance(positions, tuple) else positions,
            "heads": [head.label for head in chosen],
            "n_controls": n_controls,
            "batch_size": batch_size,
            "sweep": "one full forward for each head and batch",
        },
        seeds={"task": task.seed, "evidence": seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary={
            "point": point,
            "rows": [row.to_dict() for row in proof],
            "fired": "once a forward, checked at every forward",
        },
        warnings=tuple(dict.fromkeys(notes)),
        command=command,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    )
    return AblationResult(
        run=run,
        heads=tuple(head.label for head in controls.measured),
        prompts=prompt_records(model, pairs),
        baseline=baseline.numpy(),
        values=values.numpy(),
        controls=controls.labels,
        drops=(*found.drops, *pairs.drops),
        patterns=patterns,
    )


def _bare(operator: str) -> str:
    return "mean" if operator == "positional-mean" else operator


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
        needs=frozenset(needs),
        at_mask=metric.kind == "logits" and model.adapter.answers_at_mask,
        limit=model.adapter.n_positions,
        truncate=truncate,
        first_token=first_token,
        strict=isinstance(task, FileTask),
    )


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
