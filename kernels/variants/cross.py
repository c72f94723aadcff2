"""Softmax attention of one sequence to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.variants.softmax import Full


@dataclass(frozen=True, eq=False)
class Cross(Full):
    """Cross attention: queries have positions of their own, and every one sees every real key.

    Unlike with `full`, padding among the keys says nothing of the queries.

    Raises:
        InterpError: E205, `causal`, since the two sequences share no order; documents, since queries belong to none.
    """

    name: ClassVar[str] = "cross"
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3"
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.causal:
            raise InterpError("E205", "cross attention that is causal", fix="the two sequences share no order")

    def check(self, problem: Problem) -> str | None:
        return None if problem.documents is None else "queries of cross attention belong to no document of the keys"
