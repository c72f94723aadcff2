"""The two factorised patterns of the Sparse Transformer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.options import check_option
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax

Half = Literal["both", "local", "column"]


@dataclass(frozen=True, eq=False)
class _Factorised(Softmax):
    """Keys near by and columns of keys, merged or one of the two (for heads that share the work)."""

    stride: int = 128
    part: Half = "both"

    def __post_init__(self) -> None:
        check_option("part", self.part, Half)
        if self.stride < 1:
            raise InterpError("E205", f"a stride of {self.stride}", fix="stride=1 or more")

    @abstractmethod
    def local(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]: ...

    @abstractmethod
    def column(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]: ...

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        if self.part == "local":
            return self.local(view)
        return self.column(view) if self.part == "column" else self.local(view) | self.column(view)


@dataclass(frozen=True, eq=False)
class Strided(_Factorised):
    """Keys at distance 0 to `stride` (local), and all those at a multiple of `stride` (column).

    Args:
        stride: l.
        part: 'both' merges the two sets; 'local' or 'column' is what one head of a split pair sees.

    Raises:
        InterpError: E201, another part; E205, a stride under 1.
    """

    name: ClassVar[str] = "strided"
    source: ClassVar[str] = "Child et al. 2019, arXiv 1904.10509, section 4.3, strided"

    def local(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return (view.query - view.key).abs() <= self.stride

    def column(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return (view.query - view.key) % self.stride == 0

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        if self.part != "local":
            return "columns at every stride are no interval of keys"
        return Span(low=at - self.stride, high=at + self.stride + 1)


@dataclass(frozen=True, eq=False)
class Fixed(_Factorised):
    """Keys of the query's own block of `stride` (local), and the last `summary` keys of every block (column).

    With part='column' a query sees itself too, lest queries before the first summary see nothing.

    Args:
        stride: l, the size of a block.
        summary: c.
        part: as for `Strided`.

    Raises:
        InterpError: E201, another part; E205, a stride under 1, a summary outside 1 to stride.
    """

    name: ClassVar[str] = "fixed"
    source: ClassVar[str] = "Child et al. 2019, arXiv 1904.10509, section 4.3, fixed"

    summary: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.summary <= self.stride:
            raise InterpError("E205", f"summary={self.summary} of stride={self.stride}", fix="1 to stride")

    def local(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return view.query // self.stride == view.key // self.stride

    def column(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return (view.key % self.stride >= self.stride - self.summary) | (view.key == view.query)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        if self.part != "local":
            return "columns of every block are no interval of keys"
        low = at // self.stride * self.stride
        return Span(low=low, high=low + self.stride)
