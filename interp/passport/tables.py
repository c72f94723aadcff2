"""A passport as rows: for a terminal, and for a data frame."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.tables import interval, number
from interp.passport.reading import Reading

if TYPE_CHECKING:
    import pandas as pd

    from interp.passport.result import Passport


def line(passport: Passport, one: Reading) -> list[str]:
    """One line of the printed table, in the order of its columns."""
    held = passport.stability(one.question)
    rank = f"{one.rank} of {one.of}" if one.rank else "-"
    numbers = [number(one.chance), number(one.others), number(one.q)]
    return [
        one.question, number(one.value), interval(one.low, one.high), *numbers, "yes" if one.claimed else "no", rank,
        held.says, held.spread, one.task,
    ]  # fmt: skip


def frame(passport: Passport) -> pd.DataFrame:
    """One row a question, setting and prompt."""
    import pandas as pd

    counts = [len(one.prompts) for one in passport.readings]
    columns: dict[str, Any] = {
        "run_id": passport.run_id,
        "model": passport.run.model["name"],
        "label": passport.head,
        **{
            name: np.repeat(np.array([getattr(one, name) for one in passport.readings], dtype=object), counts)
            for name in ("question", "family", "setting", "task")
        },
        "prompt_id": [prompt for one in passport.readings for prompt in one.prompts],
        "value": np.concatenate([one.values for one in passport.readings]),
        "chance": np.concatenate([one.chances for one in passport.readings]),
    }
    return pd.DataFrame(columns)


def summary(passport: Passport) -> pd.DataFrame:
    """One row a question and setting."""
    import pandas as pd

    names = [one.name for one in fields(Reading) if one.name not in ("prompts", "values", "chances")]
    rows = [{**{name: getattr(one, name) for name in names}, "n": one.n} for one in passport.readings]
    return pd.DataFrame(rows)
