"""What scoring edges costs, told beforehand: forwards, operations and memory, and how much of it goes together.

Methods that take gradients along a path of embeddings are told from sizes of the model alone, also without weights
(`shape.py`, `memory.py`). Of the others small passes are measured on the model itself (`passes.py`, `demands.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interp.circuits.edges.attribution import ACTIVATIONS, CHUNK
from interp.circuits.edges.counts import COUNTS, counted, pulls_along_inputs
from interp.circuits.edges.demands import DEMANDS, Demand
from interp.circuits.edges.masked import TOKENS
from interp.circuits.edges.memory import Memory
from interp.circuits.edges.methods import ENSEMBLE, Settings
from interp.circuits.edges.passes import Passes
from interp.circuits.edges.pruning import Pruning
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Graph
from interp.kernels.errors import InterpError

ALONG_INPUTS = ("eap", "eap-denoise", "clean-corrupted", "eap-ig")
"""Methods that take gradients along a path of embeddings: a few passes, planned also without weights."""

BY_PROMPT = (*ALONG_INPUTS, "eap-ig-activations", "exact", "path-patching")
"""Methods whose prompts may come some at a time."""

BOUNDED = {"acdc": ", and trials in vain", "acdc-thresholds": ", and trials in vain", "growth": ""}
"""Methods that decide as they go, so that their cost is bounded and not told -> what is not in the bound."""

Held = Callable[[int, int | None], float]
"""Bytes, by prompts that are scored together and tokens of a forward."""


@dataclass(frozen=True)
class EdgePlan:
    """How prompts are scored, and what that costs.

    Attributes:
        prompts, batch, width: all prompts, those that are scored together, and their tokens.
        forwards: of one prompt, in all; a backward counts as two.
        flops: floating point operations.
        bytes: held at most, beside the weights.
        budget: that was allowed; None for any number.
        tokens: of a forward, see `Contrast`; None leaves it to the method.
        bound: what is not in the numbers, which are bounds as the method decides as it goes; None where they are told.
    """

    method: str
    edges: int
    prompts: int
    batch: int
    width: int
    forwards: float
    flops: int
    bytes: int
    budget: int | None
    tokens: int | None = None
    bound: str | None = None

    def __str__(self) -> str:
        allowed = "" if self.budget is None else f", of {self.budget / 2**20:.4g} allowed"
        together = "" if self.tokens is None else f", {self.tokens} tokens in a forward"
        most, beside = ("", "") if self.bound is None else ("at most ", self.bound)
        return "\n".join(
            (
                f"{self.method}: {self.edges} edges on {self.prompts} prompts of {self.width} tokens, "
                f"{self.batch} at a time{together}",
                f"{most}{self.forwards:.4g} forwards of a prompt, {self.flops / 1e9:.4g} GFLOP{beside}",
                f"{self.bytes / 2**20:.4g} MiB at most{allowed}",
            )
        )


def plan(
    graph: Graph,
    shape: Shape,
    *,
    prompts: int,
    width: int,
    method: str = "eap",
    settings: Settings | None = None,
    paired: bool = True,
    behind_norm: bool = False,
    flow: Flow | None = None,
    batch: int | None = None,
    budget: int | None = None,
    chunk: int = CHUNK,
) -> EdgePlan:
    """What scoring all edges on some prompts costs; no prompt of the task runs.

    Args:
        prompts, width: how many, and their tokens.
        paired: whether what stands in for a writer is another for every prompt (resample).
        behind_norm: whether a norm stands behind heads, see `Flow.norms`.
        flow: the model; not needed for methods in `ALONG_INPUTS` and 'eap-ig-activations'. Small passes of it are measured.
        batch: prompts that are scored together; None for as many as the budget holds.
        budget: bytes.
        chunk: see `Contrast`.

    Raises:
        InterpError: E205 a method that is not planned, or not without the model; E603 a budget that does not hold the
            least that a method takes: one prompt, or one circuit, with what writers wrote on all prompts where a method
            has no scores of each prompt.
    """
    settings = settings or Settings()
    names = [settings.start, method] if method == "pruning" and settings.start else [method]
    names = settings.members.split("+") if method == ENSEMBLE else names
    demand = None
    if flow is not None:
        passes = Passes(flow, paired, Pruning(size=settings.size))
        demand = Demand(flow, shape, prompts, width, paired, chunk, passes)
    parts = [
        _held(name, demand, Memory(graph, shape, width, paired, behind_norm, chunk, prompts, 1), settings)
        for name in names
    ]

    def held(batch: int, tokens: int | None) -> float:
        return float(max(part(batch, tokens) for part in parts))

    by_prompt = all(name in BY_PROMPT for name in names) and method != ENSEMBLE
    most = batch or prompts
    batch, tokens = _Room(held, width, budget).largest(1 if by_prompt and batch is None else most, most)
    found = round(held(batch, tokens))
    if budget is not None and found > budget:
        raise _too_large(method, by_prompt, graph.n_edges, batch, width, found, budget)
    count = counted(method, graph, settings)
    forwards = prompts * (count.forwards + 1 + paired)
    flops = prompts * count.flops(graph, shape, width, 1 + paired)
    bound = next((BOUNDED[name] for name in names if name in BOUNDED), None)
    return EdgePlan(method, graph.n_edges, prompts, batch, width, forwards, flops, found, budget, tokens, bound)


def _held(method: str, demand: Demand | None, memory: Memory, settings: Settings) -> Held:
    """What a method holds (E205 one that is not planned)."""
    if method not in COUNTS or method == ENSEMBLE:
        planned = ", ".join(name for name in COUNTS)
        raise InterpError("E205", f"memory of {method!r} is not planned", fix=f"plan one of {planned}")
    if method in ALONG_INPUTS:
        pulls = {"clean-corrupted": 2, "eap-ig": pulls_along_inputs(settings)}.get(method, 1)
        several = Memory(**{**vars(memory), "pulls": pulls})
        return lambda batch, _: several.bytes(batch)
    if method == "eap-ig-activations":
        return lambda batch, tokens: memory.along_activations(
            batch, min(len(memory.graph.writers), max(1, (tokens or ACTIVATIONS) // (batch * memory.width)))
        )
    if demand is None:
        raise InterpError(
            "E205", f"memory of {method!r} is told from passes of the model", fix="give the model, or plan eap-ig"
        )
    return lambda batch, tokens: DEMANDS[method](demand.of(batch), tokens)


@dataclass(frozen=True)
class _Room:
    """How much goes together within a budget."""

    held: Held
    width: int
    budget: int | None

    def largest(self, fewest: int, most: int) -> tuple[int, int | None]:
        """Prompts that are scored together, and tokens of a forward; prompts first, and the least where nothing fits."""
        batch = _most(fewest, most, lambda batch: self._fits(batch, self.width))
        if self._fits(batch, None):
            return batch, None
        rows = max(TOKENS, ACTIVATIONS, batch * self.width) // self.width
        return batch, self.width * _most(1, rows, lambda rows: self._fits(batch, rows * self.width))

    def _fits(self, batch: int, tokens: int | None) -> bool:
        return self.budget is None or self.held(batch, tokens) <= self.budget


def _most(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, `low` where none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _too_large(
    method: str, by_prompt: bool, edges: int, batch: int, width: int, found: int, budget: int
) -> InterpError:
    """E603, with what to do."""
    fix = "allow more memory, use shorter prompts or fewer at a time, or open the model with dtype='bfloat16'"
    if not by_prompt:  # what writers wrote on all prompts is held
        fix = "allow more memory, use fewer or shorter prompts, or a method that scores them some at a time, such as eap-ig"
    return InterpError(
        "E603",
        f"{batch} prompt{'s' if batch > 1 else ''} of {width} tokens need {found / 2**20:.4g} MiB of {budget / 2**20:.4g} allowed",
        where=f"{method} on {edges} edges",
        fix=fix,
    )
