"""A report on sinks as rows: for a terminal, and for a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.circuits.tables import number
from interp.sinks.places import RESTING, WORKING

if TYPE_CHECKING:
    import pandas as pd

    from interp.sinks.result import SinkReport


def finite_mean(values: Float[np.ndarray, "*axes"], axis: int) -> Float[np.ndarray, "*rest"]:
    """Mean over the finite values along an axis; nan where there is none."""
    kept = np.isfinite(values)
    count = kept.sum(axis)
    total: np.ndarray = np.where(kept, values, 0.0).sum(axis) / np.maximum(count, 1)
    return np.where(count > 0, total, np.nan)


def line(report: SinkReport, head: int) -> list[str]:
    """One line of the printed table, in the order of its columns."""
    one, role = report.criteria[head], report.roles.index(report.criteria[head].role)
    names = ("received", "uniform", "written", "norm")
    received, even, written, norm = (number(float(report.mean(name)[head, role])) for name in names)
    mark = f"{norm} (outlier)" if one.outlier else norm
    changes = ["-", "-", "-"]
    if report.tested:
        rest, work = (report.domains.index(name) for name in (RESTING, WORKING))
        found = report.changes
        changes = [
            number(float(value)) for value in (found.mean[head, rest], found.control[head], found.mean[head, work])
        ]
    rests = number(float(finite_mean(report.rests[head], 0)))
    return [
        report.heads[head], one.role, received, even, written, mark, rests, *changes, report.verdicts[head],
        one.disagreement,
    ]  # fmt: skip


def frame(report: SinkReport) -> pd.DataFrame:
    """One row a head, prompt and role."""
    import pandas as pd

    heads, n_prompts, n_roles = report.by_role["received"].shape
    index = pd.MultiIndex.from_product(
        [report.heads, [prompt.id for prompt in report.prompts], report.roles], names=["label", "prompt_id", "role"]
    )
    columns: dict[str, Any] = {name: values.reshape(-1) for name, values in report.by_role.items()}
    table = pd.DataFrame(columns, index=index).reset_index()
    table.insert(0, "layer", np.repeat([head.layer for head in report.head_ids], n_prompts * n_roles))
    table.insert(1, "head", np.repeat([head.head for head in report.head_ids], n_prompts * n_roles))
    table.insert(0, "task", str(report.run.task["name"]))
    table.insert(0, "model", str(report.run.model["name"]))
    table.insert(0, "run_id", report.run_id)
    return table
