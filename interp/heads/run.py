"""Scoring heads: prompts of a task in, one number a head and prompt out."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from interp.ablation.asking import prompt_records
from interp.ablation.study import weights_digest
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.results import RunInfo, environment
from interp.heads import scorer as scorer_of
from interp.heads.attention import AttentionScorer
from interp.heads.parts import parse_part
from interp.heads.result import HeadScores
from interp.heads.scorer import Scorer, Scores
from interp.heads.together import measure_together
from interp.heads.weights.base import WeightScorer
from interp.hooks.examples import Drop
from interp.hooks.names import HeadId, HeadSpec, parse_heads
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples
from interp.tasks.file import FileTask
from interp.tasks.registry import task as task_of

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

WEIGHTS = "weights"
"""The one column of scores that read no prompt."""

UNSCORED = "E407"
"""Code of prompts on which a score is not defined."""


@overload
def score(model: HookedModel, scorer: str | Scorer, task: Task | None = None, **options: Any) -> HeadScores: ...
@overload
def score(
    model: HookedModel, scorer: Sequence[str | Scorer], task: Task | None = None, **options: Any
) -> dict[str, HeadScores]: ...
def score(
    model: HookedModel,
    scorer: str | Scorer | Sequence[str | Scorer],
    task: Task | None = None,
    *,
    heads: HeadSpec = "all",
    n: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    command: str = "",
    **options: Any,
) -> HeadScores | dict[str, HeadScores]:
    """What every head scores as a head of some kind, beside what chance gives.

    Args:
        scorer: its name, or a record of `interp.heads` with parameters; of a list, those that read attention on the
            same prompts share one forward a batch.
        task: whose prompts are scored; by default the one that shows a kind best.
        heads: labels; `L3H*` and 'all' work too, the latter for all heads of the tower that a scorer is about.
        n: prompts that the default task draws.
        seed: of the default task, the bootstrap and the permutation tests.
        truncate: cut prompts that are too long instead of refusing them.
        command: what a reader can type to repeat the run.
        options: parameters of the scorers, where they are given by name.

    Returns:
        The scores; of a list, by scorer.

    Raises:
        InterpError: E201 unknown scorer or parameter; E205 one scorer twice, or heads of a tower that a scorer is not about; E311 no prompt
            left; E303 to E313 for the prompts; E403 attention that is computed where it can't be read.
    """
    given = [scorer] if isinstance(scorer, (str, Scorer)) else list(scorer)
    asked = [scorer_of(one, **options) for one in given]
    names = [one.name for one in asked]
    if len(set(names)) < len(names) or not names:
        raise InterpError("E205", "one scorer twice, or none", where=", ".join(names), fix="name each once")
    scoring = Scoring(model, task, heads, n, batch_size, seed, truncate, command)
    found = scoring.results(asked)
    return found[names[0]] if isinstance(scorer, (str, Scorer)) else found


def heads_for(model: HookedModel, scorer: Scorer, heads: HeadSpec) -> tuple[HeadId, ...]:
    """The chosen heads, all of the tower that a scorer is about (E205)."""
    if scorer.axis != "query_head":
        return _parts_for(model, scorer, heads)
    where, tower = f"scorer {scorer.name}", model.adapter.seeing_tower if scorer.sees else ""
    if tower is None:
        raise InterpError("E205", f"no part of {model.name} reads pictures", where=where)
    chosen = parse_heads(f"{tower}.all" if heads == "all" and tower else heads, model.heads)
    other = [head.label for head in chosen if head.tower != tower]
    if other:
        fix = f"choose heads of the {tower or 'main'} tower"
        raise InterpError("E205", f"{other[0]} reads no {'picture' if scorer.sees else 'text'}", where=where, fix=fix)
    return chosen


def _parts_for(model: HookedModel, scorer: Scorer, heads: HeadSpec) -> tuple[HeadId, ...]:
    """Of a scorer on another axis all parts, or those that labels name (E202, E203)."""
    every = scorer.every_part(model)
    if heads == "all":
        return every
    labels = heads.split(",") if isinstance(heads, str) else [str(one) for one in heads]  # type: ignore[union-attr]
    asked = tuple(dict.fromkeys(parse_part(label) for label in labels))
    unknown = [one.label for one in asked if one not in every]
    if unknown:
        raise InterpError("E203", f"{model.name} has no {unknown[0]}", where=f"scorer {scorer.name}")
    return asked


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts as the model reads them, and what was left out."""

    task: Task
    found: TaskExamples
    pairs: Pairs

    @property
    def drops(self) -> tuple[Drop, ...]:
        return (*self.found.drops, *self.pairs.drops)

    def to_dict(self) -> dict[str, Any]:
        """`RunInfo.task`."""
        kept = {"kept": len(self.pairs), "dropped": len(self.drops)}
        return {**self.task.to_dict(), **kept, "tokens_sha256": tokens_digest(self.pairs)}


