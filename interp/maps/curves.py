"""Deletion and insertion: what happens to the metric as tokens go, or come back, in the order of a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.circuits.ranks import centred_ranks, correlation
from interp.maps.look import Look
from interp.maps.removal import removal

CURVES = ("deletion", "insertion")

Maps = Float[np.ndarray, "map batch pos"]


def places(values: Maps, tokens: Bool[np.ndarray, "batch pos"], ties: Float[np.ndarray, "batch pos"]) -> np.ndarray:
    """Place of each token in the order of each map [map batch pos], 0 the highest; behind all others where `tokens` is
    False.

    Args:
        ties: equal numbers are ordered by these, lowest first, so that no map gains by where its ties stand.
    """
    levels = np.where(tokens, -np.nan_to_num(values, nan=-np.inf), np.inf)
    order = np.lexsort((np.broadcast_to(np.where(tokens, ties, np.inf), levels.shape), levels), axis=-1)
    found: np.ndarray = np.empty_like(order)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), -1)
    return found


def counts(n_tokens: Int[np.ndarray, " batch"], steps: int) -> Int[np.ndarray, "step batch"]:
    """How many tokens are gone after 0, 1, ..., `steps` steps of equal share, rounded half up."""
    shares = np.arange(steps + 1)[:, None] / steps
    return np.floor(shares * n_tokens + 0.5).astype(int)


def gone(
    place: Int[np.ndarray, "map batch pos"], count: Int[np.ndarray, "step batch"], tokens: Bool[np.ndarray, "batch pos"]
) -> Bool[np.ndarray, "curve map step batch pos"]:
    """What is taken away at each step: the first tokens of the order, or all but them."""
    first = (place[:, None] < count[None, :, :, None]) & tokens
    return np.stack([first, tokens & ~first])


def curves(
    look: Look,
    values: Maps,
    tokens: Bool[np.ndarray, "batch pos"],
    ties: Float[np.ndarray, "batch pos"],
    way: str,
    steps: int,
) -> Float[np.ndarray, "curve map step batch"]:
    """The metric along deletion and insertion of every map.

    Args:
        tokens: that may be taken away.
        steps: of each curve; after the last, none is left to take away, or to bring back.
    """
    asked = gone(places(values, tokens, ties), counts(tokens.sum(1), steps), tokens)
    flat = asked.reshape(-1, *tokens.shape)
    unique, back = np.unique(flat, axis=0, return_inverse=True)  # ends are the same for all maps
    found = _under(look, unique, way)
    return found[back.reshape(-1)].reshape(asked.shape[:-1])


def _under(look: Look, masks: Bool[np.ndarray, "mask batch pos"], way: str) -> Float[np.ndarray, "mask batch"]:
    """The metric with these tokens away; that of the run as it is where none is."""
    found = np.tile(look.baseline.numpy(), (len(masks), 1))
    some: Sequence[int] = np.flatnonzero(masks.any((1, 2))).tolist()
    variants = [removal(look, torch.from_numpy(masks[index]).to(look.real.device), way) for index in some]
    if variants:
        found[some] = look.under(variants).numpy()
    return found


def areas(curve: Float[np.ndarray, "curve map step prompt"]) -> Float[np.ndarray, "curve map prompt"]:
    """How much a map is worth, in units of the metric, high where it is faithful.

    Of deletion, the mean fall below the first point; of insertion, the mean rise above the last but in its own order: the
    point where nothing has come back. Means over the share of tokens, by trapezes.
    """
    ends = curve[:, :, :1]
    change = np.stack([ends[0] - curve[0], curve[1] - ends[1]])
    found: np.ndarray = np.trapezoid(change, axis=2) / (curve.shape[2] - 1)
    return found


def agreement(
    values: Maps, effects: Float[np.ndarray, "batch pos"], tokens: Bool[np.ndarray, "batch pos"]
) -> Float[np.ndarray, "map batch"]:
    """Spearman's correlation of each map with what the metric loses without each token; nan where either is flat, or
    fewer than 3 tokens are compared."""
    found = np.full(values.shape[:2], np.nan)
    for prompt, kept in enumerate(tokens):
        if kept.sum() < 3:
            continue
        found[:, prompt] = correlation(centred_ranks(values[:, prompt][:, kept]), centred_ranks(effects[prompt, kept]))
    return found
