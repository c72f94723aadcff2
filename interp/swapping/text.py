"""A result of swapping in sentences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import counted, listed, number
from interp.swapping.found import Found, Verdict

if TYPE_CHECKING:
    from interp.swapping.result import SwapResult


def headline(result: SwapResult) -> str:
    """Which heads need full attention, and whether held-out prompts and random choices bear it out."""
    verdict, full, n = result.verdict("needed"), result.full_heads, len(result.asked)
    if not full:
        what = f"No head of {n} needs full attention on {result.run.task['name']}"
    else:
        verb = "needs" if len(full) == 1 else "need"
        what = f"{len(full)} of {counted(n, 'head')} {verb} full attention on {result.run.task['name']}"
        what += f" ({listed(full)})"
    rest = f"with {sized(result)} everywhere else {lost(result, verdict)}"
    if not verdict.holds:
        return f"No claim: {what[0].lower()}{what[1:]} where heads were chosen, but {rest}, more than {bound(result)}."
    if not full:
        return f"{what}: {rest}."
    if not verdict.claimed:
        return f"No claim that it is these heads: {what[0].lower()}{what[1:]}, {rest}, but {against(result, verdict)}."
    return f"{what}: {rest}; {against(result, verdict)}."


def remarks(result: SwapResult) -> list[str]:
    """The cheapest configuration, and what singles say."""
    found, verdict = result.cheapest, result.verdict("cheapest")
    cost, full = result.mean_keys(found), result.mean_keys(all_full(result))
    state = "holds" if verdict.holds else f"does not hold (bound {bound(result)})"
    if verdict.holds and not verdict.is_sure:
        state = f"holds, though the interval reaches beyond {bound(result)}"
    line = f"cheapest: {number(cost)} keys a query instead of {number(full)} ({cost / full:.0%}); {lost(result, verdict)}: {state}"
    if verdict.controls:
        line += f"; {against(result, verdict)}"
    kinds = counts(result, found)
    together = f"cheapest, heads by class: {', '.join(f'{name} {count}' for name, count in kinds.items())}"
    singles = Counter(result.alone.values())
    alone = ", ".join(f"{name} {singles[name]}" for name in result.names if singles[name])
    return [line, together, f"each head alone could do with: {alone}"]


def counts(result: SwapResult, found: Found) -> dict[str, int]:
    """Heads under each class, in the order of the classes."""
    had = Counter(result.classes_of(found).values())
    return {name: had[name] for name in result.names if had[name]}


def all_full(result: SwapResult) -> Found:
    """The configuration that restricts nothing."""
    none = np.empty((0, len(result.prompts)))
    return Found((len(result.classes) - 1,) * len(result.asked), (), 0, none, none, 0)


def sized(result: SwapResult) -> str:
    """The restricted class with its sizes."""
    sizes = result.run.method["sizes"]
    if result.restricted != "sink+recent":
        return result.restricted
    return f"{sizes['sink_tokens']} sink + {sizes['recent']} recent tokens"


def bound(result: SwapResult) -> str:
    """`2 points`, or `2 % of logit_diff`."""
    return quantity(result, float(result.run.method["loss"]))


def quantity(result: SwapResult, loss: float) -> str:
    """A loss in words."""
    if result.run.method["loss_of"] == "accuracy":
        return f"{100 * loss:.3g} points"
    return f"{100 * loss:.3g} % of {result.metric}"


def lost(result: SwapResult, verdict: Verdict) -> str:
    """`accuracy falls by 0.4 points [0, 1.2] on 256 held-out prompts`."""
    what = "accuracy" if result.run.method["loss_of"] == "accuracy" else result.metric
    ends = f" [{100 * verdict.ci_low:.3g}, {100 * verdict.ci_high:.3g}]"
    return f"{what} falls by {quantity(result, verdict.loss)}{ends} on {counted(verdict.n, 'held-out prompt')}"


def against(result: SwapResult, verdict: Verdict) -> str:
    """What random choices lose."""
    if not verdict.controls:
        return "there is no other choice of as many heads to compare with"
    low, high = min(verdict.controls), max(verdict.controls)
    hold = verdict.n_controls_hold
    ends = quantity(result, low) if low == high else f"{100 * low:.3g} to {quantity(result, high)}"
    which = "none of them holds" if not hold else f"{hold} of them {'holds' if hold == 1 else 'hold'} too"
    return f"{counted(len(verdict.controls), 'random choice')} of as many heads lose {ends} (p = {number(verdict.p)}), {which}"
