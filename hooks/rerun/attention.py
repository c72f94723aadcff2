"""Attention of some nodes of a tree over all that came before them: keys that changed, and recorded ones that did not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.hooks.rerun.tree import Branch, Tree
from interp.kernels.backends.eager import attention_pattern, repeat_kv, z_from_pattern


@dataclass(frozen=True, eq=False)
class Group:
    """Branches of similar size that are computed together; -1 fills the places that a branch does not have.

    Attributes:
        queries: places in the query order.
        recorded: tokens of the flattened batch whose keys and values are the recorded ones.
        fresh: places in the order of the changed nodes, whose keys and values are new.
        rows, query_columns, key_columns: where in the recorded mask the visibility of each key stands; keys are the
            recorded ones, then the fresh ones.
        masks: the mask of this group for each recorded mask, made once.
    """

    queries: Int[Tensor, "branch query"]
    recorded: Int[Tensor, "branch key"]
    fresh: Int[Tensor, "branch fresh_key"]
    rows: Int[Tensor, " branch"]
    query_columns: Int[Tensor, "branch query"]
    key_columns: Int[Tensor, "branch any_key"]
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, recorded: Float[Tensor, "#batch #head query_pos key_pos"]) -> Tensor:
        """[branch #head query key], added to the scores: as recorded, and closed where a place is empty."""
        if id(recorded) not in self.masks:
            rows = self.rows if len(recorded) > 1 else torch.zeros_like(self.rows)
            shown = recorded[rows[:, None, None], :, self.query_columns[:, :, None], self.key_columns[:, None, :]]
            empty = torch.cat([self.recorded, self.fresh], 1) < 0
            floor = torch.finfo(recorded.dtype).min
            self.masks[id(recorded)] = shown.permute(0, 3, 1, 2).masked_fill(empty[:, None, None, :], floor)
        return self.masks[id(recorded)]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which nodes ask, which have changed, and the groups in which their attention is computed.

    Attributes:
        queries: nodes, in the order in which they ride on the sequence axis.
        changed: nodes whose keys and values are new, in their order.
    """

    queries: Int[np.ndarray, " query"]
    changed: Int[np.ndarray, " fresh"]
    groups: tuple[Group, ...]


def lay_out(
    tree: Tree, asks: Bool[np.ndarray, " node"], changed: Bool[np.ndarray, " node"], device: torch.device
) -> Layout:
    """Groups of branches for queries at some nodes and new keys at others; branches of one level go together."""
    levels = defaultdict(list)
    for branch in tree.branches:
        path = tree.paths[branch.row]
        if asks[path[branch.start : branch.stop]].any():
            levels[branch.level].append(branch)
    queries, fresh = np.flatnonzero(asks), np.flatnonzero(changed)
    place, fresh_place = np.full((2, tree.size), -1)
    place[queries], fresh_place[fresh] = np.arange(len(queries)), np.arange(len(fresh))
    groups = [_group(tree, branches, asks, place, fresh_place, device) for branches in levels.values()]
    return Layout(queries, fresh, tuple(groups))


def _group(
    tree: Tree,
    branches: list[Branch],
    asks: Bool[np.ndarray, " node"],
    place: Int[np.ndarray, " node"],
    fresh_place: Int[np.ndarray, " node"],
    device: torch.device,
) -> Group:
    columns = {row: np.flatnonzero(tree.path[row] >= 0) for row in {branch.row for branch in branches}}
    lists: dict[str, list[Int[np.ndarray, " _"]]] = defaultdict(list)
    width = tree.path.shape[1]
    for branch in branches:
        path, at = tree.paths[branch.row], columns[branch.row]
        own = np.arange(branch.start, branch.stop)
        own = own[asks[path[own]]]
        keys = np.arange(own[-1] + 1)
        new = fresh_place[path[keys]] >= 0
        lists["queries"].append(place[path[own]])
        lists["query_columns"].append(at[own])
        lists["recorded"].append(branch.row * width + at[keys[~new]])
        lists["recorded_columns"].append(at[keys[~new]])
        lists["fresh"].append(fresh_place[path[keys[new]]])
        lists["fresh_columns"].append(at[keys[new]])
    found = {name: _rectangle(rows).to(device) for name, rows in lists.items()}
    return Group(
        found["queries"],
        found["recorded"],
        found["fresh"],
        torch.tensor([branch.row for branch in branches], device=device),
        found["query_columns"].clamp(min=0),
        torch.cat([found["recorded_columns"], found["fresh_columns"]], 1).clamp(min=0),
    )


def _rectangle(rows: list[Int[np.ndarray, " _"]]) -> Int[Tensor, "row most"]:
    table = np.full((len(rows), max(map(len, rows))), -1)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


@dataclass(frozen=True, eq=False)
class Call:
    """What one layer's attention was called with in the recorded run.

    Attributes:
        k, v: of the flattened batch, keys after rotary positions.
        mask: added to the scores; None where every query sees every key.
        options: soft cap, sink logits, normaliser and the like.
        is_plain: the layer runs attention written out, not a fast path.
    """

    k: Float[Tensor, "token kv_head d_head"]
    v: Float[Tensor, "token kv_head d_head"]
    mask: Float[Tensor, "#batch #head query_pos key_pos"] | None
    scaling: float
    options: Mapping[str, Any]
    is_plain: bool


def attend(
    layout: Layout,
    call: Call,
    q: Float[Tensor, "variant head query d_head"],
    k: Float[Tensor, "variant kv_head fresh d_head"],
    v: Float[Tensor, "variant kv_head fresh d_head"],
) -> Float[Tensor, "variant query head d_head"]:
    """z of the layout's queries, for every variant."""
    if len(layout.groups) == 1 and layout.groups[0].queries.numel() == q.shape[2]:
        z = _attend_group(layout.groups[0], call, q, k, v)  # [variant branch query head d_head], in order
        return z.flatten(1, 2)
    z = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])
    for group in layout.groups:
        real = group.queries >= 0
        z[:, group.queries[real]] = _attend_group(group, call, q, k, v)[:, real]
    return z


