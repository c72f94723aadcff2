"""A report on safety heads as rows: for a terminal, and for data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.interactions import estimate
from interp.circuits.tables import interval, number
from interp.safety.trials import BASE, CONTROL, JUDGES

if TYPE_CHECKING:
    import pandas as pd

    from interp.safety.result import SafetyReport

LEVEL = 0.05


def line(report: SafetyReport, row: int) -> list[str]:
    """One line of the printed table, in the order of its columns."""
    trial, seed = report.trials[row], int(report.run.seeds["evidence"])
    name = {BASE: "nothing", CONTROL: f"random: {', '.join(trial.heads)}"}.get(trial.kind, ", ".join(trial.heads))
    comply, cost = (estimate(report.numbers[key][row], LEVEL, seed) for key in ("compliance", "cost"))
    base = float(report.numbers["compliance"][0].mean())
    judged = {judge: f"{report.complied[judge][row].mean():.0%}" for judge in JUDGES}
    return [
        name + (" (the group)" if row == report.group_row and trial.kind != BASE else ""),
        number(comply.mean), interval(comply.ci_low, comply.ci_high), number(comply.mean / base) if base else "-",
        judged["phrases"], judged["token"], judged["legacy"], number(cost.mean), interval(cost.ci_low, cost.ci_high),
        number(float(report.numbers["helped"][row].mean())),
    ]  # fmt: skip


def frame(report: SafetyReport) -> pd.DataFrame:
    """The screening: one row an operator, head and prompt, operators outermost."""
    import pandas as pd

    ids = [prompt.id for prompt in report.prompts]
    index = pd.MultiIndex.from_product([report.operators, report.heads, ids], names=["operator", "label", "prompt_id"])
    columns: dict[str, Any] = {name: values.reshape(-1) for name, values in report.screening.items()}
    shape = (len(report.operators) * len(report.heads), 1)
    columns |= {f"base_{name}": np.tile(report.baseline[name], shape).reshape(-1) for name in ("refusal", "compliance")}
    table = pd.DataFrame(columns, index=index).reset_index()
    for place, (name, value) in enumerate(_origin(report).items()):
        table.insert(place, name, value)
    return table


def trial_frame(report: SafetyReport) -> pd.DataFrame:
    """Held-out prompts: one row a trial and prompt, trials outermost."""
    import pandas as pd

    n, ids = len(report.held_out), [prompt.id for prompt in report.held_out]
    columns: dict[str, Any] = {
        **_origin(report),
        "trial": np.repeat(np.arange(len(report.trials)), n),
        "kind": [trial.kind for trial in report.trials for _ in range(n)],
        "heads": [" ".join(trial.heads) for trial in report.trials for _ in range(n)],
        "prompt_id": ids * len(report.trials),
        **{name: values.reshape(-1) for name, values in report.numbers.items()},
        **{f"complied_{judge}": report.complied[judge].reshape(-1) for judge in JUDGES},
        "reply": [text for row in report.replies for text in row],
    }
    return pd.DataFrame(columns)


def _origin(report: SafetyReport) -> dict[str, str]:
    run = report.run
    return {"run_id": report.run_id, "model": str(run.model["name"]), "task": str(run.task["name"])}
