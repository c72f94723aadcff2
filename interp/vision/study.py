"""One protocol for all interventions against object hallucination: settings from one seed, figures from another."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from interp.circuits.results import RunInfo, environment
from interp.heads.run import described
from interp.heads.seeing.divergence import VisionDivergence
from interp.heads.seeing.hallucination import HallucinationInfluence
from interp.hooks.naive import plain_outputs
from interp.hooks.names import HeadId, parse_heads
from interp.hooks.pairs import Pairs
from interp.hooks.probe import IDENTITY, TOLERANCE, canary
from interp.kernels.errors import InterpError
from interp.vision.contenders import BLANK, VHD, WRONG, Rankings, contenders
from interp.vision.methods import Margins, Method, Setting, Tried
from interp.vision.other_heads import CONTROLLED, controlled, other_sets, repeated
from interp.vision.questions import ABSENT, REGULAR, Questions, questions
from interp.vision.table import SeeingStudy
from interp.vision.verdict import MOST_LOST

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

IDLE = "changes no number of this model"
ALLOWED = MOST_LOST / 2
"""Regular accuracy that a setting may cost on the questions it is chosen on: half of what the bar allows, because the
best of several settings looks better there than it is."""
Made = Callable[[Rankings], Sequence[Method]]


def compare(
    model: HookedModel,
    *,
    n: int = 256,
    seed: int = 0,
    tuning_n: int = 256,
    tuning_seed: int = 1000,
    make: Made = contenders,
    n_controls: int = 10,
    batch_size: int = 64,
) -> SeeingStudy:
    """Every method on absent companions and on ordinary questions.

    Heads are ranked and settings chosen on the questions of `tuning_seed`: of the settings that cost at most 1 point of
    regular accuracy the one with the fewest false yeses, and where every one costs more, the one that costs least. What
    is reported was not looked at before. Methods on fixed heads are held against as many other heads of the same
    layers with similar norms; each different set runs once, and the run's warnings say where draws repeat. They also name
    methods that change no number of this model. Two controls stand in the table as methods: all heads reinforced, and a
    lower logit of yes.

    Args:
        n: questions of each set.
        seed: of the questions that figures come from, and of the draws of other heads.
        tuning_n, tuning_seed: the same of the questions that heads are ranked and settings chosen on.
        make: rankings of heads -> methods with names of their own, see `interp.vision.contenders`.
        n_controls: draws of other heads for each method on fixed heads; 0 for none.

    Raises:
        InterpError: E205, one seed for both, fewer than two questions, or a method on more than half of a layer's heads;
            E201, a model without a processor; E403, E404 edits that are refused or do not land; what the methods raise.
    """
    if seed == tuning_seed:
        raise InterpError("E205", f"seed and tuning_seed are both {seed}", where="vision study", fix="choose two seeds")
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    tuning, asked = questions(model, tuning_n, tuning_seed), questions(model, n, seed)
    pairs = tuning[REGULAR].pairs
    every = tuple(make(ranked(model, pairs, tuning[ABSENT].pairs, batch_size)))
    proof = proven(model, every, pairs)
    base = {name: untouched(model, one, batch_size) for name, one in tuning.items()}
    tried = [(method, choose(model, method, tuning, base, batch_size)) for method in every]
    margins = {name: answered(model, one, tried, batch_size) for name, one in asked.items()}
    fixed = {method.name: heads for method, setting in tried if n_controls and (heads := method.heads(setting))}
    sets = other_sets(model, pairs, fixed, n_controls, batch_size, seed) if fixed else {}
    controls = controlled(model, tried, sets, asked, batch_size)
    notes = [IDLE if is_idle(margins, row, model.dtype) else "" for row in range(1, len(every) + 1)]
    idle = tuple(f"{method.name} {note}." for method, note in zip(every, notes, strict=True) if note)
    run = RunInfo(
        model=described(model),
        task={"name": "vision study", "n": n, "seed": seed},
        method={
            "kind": SeeingStudy.kind, "methods": [method.to_dict() for method in every],
            "tuning_seed": tuning_seed, "tuning_n": tuning_n, "controls": n_controls,
        },
        seeds={"task": seed, "tuning": tuning_seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary=proof,
        warnings=(*idle, *repeated(sets, n_controls)),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    )  # fmt: skip
    about = tuple(_about(*one, note) for one, note in zip(tried, notes, strict=True))
    prompts = {name: tuple(one.id for one in each.pairs.examples) for name, each in asked.items()}
    return SeeingStudy(run, about, margins, controls, prompts)


def proven(model: HookedModel, methods: Sequence[Method], pairs: Pairs) -> dict[str, Any]:
    """Canary of every point of the heads that one of the methods edits (E403, E404)."""
    points, heads = dict.fromkeys(method.point for method in methods if method.point), parse_heads("all", model.heads)
    rows = [row.to_dict() for point in points for row in canary(model, point, heads, pairs.clean)]
    return {"point": ", ".join(points), "rows": rows, "fired": "once a forward, at every forward"}


def answered(
    model: HookedModel, asked: Questions, tried: Sequence[Tried], batch_size: int
) -> Float[np.ndarray, "row prompt"]:
    """Margins of the untouched model, and of every method in its setting."""
    found = [method.margins(model, asked, [setting], batch_size)[0] for method, setting in tried]
    return np.stack([untouched(model, asked, batch_size), *found])


def is_idle(margins: Mapping[str, Float[np.ndarray, "row _"]], row: int, dtype: torch.dtype) -> bool:
    """Whether a row is the untouched model's (row 0) in every set of questions, but for rounding."""
    share = max(IDENTITY, TOLERANCE[dtype] / 10)
    return all(
        np.abs(values[row] - values[0]).max() <= share * max(1.0, np.abs(values[0]).max())
        for values in margins.values()
    )


