"""Edge attribution: what each edge does to a metric, estimated from gradients.

For the edge from writer u to reader v the score is the sum over positions of <u(clean) - u(ablated), g_v>, where g_v is
the gradient of the metric at what v reads, averaged over points of a path. All methods of the family differ in these
points alone:

- EAP (Nanda 2023; Syed et al. 2023, arXiv 2310.10348): the clean run; 'denoise' takes the ablated one.
- clean-corrupted: both ends.
- EAP-IG, inputs (Hanna et al. 2024, arXiv 2403.17806): runs whose embeddings lie between those of the two runs. The
  paper's code takes the left sum, which leaves the clean end out; here the midpoint rule is the default.
- EAP-IG, activations: runs in which what the writer itself wrote lies between. (In the published code the gradients of
  all parts' runs are averaged over; here each writer has its own.)

Scores are positive where the edge helps the metric. Positions and prompts are sums, so they come apart for free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.edges.gradients import Gradients, gradients
from interp.circuits.graph.flow import Flow, Stream, Writes
from interp.circuits.question import Question
from interp.circuits.writes import ATTN, MLP
from interp.hooks.names import point_name
from interp.hooks.rerun.layers import repeated
from interp.kernels.errors import InterpError, suggest

RowScores = Float[Tensor, "batch place writer reader"]
Point = tuple[float, float]
"""Share of the way from ablated to clean, and weight."""

CHUNK = 1 << 24
"""Bytes of what writers wrote that are laid out at a time: larger pieces of memory are slow to get."""

LEAST = 32
"""Tokens that are laid out at a time at least: with fewer, weights are read more often than they are used."""

ACTIVATIONS = 1 << 13
"""Tokens of a forward along activations, where one writer does not have more."""

PULL = 3.0
"""A forward and a backward, in forwards."""

RULES = ("midpoint", "trapezoid", "left", "right")


def points(rule: str, steps: int) -> tuple[Point, ...]:
    """A rule of integration over the way from ablated (0) to clean (1).

    Raises:
        InterpError: E201 no such rule; E205 fewer than one step.
    """
    if rule not in RULES:
        raise InterpError("E201", f"no rule {rule!r}", fix=suggest(rule, RULES))
    if steps < 1:
        raise InterpError("E205", f"{steps} steps", fix="ask for at least one")
    if rule == "trapezoid":
        return tuple((k / steps, (0.5 if k in (0, steps) else 1.0) / steps) for k in range(steps + 1))
    start = {"midpoint": 0.5, "left": 0.0, "right": 1.0}[rule]
    return tuple(((k + start) / steps, 1 / steps) for k in range(steps))


CLEAN: tuple[Point, ...] = ((1.0, 1.0),)
ABLATED: tuple[Point, ...] = ((0.0, 1.0),)
BOTH_ENDS: tuple[Point, ...] = ((0.0, 0.5), (1.0, 0.5))


@dataclass(frozen=True, eq=False)
class Contrast:
    """Some prompts, and what stands in for each writer where an edge is out.

    Attributes:
        question: on the model's device.
        clean: what was written.
        ablated: what is put in its place; one row or position may stand for all.
        place_of: class of each position; None where all positions share edges.
        reference: output of the untouched model.
        chunk: bytes of what writers wrote that are laid out at a time, see `LEAST`.
        tokens: of one forward, at most, where one prompt does not have more; None leaves it to the method.
    """

    flow: Flow
    question: Question
    clean: Writes
    ablated: Writes
    place_of: Int[Tensor, "batch pos"] | None = None
    reference: Float[Tensor, "batch d_out"] | None = None
    chunk: int = CHUNK
    tokens: int | None = None

    @property
    def n_places(self) -> int:
        return len(self.flow.graph.places)

    @property
    def width(self) -> int:
        """Tokens of a prompt, padding included."""
        return next(iter(self.clean.embed.values())).shape[1]

    def rows(self, start: int, stop: int) -> Contrast:
        """Some of the prompts; what stands for all of them still does."""

        def cut(value: Tensor) -> Tensor:
            return value if len(value) == 1 else value[start:stop]

        return replace(
            self,
            question=self.question.rows(start, stop),
            clean=self.clean.map(cut),
            ablated=self.ablated.map(cut),
            place_of=None if self.place_of is None else cut(self.place_of),
            reference=None if self.reference is None else cut(self.reference),
        )

    def entering(self, share: float) -> Stream:
        """What enters the first layer, between ablated (0) and clean (1)."""
        clean, ablated = (sum(writes.embed.values()) for writes in (self.clean, self.ablated))
        assert isinstance(clean, Tensor) and isinstance(ablated, Tensor)
        return clean if share == 1 else ablated + share * (clean - ablated)

    def gradients(self, share: float = 1.0) -> Gradients:
        """Gradients of a run whose embeddings are between ablated and clean."""
        return gradients(self.flow, self.question, self.entering(share), reference=self.reference)


def positions_at_once(batch: int, width: int, each: int, chunk: int) -> int:
    """Positions of all prompts whose writers fit into `chunk` bytes, `each` for one token; see `LEAST`."""
    tokens = max(chunk // each, min(LEAST, batch * width))
    return min(width, max(1, tokens // batch))


@dataclass(eq=False)
class Written:
    """What edges carry: the difference between clean and ablated writers, laid out some positions at a time."""

    contrast: Contrast

    def __post_init__(self) -> None:
        self.difference = self.contrast.clean.minus(self.contrast.ablated)
        some = next(iter(self.difference.embed.values()))
        batch, self.width, d_model = some.shape
        writers = len(self.contrast.flow.graph.writers)
        self.step = positions_at_once(batch, self.width, writers * d_model * some.element_size(), self.contrast.chunk)
        self._space = some.new_empty(writers * batch * self.step * d_model)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "writer batch some_pos d_model"]]]:
        """Positions, and what the writers wrote there; it stands until the next ones are asked for."""
        batch, _, d_model = next(iter(self.difference.embed.values())).shape
        for start in range(0, self.width, self.step):
            rows = slice(start, min(start + self.step, self.width))
            shape = (len(self.contrast.flow.graph.writers), batch, rows.stop - start, d_model)
            found = self._space[: math.prod(shape)].view(shape)
            self.contrast.flow.laid_out(self.difference, rows, found)
            yield rows, found

    def score(self, pull: Gradients) -> RowScores:
        """Inner products of what edges carry with the gradients at their readers, summed over positions."""
        flow, place_of = self.contrast.flow, self.contrast.place_of
        shape = (len(pull.values), self.contrast.n_places, *flow.graph.exists.shape)
        total = torch.zeros(shape, dtype=pull.logits.dtype, device=pull.logits.device)
        for rows, written in self:
            for readers, gradient in pull.at(rows):
                seen = int(flow.graph.seen[readers.start])
                some = written[:seen].transpose(0, 1)  # [batch writer pos d]
                if place_of is None:  # positions are summed in the same product
                    total[:, 0, :seen, readers] += torch.bmm(some.flatten(2), gradient.transpose(1, 2).flatten(2).mT)
                else:
                    each = torch.einsum("bwpd,bprd->bpwr", some, gradient)
                    where = torch.nn.functional.one_hot(place_of[:, rows], self.contrast.n_places).to(each.dtype)
                    total[:, :, :seen, readers] += torch.einsum("bpc,bpwr->bcwr", where, each)
                del gradient  # the next one needs its memory
        return total


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of some prompts, and how far they are from adding up.

    Attributes:
        scores: positive where the edge helps.
        forwards: what it cost, in forwards of these prompts; a backward counts as two, and what was shared by all
            methods (one run of the clean and one of the ablated prompts) is left out.
        values: share of the way -> the metric there.
    """

    scores: RowScores
    forwards: float
    values: dict[float, Float[Tensor, " batch"]]


