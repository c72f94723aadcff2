"""The score of a head for a pair of tokens as a sum over singular triples, exactly.

A score is `x_dest Omega x_src` of what the projections read at the two tokens, with a 1 appended for their biases. What
stands between projections and scores is inside Omega: rotary positions, which make it that of one pair of positions, and
norms on queries and keys, at the scale that they had in the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from interp.circuits.readout import Norm, is_close
from interp.hooks.reads import Reads

QK_NORMS = {"q": "q_norm", "k": "k_norm"}
Heads = Float[Tensor, "batch pos head d_head"]


@dataclass(frozen=True, eq=False)
class Triples:
    """Scores of some pairs of tokens, triple by triple, in float64.

    Attributes:
        values: contributions; they sum to the score.
        directions: 'q', 'k' -> the singular vectors over the input of the projections, with a 1 appended to it.
        along: 'q', 'k' -> what stands along these directions at dest and src.
        sizes: singular values, the scale of the scores among them.
    """

    values: Float[Tensor, "pair triple"]
    directions: Mapping[str, Float[Tensor, "pair input triple"]]
    along: Mapping[str, Float[Tensor, "pair triple"]]
    sizes: Float[Tensor, "pair triple"]

    def reading(self, side: str, share: float, *, is_root: bool) -> Float[Tensor, "pair input"]:
        """The vector along which one side reads its input, of the fewest triples that make up more than a share.

        Args:
            side: 'q' or 'k'.
            is_root: a direction counts by the root of its singular value and its sign, so that both sides are on one
                scale; else by what it adds to the score, given what stands at the other token.
        """
        kept = shortest_prefix(self.values, share * self.values.sum(1))
        other = "k" if side == "q" else "q"
        weight = self.sizes.sqrt() * self.along[other].sign() if is_root else self.sizes * self.along[other]
        return einsum(self.directions[side], weight * kept, "pair d triple, pair triple -> pair d")


def shortest_prefix(values: Float[Tensor, "row part"], target: Float[Tensor, " row"]) -> Bool[Tensor, "row part"]:
    """The fewest parts of each row, largest first, whose sum is over the target; all where no sum is."""
    ordered = values.sort(1, descending=True)
    over = (ordered.values.cumsum(1) > target[:, None]).int()
    is_before = over.cumsum(1) - over == 0
    return torch.zeros_like(is_before).scatter(1, ordered.indices, is_before)


@dataclass(frozen=True, eq=False)
class Turning:
    """Rotary positions: dimensions in pairs, each turned (and perhaps scaled) in a way of its own at each position.

    Attributes:
        factors: as complex numbers.
        is_interleaved: pairs are neighbours; else a dimension of the first half and one of the second.
    """

    factors: Complex[Tensor, "batch pos pair"]
    is_interleaved: bool

    @classmethod
    def between(cls, before: Heads, after: Heads) -> Turning | None:
        """The turning that makes `after` of `before` in all heads alike; None where there is none."""
        for n in range(before.shape[-1] // 2, 0, -1):
            for is_interleaved in (False, True):
                x, y = (_paired(part[..., : 2 * n], is_interleaved) for part in (before, after))
                size = (x.conj() * x).sum(2).real
                factors = torch.where(size == 0, 1, (x.conj() * y).sum(2) / size)
                found = cls(factors, is_interleaved)
                if is_close(found(before, factors[:, :, None]), after, torch.float32):
                    return found
        return None

    def __call__(self, x: Float[Tensor, "*shape d_head"], factors: Complex[Tensor, "*#shape pair"]) -> Tensor:
        """Vectors turned by these factors; dimensions that belong to no pair stay as they are."""
        n = 2 * factors.shape[-1]
        turned = torch.view_as_real(_paired(x[..., :n], self.is_interleaved) * factors)
        turned = turned if self.is_interleaved else turned.transpose(-1, -2)
        return torch.cat([turned.flatten(-2), x[..., n:]], -1)


def _paired(x: Tensor, is_interleaved: bool) -> Tensor:
    """Pairs of dimensions as complex numbers."""
    both = x.unflatten(-1, (-1, 2)) if is_interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
    return torch.view_as_complex(both.contiguous())


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """How the scores of one layer came about in one run; made by `ScoreMap.of`.

    Attributes:
        bases, cores: 'q', 'k' -> weights with the bias below them, as a product of an orthonormal basis of what is read
            and a map from it to the head.
        gains: 'q', 'k' -> what a norm behind the projection multiplied each number by; None without one.
        scale: of the products of queries and keys.
    """

    bases: Mapping[str, Float[Tensor, "head input rank"]]
    cores: Mapping[str, Float[Tensor, "head rank d_head"]]
    gains: Mapping[str, Heads | None]
    turning: Turning | None
    scale: float

    @classmethod
    def of(
        cls,
        reads: Reads,
        attn: nn.Module,
        before: Mapping[str, Heads],
        after: Mapping[str, Heads],
        scores: Float[Tensor, "batch head query_pos key_pos"],
    ) -> ScoreMap | None:
        """The map; None where the scores are something else (soft cap, bias by distance, another kind of norm).

        Args:
            attn: the module that may hold norms on queries and keys.
            before: 'q', 'k' -> as the projections make them.
            after: the same as attention gets them.
            scores: after mask and scale.
        """
        before, after = ({side: part[side].double() for side in "qk"} for part in (before, after))
        gains = {side: _gain(getattr(attn, name, None), before[side]) for side, name in QK_NORMS.items()}
        normed = {side: before[side] if (gain := gains[side]) is None else before[side] * gain for side in "qk"}
        turning = None
        if any(not is_close(normed[side], after[side], scores.dtype) for side in "qk"):
            turning = Turning.between(*(torch.cat([part["q"], part["k"]], 2) for part in (normed, after)))
            if turning is None:
                return None
        if (scale := _scale(after, scores)) is None:
            return None
        factors = {side: torch.linalg.qr(_with_bias(reads, side)) for side in "qk"}
        bases, cores = ({side: factors[side][index] for side in "qk"} for index in (0, 1))
        return cls(bases, cores, gains, turning, scale)

    def triples(
        self,
        read: Float[Tensor, "batch pos d_model"],
        rows: Int[Tensor, " pair"],
        heads: Mapping[str, Int[Tensor, " pair"]],
        at: Mapping[str, Int[Tensor, " pair"]],
    ) -> Triples:
        """The scores of pairs of tokens.

        Args:
            read: what the projections read.
            rows: prompt of each pair.
            heads: 'q', 'k' -> query head, and key head that it reads.
            at: 'q', 'k' -> dest and src.
        """
        cores = {side: self._core(side, rows, heads[side], at[side]) for side in "qk"}
        left, sizes, right = torch.linalg.svd(self.scale * cores["q"] @ cores["k"].mT, full_matrices=False)
        bases = {side: self.bases[side][heads[side]] for side in "qk"}
        directions = {"q": bases["q"] @ left, "k": bases["k"] @ right.mT}
        inputs = {side: read[rows, at[side]].double() for side in "qk"}
        inputs = {side: torch.cat([one, torch.ones_like(one[:, :1])], 1) for side, one in inputs.items()}
        along = {side: einsum(inputs[side], directions[side], "pair d, pair d triple -> pair triple") for side in "qk"}
        return Triples(sizes * along["q"] * along["k"], directions, along, sizes)

    def _core(self, side: str, rows: Tensor, heads: Tensor, at: Tensor) -> Float[Tensor, "pair rank d_head"]:
        """From the basis of what is read to what attention gets, for each pair."""
        core, gain = self.cores[side][heads], self.gains[side]
        core = core if gain is None else core * gain[rows, at, heads][:, None]
        return core if self.turning is None else self.turning(core, self.turning.factors[rows, at][:, None])


def _with_bias(reads: Reads, side: str) -> Float[Tensor, "head input d_head"]:
    weight, bias = reads.weights[side].double(), reads.biases[side]
    last = torch.zeros_like(weight[:, :1]) if bias is None else bias.double()[:, None]
    return torch.cat([weight, last], 1)


def _gain(module: Any, x: Heads) -> Heads | None:
    """What a norm, of each head or of all together, multiplied each number by in this run; None without one we know."""
    if module is None:
        return None
    width, flat = module.weight.numel(), x.flatten(-2)
    norm = Norm.of(module, width)
    if norm is None or norm.centred or width not in (x.shape[-1], flat.shape[-1]):
        return None
    x, shape = (x if width == x.shape[-1] else flat), x.shape
    given = module(x.to(module.weight.dtype)).double()
    return (norm.gain / norm.scale(x, given)).view(shape)


def _scale(after: Mapping[str, Heads], scores: Float[Tensor, "batch head query_pos key_pos"]) -> float | None:
    """What products of queries and keys are multiplied by; None where that does not make the scores."""
    keys = after["k"].repeat_interleave(after["q"].shape[2] // after["k"].shape[2], 2)
    products = einsum(after["q"], keys, "batch q head d, batch k head d -> batch head q k")
    seen = scores > torch.finfo(torch.float16).min / 2
    products, given = products[seen], scores[seen].double()
    scale = float((products * given).sum() / products.square().sum())
    return scale if is_close(scale * products, given, scores.dtype) else None
