"""The distinct tokens of a batch: what several prompts begin with is one path of a tree, and computed once.

A token is fixed by what stands before it, so under causal attention prompts with a common beginning share its
activations. Nodes are the distinct tokens that a metric can depend on; a batch without common beginnings is a tree
whose branches are whole prompts, so there is one code path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from interp.hooks.batch import Batch

ABSENT = -1
"""In `Tree.path`: padding, and tokens after the one that is read."""


@dataclass(frozen=True)
class Branch:
    """A run of nodes that the same prompts share.

    Attributes:
        row: a prompt that passes through it.
        start, stop: its places on that prompt's path.
        level: how many branches lie before it.
    """

    row: int
    start: int
    stop: int
    level: int


@dataclass(frozen=True, eq=False)
class Tree:
    """Nodes in the order of their first prompt and position.

    Attributes:
        path: node of every token of the batch.
        row, column: of each node, the first prompt that has it and where it stands there.
        parent: node before each node; `ABSENT` for first tokens.
        read: node that each prompt's metric reads.
    """

    path: Int[np.ndarray, "batch pos"]
    row: Int[np.ndarray, " node"]
    column: Int[np.ndarray, " node"]
    parent: Int[np.ndarray, " node"]
    read: Int[np.ndarray, " batch"]

    @property
    def size(self) -> int:
        return len(self.row)

    @cached_property
    def is_shared(self) -> bool:
        """Whether any node stands for more than one token."""
        return int((self.path != ABSENT).sum()) > self.size

    @cached_property
    def is_whole(self) -> bool:
        """Whether the nodes are all tokens of the batch, in their order."""
        return self.size == self.path.size and not self.is_shared

    @cached_property
    def flat(self) -> Int[np.ndarray, " node"]:
        """Index of each node's token in the flattened batch."""
        return self.row * self.path.shape[1] + self.column

    def below(self, changed: Bool[np.ndarray, " node"]) -> Bool[np.ndarray, " node"]:
        """The nodes at or after a changed one: all that a change can reach under causal attention."""
        reached = changed.copy()
        for node in range(self.size):  # parents come before their children
            before = self.parent[node]
            reached[node] |= before != ABSENT and reached[before]
        return reached

    @cached_property
    def paths(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """Nodes of each prompt, in order."""
        return tuple(row[row != ABSENT] for row in self.path)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The tree cut where prompts part."""
        passing = np.zeros(self.size, dtype=np.int64)
        for path in self.paths:
            passing[path] += 1
        return tuple(branch for row in range(len(self.paths)) for branch in self._new_branches(row, passing))

    def _new_branches(self, row: int, passing: Int[np.ndarray, " node"]) -> Iterator[Branch]:
        """Branches of a prompt that no earlier prompt has."""
        path = self.paths[row]
        cuts = [0, *(np.flatnonzero(np.diff(passing[path])) + 1).tolist(), len(path)]
        for level, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
            if self.row[path[start]] == row:
                yield Branch(row, start, stop, level)


def plant(batch: Batch, read_at: Int[Tensor, " batch"], positions: Int[Tensor, "batch pos"], *, share: bool) -> Tree:
    """The tree of a batch; with `share` false every token is a node of its own."""
    ids, at = batch.input_ids.cpu().numpy(), positions.cpu().numpy()
    real = np.ones(ids.shape, dtype=bool) if batch.mask is None else batch.mask.cpu().numpy()
    path = np.full(ids.shape, ABSENT, dtype=np.int64)
    nodes: dict[tuple[int, ...], int] = {}
    rows, columns, parents = [], [], []
    for row, last in enumerate(read_at.tolist()):
        before = ABSENT
        for column in np.flatnonzero(real[row, : last + 1]).tolist():
            key = (before, int(ids[row, column]), int(at[row, column]), 0 if share else row)
            if key not in nodes:
                nodes[key] = len(nodes)
                rows.append(row)
                columns.append(column)
                parents.append(before)
            before = path[row, column] = nodes[key]
    read = path[np.arange(len(ids)), read_at.numpy()]
    return Tree(path, np.array(rows), np.array(columns), np.array(parents), read)
