"""How small a space of a head's queries, keys, values or outputs does its work, and whether it still does elsewhere.

Lieberum et al. 2023 ("Does Circuit Analysis Interpretability Scale?", arXiv 2307.09458) replace what a head of a
multiple-choice circuit reads by a projection on few directions, found on the task, and ask again where the letters are
random: a space that explains the task may explain nothing of the variation.

- Directions are principal ones of what stands there on some prompts, or of its means over classes of prompts (such as the
  answer's letter). A number x becomes mean + P (x - mean), mean and P from these prompts alone.
- Rank 0 puts the mean there, and takes away all that tells prompts apart. What a space keeps is its share of the way from
  there to the untouched model.
- The rank is chosen on the prompts that the directions come from, and judged on base and shifted prompts, beside random
  spaces of that rank, anywhere among the head's numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.interactions import estimate
from interp.circuits.judging.findings import Finding, Findings
from interp.circuits.question import Question
from interp.circuits.understanding.compressing import BASE, SHIFT, Compressing, Compression, Kept, OnPrompts
from interp.circuits.understanding.directions import Basis, random_bases
from interp.circuits.understanding.margins import NAN, decided, ratio
from interp.circuits.understanding.measured import measured
from interp.circuits.understanding.projection import (
    BASIS,
    MEAN,
    Place,
    Projection,
    directions,
    placed,
    standing,
)
from interp.hooks.reference import Reference

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Values = Float[np.ndarray, "_ prompt"]


def compress(
    model: HookedModel,
    asked: Compressing,
    source: Question,
    base: Question,
    shifted: Question,
    classes: Sequence[Hashable] | None = None,
) -> Compression:
    """Compress one head's queries, keys, values or outputs, and judge that on two sets of prompts.

    Args:
        source: prompts that the space and its rank come from.
        base: other prompts of the same kind.
        shifted: prompts where something is different that should not matter to the explanation, such as other letters.
        classes: of each prompt of `source`; the space is then that of the classes' means, of one dimension less than
            there are classes.

    Raises:
        InterpError: E201 no such head; E205 what stands there never varies, or classes that do not fit; E313 positions.
    """
    place = placed(model, asked.head, asked.point)
    found = standing(model, place, asked.positions, source.batch, asked.batch_size)
    mean, span = found.mean, directions(found.rows - found.mean)
    basis = span if classes is None else directions(found.class_means(classes) - mean)
    judge = _Judging(model, asked, place, mean)
    ranks = (0, *sorted({rank for rank in asked.ranks or _doubled(basis.shape[1]) if rank <= basis.shape[1]}))
    bases = [basis[:, :rank] for rank in ranks]
    chosen = judge(source, bases, [])
    row = next((row for row in range(1, len(ranks)) if chosen.kept(row, "").holds), len(ranks) - 1)
    notes = () if chosen.kept(row, "").holds else (f"no rank tried keeps {asked.share:.0%} where the space comes from",)
    drawn = random_bases(torch.eye(len(mean)).to(span), ranks[row], asked.n_random, asked.seed)
    judged = {BASE: judge(base, bases, drawn), SHIFT: judge(shifted, bases, drawn)}
    return Compression(
        asked=asked,
        rank=ranks[row],
        basis=basis.float(),
        mean=mean.float(),
        on={where: one.said(ranks, row) for where, one in judged.items()},
        findings=Findings(tuple(finding for where, one in judged.items() for finding in one.findings(row, where))),
        notes=(*notes, *place.notes),
    )


def _doubled(most: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and all."""
    return (*(2**power for power in range(most.bit_length()) if 2**power < most), most)


@dataclass(frozen=True, eq=False)
class _Judge:
    """The metric on one set of prompts: untouched, and under spaces of which the first is of rank 0, the last random."""

    asked: Compressing
    clean: Float[np.ndarray, " prompt"]
    values: Values
    drawn: Values

    @property
    def gap(self) -> Float[np.ndarray, " prompt"]:
        """The way from rank 0 to the untouched model."""
        return self.clean - self.values[0]

    def kept(self, row: int, where: str) -> Finding:
        """Whether a space keeps the share of the way."""
        way, share = self.values[row] - self.values[0], self.asked.share
        return self._decided(f"{where} kept", way - share * self.gap, f"at least {share:.0%} of the way", way)

    def findings(self, row: int, where: str) -> Iterator[Finding]:
        """All tests of one space."""
        yield self._decided(f"{where} matters", self.gap, "more than at rank 0", self.gap, strictly=True)
        yield self.kept(row, where)
        null = "more than random spaces keep"
        if not len(self.drawn):
            words = "untested: nothing is left out" if self.asked.n_random else "untested"
            yield Finding(f"{where} random", NAN, NAN, NAN, null, NAN, None, words)
            return
        others = self.drawn.mean(0)
        margins, way = self.values[row] - others, others - self.values[0]
        yield self._decided(f"{where} random", margins, null, way, strictly=True)

    def _decided(
        self, test: str, margins: np.ndarray, null: str, way: np.ndarray, *, strictly: bool = False
    ) -> Finding:
        """A finding whose value is a part of the way, as a share."""
        level, seed = self.asked.level, self.asked.seed
        return decided(test, margins, null, value=ratio(way, self.gap), level=level, seed=seed, strictly=strictly)

    def said(self, ranks: Sequence[int], row: int) -> OnPrompts:
        """The numbers of all spaces."""
        asked = self.asked
        curve = [
            Kept(rank, ratio(one - self.values[0], self.gap), estimate(one, asked.level, asked.seed))
            for rank, one in zip(ranks, self.values, strict=True)
        ]
        clean = estimate(self.clean, asked.level, asked.seed)
        if not len(self.drawn):
            return OnPrompts(clean, tuple(curve), NAN, NAN)
        beaten_by = float((self.drawn.mean(1) >= self.values[row].mean()).mean())
        return OnPrompts(clean, tuple(curve), ratio(self.drawn.mean(0) - self.values[0], self.gap), beaten_by)


@dataclass(frozen=True, eq=False)
class _Judging:
    """Runs of prompts under spaces around one mean."""

    model: HookedModel
    asked: Compressing
    place: Place
    mean: Float[Tensor, " d_head"]

    def __call__(self, question: Question, bases: Sequence[Basis], drawn: Sequence[Basis]) -> _Judge:
        variants = [
            Projection(self.place, Reference({BASIS: one, MEAN: self.mean}), self.asked.positions)
            for one in (*bases, *drawn)
        ]
        values, clean = measured(self.model, question, variants, self.asked.batch_size)
        return _Judge(self.asked, clean, values[: len(bases)], values[len(bases) :])
