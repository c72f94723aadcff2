"""The direction along which a model refuses: difference of means, chosen by what taking it away and adding it does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.effects.ablation import measured, twins
from interp.heads.safety.divergence import divergence
from interp.heads.safety.refusal_score import refusal_score
from interp.heads.safety.selecting import chosen, places, shared_end
from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import replace_stream
from interp.hooks.interventions import Hook, Intervention, Steer
from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.hooks.pairs import Pairs
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

PRE = "hook_resid_pre"
WRITES = ("hook_attn_out", "hook_mlp_out")


@dataclass(frozen=True)
class Filter:
    """Directions that may be chosen; the published bounds.

    Attributes:
        layers: share of the layers that count, from the first; the code rounds what it comes to down (layer 3 of 4 is out
            there, and in here).
        kl: most that harmless prompts may lose without the direction, in nats.
        steering: least refusal score of harmless prompts with the direction added.
    """

    layers: float = 0.8
    kl: float = 0.1
    steering: float = 0.0

    def refuses(self, layer: int, n_layers: int, ablated: float, steered: float, kl: float) -> str:
        """Why a direction may not be chosen; '' where it may."""
        if any(math.isnan(score) for score in (ablated, steered, kl)):
            return "a score is no number (prompts and twins do not differ there)"
        if layer >= self.layers * n_layers:
            return f"its layer is not among the first {self.layers:.0%}"
        if kl > self.kl:
            return f"taking it away costs harmless prompts more than {self.kl:g} nats"
        return f"adding it leaves a refusal score below {self.steering:g}" if steered < self.steering else ""


@dataclass(frozen=True)
class Candidate:
    """One place that a direction was taken from, and its three scores, means over the prompts that choose.

    Attributes:
        layer: the direction is of the stream that enters it.
        position: counted from the end of the prompt, -1 the last.
        ablated: refusal score of harmful prompts without the direction.
        steered: refusal score of harmless prompts with the direction added at its layer.
        kl: KL(base || without the direction) of harmless prompts, in nats.
        filtered: why it may not be chosen; '' where it may.
    """

    layer: int
    position: int
    ablated: float
    steered: float
    kl: float
    filtered: str


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of the residual stream.

    Attributes:
        vector: mean over harmful prompts less mean over harmless ones.
        layer, position: where it is from.
        candidates: all that were tried; none where the place was given.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    position: int
    candidates: tuple[Candidate, ...] = ()

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        return self.vector / self.vector.norm()


@dataclass(frozen=True)
class WithoutDirection(Intervention):
    """`x - (x . r) r` of everything that enters a layer and everything that is written into the stream.

    Args:
        direction: a Reference with the unit vector r under 'direction'.
    """

    direction: Reference

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def project(x: Tensor, context: HookContext) -> Tensor:
            unit = self.direction["direction"].to(x.device, x.dtype)
            return x - (x @ unit)[..., None] * unit

        layers = [layer for layer, n_heads in enumerate(model.heads[""]) if n_heads]
        return [
            (point_name(kind, layer), replace_stream(batch, None, project))
            for layer in layers
            for kind in (PRE, *WRITES)
        ]


@torch.no_grad()
def mean_differences(
    model: HookedModel, pairs: Pairs, positions: Sequence[int], batch_size: int
) -> Float[Tensor, "layer position d_model"]:
    """Mean stream of the prompts less that of their twins, entering each layer, summed in float64."""
    layers = range(model.n_layers)
    total = torch.zeros(len(layers), len(positions), model.w_out(_first(model)).shape[-1], dtype=torch.float64)
    for sign, side in ((1, pairs), (-1, twins(pairs))):
        for start, stop in batches(len(pairs), batch_size):
            batch = side.clean.rows(start, stop)
            _, cache = model.run_with_cache(batch, [point_name(PRE, layer) for layer in layers])
            at = places(batch, positions)
            rows = torch.arange(batch.size)[:, None]
            for layer in layers:
                total[layer] += sign * cache[point_name(PRE, layer)].cpu()[rows, at].double().sum(0)
    return total / len(pairs)


def _first(model: HookedModel) -> int:
    return next(layer for layer, n_heads in enumerate(model.heads[""]) if n_heads)


def find_direction(
    model: HookedModel,
    pairs: Pairs,
    *,
    positions: Iterable[int] | None = None,
    bounds: Filter | None = None,
    batch_size: int = 32,
) -> Direction:
    """The refusal direction: half of the prompts give the candidates, the other half choose among them.

    Arditi et al. 2024, arXiv 2406.11717; andyrdt/refusal_direction. Prompts that the model does not refuse, or whose twin
    it refuses, are left out first, as in the paper. KL is exact here; the code adds 1e-6 to every probability.

    Args:
        pairs: harmful prompts with harmless twins; their answers are the tokens that begin a refusal.
        positions: counted from the end; None takes all where prompts have the same token (`shared_end`).
        bounds: None takes the published ones.

    Raises:
        InterpError: E303 no twins; E407 too few prompts refused, or no direction that passes the filter, with the reasons.
    """
    refused = refused_pairs(model, pairs, batch_size)
    if len(refused) < 2:
        what = f"{len(refused)} of {len(pairs)} prompts are refused while their twin is not"
        raise InterpError("E407", what, where="refusal direction", fix="use prompts that this model refuses")
    at = tuple(shared_end(pairs) if positions is None else positions)
    bounds = bounds or Filter()
    vectors = mean_differences(model, chosen(refused, range(0, len(refused), 2)), at, batch_size)
    spots = [(layer, column) for layer in range(model.n_layers) for column in range(len(at))]
    judges = chosen(refused, range(1, len(refused), 2))
    scores = _three_scores(model, judges, [(layer, vectors[layer, column]) for layer, column in spots], batch_size)
    tried = tuple(
        Candidate(layer, at[column], *each, bounds.refuses(layer, model.n_layers, *each))
        for (layer, column), each in zip(spots, scores, strict=True)
    )
    kept = [index for index, one in enumerate(tried) if not one.filtered]
    if not kept:
        reasons = "; ".join(sorted({one.filtered for one in tried}))
        fix = f"widen the filter (`most_kl`), or name a layer and a position; {reasons}"
        raise InterpError("E407", "no direction passes the filter", where="refusal direction", fix=fix)
    best = min(kept, key=lambda index: tried[index].ablated)
    layer, column = spots[best]
    return Direction(vectors[layer, column], layer, at[column], tried)


def refused_pairs(model: HookedModel, pairs: Pairs, batch_size: int) -> Pairs:
    """Pairs of which the prompt is refused and the twin is not."""
    tokens = _tokens(pairs)
    kept = torch.ones(len(pairs), dtype=torch.bool)
    for sign, side in ((1, pairs), (-1, twins(pairs))):
        measures = {"refusal": lambda logits, _, rows: refusal_score(logits, tokens[rows])}
        kept &= sign * measured(model, side, [], measures, batch_size)["refusal"][1] > 0
    return chosen(pairs, kept.nonzero()[:, 0].tolist())


def _tokens(pairs: Pairs) -> Int[Tensor, "batch ..."]:
    """Tokens that begin a refusal (E303)."""
    if pairs.answer is None:
        raise InterpError("E303", "no answer", fix="the answer of a harmful prompt is the token that begins a refusal")
    return pairs.answer


def _three_scores(
    model: HookedModel, pairs: Pairs, vectors: Sequence[tuple[int, Tensor]], batch_size: int
) -> list[tuple[float, float, float]]:
    """Ablated, steered and KL of each direction."""
    tokens, harmless = _tokens(pairs), twins(pairs)
    units = [Reference({"direction": (vector / vector.norm()).to(model.dtype)}, "direction") for _, vector in vectors]
    without = [WithoutDirection(unit) for unit in units]
    added = [
        Steer(layer, Reference({point_name(PRE, layer): vector.to(model.dtype)}, "direction"))
        for layer, vector in vectors
    ]
    refusal = {"refusal": lambda logits, _, rows: refusal_score(logits, tokens[rows])}
    apart = {"kl": lambda logits, clean, _: divergence(clean, logits)}
    ablated = measured(model, pairs, without, refusal, batch_size)["refusal"][0].mean(1).tolist()
    steered = measured(model, harmless, added, refusal, batch_size)["refusal"][0].mean(1).tolist()
    kl = measured(model, harmless, without, apart, batch_size)["kl"][0].mean(1).tolist()
    return list(zip(ablated, steered, kl, strict=True))
