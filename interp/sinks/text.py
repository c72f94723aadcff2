"""A report on sinks in sentences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import NAMED, counted, listed, number
from interp.sinks.tables import finite_mean

if TYPE_CHECKING:
    from interp.sinks.result import SinkReport


def headline(report: SinkReport) -> str:
    """Which keys are sinks of how many heads, by appearance and by cause."""
    by_attention = [one for one in report.criteria if one.attention]
    total = counted(len(report.heads), "head")
    if not by_attention:
        return f"No sink: no key receives more than {number(report.run.method['eps'])} of the attention of {total}."
    role, n = Counter(one.role for one in by_attention).most_common(1)[0]
    mine = [one for one in by_attention if one.role == role]
    drained, outlier = sum(one.drained for one in mine), sum(one.outlier for one in mine)
    said = f"{called(report, role)} receives most in {n} of {total} (more than {number(report.run.method['eps'])})"
    said += f", with a drained value in {drained} and an outlying stream in {outlier}"
    tested = [one for one in mine if one.dormant is not None]
    if tested:
        said += (
            f"; {sum(bool(one.dormant) for one in tested)} of {len(tested)} that rest there do nothing while they rest"
        )
    if not drained and not outlier:
        return f"No sink but by appearance: {said[0].lower()}{said[1:]}."
    return f"{said[0].upper()}{said[1:]}."


def called(report: SinkReport, role: str) -> str:
    """`the first token ('[CLS]')`: a role with its token, where that is always the same."""
    if role != report.roles[0]:
        return f"the role {role!r}"
    tokens = {prompt.tokens[0] for prompt in report.prompts}
    return f"the first token ({tokens.pop()!r})" if len(tokens) == 1 else "the first token"


def remarks(report: SinkReport) -> list[str]:
    """By role, by length, beyond the first token, and what rows leave unspent."""
    return [
        *by_role(report),
        *by_length(report),
        *beyond(report),
        *dimensions(report),
        *unspent(report),
        *verdicts(report),
    ]


def by_role(report: SinkReport) -> list[str]:
    """Mean over heads of what each role shows."""
    names = ("received", "uniform", "written", "norm")
    means = {name: finite_mean(report.mean(name), 0) for name in names}
    return [
        f"{role}: received {number(float(means['received'][at]))} (even attention {number(float(means['uniform'][at]))}), "
        f"value {number(float(means['written'][at]))} and stream {number(float(means['norm'][at]))} of the others"
        for at, role in enumerate(report.roles)
    ]


def by_length(report: SinkReport) -> list[str]:
    """How the first token does in longer texts."""
    return [
        f"at {length} tokens the first token receives {number(float(np.nanmean(report.by_length['received'][at, :, 0])))}, "
        f"more than eps in {int((report.by_length['received'][at, :, 0] > report.run.method['eps']).sum())} heads"
        for at, length in enumerate(report.lengths)
    ]


def beyond(report: SinkReport) -> list[str]:
    """Hidden sinks, by token."""
    found = Counter(spot.token for spot in report.hidden)
    if not found:
        return ["no sink beyond the first token"]
    named = listed([f"{token!r} {times}x" for token, times in found.most_common(NAMED + 1)])
    heads = len({spot.head for spot in report.hidden})
    return [f"sinks beyond the first token in {counted(heads, 'head')}: {named}"]


def dimensions(report: SinkReport) -> list[str]:
    """Dimensions that hold outlying entries."""
    found = report.run.method["dimensions"]
    if not found:
        return ["no outlying entries of the stream"]
    named = listed(
        [f"{one['dimension']} before layer {one['layer']} ({counted(one['tokens'], 'token')})" for one in found]
    )
    return [f"outlying entries of the stream ({report.run.method['rule']} rule) in dimension {named}"]


def unspent(report: SinkReport) -> list[str]:
    """Rows of another mass than 1, and gates that close."""
    mass, gate = (report.mean(name)[:, 0] for name in ("mass", "gate"))
    lines = []
    if np.abs(mass - 1).max() > 0.01:
        where = "a sink logit takes the rest" if report.run.method["sink_logits"] else "nothing takes the rest"
        lines.append(f"rows have a mass of {number(float(mass.min()))} to {number(float(mass.max()))} by head: {where}")
    if np.abs(gate - 1).max() > 0.01:
        lines.append(f"gates leave {number(float(gate.min()))} to {number(float(gate.max()))} of z by head")
    return lines


def verdicts(report: SinkReport) -> list[str]:
    """How many heads are what, in all and by domain."""
    if not report.tested:
        return ["heads were not taken away: nothing is said of causes"]
    found = Counter(report.verdicts)
    lines = ["heads: " + ", ".join(f"{name} {times}" for name, times in found.most_common())]
    each: dict[str, Counter[str]] = {}
    for head in report.heads:
        for domain, one in report.states(head).items():
            each.setdefault(domain, Counter())[one] += 1
    for domain in (name for name in report.domains if name in each):
        lines.append(f"{domain}: " + ", ".join(f"{name} {times}" for name, times in each[domain].most_common()))
    n = int(report.changes.quieter.sum())
    lines.append(f"{counted(n, 'head')} change less where they rest than matched heads taken away there")
    lines += [f"note: {warning}" for warning in report.run.warnings]
    return lines
