"""The fused kernels on a GPU: what statistics cost beside our own forward, and beside torch's attention.

Causal attention in bfloat16 on random inputs. All ways of a setting are timed one after another, round by round; ratios
are taken within a round, and medians over rounds. Each row stands beside its floor, the least time that an H200 could
take: arithmetic of the matrix unit, exponentials, or bytes, whichever is largest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.backends.triton.kernel import run
from interp.kernels.backends.triton.timing import milliseconds
from interp.kernels.errors import InterpError

MATRIX_PER_MS = 790e9
EXPONENTIALS_PER_MS = 3.9e9
BYTES_PER_MS = 4.3e9
"""Of an H200: bfloat16 operations and bytes as measured, exponentials from 16 a clock and multiprocessor."""

FORWARD, ROWS, ALONE, COLUMNS, TORCH = "forward", "with row statistics", "row statistics alone", "and columns", "torch"

BARS: dict[int, dict[str, float | None]] = {
    64: {ROWS: 1.25, ALONE: None, COLUMNS: 1.9},
    128: {ROWS: 1.15, ALONE: 0.75, COLUMNS: 1.75},
}
"""Largest ratio to our own forward that is good enough, by width of a head."""

TORCH_BAR = 1.6
"""Largest ratio of the forward with row statistics to torch's attention."""

ROW_STATISTICS = 8
"""Numbers a row: lse, entropy, largest, its key, squares, two functionals, one band."""


@dataclass(frozen=True)
class Setting:
    """One size of the grid."""

    length: int
    width: int
    heads: int = 32


@dataclass(frozen=True)
class Row:
    """One way of computing in one setting; times in milliseconds, medians over rounds.

    Attributes:
        to_forward, to_torch: ratio to our forward without statistics, and to torch's attention.
        floor: the least that the arithmetic and the bytes allow.
        bar, met: largest `to_forward` that is good enough; for row statistics `TORCH_BAR` must hold as well.
        difference: largest difference of the output to torch's.
    """

    length: int
    width: int
    heads: int
    way: str
    ms: float
    to_forward: float
    to_torch: float
    floor: float
    bar: float | None
    met: bool | None
    difference: float | None


def rows(
    lengths: Sequence[int] = (8192, 32768, 131072), widths: Sequence[int] = (64, 128), heads: int = 32, rounds: int = 5
) -> list[dict[str, object]]:
    """The table, as plain data.

    Raises:
        InterpError: E601, no GPU.
    """
    if not torch.cuda.is_available():
        raise InterpError("E601", "no CUDA device", fix="run this where torch.cuda.is_available()")
    settings = [Setting(length, width, heads) for width in widths for length in lengths]
    return [asdict(row) for setting in settings for row in measure(setting, rounds)]


def measure(setting: Setting, rounds: int) -> list[Row]:
    """All ways in one setting, interleaved."""
    everything = request(setting, torch.device("cuda"))
    ways = ways_of(everything)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(milliseconds(way))
    wanted = torch_attention(everything)
    found = run(everything).output
    assert found is not None
    difference = float((found - wanted).abs().max())
    return [row(setting, name, times, difference) for name in ways]


def ways_of(everything: Request) -> dict[str, Callable[[], object]]:
    """What is compared."""
    with_rows = replace(everything, columns=None)
    bare = replace(with_rows, entropy=False, largest=False, squares=False, functionals=None, band=None)
    return {
        FORWARD: lambda: run(bare),
        ROWS: lambda: run(with_rows),
        ALONE: lambda: run(replace(with_rows, output=False)),
        COLUMNS: lambda: run(everything),
        TORCH: lambda: torch_attention(everything),
    }


def torch_attention(asked: Request) -> Tensor:
    """The same attention by torch."""
    return scaled_dot_product_attention(asked.q, asked.k, asked.v, is_causal=True)


def request(setting: Setting, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Request:
    """Causal attention with all row statistics and the column sums."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, setting.heads, setting.length, setting.width)
    q, k, v = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3))
    at = torch.arange(setting.length, device=device, dtype=torch.int32)
    none = torch.zeros_like(at)[None, None]
    sink, position = (at < 4).float(), at.float()
    return Request(
        q=q,
        k=k,
        v=v,
        scale=setting.width**-0.5,
        rows=Rows(none, at[None, None] + 1, none, none),
        entropy=True,
        largest=True,
        squares=True,
        functionals=torch.stack([sink, position], -1)[None, None],
        band=torch.tensor([[0.0, 1.0]], device=device),
        columns=torch.ones(1, 1, 1, setting.length, device=device),
    )


def row(setting: Setting, way: str, times: dict[str, list[float]], difference: float) -> Row:
    """A row of the table from the times of all ways, one for each round."""
    to_forward, to_torch = (
        statistics.median(mine / other for mine, other in zip(times[way], times[base], strict=True))
        for base in (FORWARD, TORCH)
    )
    bar = BARS.get(setting.width, {}).get(way)
    met = None if bar is None else to_forward <= bar and (way != ROWS or to_torch <= TORCH_BAR)
    return Row(
        **asdict(setting),
        way=way,
        ms=statistics.median(times[way]),
        to_forward=to_forward,
        to_torch=to_torch,
        floor=floor(setting, way),
        bar=bar,
        met=met,
        difference=difference if way == ROWS else None,
    )


def floor(setting: Setting, way: str) -> float:
    """Milliseconds that an H200 needs at the least, for the half of the pairs that a causal pattern has."""
    pairs = setting.heads * setting.length**2 / 2
    products = {ALONE: 1, COLUMNS: 3}.get(way, 2)
    exponentials = 2 if way == COLUMNS else 1
    read = 6 * setting.width * (2 if way == COLUMNS else 1)
    written = (0 if way == ALONE else 2 * setting.width) + (4 * ROW_STATISTICS if way in (ROWS, ALONE, COLUMNS) else 0)
    return max(
        2 * products * setting.width * pairs / MATRIX_PER_MS,
        exponentials * pairs / EXPONENTIALS_PER_MS,
        setting.heads * setting.length * (read + written) / BYTES_PER_MS,
    )
