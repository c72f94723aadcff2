"""What each part of a model is called, by the results that say so, and where these results contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from interp.circuits.prompt_results import PromptResult
from interp.circuits.results import Result
from interp.heads import scorers
from interp.heads.attention import AttentionScorer
from interp.heads.result import HeadScores
from interp.heads.weights.base import WeightScorer
from interp.kernels.errors import InterpError

LOOKS, WEIGHTS, DIRECT, CAUSAL = "attention", "weights", "direct", "causal"
"""What a label rests on: where a head looks; what its weights could do; what it writes towards the answer, to first order or
as a share; what changes when it is taken away or patched."""

FOLDERS = {"retrieval": LOOKS, "effects": DIRECT, "answers": CAUSAL}
NAMES = {"ioi-copy": WEIGHTS, "input-independence": LOOKS}
KINDS = {"ablation": CAUSAL, "patch": CAUSAL, "paths": CAUSAL, "attribution": DIRECT}
STRAIGHT = frozenset({"paths to logits", "name-mover", "negative-name-mover", "backup-name-mover", "multiple-choice"})
"""Causal effects on the logits around all later parts."""

SURE = 0.5
"""A q from here on says that a test found nothing, and not only that it was close."""


@dataclass(frozen=True)
class Label:
    """What one result says of one part.

    Attributes:
        name: of the scorer, or of what was done: `ablation mean`, `paths to logits`.
        basis: 'attention', 'weights', 'direct', 'causal', or 'other'.
        task: whose prompts showed it; 'weights' where none were read.
        value: score, or effect; positive effects help.
        chance: what chance gives, or the matched controls.
        q: after false-discovery control; nan where nothing was tested.
        claimed: whether the result claims it.
        run_id: of the result.
    """

    name: str
    basis: str
    task: str
    value: float
    chance: float
    q: float
    claimed: bool
    run_id: str


@dataclass(frozen=True)
class PartLabels:
    """All that results say of one part.

    Attributes:
        part: `L3H1`, `M3`, ...
        evidence: of every result in which it stands, claimed ones first.
        flags: sentences about what does not fit together.
    """

    part: str
    evidence: tuple[Label, ...]
    flags: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called: names of what is claimed."""
        return tuple(dict.fromkeys(one.name for one in self.evidence if one.claimed))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "names": self.names}


def part_labels(results: Iterable[Result]) -> dict[str, PartLabels]:
    """Labels of every part that stands in a result, with the evidence behind them and what contradicts it.

    Args:
        results: of `interp.score`, `ablate`, `patch`, `paths` and `dla` on one model; those of patches by their places too.

    Raises:
        InterpError: E205, results of several models, or one that holds no number a part and prompt.
    """
    found: dict[str, list[Label]] = {}
    models: dict[str, None] = {}
    for result in results:
        models[str(result.run.model["name"])] = None
        if not isinstance(result, PromptResult) or not (isinstance(result, HeadScores) or result.kind in KINDS):
            raise InterpError(
                "E205", f"{type(result).__name__} labels no parts", fix="scores, ablations, patches, paths"
            )
        for part, label in _labels(result).items():
            found.setdefault(part, []).append(label)
    if len(models) > 1:
        raise InterpError("E205", f"results of {', '.join(models)}", fix="give those of one model")
    return {part: _of_part(part, labels) for part, labels in found.items()}


def basis_of(scorer: str) -> str:
    """What a scorer's number rests on; 'other' for one that is not installed here, or of another kind."""
    kind = scorers().get(scorer)
    if scorer in NAMES or kind is None:
        return NAMES.get(scorer, "other")
    if issubclass(kind, AttentionScorer):
        return LOOKS
    return WEIGHTS if issubclass(kind, WeightScorer) else FOLDERS.get(kind.__module__.split(".")[2], "other")


def _labels(result: PromptResult) -> Mapping[str, Label]:
    """What a result says of each of its rows."""
    evidence, task = result.evidence, str(result.run.task["name"])
    if isinstance(result, HeadScores):
        name = str(result.run.method["scorer"])
        basis, values, chance = basis_of(name), result.mean, result.mean - evidence.mean
    else:
        name, basis = _done(result), KINDS[result.kind]
        values, chance = evidence.mean, evidence.control_mean
    columns = (values.tolist(), chance.tolist(), evidence.q.tolist(), evidence.claimed.tolist())
    return {
        part: Label(name, basis, task, value, expected, q, claimed, result.run_id)
        for part, value, expected, q, claimed in zip(result.labels, *columns, strict=True)
    }


def _done(result: PromptResult) -> str:
    """What was done to the parts, in a few words."""
    method = result.run.method
    if result.kind == "ablation":
        return f"ablation {method['operator']}"
    if result.kind == "paths":
        return f"paths to {', '.join(method['receivers'])}"
    return "direct attribution" if result.kind == "attribution" else f"patch {method['direction']} {method['points']}"


def _of_part(part: str, labels: list[Label]) -> PartLabels:
    ordered = sorted(labels, key=lambda one: (not one.claimed, np.nan_to_num(one.q, nan=2.0)))
    return PartLabels(part, tuple(ordered), tuple(_flags(labels)))


def _flags(labels: list[Label]) -> Iterable[str]:
    """What does not fit together, in sentences."""
    seen = [one for one in labels if one.claimed and one.basis in (LOOKS, WEIGHTS)]
    tried = [one for one in labels if one.basis == CAUSAL]
    caused = [one for one in tried if one.claimed]
    if seen and tried and not caused:
        yield f"{_told(seen)} without a causal effect that can be claimed ({_told(tried)})."
    if caused and not seen and any(one.basis in (LOOKS, WEIGHTS) for one in labels):
        yield f"A causal effect ({_told(caused)}) that no score of attention or weights explains."
    yield from _indirect(labels)
    helping, hurting = ([one for one in labels if _acts(one) and sign * one.value > 0] for sign in (1, -1))
    if helping and hurting:
        yield f"It helps by {_told(helping)} and hurts by {_told(hurting)}."
    for one in caused:
        lost = [other for other in tried if other.task == one.task and _contradicts(one, other)]
        if lost:
            yield f"{_told([one])} is claimed, and {_told(lost)} on the same prompts is not (q from {SURE:g})."


def _indirect(labels: list[Label]) -> Iterable[str]:
    """Where the direct effect of a part and what its removal costs differ."""
    taken = [one for one in labels if one.basis == CAUSAL and one.name not in STRAIGHT]
    straight = [one for one in labels if one.basis == DIRECT or one.name in STRAIGHT]
    lost, direct = ([one for one in side if one.claimed] for side in (taken, straight))
    if direct and taken and not lost:
        yield f"It writes towards the answer ({_told(direct)}); taking it away costs nothing that can be claimed."
    if lost and straight and not direct:
        yield f"A causal effect ({_told(lost)}) that is not direct: later parts carry it."


def _acts(label: Label) -> bool:
    return label.claimed and label.basis in (CAUSAL, DIRECT)


def _contradicts(one: Label, other: Label) -> bool:
    """Two ways of taking the same part away, of which the other finds nothing."""
    same = one.name.split()[0] == other.name.split()[0] == "ablation"
    return same and not other.claimed and other.q >= SURE


def _told(labels: Iterable[Label]) -> str:
    """Names with their tasks."""
    return ", ".join(dict.fromkeys(f"{one.name} ({one.task})" for one in labels))
