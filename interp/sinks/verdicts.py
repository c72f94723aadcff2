"""What four criteria say of a head, whether they agree, and in which domains it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import benjamini_hochberg, bootstrap_interval, moments, sign_flip_p
from interp.sinks.places import ALL, RESTING, WORKING

if TYPE_CHECKING:
    from interp.sinks.result import SinkReport

State = Literal["dormant", "active", "unclear", "absent"]
Verdict = Literal["dormant", "active", "mixed", "unclear", "not tested"]
LEVEL = 0.05
MOST = 0.5
"""Share of prompts in which the stream must be an outlier."""


@dataclass(frozen=True)
class Criteria:
    """Four criteria side by side, of one head and the role that it looks at most.

    Attributes:
        role: of the key that receives most, on average.
        attention: it receives more than `eps`.
        outlier: the stream there is an outlier in most prompts.
        drained: what its value writes is short.
        dormant: taking the head away where it rests changes nothing; None where that was not tested or it never rests.
    """

    role: str
    attention: bool
    outlier: bool
    drained: bool
    dormant: bool | None

    @property
    def named(self) -> dict[str, bool]:
        """The criteria that could be judged."""
        found = {"attention": self.attention, "stream": self.outlier, "value": self.drained}
        return found if self.dormant is None else {**found, "cause": self.dormant}

    @property
    def disagreement(self) -> str:
        """`attention, value but not stream`; empty where all say the same."""
        yes = [name for name, holds in self.named.items() if holds]
        no = [name for name, holds in self.named.items() if not holds]
        return f"{', '.join(yes)} but not {', '.join(no)}" if yes and no else ""


@dataclass(frozen=True, eq=False)
class Changes:
    """Change of the output without a head, over prompts, for each domain.

    Attributes:
        mean, low, high: mean with the ends of its bootstrap interval.
        n: prompts that have such queries.
        control: mean of matched heads, taken away where this one rests.
        quieter: the head changes less than they do, at a false-discovery rate of `LEVEL` over heads.
    """

    mean: Float[np.ndarray, "head domain"]
    low: Float[np.ndarray, "head domain"]
    high: Float[np.ndarray, "head domain"]
    n: Float[np.ndarray, "head domain"]
    control: Float[np.ndarray, " head"]
    quieter: Bool[np.ndarray, " head"]


def changes_of(report: SinkReport) -> Changes:
    """Intervals over prompts, and the comparison with matched heads."""
    effects = report.effects
    heads, prompts, domains = effects.shape
    flat = effects.transpose(0, 2, 1).reshape(-1, prompts)
    n, mean, _ = moments(flat)
    low, high = bootstrap_interval(flat, level=LEVEL, seed=report.run.seeds["evidence"])
    margin = report.control_effects - effects[:, :, domains - 2]
    p = sign_flip_p(margin, two_sided=False, seed=report.run.seeds["evidence"])
    p[~np.isfinite(margin).any(1)] = np.nan
    quieter = benjamini_hochberg(p) <= LEVEL
    shape = (heads, domains)
    return Changes(
        mean.reshape(shape), low.reshape(shape), high.reshape(shape), n.reshape(shape).astype(np.float64),
        moments(report.control_effects)[1], quieter,
    )  # fmt: skip


def state(report: SinkReport, head: int, domain: int) -> State:
    """Dormant where even the upper end of the interval is within the tolerance, active where the lower end is not."""
    found = report.changes
    mean, low, high = (float(values[head, domain]) for values in (found.mean, found.low, found.high))
    if not found.n[head, domain]:
        return "absent"
    bound = float(report.run.method["tolerance"])
    if np.isnan(high):  # one prompt, or the same in all
        low = high = mean
    return "dormant" if high <= bound else "active" if low > bound else "unclear"


def states(report: SinkReport, head: int) -> dict[str, State]:
    """State of a head in each domain; all queries together only where there is nothing finer."""
    if not report.tested:
        return {}
    found = {name: state(report, head, number) for number, name in enumerate(report.domains)}
    finer: dict[str, State] = {name: one for name, one in found.items() if name != ALL and one != "absent"}
    return finer or {ALL: found[ALL]}


def verdict(report: SinkReport, head: int) -> Verdict:
    """Dormant or active where every domain says so, mixed where some say one and some the other."""
    by_domain = states(report, head)
    if not by_domain:
        return "not tested"
    given = {name: one for name, one in by_domain.items() if name not in (RESTING, WORKING)}
    said = set((given or by_domain).values())
    if {"dormant", "active"} <= set(by_domain.values()):
        return "mixed"
    if said == {"dormant"}:
        return "dormant"
    return "active" if said == {"active"} else "unclear"


def criteria(report: SinkReport, head: int) -> Criteria:
    """All four of a head, at the role that receives most."""
    received = np.nan_to_num(report.mean("received")[head], nan=-1.0)
    role = int(received.argmax())
    written = float(report.mean("written")[head, role])
    outlier = float(report.mean("outlier")[head, role])
    resting = state(report, head, report.domains.index(RESTING)) if report.tested else "absent"
    return Criteria(
        role=report.roles[role],
        attention=bool(received[role] > report.run.method["eps"]),
        outlier=outlier > MOST,
        drained=written < report.run.method["drained"],
        dormant=None if resting == "absent" else resting == "dormant",
    )
