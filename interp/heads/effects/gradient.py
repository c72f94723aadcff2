"""Importance of heads by gradients: what a metric changes, to first order, when a head is turned down."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.metrics import metric
from interp.hooks.naive import batches, read_output
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

METRICS = ("log_prob", "logit_diff", "prob_diff")
HeadRows = Float[Tensor, "batch pos head d_head"]


class Slopes:
    """Hook on z that remembers z, and a zero added to it, whose gradient is that of z."""

    def __init__(self) -> None:
        self.z: dict[int, Tensor] = {}
        self.zero: dict[int, Tensor] = {}

    def __call__(self, value: Tensor, context: HookContext) -> Tensor:
        assert context.point.layer is not None
        zero = torch.zeros_like(value, requires_grad=True)
        self.z[context.point.layer], self.zero[context.point.layer] = value.detach(), zero
        return value + zero


@dataclass(frozen=True, eq=False)
class GradientScorer(Scorer):
    """A score of z and of a metric's gradient by it, each prompt's own.

    Attributes:
        metric: 'log_prob', 'logit_diff' or 'prob_diff' of the prompt's answer.

    Raises:
        InterpError: E201, another metric.
    """

    task: ClassVar[str] = "induction"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor"})

    metric: str = "logit_diff"

    def __post_init__(self) -> None:
        self.check_choice("metric", METRICS)

    @abstractmethod
    def of(self, z: HeadRows, slope: HeadRows) -> tuple[Float[Tensor, "batch head"], Float[Tensor, "batch head"]]:
        """Score and null of the heads of a layer; padding has a slope of 0."""

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        parts: list[tuple[Tensor, Tensor]] = []
        for start, stop in batches(len(pairs), batch_size):
            slopes = self._slopes(model, pairs, start, stop, sorted({head.layer for head in heads}))
            found = {layer: self.of(z, slope) for layer, z, slope in slopes}
            values, null = (torch.stack([found[head.layer][side][:, head.head] for head in heads]) for side in (0, 1))
            parts.append((values.cpu(), null.cpu()))
        scores, chance = (torch.cat(side, 1).numpy() for side in zip(*parts, strict=True))
        return Scores(scores, chance)

    def _slopes(
        self, model: HookedModel, pairs: Pairs, start: int, stop: int, layers: Sequence[int]
    ) -> Iterator[tuple[int, HeadRows, HeadRows]]:
        """Layer, z and the gradient of each prompt's metric by it. Prompts do not see each other, so one backward pass
        of the sum serves them all."""
        assert pairs.answer is not None and pairs.distractor is not None
        batch, seen = pairs.clean.rows(start, stop).to(model.device), Slopes()
        output = model.run_with_hooks(batch, {point_name("attn.hook_z", layer): seen for layer in layers}, grad=True)
        rows = read_output(output, batch, pairs.read_at[start:stop])
        answer, distractor = (side[start:stop].to(rows.device) for side in (pairs.answer, pairs.distractor))
        total = metric(self.metric)(rows, answer, distractor).sum()
        found = torch.autograd.grad(total, [seen.zero[layer] for layer in layers])
        keep = _real(batch)[..., None, None]
        for layer, slope in zip(layers, found, strict=True):
            yield layer, seen.z[layer].double() * keep, slope.double() * keep


def _real(batch: Batch) -> Bool[Tensor, "batch pos"]:
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.mask is None else batch.mask


@dataclass(frozen=True, eq=False)
class GradientAttribution(GradientScorer):
    """Signed: `sum_pos <dM/dz, z>`, the derivative of the metric by a factor on the head, at 1.

    To first order, what the metric loses when the head is turned off.
    """

    name: ClassVar[str] = "gradient-attribution"
    source: ClassVar[str] = "Michel et al. 2019, arXiv 1905.10650, section 4.1, before the absolute value"
    says: ClassVar[str] = "the metric falls, to first order, when it is turned down"
    chance: ClassVar[str] = "nothing"

    def of(self, z: HeadRows, slope: HeadRows) -> tuple[Float[Tensor, "batch head"], Float[Tensor, "batch head"]]:
        found = einsum(z, slope, "batch pos head d_head, batch pos head d_head -> batch head")
        return found, torch.zeros_like(found)


@dataclass(frozen=True, eq=False)
class GradientImportance(GradientScorer):
    """Mean over positions of `|<dM/dz, z>|`, of each prompt by itself, over positions with a gradient.

    The published code sums over a whole data set and divides by the number of tokens, but in the last layer by that of
    prompts, because one position alone has a gradient there; dividing by the positions that have one is the same rule in
    every layer. It then normalises each layer to length 1, see `michel_importance`. Chance is a gradient as long as the
    true one in a random direction.
    """

    name: ClassVar[str] = "gradient-importance"
    source: ClassVar[str] = "Michel et al. 2019, arXiv 1905.10650, section 4.1"
    says: ClassVar[str] = "the metric changes, to first order, when it is turned down"
    chance: ClassVar[str] = "a gradient of the same length in a random direction"

    def of(self, z: HeadRows, slope: HeadRows) -> tuple[Float[Tensor, "batch head"], Float[Tensor, "batch head"]]:
        products = einsum(z, slope, "batch pos head d_head, batch pos head d_head -> batch pos head").abs()
        random = z.norm(dim=-1) * slope.norm(dim=-1) * mean_cosine(z.shape[-1])
        count = (slope.abs().amax((-1, -2)) > 0).sum(1, keepdim=True).clamp(min=1)
        return products.sum(1) / count, random.sum(1) / count


def mean_cosine(size: int) -> float:
    """Mean of |cos| between a fixed direction and a random one, in so many dimensions."""
    return math.exp(math.lgamma(size / 2) - math.lgamma((size + 1) / 2)) / math.sqrt(math.pi)


def michel_importance(
    products: Float[Tensor, "layer head prompt pos"], lengths: Int[Tensor, " _"], *, last_by_prompts: bool = True
) -> Float[Tensor, "layer head"]:
    """The official code's importance: `|<dL/dz, z>|` summed over a data set, over tokens, each layer of length 1.

    pmichel31415/are-16-heads-really-better-than-1, its branch of pytorch-pretrained-BERT: the last layer is divided by the
    number of prompts (there, only the first position has a gradient), 1e-20 stands below the length of a layer.

    Args:
        products: `<dL/dz, z>`, 0 at padding.
        lengths: tokens of each prompt.
        last_by_prompts: False divides every layer by the number of tokens.
    """
    _check_products(products, lengths)
    total = products.abs().sum((2, 3)).double()
    counts = torch.full((len(total), 1), float(lengths.sum()), dtype=total.dtype)
    if last_by_prompts:
        counts[-1] = len(lengths)
    return _unit_layers(total / counts)


def bertology_importance(
    products: Float[Tensor, "layer head prompt pos"], lengths: Int[Tensor, " _"], batch_size: int
) -> Float[Tensor, "layer head"]:
    """What transformers' `run_bertology` computes, and why it is not that of Michel et al.

    The absolute value is taken of the sum over a batch, in which prompts cancel, and the gradient of the mask is never set
    to 0, so batch n adds `|g_1 + ... + g_n|`. Then divided by tokens, each layer made of length 1, and all scaled from 0
    to 1.

    Args:
        products: as in `michel_importance`, signed.
        batch_size: prompts in one batch, on which the result depends.
    """
    _check_products(products, lengths)
    running = products.sum(-1).double()
    steps = [running[..., :stop].sum(-1).abs() for _, stop in batches(running.shape[2], batch_size)]
    found = _unit_layers(torch.stack(steps).sum(0) / float(lengths.sum()))
    return (found - found.min()) / (found.max() - found.min())


def _unit_layers(importance: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    return importance / (importance.norm(dim=-1, keepdim=True) + 1e-20)


def _check_products(products: Tensor, lengths: Tensor) -> None:
    if products.shape[2] != len(lengths):
        raise InterpError("E206", f"{products.shape[2]} prompts and {len(lengths)} lengths", fix="one length a prompt")