@dataclass(frozen=True, eq=False)
class Scoring:
    """One call of `score`: arguments as there."""

    model: HookedModel
    task: Task | None
    heads: HeadSpec
    n: int | None
    batch_size: int
    seed: int
    truncate: bool
    command: str
    prompts: dict[tuple[object, ...], Asked] = field(default_factory=dict)

    def results(self, scorers: Sequence[Scorer]) -> dict[str, HeadScores]:
        """Of each scorer by name; those that may share a forward do."""
        shared: dict[tuple[int, bool], list[AttentionScorer]] = {}
        for one in scorers:
            if isinstance(one, AttentionScorer):
                shared.setdefault((id(self.asked(one)), one.sees), []).append(one)
        done: dict[str, HeadScores] = {}
        for group in shared.values():
            done |= self._measured(group)
        for one in scorers:
            if not isinstance(one, AttentionScorer):
                done |= self._measured([one])
        return {one.name: done[one.name] for one in scorers}

    def _heads(self, scorer: Scorer) -> tuple[HeadId, ...]:
        return heads_for(self.model, scorer, self.heads)

    def asked(self, scorer: Scorer) -> Asked:
        """The prompts that a scorer reads; the same object where they are the same prompts.

        Raises:
            InterpError: E313, a task without a role that the scorer reads.
        """
        task = self.task or task_of(scorer.task, n=self.n, seed=self.seed, **scorer.options)
        key = (task, scorer.needs, scorer.roles)
        if key not in self.prompts:
            found = task.examples(self.model.tokenizer)
            pairs = tokenise(
                self.model.tokenizer, found.examples, processor=self.model.processor, needs=scorer.needs, limit=self.model.adapter.n_positions,
                truncate=self.truncate, strict=isinstance(task, FileTask),
            )  # fmt: skip
            absent = [role for role in scorer.roles if role not in pairs.clean.spans]
            if absent:
                what = f"prompts of {task.name} have no role {absent[0]!r}"
                raise InterpError("E313", what, where=f"scorer {scorer.name}", fix=f"use --task {scorer.task}")
            self.prompts[key] = Asked(task, found, pairs)
        return self.prompts[key]

    def _measured(self, group: Sequence[Scorer]) -> dict[str, HeadScores]:
        """Scores of scorers that read the same prompts, each as a result."""
        started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        asked = None if isinstance(group[0], WeightScorer) else self.asked(group[0])
        together, heads = [one for one in group if isinstance(one, AttentionScorer)], self._heads(group[0])
        if asked is None:
            scores = [one.measure(self.model, None, heads) for one in group if isinstance(one, WeightScorer)]
        elif together:
            scores = measure_together(together, self.model, asked.pairs, heads, self.batch_size)
        else:
            scores = [one.measure(self.model, asked.pairs, heads, self.batch_size) for one in group]
        times = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        }
        return {one.name: self._result(one, found, asked, times) for one, found in zip(group, scores, strict=True)}

    def _result(self, scorer: Scorer, scores: Scores, asked: Asked | None, times: Mapping[str, Any]) -> HeadScores:
        warnings = scores.notes if asked is None else (*asked.found.notes, *asked.pairs.warnings, *scores.notes)
        run = RunInfo(
            model=described(self.model),
            task={"name": WEIGHTS} if asked is None else asked.to_dict(),
            method=self._method(scorer, scores),
            seeds={"evidence": self.seed} | ({} if asked is None else {"task": asked.task.seed}),
            versions=environment(),
            certificate=self.model.certificate.to_dict(),
            warnings=tuple(dict.fromkeys(warnings)),
            command=self.command,
            **times,
        )
        prompts = (PromptRecord(WEIGHTS, ()),) if asked is None else prompt_records(self.model, asked.pairs)
        kept = [index for index in range(len(prompts)) if index not in scores.left_out]
        unscored = tuple(Drop(prompts[index].id, UNSCORED, why) for index, why in sorted(scores.left_out.items()))
        if not kept:
            raise _nothing_left(scorer, unscored)
        labels = tuple(head.label for head in self._heads(scorer))
        p = () if scores.p is None else tuple(scores.p.tolist())
        drops = unscored if asked is None else (*asked.drops, *unscored)
        shown = tuple(prompts[index] for index in kept)
        return HeadScores(run, labels, shown, scores.values[:, kept], scores.null[:, kept], drops, p)

    def _method(self, scorer: Scorer, scores: Scores) -> dict[str, Any]:
        drawn = {"draws": scorer.n_draws(len(self._heads(scorer)))} if isinstance(scorer, WeightScorer) else {}
        about = {"source": scorer.source, "says": scorer.says, "chance": scorer.chance, "ceiling": scorer.ceiling}
        return {"kind": "scores", **scorer.describe(), **drawn, **about, "kernel": scores.kernel}


def _nothing_left(scorer: Scorer, drops: Sequence[Drop]) -> InterpError:
    """E311: every prompt was left out, and why."""
    reasons = Counter(drop.reason for drop in drops)
    why = "; ".join(f"{count} of {len(drops)}: {reason}" for reason, count in reasons.most_common(3))
    fix = "choose prompts that the model can answer"
    return InterpError("E311", f"0 of {len(drops)} prompts kept ({why})", where=f"scorer {scorer.name}", fix=fix)


def described(model: HookedModel) -> dict[str, Any]:
    """The model, with a digest of its weights where it came from no file."""
    about = model.describe()
    return about if "weights_sha256" in about else {**about, "weights_sha256": {"memory": weights_digest(model)}}


def tokens_digest(pairs: Pairs) -> str:
    """SHA-256 over the ids of all clean prompts, padding left out, and over their pictures."""
    sha = hashlib.sha256()
    if (mask := pairs.clean.mask) is not None:
        for row, keep in zip(pairs.clean.input_ids.cpu(), mask.cpu(), strict=True):
            sha.update(row[keep].numpy().tobytes() + b"|")
    for example in pairs.examples:
        sha.update(b"" if example.image is None else np.ascontiguousarray(example.image).tobytes())
    return sha.hexdigest()
