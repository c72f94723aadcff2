"""Attention with statistics against torch's own without, and against eager patterns: masks x lengths x what is asked.

All ways of one mask and length are timed one after the other, round by round, and ratios are taken within a round: on
a machine that does other things too, seconds drift and ratios stay. Memory is measured in a process of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends.choice import backends
from interp.kernels.backends.fused import request_of
from interp.kernels.problem import Problem
from interp.kernels.statistics import statistic
from interp.kernels.variants.base import Variant
from interp.kernels.variants.prefix import Prefix
from interp.kernels.variants.softmax import Full, Softmax
from interp.kernels.variants.streaming import Streaming
from interp.kernels.variants.window import Window

HEADS, WIDTH = 12, 64
NEAR, SINKS, DOCUMENTS = 512, 4, 4
"""Keys of a window, tokens of a sink, documents of a packed row."""

ROW = ("entropy", "effective-keys", "largest", "arg-max", "sink-mass", "offset-mass", "mean-distance")
COLUMN = ("received",)
MODES: dict[str, tuple[str, ...]] = {"out": (), "out+row": ROW, "row": ROW, "out+row+column": ROW + COLUMN}
"""What is asked; 'row' leaves the output out, where a backend can."""
EVERYTHING = "out+row+column"
"""The mode in which eager patterns are timed: there they are made for something."""
BARS = {("blockwise", "out+row"): 2.5, ("cpp", "out+row"): 1.15}
"""Largest ratio to torch's attention under the causal mask that is good enough."""

