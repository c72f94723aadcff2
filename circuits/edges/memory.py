"""What is held at most while edges are scored by gradients along a path."""

from __future__ import annotations

from dataclasses import dataclass

from interp.circuits.edges.attribution import positions_at_once
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.graph import Graph


def written(graph: Graph, shape: Shape, behind_norm: bool) -> int:
    """Numbers for a token: what all writers wrote."""
    d, head = shape.d_model, shape.d_model if behind_norm else shape.d_head
    embeddings = sum(part.layer is None for part in graph.writers)
    return embeddings * d + sum(layer.heads * head + layer.has_mlp * d for layer in graph.layers)


@dataclass(frozen=True)
class Memory:
    """What is held at most while edges are scored along a path; numbers are counted for a token.

    Attributes: see `plan`.
    """

    graph: Graph
    shape: Shape
    width: int
    paired: bool
    behind_norm: bool
    chunk: int
    prompts: int
    pulls: int

    @property
    def pulled(self) -> int:
        """What a backward leaves: gradients at queries, keys, values, MLPs and logits, and the streams read."""
        d, per_head = self.shape.d_model, self.shape.d_head
        each = [(layer.heads + 2 * layer.kv_heads) * per_head + (1 + layer.has_mlp) * d for layer in self.graph.layers]
        return sum(each) + d

    @property
    def widest(self) -> int:
        """Readers of a layer, at most."""
        return max(layer.heads + 2 * layer.kv_heads for layer in self.graph.layers)

    @property
    def copies(self) -> int:
        """Bytes of the copies of weights through which gradients come back."""
        parts = sum(layer.heads + 2 * layer.kv_heads for layer in self.graph.layers)
        return parts * self.shape.d_head * self.shape.d_model * self.shape.item

    def bytes(self, batch: int) -> int:
        """For some prompts at a time."""
        shape, item, n = self.shape, self.shape.item, batch * self.width
        writers, d = len(self.graph.writers), shape.d_model
        kept = (
            n * written(self.graph, shape, self.behind_norm) * item * (2 + self.paired)
        )  # clean, ablated, and their difference
        scores = batch * len(self.graph.places) * self.graph.exists.size * item
        step = positions_at_once(batch, self.width, writers * d * item, self.chunk)
        laid_out = batch * step * writers * d * item
        runs = n * d * item + shape.backward.of(batch, self.width)
        readers = batch * step * self.widest * (d + 2 * shape.d_head) * item
        scoring = n * self.pulled * item + readers + 2 * scores
        is_again = self.pulls > 1 or batch < self.prompts  # copies of weights are made after the first run
        return round(kept + laid_out + scores + max(runs + is_again * self.copies, scoring + self.copies))

    def fitting(self, budget: int, most: int) -> int:
        """Prompts that a budget holds, one at least."""
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(middle) <= budget else (low, middle - 1)
        return low

    def along_activations(self, batch: int, members: int) -> int:
        """For some prompts, and writers whose runs go side by side; see `interp.circuits.edges.attribution`."""
        shape, item, n = self.shape, self.shape.item, batch * self.width
        d, writers, side = shape.d_model, len(self.graph.writers), members * n
        kept = n * (written(self.graph, shape, self.behind_norm) * (2 + self.paired) + writers * d) * item
        scores = batch * len(self.graph.places) * self.graph.exists.size * item
        moved = side * 2 * d * item + shape.backward.of(members * batch, self.width) + side * d * item
        laid_out = d if members == 1 else 2 * d  # several are laid out anew
        readers = side * self.widest * max(d + 2 * shape.d_head, laid_out) * item
        return round(kept + scores + self.copies + max(moved, side * self.pulled * item + readers))
