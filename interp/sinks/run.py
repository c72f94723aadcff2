"""`interp.sinks`: where a model rests its attention, by appearance and by cause."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.asking import prompt_records
from interp.circuits.results import RunInfo, environment
from interp.hooks.naive import Progress
from interp.hooks.names import parse_head
from interp.hooks.probe import canary
from interp.hooks.prompts import Prompts
from interp.sinks.asking import Asked, ask
from interp.sinks.dormancy import Dormancy, dormancy, dormancy_metric
from interp.sinks.lengths import check_lengths, default_lengths, joined
from interp.sinks.places import RESTING, WORKING, TokenRoles, places_of
from interp.sinks.result import SinkReport
from interp.sinks.settings import Settings
from interp.sinks.survey import Survey, survey
from interp.sinks.tables import finite_mean
from interp.sinks.watch import check
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

AT_LENGTHS = ("received", "written", "norm")
SHOWN_DIMENSIONS = 8


def sinks(
    model: HookedModel,
    prompts: Task | Prompts,
    *,
    token_roles: TokenRoles | None = None,
    lengths: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> SinkReport:
    """Attention sinks by four independent criteria, and which heads are active or dormant where.

    The first token of a prompt is always looked at; other keys are sinks where a head gives them more than `eps` on
    average and their value is drained or their stream an outlier. A query rests where most of its attention is on sinks.
    Statistics come from `interp.kernels`, so memory grows with length and not with its square.

    Args:
        prompts: a task, or prompts as a model takes them.
        token_roles: roles by token, `{"trigger": ["a", "b"]}`: keys that are told apart, and queries that are a domain of
            their own. A task's own roles are too.
        lengths: of texts joined from the prompts, where the first three criteria are looked at again; None takes two and
            eight times the median prompt, as far as the model has positions.
        layers: all that have attention by default.
        truncate: cut prompts that are too long instead of refusing them.
        command: what a reader can type to repeat the run.
        progress: called with (heads of a batch done, all of them), while heads are taken away.
        settings: of `Settings`: eps, min_queries, k, rule, drained, rest, tolerance, n_controls, dormancy, batch_size,
            seed.

    Raises:
        InterpError: E201 unknown rule or role; E205 numbers that make no sense; E303 to E313 for the prompts; E309 a
            length beyond the model's positions; E401 no attention; E402, E407 dormancy on a model without a trained
            output layer (`dormancy=False` leaves it out); E403 attention that is computed where it can't be read; E404 edits that do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    asked_for = Settings(**settings)
    chosen = tuple(i for i, n in enumerate(model.heads[""]) if n) if layers is None else tuple(sorted(set(layers)))
    check(model, chosen)
    metric = dormancy_metric(model) if asked_for.dormancy else ""
    asked = ask(model, prompts, truncate=truncate)
    batch, limit = asked.pairs.clean, model.adapter.n_positions
    long = default_lengths(batch, limit) if lengths is None else tuple(lengths)
    check_lengths(long, limit)
    places = places_of(asked.pairs, model.tokenizer, token_roles or {})
    seen = survey(model, batch, places, asked.pairs.tokens, asked_for, chosen)
    proof = canary(model, "z", tuple(map(parse_head, seen.heads)), batch) if metric else ()
    taken = dormancy(model, batch, places, seen, asked_for, progress) if metric else None
    found = {length: at_length(model, asked, length, asked_for, chosen, places.roles) for length in long}
    run = RunInfo(
        model=model.describe(),
        task=asked.record,
        method=_method(asked_for, seen, metric, chosen, token_roles or {}),
        seeds={"task": asked.seed, "evidence": asked_for.seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary={"point": "z", "rows": [row.to_dict() for row in proof], "fired": "once a forward, at every forward"},
        warnings=tuple(dict.fromkeys((*asked.notes, *asked.pairs.warnings, *(taken.notes if taken else ())))),
        command=command,
        started=started,
        seconds=round(time.monotonic() - clock, 3),
    )
    return SinkReport(
        run=run,
        heads=seen.heads,
        roles=places.roles,
        domains=(*places.domains, RESTING, WORKING),
        prompts=prompt_records(model, asked.pairs),
        by_role=seen.by_role,
        by_domain=seen.by_domain,
        rests=_rests(seen, places.real.numpy()),
        by_place=seen.by_place,
        by_length={name: np.stack([found[length][name] for length in long]) for name in AT_LENGTHS} if long else {},
        lengths=long,
        **_taken(taken, seen),
        spots=seen.spots,
        drops=asked.drops,
    )


def at_length(
    model: HookedModel, asked: Asked, length: int, settings: Settings, layers: tuple[int, ...], roles: Sequence[str]
) -> dict[str, np.ndarray]:
    """Means over joined prompts [head role]; nan for roles that such texts do not have."""
    pairs = joined(asked.pairs.clean, model.tokenizer, length)
    places = places_of(pairs, model.tokenizer, {})
    found = survey(model, pairs.clean, places, pairs.tokens, replace(settings, batch_size=1), layers)
    empty = np.full(len(found.heads), np.nan)
    return {
        name: np.stack(
            [finite_mean(found.by_role[name][:, :, places.roles.index(role)], 1) if role in places.roles else empty
             for role in roles], -1,
        )
        for name in AT_LENGTHS
    }  # fmt: skip


def _rests(seen: Survey, real: np.ndarray) -> np.ndarray:
    """Share of the queries that rest [head prompt]."""
    free = (real & ~seen.sinks.numpy()).sum(-1)
    share = seen.resting.numpy().sum(-1) / np.maximum(free, 1)[:, None]
    shares: np.ndarray = share.T
    return shares


def _taken(taken: Dormancy | None, seen: Survey) -> dict[str, Any]:
    if taken is None:
        none = np.full_like(seen.by_domain["mass"], np.nan)
        return {"effects": none, "control_effects": none[:, :, 0], "controls": ((),) * len(seen.heads)}
    return {"effects": taken.effects, "control_effects": taken.controls, "controls": taken.matched}


def _method(
    settings: Settings, seen: Survey, metric: str, layers: tuple[int, ...], roles: TokenRoles
) -> dict[str, Any]:
    dimensions = [
        {"layer": layer, "dimension": dimension, "tokens": tokens}
        for (layer, dimension), tokens in list(seen.dimensions.items())[:SHOWN_DIMENSIONS]
    ]
    given = {name: value for name, value in asdict(settings).items() if name not in ("seed", "tolerance")}
    return {
        "kind": SinkReport.kind,
        **given,
        "metric": metric,
        "tolerance": settings.bound(metric) if metric else None,
        "layers": list(layers),
        "token_roles": {role: list(tokens) for role, tokens in roles.items()},
        "dimensions": dimensions,
        "usual_dimensions": {str(layer): list(one) for layer, one in seen.usual.items()},
        "sink_logits": list(seen.has_logit),
    }
