"""`interp.token_maps`: how much each input token counts for the answer, by many methods, and which of them to believe."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from interp.ablation.asking import prompt_records
from interp.circuits.question import Question
from interp.circuits.results import RunInfo, environment
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.hooks.names import parse_heads
from interp.hooks.pairs import piece
from interp.hooks.probe import canary
from interp.kernels.errors import InterpError
from interp.maps import method as method_of
from interp.maps import methods as known_methods
from interp.maps.chance import RandomMap
from interp.maps.collect import MOVES, collect
from interp.maps.method import Method
from interp.maps.result import TokenMaps
from interp.maps.settings import Settings
from interp.sinks.asking import ask_metric
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ALL = "all"


def token_maps(
    model: HookedModel,
    task: Task,
    methods: str | Method | Sequence[str | Method] = ALL,
    *,
    metric: str | Metric | None = None,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> TokenMaps:
    """Importance of every input token for the answer of each prompt, and how far each map can be believed.

    Every map is held against what the model does without the tokens that it names, beside a random map: curves of
    deletion and insertion, and rank correlation with leaving tokens out one at a time. Then attention is moved away from
    the token that counts most while the answer stays, and maps that follow it are fooled.

    Args:
        methods: names, or records of `interp.maps` with parameters; 'all' takes those that are defined here, and says
            which were left out.
        metric: None takes the task's own.
        truncate: cut prompts that are too long instead of refusing them.
        command: what a reader can type to repeat the run.
        progress: called with (prompts done, all of them).
        settings: of `Settings`: ways, steps, draws, neutral, deceive, moves, batch_size, seed.

    Raises:
        InterpError: E201 unknown method, metric, way or token; E205 one method twice, prompts that are too long for a
            method, or numbers that make no sense; E303 to E313 for the prompts; E402, E407 for the metric; E403
            attention that is computed where it can't be edited; E404 edits that do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    asked_for = Settings(**settings)
    asked, measure = ask_metric(model, task, metric, truncate=truncate)
    question = Question.of(asked.pairs, measure)
    neutral, named = neutral_token(model, asked_for.neutral)
    chosen, notes = choose(methods, model, question)
    proof = canary(model, "attn_scores", parse_heads("all", model.heads), asked.pairs.clean)
    found = collect(model, question, chosen, asked_for, neutral, progress)
    run = RunInfo(
        model=model.describe(),
        task=asked.record,
        method={
            "kind": TokenMaps.kind,
            **{name: value for name, value in asdict(asked_for).items() if name not in ("seed", "neutral")},
            "neutral": named,
            "methods": [one.describe() for one in chosen],
        },
        seeds={"task": asked.seed, "evidence": asked_for.seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary={"point": "attn_scores", "rows": [row.to_dict() for row in proof], "fired": "once a forward"},
        warnings=tuple(dict.fromkeys((*asked.notes, *asked.pairs.warnings, *notes))),
        command=command,
        started=started,
        seconds=round(time.monotonic() - clock, 3),
    )
    return TokenMaps(
        run=run,
        methods=tuple(one.label for one in chosen),
        prompts=prompt_records(model, asked.pairs),
        baseline=found.baseline,
        tokens=found.tokens,
        values=found.values,
        moved_values=found.moved_values,
        effects=found.effects,
        moved_effects=found.moved_effects,
        curves=found.curves,
        moves=dict(zip(MOVES, found.moves, strict=True)),
        drops=asked.drops,
    )


def choose(
    given: str | Method | Sequence[str | Method], model: HookedModel, question: Question
) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """The methods, the random map last; and notes on those that are not defined here.

    Raises:
        InterpError: E201 unknown name; E205 one twice; what `Method.check` raises, unless all were asked for.
    """
    if given == ALL:
        every = [method_of(name) for name in known_methods()]
        reasons = {one: _refusal(one, model, question) for one in every}
        left = [f"{one.name} was left out: {why}." for one, why in reasons.items() if why]
        kept = [one for one, why in reasons.items() if not why and not isinstance(one, RandomMap)]
        return (*kept, RandomMap()), tuple(left)
    asked = [method_of(one) for one in ([given] if isinstance(given, (str, Method)) else given)]
    for one in asked:
        one.check(model, question)
    kept = [one for one in asked if not isinstance(one, RandomMap)]
    labels = [one.label for one in asked]
    if len(set(labels)) < len(labels) or not labels:
        raise InterpError("E205", "one method twice, or none", where=", ".join(labels), fix="name each once")
    return (*kept, RandomMap()), ()


def _refusal(method: Method, model: HookedModel, question: Question) -> str:
    """Why a method is not defined here; '' where it is."""
    try:
        method.check(model, question)
    except InterpError as error:
        return error.what
    return ""


def neutral_token(model: HookedModel, given: str | int | None) -> tuple[int, str]:
    """Id and text of the token that stands for none.

    Raises:
        InterpError: E205 none is known; E306 a text of several tokens, or of none that is known.
    """
    tokenizer = model.tokenizer
    if isinstance(given, int):
        return given, piece(tokenizer, given)
    if tokenizer is None:
        raise InterpError("E205", "a model without a tokenizer has no neutral token", fix="give one: neutral=0")
    if given is None:
        known = [getattr(tokenizer, f"{kind}_token_id", None) for kind in ("mask", "unk", "pad", "eos")]
        ids = [one for one in known if one is not None][:1]
    else:
        ids = tokenizer(given, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        what = "no neutral token is known" if given is None else f"neutral {given!r} is {len(ids)} tokens"
        raise InterpError("E205" if given is None else "E306", what, fix="name one token: neutral=' the', or its id")
    return ids[0], piece(tokenizer, ids[0])