def _attend_group(
    group: Group, call: Call, q: Tensor, k: Tensor, v: Tensor
) -> Float[Tensor, "variant branch query head d_head"]:
    n, heads, _, d_head = q.shape
    branches, length = group.queries.shape
    assert call.mask is not None, "without a mask attention is not causal"
    mask = group.mask(call.mask)
    asked = _take(q, group.queries)  # [variant branch head query d_head]
    old_k, old_v = (_recorded(x, group.recorded) for x in (call.k, call.v))
    new_k, new_v = _take(k, group.fresh), _take(v, group.fresh)
    fast = not call.is_plain
    if fast and length * heads > 2 * d_head * k.shape[1]:  # scores would be larger than copies of keys and values
        keys, values = (
            torch.cat([old.expand(n, *old.shape), new], 3).flatten(0, 1) if old.shape[2] else new.flatten(0, 1)
            for old, new in ((old_k, new_k), (old_v, new_v))
        )
        z = torch.nn.functional.scaled_dot_product_attention(
            asked.flatten(0, 1),
            keys,
            values,
            attn_mask=mask.expand(n, *mask.shape).flatten(0, 1),
            scale=call.scaling,
            enable_gqa=heads != k.shape[1],
        )
        return z.transpose(1, 2).unflatten(0, (n, branches))
    return _in_two_parts(asked, (old_k, old_v), (new_k, new_v), mask, call)


def _in_two_parts(
    asked: Tensor, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], mask: Tensor, call: Call
) -> Float[Tensor, "variant branch query head d_head"]:
    """Attention written out; recorded keys and values are shared by all variants and never copied for them."""
    n, branches, heads, length, _ = asked.shape
    groups = heads // old[0].shape[1]
    n_old = old[0].shape[2]
    # recorded part: the variants' queries of one branch and kv head stand in one matrix
    together = asked.unflatten(2, (-1, groups)).permute(1, 2, 0, 3, 4, 5)  # branch kv variant group query d
    shape = together.shape
    of_old = torch.matmul(together.flatten(2, 4), old[0].transpose(2, 3)).unflatten(2, shape[2:5])
    of_old = of_old.permute(2, 0, 1, 3, 4, 5).flatten(2, 3).flatten(0, 1)  # variant*branch head query key
    of_new = torch.matmul(asked.flatten(0, 1), repeat_kv(new[0].flatten(0, 1), groups).transpose(2, 3))
    scores = torch.cat([of_old, of_new], -1) * call.scaling
    if (cap := call.options.get("softcap")) is not None:
        scores = torch.tanh(scores / cap) * cap
    scores = scores + mask.expand(n, *mask.shape).flatten(0, 1)
    pattern = attention_pattern(
        scores, sink=call.options.get("s_aux"), normaliser=call.options.get("normaliser") or "softmax"
    )
    weights = pattern[..., :n_old].unflatten(0, (n, branches)).unflatten(2, (-1, groups)).permute(1, 2, 0, 3, 4, 5)
    from_old = torch.matmul(weights.flatten(2, 4).to(old[1].dtype), old[1]).unflatten(2, shape[2:5])
    from_old = from_old.permute(2, 0, 4, 1, 3, 5).flatten(3, 4)  # variant branch query head d
    from_new = z_from_pattern(pattern[..., n_old:], repeat_kv(new[1].flatten(0, 1), groups))
    return from_old + from_new.unflatten(0, (n, branches))


def _take(
    x: Float[Tensor, "variant head any d_head"], places: Int[Tensor, "branch place"]
) -> Float[Tensor, "variant branch head place d_head"]:
    """The values at some places, branch by branch; a view where they are all places in order."""
    branches, length = places.shape
    if branches * length == x.shape[2] and bool(
        (places.flatten() == torch.arange(x.shape[2], device=places.device)).all()
    ):
        return x.unflatten(2, (branches, length)).transpose(1, 2)
    return x[:, :, places.clamp(min=0)].transpose(1, 2)


def _recorded(x: Float[Tensor, "token kv_head d_head"], tokens: Int[Tensor, "branch key"]) -> Tensor:
    """[branch kv_head key d_head]"""
    return x[tokens.clamp(min=0)].transpose(1, 2)