def along_inputs(contrast: Contrast, path: Sequence[Point]) -> Attribution:
    """EAP and its relatives: gradients at points of a path from ablated to clean embeddings."""
    written = Written(contrast)
    total: RowScores | None = None
    values: dict[float, Tensor] = {}
    for share, weight in path:
        pull = contrast.gradients(share)
        scores = written.score(pull).mul_(weight)
        total = scores if total is None else total.add_(scores)
        values[share] = pull.values
        del pull, scores  # the next ones need their memory
    assert total is not None
    return Attribution(total, PULL * len(path), values)


def adaptive(contrast: Contrast, share: float, most: int) -> tuple[Attribution, int, float]:
    """EAP-IG along inputs by the trapezoid rule, its steps doubled until scores add up.

    Together, the edges out of the embeddings carry everything, so their scores must sum to metric(clean) -
    metric(ablated embeddings); see `gap`.

    Args:
        share: the largest gap that is allowed.
        most: steps, at most.

    Returns:
        The attribution, the steps taken, and the gap that is left.
    """
    if most < 1:
        raise InterpError("E205", f"{most} steps at most", fix="ask for at least one")
    ends = along_inputs(contrast, BOTH_ENDS)
    steps, found = 1, ends
    while gap(contrast, found) > share and steps < most:
        steps *= 2
        between = along_inputs(contrast, [(k / steps, 1 / steps) for k in range(1, steps, 2)])
        scores = found.scores / 2 + between.scores
        found = Attribution(scores, found.forwards + between.forwards, found.values | between.values)
    return found, steps, gap(contrast, found)