def untouched(model: HookedModel, asked: Questions, batch_size: int) -> Float[np.ndarray, " prompt"]:
    """Margins without any edit."""
    output = plain_outputs(model, asked.pairs.clean, asked.pairs.read_at, batch_size)
    found: np.ndarray = asked.margin(output, 0, len(asked)).double().numpy()
    return found


def ranked(model: HookedModel, regular: Pairs, absent: Pairs, batch_size: int) -> Rankings:
    """Heads by VHD over ordinary questions, and by their influence on wrong answers less that on right ones."""
    heads = parse_heads("all", model.heads)
    found = HallucinationInfluence().measure(model, absent, heads, batch_size)
    scores = {WRONG: np.nan_to_num(found.values - found.null, nan=0.0).sum(1)}
    for name, against in ((VHD, "nothing"), (BLANK, "blank")):
        scores[name] = VisionDivergence(against=against).measure(model, regular, heads, batch_size).values.mean(1)
    return {name: _ordered(values, heads) for name, values in scores.items()}


def _ordered(values: Float[np.ndarray, " head"], heads: Sequence[HeadId]) -> tuple[str, ...]:
    return tuple(heads[index].label for index in np.argsort(-values, kind="stable"))


def choose(
    model: HookedModel,
    method: Method,
    tuning: Mapping[str, Questions],
    base: Mapping[str, Float[np.ndarray, " _"]],
    batch_size: int,
) -> Setting:
    """The setting with the fewest false yeses among those that keep regular accuracy; else the one that keeps most."""
    found: dict[str, Margins] = {
        name: method.margins(model, tuning[name], method.grid, batch_size) > 0 for name in CONTROLLED
    }
    kept = found[REGULAR].mean(1) - (base[REGULAR] > 0).mean()
    false_yes = found[ABSENT].mean(1)
    allowed = np.flatnonzero(kept >= -ALLOWED)
    best = allowed[false_yes[allowed].argmin()] if len(allowed) else kept.argmax()
    return method.grid[int(best)]


def _about(method: Method, setting: Setting, note: str) -> dict[str, Any]:
    said = ", ".join(f"{name} {value}" for name, value in setting.items())
    heads = list(method.heads(setting))
    return {"method": method.name, "source": method.source, "setting": said, "heads": heads, "note": note}
