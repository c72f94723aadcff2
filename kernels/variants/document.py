"""Softmax attention by segments of the text: to the sinks, to the query's own segment, to both, to all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.lengths import starts
from interp.kernels.variants.options import check_option
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax

Mask = Literal["sink", "document", "document+sink", "dense"]
SinksOf = Literal["segments", "text"]


@dataclass(frozen=True, eq=False)
class Document(Softmax):
    """Mask classes over segments (an image, a turn, a document of a prompt).

    Other than the `documents` of a call, which see nothing of each other and count positions anew, segments are parts
    of one text.

    Args:
        segments: a number for each key's segment; a segment may come back later in the text.
        mask: 'sink', the sinks alone; 'document', the query's own segment; 'document+sink', both; 'dense', everything.
        sinks_of: where sinks are: the first tokens of each piece of a segment, or of the text alone.
        sink_tokens: how many of them.

    Raises:
        InterpError: E201, other words; E205, sink_tokens under 1, segments that do not fit the keys, queries that stand
            nowhere among them.
    """

    name: ClassVar[str] = "document"
    source: ClassVar[str] = "BlindSight: Srikrishnan et al. 2025, arXiv 2507.09071; classes after its abstract"

    segments: Int[Tensor, "#batch key_pos"] = field(kw_only=True)
    mask: Mask = "document"
    sinks_of: SinksOf = "segments"
    sink_tokens: int = 1

    def __post_init__(self) -> None:
        check_option("mask", self.mask, Mask)
        check_option("sinks_of", self.sinks_of, SinksOf)
        if self.sink_tokens < 1:
            raise InterpError("E205", f"sink_tokens={self.sink_tokens}", fix="1 token or more")

    def check(self, problem: Problem) -> str | None:
        if self.segments.shape[1] != problem.n_keys or self.segments.shape[0] not in (1, problem.batch):
            return f"segments {list(self.segments.shape)} for keys [{problem.batch}, {problem.n_keys}]"
        return "there are more queries than keys" if problem.n_queries > problem.n_keys else None

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"] | None:
        if self.mask == "dense":
            return None
        problem = view.problem
        segments = self.segments.to(problem.q.device)
        of_query = segments[:, problem.n_keys - problem.n_queries :][:, None, view.rows, None]
        same = segments[:, None, None, :] == of_query
        if self.mask == "document":
            return same
        sink = self._sinks(problem)[:, None, None, :]
        return sink | same if self.mask == "document+sink" else sink & torch.ones_like(same)

    def _sinks(self, problem: Problem) -> Bool[Tensor, "batch key_pos"]:
        if self.sinks_of == "text":
            return problem.key_at < self.sink_tokens
        return problem.key_at - self._pieces(problem)[0] < self.sink_tokens

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        if self.mask == "dense":
            return Span()
        if self.mask != "document" and self.sinks_of == "segments":
            return "sinks of every segment are no interval of keys"
        sink = at.new_full((1, 1, 1), self.sink_tokens)
        if self.mask == "sink":
            return Span(high=sink.expand_as(at))
        if self._come_back(problem):
            return "a segment comes back later in the text, and is no interval of keys"
        low, high = (bound[:, None, problem.n_keys - problem.n_queries :] for bound in self._pieces(problem))
        return Span(low=low, high=high, stop=None if self.mask == "document" else sink)

    def _pieces(self, problem: Problem) -> tuple[Int[Tensor, "batch key_pos"], Int[Tensor, "batch key_pos"]]:
        """Positions of the first key, and after the last one, of each key's unbroken piece of a segment."""
        index, start = torch.arange(problem.n_keys, device=problem.q.device), starts(problem)
        new = self._new(problem)
        ends = torch.cat([new[:, 1:], torch.ones_like(new[:, :1])], 1)
        first = torch.where(new, index, 0).cummax(-1).values
        last = torch.where(ends, index, problem.n_keys).flip(-1).cummin(-1).values.flip(-1)
        return first - start, last - start + 1

    def _new(self, problem: Problem) -> Bool[Tensor, "batch key_pos"]:
        """Where a segment, a document or padding begins."""
        real, start = problem.real_keys, starts(problem)
        segments = self.segments.to(real.device).expand(problem.batch, -1)
        new = torch.ones_like(real)
        changes = [each[:, 1:] != each[:, :-1] for each in (real, start, segments)]
        new[:, 1:] = torch.stack(changes).any(0)
        return new

    def _come_back(self, problem: Problem) -> bool:
        real, start = problem.real_keys, starts(problem)
        prompt = torch.arange(problem.batch, device=real.device)[:, None].expand_as(start)
        named = torch.stack([prompt, start, self.segments.to(real.device).expand_as(start)], -1)[real]
        return len(named.unique(dim=0)) < int((self._new(problem) & real).sum())