def gap(contrast: Contrast, found: Attribution) -> float:
    """How far scores are from adding up, as a share of the metric's change: the mean over prompts of both."""
    n = len(contrast.clean.embed)
    change = found.values[1.0] - found.values[0.0]
    left = found.scores[:, :, :n].sum((1, 2, 3)) - change
    return float(left.abs().sum() / change.abs().sum().clamp(min=1e-30))


def along_activations(contrast: Contrast, path: Sequence[Point]) -> Attribution:
    """EAP-IG along activations: for each writer, runs in which what it wrote lies between ablated and clean."""
    flow, graph = contrast.flow, contrast.flow.graph
    difference = contrast.clean.minus(contrast.ablated)
    batch, width, d_model = next(iter(difference.embed.values())).shape
    per_run = min(len(graph.writers), max(1, (contrast.tokens or ACTIVATIONS) // (batch * width)))
    total = torch.zeros((batch, contrast.n_places, *graph.exists.shape), device=flow.model.device)
    values: dict[float, Tensor] = {}
    written = next(iter(difference.embed.values())).new_empty((len(graph.writers), batch, width, d_model))
    flow.laid_out(difference, slice(None), written)
    for share, weight in path:
        for start in range(0, len(graph.writers), per_run):
            members = range(start, min(start + per_run, len(graph.writers)))
            pull = _shifted_run(contrast, written, members, share)
            for readers, gradient in pull.at(slice(None)):
                per_writer = gradient.unflatten(0, (len(members), batch))
                each = torch.einsum("wbpd,wbprd->bpwr", written[members.start : members.stop], per_writer)
                where = _places(contrast, each)
                total[:, :, start : start + len(members), readers] += weight * torch.einsum(
                    "bpc,bpwr->bcwr", where, each
                )
                del gradient, per_writer, each  # the next ones need their memory
            del pull
    exists = torch.from_numpy(graph.exists).to(total.device)
    return Attribution(total * exists, PULL * len(path) * len(graph.writers), values)


def _places(contrast: Contrast, each: Float[Tensor, "batch pos writer reader"]) -> Float[Tensor, "batch pos place"]:
    """1 where a position belongs to a class."""
    if contrast.place_of is None:
        return each.new_ones((*each.shape[:2], 1))
    return torch.nn.functional.one_hot(contrast.place_of, contrast.n_places).to(each.dtype)


def _shifted_run(
    contrast: Contrast, written: Float[Tensor, "writer batch pos d_model"], members: range, share: float
) -> Gradients:
    """The prompts once for each of some writers, each time with what this one wrote moved towards ablated."""
    flow, question, n = contrast.flow, contrast.question, len(members)
    entering = contrast.entering(1.0).repeat(n, 1, 1)
    shift: dict[str, Tensor] = {}
    for place, member in enumerate(members):
        part = flow.graph.writers[member]
        rows = slice(place * written.shape[1], (place + 1) * written.shape[1])
        moved = (share - 1) * written[member]
        if part.layer is None:
            entering[rows] += moved
            continue
        name = point_name(ATTN if part.kind == "head" else MLP, part.layer)
        shift.setdefault(name, torch.zeros_like(entering))[rows] += moved
    repeat = Question(
        repeated(question.batch, n), question.read_at.repeat(n), question.metric,
        *(None if ids is None else ids.repeat(n, *[1] * (ids.ndim - 1)) for ids in (question.answer, question.distractor)),
    )  # fmt: skip
    reference = None if contrast.reference is None else contrast.reference.repeat(n, 1)
    return gradients(flow, repeat, entering, reference=reference, shift=shift)
