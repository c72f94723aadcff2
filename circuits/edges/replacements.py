"""What stands in for a writer where its edge is out of a circuit.

How faithful a circuit looks depends on this choice (Miller et al. 2024, arXiv 2407.08734), so it is named, and it is
stated from which prompts it was taken. Means and learned constants come from prompts of their own, never from those that
judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.means import averaged
from interp.circuits.edges.optimal import Learning, learned
from interp.circuits.edges.posed import Posed
from interp.circuits.graph.flow import Flow, Writes
from interp.circuits.graph.graph import Edges
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError, suggest


@dataclass(frozen=True, eq=False)
class StandIn:
    """What stands in for every writer, on any prompts.

    Attributes:
        name: in `REPLACEMENTS`.
        taken_from: from which prompts, in words.
        values: what is put in, one row; None takes it from the corrupt prompt of each pair.
        by_place: whether positions of `values` are classes of positions.
        lengths: tokens that every prompt must have; None for any number.
    """

    name: str
    taken_from: str
    values: Writes | None = None
    by_place: bool = False
    lengths: int | None = None

    def contrast(self, flow: Flow, posed: Posed) -> Contrast:
        """These prompts with this in the place of what is out.

        Raises:
            InterpError: E205 no corrupt prompts, no classes of positions, or another length than `lengths`.
        """
        question = posed.question
        reference = (
            question.clean(flow.model, 0, len(posed), len(posed)) if "reference" in question.metric.needs else None
        )
        if reference is not None:
            reference = reference.to(flow.model.device)
        return Contrast(
            flow, question, flow.record(question.batch), self._writes(flow, posed), posed.place_of, reference
        )

    def _writes(self, flow: Flow, posed: Posed) -> Writes:
        if self.values is None:
            return flow.record(_corrupt(posed))
        if self.lengths is not None and (posed.mask.sum(1) != self.lengths).any():
            what = f"the means are of prompts of {self.lengths} tokens, and some prompts that judge have another length"
            raise InterpError("E205", what, where=self.name, fix=LENGTHS_FIX)
        if self.lengths is not None:
            at = torch.arange(posed.mask.shape[1]).clamp(max=self.lengths - 1)  # padding gets what stands before it
            return self.values.map(lambda value: value[:, at])
        if not self.by_place:
            return self.values
        if posed.place_of is None:
            raise InterpError(
                "E205", "the means are by classes of positions, and these prompts have none", where=self.name
            )
        place_of = posed.place_of
        return self.values.map(lambda value: value[0, place_of])


@dataclass(frozen=True)
class Replacement:
    """A choice of what stands in.

    Attributes:
        says: what it is, in one line.
        source: where it is from.
        make: from a flow, prompts, and the circuits that it is for.
        is_taken: whether its values come from prompts of their own.
        is_fitted: whether it depends on the circuits.
    """

    name: str
    says: str
    source: str
    make: Callable[[Flow, Posed, Sequence[Edges], Learning], StandIn]
    is_taken: bool = True
    is_fitted: bool = False


LENGTHS_FIX = "use prompts of one length, classes of positions (roles), or replacement 'mean'"


def stand_in(
    name: str, flow: Flow, taken: Posed, circuits: Sequence[Edges] = (), learning: Learning | None = None
) -> StandIn:
    """The replacement of this name, taken from these prompts.

    Args:
        circuits: what 'optimal' is learned for; none: each writer by itself is out, as in the MIB benchmark.
        learning: how it is learned.

    Raises:
        InterpError: E201 no such name; E205 prompts that it cannot be taken from.
    """
    if name not in REPLACEMENTS:
        raise InterpError("E201", f"no replacement {name!r}", fix=suggest(name, REPLACEMENTS))
    return REPLACEMENTS[name].make(flow, taken, circuits, learning or Learning())


def _resample(flow: Flow, taken: Posed, circuits: Sequence[Edges], learning: Learning) -> StandIn:
    return StandIn("resample", "the corrupt prompt of each pair that judges")


def _zero(flow: Flow, taken: Posed, circuits: Sequence[Edges], learning: Learning) -> StandIn:
    written = flow.record(taken.question.batch.rows(0, 1))
    return StandIn("zero", "no prompt", written.map(lambda value: torch.zeros_like(value[:, :1])))


def _mean(flow: Flow, taken: Posed, circuits: Sequence[Edges], learning: Learning) -> StandIn:
    return StandIn("mean", _words(taken), _mean_writes(flow, taken))


def _mean_writes(flow: Flow, taken: Posed) -> Writes:
    mask = taken.mask.float()
    return averaged(flow, taken.question.batch, (mask / mask.sum())[None])


def _positional(flow: Flow, taken: Posed, circuits: Sequence[Edges], learning: Learning) -> StandIn:
    """Means of each class of positions, or of each position where all prompts have one length."""
    mask, words = taken.mask, _words(taken)
    if taken.place_of is not None:
        n = len(flow.graph.places)
        one_hot = torch.nn.functional.one_hot(taken.place_of, n).permute(2, 0, 1).float() * mask
        counts = one_hot.sum((1, 2), keepdim=True)
        if empty := [
            place for place, count in zip(flow.graph.places, counts.flatten().tolist(), strict=True) if not count
        ]:
            raise InterpError(
                "E205", f"no token of the prompts plays {', '.join(map(repr, empty))}", where="mean-positional"
            )
        values = averaged(flow, taken.question.batch, one_hot / counts)
        return StandIn("mean-positional", f"{words}, by class of position", values, by_place=True)
    lengths = mask.sum(1)
    if (lengths != lengths[0]).any():
        what = f"prompts of {int(lengths.min())} to {int(lengths.max())} tokens have no common positions"
        raise InterpError("E205", what, where="mean-positional", fix=LENGTHS_FIX)
    each = torch.eye(mask.shape[1], device=mask.device)[:, None] * mask / len(mask)
    values = averaged(flow, taken.question.batch, each)
    return StandIn("mean-positional", f"{words}, by position", values, lengths=int(lengths[0]))


def _optimal(flow: Flow, taken: Posed, circuits: Sequence[Edges], learning: Learning) -> StandIn:
    start = _mean_writes(flow, taken)
    contrast = StandIn("mean", "", start).contrast(flow, taken)
    found = learned(contrast, circuits, learning)
    words = f"{_words(taken)}; {found.steps} steps, {found.loss} {found.before:.3g} -> {found.after:.3g}"
    return StandIn("optimal", words, found.values)


def _words(taken: Posed) -> str:
    return f"{len(taken)} clean prompts"


def _corrupt(posed: Posed) -> Batch:
    if posed.corrupt is None:
        raise InterpError("E205", "the prompts have no corrupt side", where="resample", fix="use another replacement")
    return posed.corrupt


REPLACEMENTS = {
    one.name: one
    for one in (
        Replacement(
            "resample",
            "what it writes on the corrupt prompt of the pair",
            "Geiger et al. 2021, arXiv 2106.02997",
            _resample,
            is_taken=False,
        ),
        Replacement("zero", "nothing", "Michel et al. 2019, arXiv 1905.10650", _zero, is_taken=False),
        Replacement(
            "mean", "its mean over all real tokens of other prompts", "Wang et al. 2022, arXiv 2211.00593", _mean
        ),
        Replacement(
            "mean-positional",
            "its mean over other prompts, position by position (one length) or class by class",
            "Wang et al. 2022, arXiv 2211.00593, section 2.1",
            _positional,
        ),
        Replacement(
            "optimal",
            "the constant, learned on other prompts, that costs the circuit least",
            "Li & Janson 2024, Optimal Ablation for Interpretability (arXiv 2409.09951)",
            _optimal,
            is_fitted=True,
        ),
    )
}
