"""Matched controls: what heads, or sets of heads, a claim about a head must be compared with.

A head of a late layer, or one that writes a lot, changes the output whatever it does. So a head is compared with heads
of its own layer that write about as much. The distance of two heads is |log(norm) - log(norm)|.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.kernels.errors import InterpError


@dataclass(frozen=True)
class MatchedControls:
    """Control heads of each head.

    Attributes:
        indices: for each head, indices of its controls, best match first; never the head itself.
        notes: for each head, '' or why its controls are not what was asked for.
    """

    indices: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def matched_controls(
    output_norm: Float[np.ndarray, " head"], layers: Int[np.ndarray, " head"], n: int
) -> MatchedControls:
    """For each head the n heads of its layer that are nearest in output norm.

    Args:
        output_norm: mean norm of what each head writes into the residual stream.
        layers: layer of each head; heads of different towers need different numbers.
        n: controls a head; fewer where the layer has fewer heads. A head that is alone in its layer gets heads of
            the nearest layers, and a note.
    """
    chosen = [_controls_of(head, output_norm, layers, n) for head in range(len(layers))]
    return MatchedControls(tuple(indices for indices, _ in chosen), tuple(note for _, note in chosen))


def grouped(notes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Notes on controls, each said once after the labels it is about.

    Args:
        notes: label and note, which is '' where there is nothing to say.
    """
    labels: dict[str, list[str]] = {}
    for label, note in notes:
        if note:
            labels.setdefault(note, []).append(label)
    return tuple(f"{', '.join(found)}: {note}" for note, found in labels.items())


def _controls_of(
    head: int, output_norm: Float[np.ndarray, " head"], layers: Int[np.ndarray, " head"], n: int
) -> tuple[tuple[int, ...], str]:
    """Controls of one head, and the note on them."""
    others = np.delete(np.arange(len(layers)), head)
    distance = norm_distance(output_norm, head)[others]
    steps = np.abs(layers[others] - layers[head])
    order = others[np.lexsort((others, distance, steps))]
    same = order[layers[order] == layers[head]]
    if len(same):
        return tuple(same[:n].tolist()), "" if len(same) >= n else f"{len(same)} controls: the layer has no more heads"
    chosen = order[:n]
    if not len(chosen):
        return (), "no controls: the model has one head"
    names = ", ".join(map(str, sorted({int(layer) for layer in layers[chosen]})))
    return tuple(chosen.tolist()), f"alone in its layer: controls come from layer {names}"


def norm_distance(output_norm: Float[np.ndarray, " head"], head: int) -> Float[np.ndarray, " head"]:
    """|log ratio| of output norms to one head; infinite where only one of the two is 0 or a norm is not finite."""
    log = np.log(output_norm, where=output_norm > 0, out=np.full(len(output_norm), -np.inf))
    known = np.isfinite(log)
    difference = np.subtract(log, log[head], where=known & known[head], out=np.full(len(log), np.inf))
    both_zero = (output_norm == 0) & (output_norm[head] == 0)
    return np.where(both_zero, 0.0, np.abs(difference))


def matched_random_sets(
    target: Collection[int],
    output_norm: Float[np.ndarray, " head"],
    layers: Int[np.ndarray, " head"],
    *,
    n_sets: int,
    rng: np.random.Generator,
) -> tuple[tuple[int, ...], ...]:
    """Random sets of heads to compare a set with: as many heads in each layer, similar norms, none of the target's.

    Each head of the target is replaced by a head of its layer, drawn with probability proportional to the smaller of
    the two norms over the larger. Draws are independent, so a small layer repeats sets.

    Raises:
        InterpError: E205 where a layer has fewer heads outside the target than in it.
    """
    wanted = sorted(set(target))
    for layer in np.unique(layers[wanted]) if wanted else ():
        inside = sum(int(layers[head]) == layer for head in wanted)
        outside = int((layers == layer).sum()) - inside
        if outside < inside:
            raise InterpError(
                "E205",
                f"{inside} heads of layer {layer} are in the set and only {outside} are left to compare with",
                where=f"layer {layer}",
                fix="ask about at most half of a layer's heads",
            )
    free = np.ones(len(layers), dtype=bool)
    free[wanted] = False
    return tuple(_random_set(wanted, free, output_norm, layers, rng) for _ in range(n_sets))


def _random_set(
    target: list[int],
    free: np.ndarray,
    output_norm: Float[np.ndarray, " head"],
    layers: Int[np.ndarray, " head"],
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """One matched set; heads are replaced in random order, so that none has first choice every time."""
    free, chosen = free.copy(), []
    for head in rng.permutation(target):
        pool = np.flatnonzero(free & (layers == layers[head]))
        closeness = np.exp(-norm_distance(output_norm, int(head))[pool])
        weights = closeness / closeness.sum() if closeness.any() else np.full(len(pool), 1 / len(pool))
        chosen.append(int(rng.choice(pool, p=weights)))
        free[chosen[-1]] = False
    return tuple(sorted(chosen))
