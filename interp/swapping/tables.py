"""A result of swapping as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.evidence import moments
from interp.circuits.tables import interval, number

if TYPE_CHECKING:
    import pandas as pd

    from interp.swapping.result import SwapResult


def frame(result: SwapResult) -> pd.DataFrame:
    """One row a head, class and prompt, heads outermost; `effect` is baseline - value."""
    import pandas as pd

    n_heads, n_classes, n = len(result.heads), len(result.classes) - 1, len(result.prompts)
    heads = result.head_ids

    def of_heads(values: list[Any]) -> np.ndarray:
        return np.repeat(np.array(values), n_classes * n)

    def of_prompts(values: Any) -> np.ndarray:
        return np.tile(np.asarray(values), n_heads * n_classes)

    columns: dict[str, Any] = {
        "run_id": result.run_id,
        "model": result.run.model["name"],
        "task": result.run.task["name"],
        "prompt_id": of_prompts([prompt.id for prompt in result.prompts]),
        "label": np.repeat(np.array(result.labels, dtype=object), n),
        "layer": of_heads([head.layer for head in heads]),
        "head": of_heads([head.head for head in heads]),
        "class": np.tile(np.repeat(np.array(result.names[:-1], dtype=object), n), n_heads),
        "chooses": of_prompts(result.chooses),
        "metric": result.metric,
        "value": result.values.ravel(),
        "baseline": of_prompts(result.baseline),
        "effect": result.effects.ravel(),
        "correct": result.correct.ravel(),
        "baseline_correct": of_prompts(result.baseline_correct),
        **{name: getattr(result, name).ravel() for name in ("recall", "output_error", "variation", "keys")},
        "full_keys": np.repeat(result.full_keys, n_classes, axis=0).ravel(),
    }
    return pd.DataFrame(columns, index=range(result.values.size))


def joint_frame(result: SwapResult) -> pd.DataFrame:
    """One row a configuration and prompt: each answer, then its random controls."""
    import pandas as pd

    from interp.swapping.result import ANSWERS

    parts = []
    for answer in ANSWERS:
        found = getattr(result, answer)
        n = len(found.values)
        parts.append(
            pd.DataFrame(
                {
                    "answer": answer,
                    "configuration": np.repeat(np.arange(n), len(result.prompts)),
                    "prompt_id": [prompt.id for prompt in result.prompts] * n,
                    "value": found.values.ravel(),
                    "correct": found.correct.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def head_line(result: SwapResult, head: str) -> list[str]:
    """One line of the printed table, in the order of `SwapResult.columns`."""
    place, row = result.asked.index(head), result.row_of(head, result.restricted)
    own, found = result.row(row), result.cheapest.state[place]
    cost = result.cost[result.heads.index(head)]
    return [
        head,
        result.alone[head],
        result.names[found],
        f"{number(cost[found])} of {number(cost[-1])}",
        "yes" if head in result.full_heads else "no",
        number(own.mean, signed=True),
        interval(own.ci_low, own.ci_high),
        number(float(moments(result.recall[row][None])[1][0])),
        "yes" if own.claimed else "no",
    ]
