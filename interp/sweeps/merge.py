"""Shards put together: a set union, in which nothing may be missing and nothing may be there twice with two values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from interp.kernels.errors import InterpError
from interp.sweeps.parts import Part
from interp.sweeps.plan import Plan
from interp.sweeps.work import Values


def merge(plan: Plan, stored: Iterable[Part]) -> Values:
    """The whole table, whatever the number and order of parts.

    Raises:
        InterpError: E701 a part of another plan, two values for one cell, or cells without value.
    """
    values = np.zeros((len(plan.labels), len(plan.prompts)))
    filled = np.zeros(values.shape, dtype=bool)
    for part in stored:
        if part.about["plan"] != plan.digest:
            raise InterpError("E701", f"shard {part.shard.short} belongs to another plan")
        for unit, table in zip(part.shard.units, part.values, strict=True):
            cell = np.s_[unit.first : unit.last, unit.start : unit.stop]
            twice = filled[cell] & ~((values[cell] == table) | (np.isnan(values[cell]) & np.isnan(table)))
            if twice.any():
                raise InterpError(
                    "E701", f"shard {part.shard.short} has other values for cells that another shard holds"
                )
            values[cell], filled[cell] = table, True
    if not filled.all():
        raise InterpError(
            "E701",
            f"{int((~filled).sum())} of {filled.size} values are missing",
            fix="interp resume FOLDER computes them",
        )
    return values
