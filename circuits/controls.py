"""Matched controls: what heads, or sets of heads, a claim about a head must be compared with.

A head of a late layer, or one that writes a lot, changes the output whatever it does. So a head is compared with heads
of its own layer that write about as much. The distance of two heads is |log(norm) - log(norm)|.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.names import HeadId, point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


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


def written_norms(
    model: HookedModel,
    parts: Iterable[tuple[Batch, Int[Tensor, " batch"] | None]],
    heads: Sequence[HeadId],
) -> Float[np.ndarray, " head"]:
    """Mean norm of what each head writes into the residual stream, |z_h W_O[h]|.

    Args:
        parts: prompts, and the position of each at which it counts; None counts every real token.
    """
    names = sorted({point_name("attn.hook_z", head.layer, head.tower) for head in heads})
    grams = {name: _gram(model, name) for name in names}
    total, count = dict.fromkeys(names, torch.zeros((), dtype=torch.float64)), 0.0
    for batch, at in parts:
        _, cache = model.run_with_cache(batch, names)
        for name in names:
            z = cache[name].float()
            squared = torch.einsum("bphd,hde,bphe->bph", z, grams[name], z).clamp(min=0)
            weight = _counted(batch, at, squared)
            total[name] = total[name] + (squared.sqrt() * weight[:, :, None]).sum((0, 1)).double().cpu()
        count += float(weight.sum())
    return np.array(
        [float(total[point_name("attn.hook_z", head.layer, head.tower)][head.head]) / count for head in heads]
    )


def _gram(model: HookedModel, name: str) -> Float[Tensor, "head d_head d_head"]:
    """W_O W_O^T of every head of a layer: norms of what heads write, without writing it."""
    point = model.adapter.available[name]
    assert point.layer is not None
    w_out = model.w_out(point.layer, point.tower).float()
    return torch.einsum("hdm,hem->hde", w_out, w_out)


def _counted(
    batch: Batch, at: Int[Tensor, " batch"] | None, cells: Float[Tensor, "batch pos head"]
) -> Float[Tensor, "batch pos"]:
    """1 where a position counts."""
    weight = cells.new_zeros(cells.shape[:2])
    if at is not None:
        weight[torch.arange(len(weight)), at] = 1
    elif batch.mask is not None and batch.mask.shape == weight.shape:
        weight[batch.mask] = 1
    else:
        weight += 1
    return weight


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
