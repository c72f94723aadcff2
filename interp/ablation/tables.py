"""A head ablation as tables: rows of heads and prompts, one summary row a head, and text for spreadsheets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.hooks.names import HeadId, parse_head

if TYPE_CHECKING:
    import pandas as pd

    from interp.ablation.result import AblationResult

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a spreadsheet read text as a formula; the last four are full-width forms."""


def rows(result: AblationResult) -> pd.DataFrame:
    """One row a head and prompt, heads outermost; `delta` is the effect, baseline - value."""
    import pandas as pd

    n_heads, n_prompts = result.values.shape
    heads = [parse_head(label) for label in result.heads]
    delta = result.effects.ravel()
    columns: dict[str, Any] = {
        "run_id": result.run_id,
        "model": result.run.model["name"],
        "task": result.run.task["name"],
        "prompt_id": [prompt.id for prompt in result.prompts] * n_heads,
        "layer": np.repeat(np.array([head.layer for head in heads], dtype=np.int64), n_prompts),
        "head": np.repeat(np.array([head.head for head in heads], dtype=np.int64), n_prompts),
        "kv_head": pd.array([kv_head(result, head) for head in heads], dtype="Int64").repeat(n_prompts),
        "label": [label for label in result.heads for _ in range(n_prompts)],
        "kind": result.run.method["operator"],
        "position_spec": position_spec(result.run.method["positions"]),
        "metric": result.metric,
        "value": result.values.ravel(),
        "baseline": np.tile(result.baseline, n_heads),
        "delta": delta,
        "n_tokens": np.tile(np.array([len(prompt.tokens) for prompt in result.prompts], dtype=np.int64), n_heads),
        "finite": np.isfinite(delta),
    }
    return pd.DataFrame(columns, index=range(len(delta)))


def summary(result: AblationResult) -> pd.DataFrame:
    """One row a head, in model order."""
    import pandas as pd

    found, heads = result.evidence, [parse_head(label) for label in result.heads]
    columns: dict[str, Any] = {
        "label": list(result.heads),
        "layer": [head.layer for head in heads],
        "head": [head.head for head in heads],
        "kv_head": pd.array([kv_head(result, head) for head in heads], dtype="Int64"),
        "controls": [" ".join(labels) for labels in result.controls],
    }
    statistics = ("n", "mean", "standard_error", "ci_low", "ci_high", "control_mean", "p_zero", "p_control", "p", "q")
    columns.update({name: getattr(found, name) for name in (*statistics, "claimed")})
    return pd.DataFrame({**columns, "note": list(found.notes)})


def kv_head(result: AblationResult, head: HeadId) -> int | None:
    """The key/value head that a query head reads; None where the record does not say."""
    model = result.run.model
    if "heads" not in model or "kv_heads" not in model:
        return None
    n_heads, n_kv_heads = (int(model[key][head.tower][head.layer]) for key in ("heads", "kv_heads"))
    return head.head * n_kv_heads // n_heads


def position_spec(positions: Any) -> str:
    """Where heads were ablated, as text: `all`, a role, or `3 4 5`."""
    if positions is None:
        return "all"
    return positions if isinstance(positions, str) else " ".join(map(str, positions))


def csv_text(frame: pd.DataFrame) -> str:
    """CSV in which no text starts a formula: where a spreadsheet would run it, an apostrophe stands before it."""
    from pandas.api.types import is_numeric_dtype

    escaped = frame.copy()
    for name in [name for name in frame if not is_numeric_dtype(frame[name])]:
        escaped[name] = [f"'{text}" if text.startswith(FORMULA_STARTS) else text for text in map(str, frame[name])]
    return str(escaped.to_csv(index=False, lineterminator="\n"))
