"""`Contender`: whatever ranks the edges of a model, the registered methods and what they are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from interp.bench.circuits.truths import Case
from interp.circuits.codes import head_codes
from interp.circuits.edges.methods import METHODS, Method, Settings
from interp.circuits.judging.baselines import magnitude
from interp.circuits.tracing import Tracer
from interp.kernels.errors import InterpError, suggest

Rows = Float[np.ndarray, "row place writer reader"]

STEPS = (5, 32)
"""Of methods that integrate; each number has a row of its own."""

PLAIN = Settings(size=0.3, epochs=100)
"""Of all others; of what searches aim at a truth has seldom more, and none is told how many edges are true."""

ADAPTIVE = Settings(steps=128, gap=1e-3)
"""Of methods that can take more steps until their scores add up."""

DRAWS = 20
"""Random rankings, whose figures are averaged."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Scores of one contender.

    Attributes:
        draws: independent rankings; each is scores prompt by prompt, or one row where a contender has no others.
        forwards: what they cost, in forwards of a prompt; a backward counts as two, and one clean and one ablated run,
            which all of them are given, are left out.
    """

    draws: tuple[Rows, ...]
    forwards: float


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that ranks edges.

    Attributes:
        sort: 'method', one of `METHODS`; 'observed', which changes nothing in the model, so that it cannot know what
            causes what; 'control', which knows nothing of the mechanism.
        method: name in `METHODS`, '' for others.
        steps: of the integration; 0 for those that do not integrate.
        by_prompt: whether prompts have scores of their own.
    """

    name: str
    says: str
    sort: str
    run: Callable[[Case, int], Ranked]
    method: str = ""
    steps: int = 0
    by_prompt: bool = True


def contenders(names: Sequence[str] = ()) -> list[Contender]:
    """All of them, or some: by full name, or by the name of a method, which is all rows of it.

    Raises:
        InterpError: E201 no such contender.
    """
    every = [one for method in METHODS.values() for one in _rows(method)] + list(BESIDE)
    known = {name for one in every for name in (one.name, one.method) if name}
    for name in names:
        if name not in known:
            raise InterpError("E201", f"no contender {name!r}", fix=suggest(name, known))
    return [one for one in every if not names or {one.name, one.method} & set(names)]


def _rows(method: Method) -> list[Contender]:
    """A method as a contender, once for each number of steps where it integrates by a rule."""
    plain = Contender(
        method.name,
        method.says,
        "method",
        _running(method, PLAIN),
        method.name,
        by_prompt=method.by_prompt,
    )
    if not {"steps", "rule"} <= set(method.settings):
        return [plain]
    told = {f"{n} steps": Settings(steps=n) for n in STEPS}
    if "gap" in method.settings:
        told["adaptive"] = ADAPTIVE
    return [
        replace(plain, name=f"{method.name} {how}", run=_running(method, settings), steps=settings.steps)
        for how, settings in told.items()
    ]


def _running(method: Method, settings: Settings) -> Callable[[Case, int], Ranked]:
    def run(case: Case, seed: int) -> Ranked:
        found = method.run(case.contrast, replace(settings, seed=seed))
        return Ranked((found.scores.detach().double().cpu().numpy(),), found.forwards)

    return run


def _codes(case: Case, seed: int) -> Ranked:
    """Two forwards, clean and corrupt; training the autoencoder runs no model."""
    assert case.posed.corrupt is not None
    found = head_codes(case.flow.model, case.posed.question.batch, case.posed.corrupt, seed=seed)
    return Ranked((found.edge_scores(case.graph)[None].astype(np.float64),), 2.0)


def _tracing(case: Case, seed: int) -> Ranked:
    """One forward; decompositions of weights are not counted."""
    question = case.posed.question
    trace = Tracer.of(case.flow)(question.batch, read_at=question.read_at)
    return Ranked((np.stack([trace.edge_scores(case.graph, prompt=row) for row in range(len(case.posed))]),), 1.0)


def _magnitude(case: Case, seed: int) -> Ranked:
    return Ranked((magnitude([case.contrast])[None],), 0.0)


def _random(case: Case, seed: int) -> Ranked:
    rng, shape = np.random.default_rng([seed, 7]), case.graph.full.shape
    return Ranked(tuple(rng.random((1, *shape)) for _ in range(DRAWS)), 0.0)


BESIDE = (
    Contender(
        "codes",
        "pairs of heads whose discrete codes go together on clean prompts alone; not causal, and knows heads only",
        "observed",
        _codes,
        by_prompt=False,
    ),
    Contender(
        "tracing",
        "what parts give to where heads look, from one forward; not causal, and knows queries and keys only",
        "observed",
        _tracing,
    ),
    Contender("magnitude", "how large what an edge carries is", "control", _magnitude, by_prompt=False),
    Contender("random", f"no order at all, mean of {DRAWS} draws", "control", _random, by_prompt=False),
)
