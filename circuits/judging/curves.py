"""Faithfulness over size: f(p) = (m(C_p) - m(empty)) / (m(full) - m(empty)), and the areas that sum it up.

m is a mean over prompts, C_p the circuit of a share p of the edges, empty the circuit without edges under the same
ablation. With the points (x_i, f_i), smallest circuit first:

- CPR  = sum over i of (x_(i+1) - x_i) (f_i + f_(i+1)) / 2, and CMD the same of |1 - f|: as the MIB benchmark defines
  them (Mueller et al. 2025, arXiv 2504.13151), which takes CPR from circuits chosen by signed scores, CMD by their
  size. From its first share, .001, a perfect CPR is .999 and a perfect CMD 0.
- On a log axis, the same with ln x in the place of x, divided by ln x_n - ln x_1: a perfect CPR is 1 and a perfect CMD 0.

MIB's x is the share asked for. Pruning leaves less of it: x is the actual share where this is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import RELATIVE_ROUNDING, bootstrap_interval, resampled_means
from interp.circuits.tables import interval, number
from interp.kernels.errors import InterpError, suggest

AREAS = ("cpr", "cmd")
SCALES = ("linear", "log")
AXES = ("nominal", "actual")


class Area(NamedTuple):
    """An area, with the ends of its bootstrap interval; nan where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness of circuits of growing size; made by `curve`.

    Attributes:
        nominal, actual: share of all edges that was asked for, and that pruning left.
        f: faithfulness.
        low, high: ends of its bootstrap interval over prompts; nan with one prompt.
        resampled: f of each resample; one row of nan with one prompt.
        gap: m(full) - m(empty), with its interval.
        level: 1 - coverage of the intervals.
        n: prompts that count.
        dropped: prompts left out, because one of their numbers is not finite.
    """

    nominal: Float[np.ndarray, " size"]
    actual: Float[np.ndarray, " size"]
    f: Float[np.ndarray, " size"]
    low: Float[np.ndarray, " size"]
    high: Float[np.ndarray, " size"]
    resampled: Float[np.ndarray, "boot size"]
    gap: Area
    level: float
    n: int
    dropped: int

    def area(self, kind: str, *, axis: str = "nominal", scale: str = "linear") -> Area:
        """CPR or CMD of this curve; the defaults are MIB's.

        Args:
            kind: 'cpr' or 'cmd'.
            axis: 'nominal' or 'actual'.
            scale: 'linear' or 'log'.

        Raises:
            InterpError: E201 another word; E205 as `area`.
        """
        if axis not in AXES:
            raise InterpError("E201", f"no axis {axis!r}", fix=suggest(axis, AXES))
        x = self.nominal if axis == "nominal" else self.actual
        value = float(area(self.f, x, kind, scale))
        return Area(value, *_ends(area(self.resampled, x, kind, scale), self.level))


def curve(
    circuits: Float[np.ndarray, "size prompt"],
    full: Float[np.ndarray, " prompt"],
    empty: Float[np.ndarray, " prompt"],
    nominal: Float[np.ndarray, " size"],
    actual: Float[np.ndarray, " size"],
    *,
    level: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
) -> Curve:
    """Faithfulness at each size, a ratio of means, with percentile intervals from resampled prompts.

    Args:
        circuits: metric of each circuit on each prompt, smallest circuit first.
        full: metric of the whole model.
        empty: metric with every edge ablated.
        nominal, actual: shares of edges, as `Selection` has them.
        seed: of the resamples; each draws the same prompts for all circuits, the model and the empty circuit.

    Raises:
        InterpError: E205 shares that fall; E407 a gap of 0, or one that prompts do not tell from 0; E501 no finite prompt.
    """
    for shares in (nominal, actual):
        _check_rising(shares)
    rows = np.vstack([circuits, full, empty]).astype(np.float64)
    finite = np.all(np.isfinite(rows), axis=0)
    rows, n = rows[:, finite], int(finite.sum())
    if n == 0:
        raise InterpError("E501", f"none of {len(finite)} prompts is finite in every circuit", fix="look at the metric")
    gap = _gap(rows[-2], rows[-1], level, n_boot, seed)
    resampled = _ratio(resampled_means(rows, n_boot, seed)) if n > 1 else np.full((1, len(circuits)), np.nan)
    low, high = _ends(resampled, level)
    return Curve(nominal, actual, _ratio(rows.mean(1)), low, high, resampled, gap, level, n, len(finite) - n)


def area(
    f: Float[np.ndarray, "*boot size"], x: Float[np.ndarray, " size"], kind: str, scale: str = "linear"
) -> Float[np.ndarray, "*boot"]:
    """CPR or CMD by the formulas above.

    Args:
        x: share of edges of each circuit. On a log axis circuits without edges have no place and are left out.

    Raises:
        InterpError: E201 no such area or scale; E205 shares that fall, or no width on the log axis.
    """
    for given, known in ((kind, AREAS), (scale, SCALES)):
        if given not in known:
            raise InterpError("E201", f"{given!r} is not an area or a scale", fix=suggest(given, known))
    _check_rising(x)
    height = f if kind == "cpr" else np.abs(1 - f)
    if scale == "linear":
        return np.asarray(np.trapezoid(height, x, axis=-1))
    at = np.log(x[x > 0])
    if not len(at) or at[-1] == at[0]:
        raise InterpError(
            "E205", "all circuits have one size: the log axis has no width", fix="ask for larger circuits"
        )
    return np.asarray(np.trapezoid(height[..., x > 0], at, axis=-1) / (at[-1] - at[0]))


def _ratio(means: Float[np.ndarray, "*boot row"]) -> Float[np.ndarray, "*boot size"]:
    """f from the means of the circuits, of the model and of the empty circuit; nan where a resample has no gap."""
    gap = means[..., -2:-1] - means[..., -1:]
    return (means[..., :-2] - means[..., -1:]) / np.where(gap == 0, np.nan, gap)


def _ends(values: np.ndarray, level: float) -> np.ndarray:
    """Lower and upper ends of the percentile interval over the first axis; nan where there are no resamples."""
    return np.quantile(values, [level / 2, 1 - level / 2], axis=0)


def _gap(
    full: Float[np.ndarray, " prompt"], empty: Float[np.ndarray, " prompt"], level: float, n_boot: int, seed: int
) -> Area:
    """The gap between the model and the empty circuit, refused where it may be 0."""
    value = float((full - empty).mean())
    ends = bootstrap_interval((full - empty)[None], level=level, n_boot=n_boot, seed=seed)
    gap = Area(value, float(ends[0][0]), float(ends[1][0]))
    is_rounding = abs(value) <= RELATIVE_ROUNDING * float((np.abs(full) + np.abs(empty)).mean())
    if is_rounding or gap.low <= 0 <= gap.high:
        what = f"the metric has no clean-ablated gap: m(full) - m(empty) is {number(value)}, interval "
        what += f"{interval(gap.low, gap.high)}, over {len(full)} prompts"
        fix = "use a task that the model does, more prompts, or another ablation or metric"
        raise InterpError("E407", what, where="faithfulness", fix=fix)
    return gap


def _check_rising(shares: Float[np.ndarray, " size"]) -> None:
    if len(shares) < 2 or (np.diff(shares) < 0).any():
        raise InterpError("E205", "an area needs two or more sizes, smallest first", fix="sort circuits by their size")