Call = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Scene:
    """A mask at one length.

    Attributes:
        heads: all of them read keys and values of their own.
    """

    mask: str
    length: int
    heads: int
    variant: Variant
    documents: Int[Tensor, "batch key_pos"] | None = None

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, self.heads, self.length, WIDTH, generator=generator) for _ in range(3))
        return q, k, v

    @property
    def problem(self) -> Problem:
        q, k, v = self.tensors
        every = tuple(range(self.heads))
        return Problem(q, k, v, WIDTH**-0.5, documents=self.documents, head_index=every, n_heads=self.heads)

    @property
    def dense(self) -> Bool[Tensor, "query_pos key_pos"]:
        """The mask cell by cell, as torch's attention wants it."""
        at = torch.arange(self.length)
        past, distance = at[:, None] >= at, at[:, None] - at
        masks: dict[str, Callable[[], Tensor]] = {
            "causal": lambda: past,
            "full": lambda: torch.ones_like(past),
            "window": lambda: past & (distance < NEAR),
            "document": lambda: past & ((at * DOCUMENTS // self.length)[:, None] == at * DOCUMENTS // self.length),
            "prefix": lambda: past | (at < self.length // 4),
            "streaming": lambda: past & ((distance < NEAR) | (at < SINKS)),
        }
        return masks[self.mask]()

    @property
    def cells(self) -> int:
        """Pairs of a query and a key that it sees, of one head."""
        return int(self.dense.sum())


def scene(mask: str, length: int, heads: int = HEADS) -> Scene:
    """One of the masks."""
    numbers = (torch.arange(length) * DOCUMENTS // length)[None]
    scenes: dict[str, Callable[[], Scene]] = {
        "causal": lambda: Scene(mask, length, heads, Softmax()),
        "full": lambda: Scene(mask, length, heads, Full()),
        "window": lambda: Scene(mask, length, heads, Window(size=NEAR)),
        "document": lambda: Scene(mask, length, heads, Softmax(), numbers),
        "prefix": lambda: Scene(mask, length, heads, Prefix(prefix=length // 4)),
        "streaming": lambda: Scene(mask, length, heads, Streaming(sink_tokens=SINKS, recent=NEAR)),
    }
    return scenes[mask]()


MASKS = ("causal", "full", "window", "document", "prefix", "streaming")


@dataclass(frozen=True)
class Row:
    """What was measured: seconds are medians, ratios medians of the ratios of each round.

    Attributes:
        floor: seconds that the products alone take (scores and output, of the cells that are seen), at the speed at
            which this machine multiplies matrices.
        ratio: to torch's attention with the same mask, which gives no statistics.
        eager: how many times as long the same takes on a whole pattern; None where that was not run.
        difference: largest difference of the output to torch's.
        bar: largest ratio that is good enough, where there is one.
    """

    mask: str
    length: int
    backend: str
    mode: str
    seconds: float
    floor: float
    ratio: float
    eager: float | None
    difference: float | None
    bar: float | None = None

    @property
    def met(self) -> bool:
        return self.bar is None or self.ratio <= self.bar


def multiplication_speed() -> float:
    """FLOP a second of a product like those of a block of rows."""
    a, b = torch.randn(512, WIDTH), torch.randn(WIDTH, 4096)
    out = torch.empty(512, 4096)
    times = [_seconds(lambda: torch.mm(a, b, out=out))[0] for _ in range(20)]
    return 2 * a.shape[0] * b.numel() / min(times)


def ways(shown: Scene, chosen: tuple[str, ...]) -> Iterator[tuple[str, str, Call]]:
    """(backend, mode, call) of everything that a backend can do here; it is asked for what it gives."""
    for name in chosen:
        for mode, wanted in MODES.items():
            given = given_by(shown, name, mode)
            if given is None or (wanted and not given):
                continue
            call = _without_output(shown, name, given) if mode == "row" else whole_call(shown, name, given)
            if call is not None:
                yield name, mode, call


def given_by(shown: Scene, name: str, mode: str) -> tuple[str, ...] | None:
    """Those of a mode's statistics that a backend gives; None where it can't run this at all."""
    backend, problem = backends()[name], shown.problem
    if backend.refuses(problem, shown.variant, {}) is not None:
        return None
    return tuple(
        each for each in MODES[mode] if backend.refuses(problem, shown.variant, {each: statistic(each)}) is None
    )


def whole_call(shown: Scene, backend: str, given: tuple[str, ...]) -> Call:
    """Attention with these statistics through the entry point."""
    q, k, v = shown.tensors

    def call() -> Tensor:
        return attention(q, k, v, shown.variant, given, backend, documents=shown.documents).output

    return call


def _without_output(shown: Scene, backend: str, given: tuple[str, ...]) -> Call | None:
    kernel = getattr(backends()[backend], "kernel", None)
    found = request_of(shown.problem, shown.variant, {each: statistic(each) for each in given})
    if kernel is None or isinstance(found, str) or kernel.supports(replace(found[0], output=False)):
        return None

    def call() -> None:
        request, readers = found
        answer = kernel.run(replace(request, output=False))
        for read in readers.values():
            read(answer)

    return call


def measure(shown: Scene, chosen: tuple[str, ...], *, rounds: int, eager: bool, speed: float) -> list[Row]:
    """All ways of one mask and length."""
    every = list(ways(shown, chosen))
    calls: dict[object, Call] = {"torch": torch_call(shown), **{(name, mode): call for name, mode, call in every}}
    if eager:
        calls["eager"] = whole_call(shown, "eager", MODES[EVERYTHING])
    wanted = calls["torch"]()
    times, outputs = _interleaved(calls, rounds)
    floor = 4 * shown.cells * shown.heads * WIDTH / speed
    rows = []
    for name, mode, _ in every:
        output = outputs[name, mode]
        rows.append(
            Row(
                shown.mask, shown.length, name, mode, statistics.median(times[name, mode]),
                floor / 2 if mode == "row" else floor,
                _ratio(times[name, mode], times["torch"]),
                _ratio(times["eager"], times[name, mode]) if eager and mode == EVERYTHING else None,
                float((output - wanted).abs().max()) if isinstance(output, Tensor) and isinstance(wanted, Tensor) else None,
                BARS.get((name, mode)) if shown.mask == "causal" else None,
            )
        )  # fmt: skip
    return rows


def torch_call(shown: Scene) -> Call:
    """Torch's attention with this mask."""
    q, k, v = shown.tensors
    mask = None if shown.mask in ("causal", "full") else shown.dense
    causal = shown.mask == "causal"
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _interleaved(calls: Mapping[object, Call], rounds: int) -> tuple[dict[object, list[float]], dict[object, object]]:
    times: dict[object, list[float]] = {name: [] for name in calls}
    outputs: dict[object, object] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            elapsed, outputs[name] = _seconds(call)
            times[name].append(elapsed)
    return times, outputs


def _seconds(call: Call) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
