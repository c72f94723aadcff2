"""One protocol for all interventions against object hallucination: settings from one seed, figures from another."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.circuits.controls import matched_random_sets
from interp.circuits.results import RunInfo, environment
from interp.heads.masking import answer_norms
from interp.heads.run import described
from interp.heads.seeing.divergence import VisionDivergence
from interp.heads.seeing.hallucination import HallucinationInfluence
from interp.hooks.naive import plain_outputs
from interp.hooks.names import HeadId, parse_head, parse_heads
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.vision.contenders import BLANK, VHD, WRONG, Rankings, contenders
from interp.vision.methods import Margins, Method, Setting
from interp.vision.questions import ABSENT, REGULAR, Questions, questions
from interp.vision.table import SeeingStudy
from interp.vision.verdict import MOST_LOST

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

CONTROLLED = (ABSENT, REGULAR)
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
    command: str = "",
) -> SeeingStudy:
    """Every method on absent companions and on ordinary questions.

    Heads are ranked and settings chosen on the questions of `tuning_seed`: of the settings that cost at most 1 point of
    regular accuracy the one with the fewest false yeses, and where every one costs more, the one that costs least. What
    is reported was not looked at before. Methods on fixed heads are held against as many other heads of the same
    layers with similar norms; as layers are small, draws may repeat. Two controls stand in the table as methods: all heads
    reinforced, and a lower logit of yes.

    Args:
        n: questions of each set.
        make: rankings of heads -> methods, see `interp.vision.contenders`.

    Raises:
        InterpError: E205, one seed for both; what the methods raise.
    """
    if seed == tuning_seed:
        raise InterpError("E205", f"seed and tuning_seed are both {seed}", where="vision study", fix="choose two seeds")
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    tuning, asked = questions(model, tuning_n, tuning_seed), questions(model, n, seed)
    every = tuple(make(ranked(model, tuning[REGULAR].pairs, tuning[ABSENT].pairs, batch_size)))
    base = {name: untouched(model, one, batch_size) for name, one in tuning.items()}
    chosen = [choose(model, method, tuning, base, batch_size) for method in every]
    margins = {
        name: np.stack([
            untouched(model, one, batch_size),
            *(method.margins(model, one, [setting], batch_size)[0] for method, setting in zip(every, chosen, strict=True)),
        ]) for name, one in asked.items()
    }  # fmt: skip
    controls: dict[str, np.ndarray] = {}
    for method, setting in zip(every, chosen, strict=True):
        if method.heads(setting) and n_controls:
            drawn = controlled(model, method, setting, asked, tuning[REGULAR].pairs, n_controls, batch_size, seed)
            controls |= {f"{method.name}/{kind}": values for kind, values in drawn.items()}
    run = RunInfo(
        model=described(model),
        task={"name": "vision study", "n": n, "seed": seed},
        method={"kind": "vision-study", "tuning_seed": tuning_seed, "tuning_n": tuning_n, "controls": n_controls},
        seeds={"task": seed, "tuning": tuning_seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        command=command,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    )
    about = tuple(_about(method, setting) for method, setting in zip(every, chosen, strict=True))
    prompts = {name: tuple(one.id for one in each.pairs.examples) for name, each in asked.items()}
    return SeeingStudy(run, about, margins, controls, prompts)


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


def controlled(
    model: HookedModel,
    method: Method,
    setting: Setting,
    asked: Mapping[str, Questions],
    pairs: Pairs,
    n_controls: int,
    batch_size: int,
    seed: int,
) -> dict[str, Float[np.ndarray, "draw _"]]:
    """Margins with other heads in the method's place."""
    every = parse_heads("all", model.heads)
    sets = matched_random_sets(
        [every.index(parse_head(label)) for label in method.heads(setting)],
        answer_norms(model, pairs, every, batch_size), np.array([head.layer for head in every]),
        n_sets=n_controls, rng=np.random.default_rng(seed),
    )  # fmt: skip
    others = [method.with_heads(tuple(every[index].label for index in found)) for found in sets]
    return {
        name: np.stack([other.margins(model, asked[name], [setting], batch_size)[0] for other in others])
        for name in CONTROLLED
    }


def _about(method: Method, setting: Setting) -> dict[str, Any]:
    said = ", ".join(f"{name} {value}" for name, value in setting.items())
    return {"method": method.name, "source": method.source, "setting": said, "heads": list(method.heads(setting))}
