"""What the page's script reads: figures, per-prompt effects and attention patterns, small enough for one file."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8

from interp.ablation.result import AblationResult
from interp.circuits.tables import counted
from interp.report.figures import (
    clean_metric,
    effect_heatmap,
    pattern_figure,
    position_labels,
    prompt_effects,
    top_heads,
)
from interp.report.rows import HeadRow
from interp.report.text import prompt_text

MAX_TOKENS = 128
"""Longest pattern shown; of longer ones the first position (where sinks are) and the last ones (where answers are read)."""

PAGE_BYTES = 2_000_000
"""Room for the data of one page, before it is written as text; patterns that do not fit are left out, with a note."""

HEAD_BYTES = 900
"""What a head's numbers and labels take of that, about."""

LEVELS = 254
MISSING = 255


def section_data(result: AblationResult, rows: Sequence[HeadRow], n_sections: int) -> dict[str, Any]:
    """One run as JSON-ready data.

    Strings inside figures and `labels` are escaped for Plotly, which reads tags; the script sets all others as plain text.

    Args:
        rows: the heads, most telling first.
        n_sections: runs that share the page, and so its size.
    """
    place = {label: index for index, label in enumerate(result.heads)}
    effects = result.effects.astype("<f4")
    room = PAGE_BYTES // n_sections - effects.nbytes - HEAD_BYTES * len(rows)
    kept = pattern_heads(result, [row.place for row in rows], room)
    dots = prompt_effects(result, rows[0].label)
    figures = {
        "heat": effect_heatmap(result),
        "top": top_heads(result),
        "clean": clean_metric(result),
        "dots": dots.update_traces(x=None, hovertext=None),  # the script takes both from data that is there already
    }
    return {
        "kind": result.kind,
        "first": rows[0].place,
        "heads": [_head(row) for row in sorted(rows, key=lambda row: row.place)],
        "controls": [[place[label] for label in labels] for labels in result.controls],
        "effects": packed(effects),
        "figures": {name: figure_data(figure) for name, figure in figures.items()},
        "patterns": [pattern_data(result, index, kept) for index in shown_prompts(result)],
        "patternHeads": {head: slot for slot, head in enumerate(kept)},
        "patternNote": patterns_note(result, len(kept)),
    }


def _head(row: HeadRow) -> dict[str, Any]:
    numbers = {"mean": row.mean, "above": row.high - row.mean, "below": row.mean - row.low}
    text = {"effect": row.effect, "interval": row.interval, "control": row.control, "q": row.q_text}
    return {
        **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
        "label": row.label,
        "text": {
            **text,
            "controls": ", ".join(row.controls) or "none",
            "n": str(row.n),
            "verdict": row.verdict,
            "note": row.note,
        },
    }


def shown_prompts(result: AblationResult) -> list[int]:
    """Indices of the prompts whose patterns the result holds."""
    return [index for index, prompt in enumerate(result.prompts) if prompt.id in result.patterns]


def pattern_heads(result: AblationResult, order: Sequence[int], n_bytes: int) -> list[int]:
    """Heads whose patterns fit, most telling first."""
    each = sum(min(len(result.prompts[index].tokens), MAX_TOKENS) ** 2 for index in shown_prompts(result))
    return list(order[: max(0, n_bytes) // each]) if each else []


def patterns_note(result: AblationResult, n_kept: int) -> str:
    """Why some or all attention patterns are not on the page; '' where they are."""
    if not result.patterns:
        return "This run holds no attention patterns; where the model refuses them, the notes above say why."
    if n_kept < len(result.heads):
        shown = f"the {counted(n_kept, 'head')} with the largest effects" if n_kept else "no head"
        return f"To keep the page small, attention is shown for {shown}; the run folder holds all {len(result.heads)}."
    return ""


def pattern_data(result: AblationResult, index: int, heads: Sequence[int]) -> dict[str, Any]:
    """The patterns of one prompt as bytes, with the figure that the script fills."""
    prompt = result.prompts[index]
    positions = shown_positions(len(prompt.tokens))
    tokens = [prompt.tokens[position] for position in positions]
    pattern = result.patterns[prompt.id]
    assert pattern.shape[1:] == (len(prompt.tokens),) * 2, f"pattern {pattern.shape}, {len(prompt.tokens)} tokens"
    figure = pattern_figure(np.zeros((len(positions), len(positions))), tokens, positions)
    return {
        "prompt": index,
        "text": prompt_text(prompt.tokens),
        "labels": position_labels(tokens, positions),
        "figure": figure_data(figure.update_traces(z=None, hovertext=None)),
        "bytes": packed(quantised(pattern[np.ix_(heads, positions, positions)])),
        "note": crop_note(len(prompt.tokens)),
    }


def shown_positions(n_tokens: int) -> list[int]:
    """Token positions of a pattern that the page shows."""
    return list(range(n_tokens)) if n_tokens <= MAX_TOKENS else [0, *range(n_tokens - MAX_TOKENS + 1, n_tokens)]


def crop_note(n_tokens: int) -> str:
    """What `shown_positions` left out; '' where it is nothing."""
    if n_tokens <= MAX_TOKENS:
        return ""
    return f"Cropped: token 0 and the last {MAX_TOKENS - 1} of {n_tokens} tokens are shown; attention to the others is not."


def quantised(pattern: Float[np.ndarray, "head query_pos key_pos"]) -> UInt8[np.ndarray, "head query_pos key_pos"]:
    """Attention in steps of 1/254; 255 stands for a number that is missing."""
    finite = np.isfinite(pattern)
    steps = np.rint(np.where(finite, pattern, 0).astype(np.float32) * LEVELS).clip(0, LEVELS)
    return np.where(finite, steps, MISSING).astype(np.uint8)


def packed(numbers: np.ndarray) -> str:
    """The bytes of an array, little-endian, as base64."""
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def figure_data(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON data, without Plotly's encoding of arrays, so that the script can fill it."""
    data = json.loads(figure.to_json(engine="json"))
    del data["layout"]["template"]
    return data
