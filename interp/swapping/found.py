"""A configuration that a search found, run on all prompts beside matched random ones, and what that allows to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import bootstrap_interval, is_varied, moments, sign_flip_p
from interp.swapping.search import State

LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Found:
    """One answer.

    Attributes:
        state: class number of each head that was asked about.
        controls: matched random configurations.
        n_within: how many of them have as many heads of each class in each layer; the others, in the model.
        values, correct: metric and accuracy of every prompt, the found configuration first, then its controls.
        n_runs: configurations that were run to find it.
    """

    state: State
    controls: tuple[State, ...]
    n_within: int
    values: Float[np.ndarray, "configuration prompt"]
    correct: Float[np.ndarray, "configuration prompt"]
    n_runs: int

    def to_dict(self) -> dict[str, Any]:
        """Without the numbers of prompts."""
        return {"state": self.state, "controls": self.controls, "n_within": self.n_within, "n_runs": self.n_runs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], values: np.ndarray, correct: np.ndarray) -> Found:
        return cls(
            tuple(data["state"]), tuple(map(tuple, data["controls"])), data["n_within"], values, correct, data["n_runs"]
        )


@dataclass(frozen=True)
class Verdict:
    """What held-out prompts say.

    Attributes:
        loss: mean loss of the found configuration.
        ci_low, ci_high: bootstrap interval of it. Where all prompts lose alike there is none; it then reaches as far as
            one prompt in each so many that n prompts may miss it (95 %, one-sided), `1 - 0.05^(1/n)` beyond.
        n: prompts.
        controls: mean loss of each random configuration.
        p: one-sided, the found one loses less than its controls do on average, over prompts; 1 without controls.
        bound: on the loss.
    """

    loss: float
    ci_low: float
    ci_high: float
    n: int
    controls: tuple[float, ...]
    p: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the mean loss is within the bound."""
        return self.loss <= self.bound

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval is."""
        return self.holds and self.ci_high <= self.bound

    @property
    def n_controls_hold(self) -> int:
        return sum(loss <= self.bound for loss in self.controls)

    @property
    def claimed(self) -> bool:
        """Whether it may be said of these heads and no others: it holds, no random choice does, and p is small."""
        return self.holds and bool(self.controls) and not self.n_controls_hold and self.p <= LEVEL


def judged(losses: Float[np.ndarray, "configuration prompt"], bound: float, seed: int) -> Verdict:
    """The verdict on a found configuration.

    Args:
        losses: of the held-out prompts, the found configuration first.
    """
    n, means, _ = moments(losses)
    low, high = bootstrap_interval(losses[:1], level=LEVEL, seed=seed)
    if n[0] and not is_varied(losses[:1])[0]:
        low, high = means[:1], means[:1] + 1 - LEVEL ** (1 / n[0])
    p = _smaller_p(moments(losses[1:].T)[1] - losses[0], seed) if len(losses) > 1 else 1.0
    return Verdict(float(means[0]), float(low[0]), float(high[0]), int(n[0]), tuple(map(float, means[1:])), p, bound)


def _smaller_p(margin: Float[np.ndarray, " prompt"], seed: int) -> float:
    """One-sided p of margins above 0; where all of them are alike, only the flip that leaves them so reaches them."""
    known = margin[np.isfinite(margin)]
    if len(known) and not is_varied(known[None])[0]:
        return float(0.5 ** len(known)) if known[0] > 0 else 1.0
    return float(sign_flip_p(margin[None], two_sided=False, seed=seed)[0])


def split(n: int, n_choose: int, seed: int) -> Bool[np.ndarray, " prompt"]:
    """True for the prompts that choose, drawn at random; the others verify."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng([seed, 0]).permutation(n)[:n_choose]] = True
    return chosen
