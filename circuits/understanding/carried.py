"""What an edge carries: the smallest subspace of the stream that holds its effect, and the runs that prove it.

Directions are ordered by how much of what the writer writes the reader reads (`interp.circuits.understanding.subspaces`).
The edge is then out within the first of them alone, and everywhere but there: the first must cost what the whole edge
costs, the second nothing. As anything might do as much, random subspaces of equal rank, of what the writer writes, stand
beside it. The effect may need more than what is read linearly: norms are computed anew, and the last directions are those
that move norms alone.

Rank and directions come from one set of prompts, and what is claimed is measured on others where they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.group_result import Estimate
from interp.circuits.interactions import estimate
from interp.circuits.judging.findings import Finding, Findings
from interp.circuits.tables import number
from interp.circuits.understanding.carrying import INSIDE, OUTSIDE, RANDOM, Carried, Carrying, RankShare
from interp.circuits.understanding.directions import random_bases, spanned
from interp.circuits.understanding.margins import NAN, decided, ratio
from interp.circuits.understanding.projected import Cut, EdgeCuts
from interp.circuits.understanding.subspaces import ordered, read, ways_to_read, written
from interp.kernels.errors import InterpError

Effect = Float[np.ndarray, " prompt"]


def carried(chosen: Contrast, edge: str, judged: Contrast | None = None, asked: Carrying | None = None) -> Carried:
    """The smallest subspace that carries an edge.

    Args:
        chosen: prompts that the directions and the rank come from.
        edge: label of the graph.
        judged: prompts that judge; None takes the same.

    Raises:
        InterpError: E201 no such edge; E205 an edge without effect, or what `written` and `read` refuse; E403, E407 as
            `read` says.
    """
    return _Search(chosen, judged, edge, asked or Carrying()).run()


class _Search:
    """One edge: its directions, the rank, and the runs that judge."""

    def __init__(self, chosen: Contrast, judged: Contrast | None, label: str, asked: Carrying) -> None:
        self.asked, self.label, self.held_out = asked, label, judged is not None
        edge = chosen.flow.graph.edge(label)
        self.how = asked.read or ways_to_read(chosen.flow.graph.readers[edge[2]])[0]
        self.cuts = EdgeCuts(MaskedRuns(chosen), edge, asked.tokens)
        self.judging = self.cuts if judged is None else EdgeCuts(MaskedRuns(judged), edge, asked.tokens)
        self._whole(self.cuts)
        with torch.no_grad():
            self.rows = written(chosen, edge, asked.written)
        self.directions = ordered(self.rows, read(chosen, edge, self.how, asked.fires_at))
        self.curve: dict[int, RankShare] = {}

    def run(self) -> Carried:
        """The search, then its proof."""
        most = self.directions.shape[1]
        rank = self._smallest(most) if self.asked.rank is None else min(self.asked.rank, most)
        basis = self.directions[:, :rank]
        whole = self._whole(self.judging)
        inside, outside = self.judging([Cut(basis), Cut(basis, inside=False)])
        drawn = self._drawn(rank)
        sign = np.sign(whole.mean())
        sides = sign * whole, sign * inside, sign * outside
        beaten_by = float((sign * drawn.mean(1) >= sign * inside.mean()).mean()) if len(drawn) else NAN
        return Carried(
            edge=self.label,
            rank=rank,
            full_rank=most,
            basis=basis.float(),
            share=ratio(inside, whole),
            whole=self._estimate(whole),
            inside=self._estimate(inside),
            outside=self._estimate(outside),
            random=self._estimate(drawn.mean(0)) if len(drawn) else Estimate(NAN, NAN, NAN),
            beaten_by=beaten_by,
            n_random=len(drawn),
            curve=tuple(self.curve[one] for one in sorted(self.curve)),
            written=self.asked.written,
            read=self.how,
            among=self.asked.among,
            held_out=self.held_out,
            findings=Findings((*self._both(*sides), self._above(sides[0], sides[1], sign * drawn))),
            forwards=self.cuts.runs.forwards + (self.judging.runs.forwards if self.held_out else 0.0),
        )

    def _drawn(self, rank: int) -> Float[np.ndarray, "space prompt"]:
        """Effects with the edge out within random subspaces of a rank."""
        everything = torch.eye(len(self.directions)).to(self.directions)
        within = spanned(self.rows) if self.asked.among == "written" else everything
        return self.judging([Cut(one) for one in random_bases(within, rank, self.asked.n_random, self.asked.seed)])

    def _estimate(self, values: Effect) -> Estimate:
        return estimate(values, self.asked.level, self.asked.seed)

    def _whole(self, cuts: EdgeCuts) -> Effect:
        """The effect of the edge; refused where it is not told from 0."""
        found = self._estimate(cuts.whole)
        if not found.mean or found.ci_low <= 0 <= found.ci_high:
            what = f"the effect of the edge is not told from 0 (mean {number(found.mean)})"
            fix = "ask about an edge that does something, or on more prompts"
            raise InterpError("E205", what, where=self.label, fix=fix)
        return cuts.whole

    def _smallest(self, most: int) -> int:
        """The smallest rank that is enough: doubled until it is, then halved between the last two.

        Enough is what holds by its interval on the prompts that choose; all of the directions are enough in any case.
        Where more directions can carry less, a smaller rank may be missed.
        """
        powers = [2**power for power in range(most.bit_length()) if 2**power < most]
        self._try([*powers, most])
        above = next((one for one in powers if self.curve[one].is_enough), most)
        below = max((one for one in powers if one < above), default=0)
        while above - below > 1:
            middle = (above + below) // 2
            self._try([middle])
            above, below = (middle, below) if self.curve[middle].is_enough else (above, middle)
        return above

    def _try(self, ranks: Sequence[int]) -> None:
        """Measure some ranks on the prompts that choose."""
        whole = self._whole(self.cuts)
        sign = np.sign(whole.mean())
        effects = self.cuts([Cut(self.directions[:, :rank], side) for rank in ranks for side in (True, False)])
        for rank, inside, outside in zip(ranks, effects[::2], effects[1::2], strict=True):
            is_enough = all(one.holds for one in self._both(sign * whole, sign * inside, sign * outside))
            self.curve[rank] = RankShare(rank, ratio(inside, whole), ratio(outside, whole), is_enough)

    def _both(self, whole: Effect, inside: Effect, outside: Effect) -> Iterator[Finding]:
        """The effect is inside, and none of it outside; effects are positive where the edge does what it does."""
        share = self.asked.share
        null = f"at least {share:.0%} of the effect inside"
        yield self._decided(INSIDE, inside - share * whole, null, ratio(inside, whole))
        null = f"at most {1 - share:.0%} of the effect outside"
        yield self._decided(OUTSIDE, (1 - share) * whole - outside, null, ratio(outside, whole))

    def _above(self, whole: Effect, inside: Effect, drawn: Float[np.ndarray, "space prompt"]) -> Finding:
        """More inside than in random subspaces."""
        null = "more inside than in random subspaces"
        if len(drawn):
            return self._decided(RANDOM, inside - drawn.mean(0), null, ratio(drawn.mean(0), whole), strictly=True)
        words = "untested: there are no more dimensions" if self.asked.n_random else "untested"
        return Finding(RANDOM, NAN, NAN, NAN, null, NAN, None, words)

    def _decided(self, test: str, margins: Effect, null: str, value: float, *, strictly: bool = False) -> Finding:
        level, seed = self.asked.level, self.asked.seed
        return decided(test, margins, null, value=value, level=level, seed=seed, strictly=strictly)
