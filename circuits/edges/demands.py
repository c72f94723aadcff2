"""What methods that run circuits hold at most, by the tokens that go together in a forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from interp.circuits.edges.masked import TOKENS
from interp.circuits.edges.memory import Memory, written
from interp.circuits.edges.passes import Passes
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.flow import Flow


@dataclass(frozen=True)
class Demand:
    """Of some prompts on a model at hand.

    Attributes:
        prompts, width: that are scored together, and their tokens.
        paired: whether what stands in for a writer is another for every prompt.
        chunk: see `Contrast`.
        passes: what was measured.
    """

    flow: Flow
    shape: Shape
    prompts: int
    width: int
    paired: bool
    chunk: int
    passes: Passes

    def of(self, prompts: int) -> Demand:
        """The same of another number of prompts."""
        return replace(self, prompts=prompts)

    @property
    def behind_norm(self) -> bool:
        return any(norm is not None for norm in self.flow.norms.values())

    def together(self, tokens: int | None) -> tuple[int, int]:
        """Circuits, and prompts, of a forward where methods take prompts some at a time."""
        batch = self.prompts if tokens is None else min(self.prompts, max(1, tokens // self.width))
        return self.side_by_side(tokens, batch), batch

    def side_by_side(self, tokens: int | None, batch: int) -> int:
        """Circuits of a forward; see `interp.circuits.edges.masked.together`."""
        return max(1, (TOKENS if tokens is None else min(tokens, TOKENS)) // (batch * self.width))

    @property
    def kept(self) -> int:
        """Bytes of what writers wrote on all prompts, and of what stands in for it."""
        each = written(self.flow.graph, self.shape, self.behind_norm) * self.shape.item
        return self.prompts * self.width * each * (1 + self.paired)

    def sums(self, prompts: int) -> int:
        """Bytes of the sums of what stands in for writers, see `MaskedRuns.stood_in`."""
        rows = prompts * self.width if self.paired else 1
        return rows * self.shape.d_model * self.shape.item * (1 + 2 * self.flow.n_layers)

    def stream(self, vectors: int, prompts: int) -> int:
        """Bytes of vectors of the stream's size at every token."""
        return prompts * self.width * vectors * self.shape.d_model * self.shape.item

    def mask_gradient(self, tokens: int | None) -> float:
        """One circuit, forward and backward."""
        batch = self.together(tokens)[1]
        return self.kept + self.passes.gradient.of(1, batch, self.width) + self.sums(self.prompts - batch)

    def pruning(self, tokens: int | None) -> float:
        """The masks drawn for a step, forward and backward."""
        batch = self.together(tokens)[1]
        return self.kept + self.passes.learning.of(1, batch, self.width) + self.sums(self.prompts - batch)

    def growth(self, tokens: int | None) -> float:
        """As mask gradients of the half that chooses, or circuits side by side."""
        half = self.prompts - self.prompts // 2
        batch = half if tokens is None else min(half, max(1, tokens // self.width))
        n = self.side_by_side(tokens, batch)
        runs = self.passes.circuits.of(n, batch, self.width) + self.sums(batch)
        return self.kept + self.sums(self.prompts - batch) + max(self.passes.gradient.of(1, batch, self.width), runs)

    def exact(self, tokens: int | None) -> float:
        """Edges side by side, behind a run that is kept."""
        n, batch = self.side_by_side(tokens, self.prompts), self.prompts
        graph = self.flow.graph
        kept = self.kept + self.stream(len(graph.writers) + self.flow.n_layers + 1, batch) + self.sums(batch)
        scores = batch * len(graph.places) * graph.exists.size * self.shape.item
        runs = (
            one.of(min(n, total - first // n * n), batch, self.width) for first, total, one in self.passes.single_edges
        )
        return kept + scores + max(runs)

    def acdc(self, tokens: int | None) -> float:
        """A bound: every trial as if everything behind the first reader moved, all prompts together."""
        n, graph = self.side_by_side(tokens, self.prompts), self.flow.graph
        batch = self.together(tokens)[1]
        guess = Memory(
            graph, self.shape, self.width, self.paired, self.behind_norm, self.chunk, self.prompts, pulls=1
        )  # fmt: skip
        parts_written = written(graph, self.shape, self.behind_norm) * self.shape.item
        guessed = self.kept - batch * self.width * parts_written * (1 + self.paired) + guess.bytes(batch)
        searched = self.kept + guess.copies + self.sums(self.prompts)
        searched += self.stream(len(graph.writers) + self.flow.n_layers + 1, self.prompts)
        runs = self.passes.circuits.of(1 if self.passes.follows else n, self.prompts, self.width)
        if self.passes.follows:
            searched += round(self.passes.state.of(1, self.prompts, self.width))
            runs = max(runs, n * self.stream(3, self.prompts) + self.passes.trial.of(n, self.prompts, self.width))
        return float(max(guessed, searched + runs))


Bytes = Callable[[Demand, int | None], float]
DEMANDS: Mapping[str, Bytes] = {
    "mask-gradient": Demand.mask_gradient,
    "exact": Demand.exact,
    "path-patching": Demand.exact,
    "acdc": Demand.acdc,
    "acdc-thresholds": Demand.acdc,
    "pruning": Demand.pruning,
    "growth": Demand.growth,
}
"""Method -> bytes, by the tokens of a forward; None: as many as the method takes by itself."""
