"""What can be done about heads that see, as interventions: values of each prompt's own, kept while a model writes.

Values that belong to tokens count from a prompt's first real token, so that they hold on whichever side it is padded and
while the text grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions, replace_heads, replace_rows
from interp.hooks.interventions import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from interp.vision.pictures import after_image

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

KEYS = "keys"
RULES = ("logits", "share")

HIDDEN = -80.0
"""Logarithm of what a weight of -1 leaves: nothing beside any other key, and still a row where all keys are hidden."""


def from_first(values: Float[Tensor, "batch pos"], batch: Batch) -> Float[Tensor, "batch token"]:
    """Values of a batch's positions, as values of each prompt's tokens; 0 behind the last."""
    assert batch.mask is not None
    found = torch.zeros(batch.size, int(batch.lengths.max()), dtype=values.dtype)
    for row, (first, length) in enumerate(zip(batch.first.tolist(), batch.lengths.tolist(), strict=True)):
        found[row, :length] = values[row, first : first + length].cpu()
    return found


def at_keys(values: Float[Tensor, "batch token"], batch: Batch, n_keys: int) -> Float[Tensor, "batch key_pos"]:
    """The other way round, for a batch of the same prompts however padded; 0 where nothing is known.

    Raises:
        InterpError: E206, values of another number of prompts.
    """
    check_rows(values, batch)
    found = torch.zeros(batch.size, n_keys, dtype=values.dtype)
    for row, first in enumerate(batch.first.tolist()):
        width = min(values.shape[1], n_keys - first)
        found[row, first : first + width] = values[row, :width]
    return found


def check_rows(values: Tensor, batch: Batch) -> None:
    """Raise E206 where values were made for other prompts."""
    if len(values) != batch.size:
        what = f"values of {len(values)} prompts for a batch of {batch.size}"
        raise InterpError("E206", what, fix="make the edit from the prompts that it is used on")


@dataclass(frozen=True)
class Weigh(Intervention):
    """Multiply z of each head by a factor of its own in each prompt; 1 leaves it as it is.

    Args:
        factors: name of a layer's `attn.hook_z` -> [batch head]; paired.
        positions: None everywhere, 'end', a role or token positions.
    """

    factors: Reference
    positions: Positions = None

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        found: list[Hook] = []
        for name, factor in self.factors.values.items():
            check_rows(factor, batch)
            heads = list(range(factor.shape[1]))
            found.append((name, replace_heads(batch, heads, self.positions, self._scaled)))
        return found

    def _scaled(self, z: Tensor, context: HookContext) -> Tensor:
        return z * self.factors[context.name].to(z)[:, None, :, None]


@dataclass(frozen=True)
class Boost(Intervention):
    """Raise the attention of heads to some keys, before the softmax.

    Args:
        heads: labels or 'all'.
        weights: 'keys' -> [batch token], how much each key is raised; 0 leaves it. Paired.
        rule: 'logits', `l + w |l|`, as PAI and PAINT do (Liu et al. 2024, arXiv 2407.21771); 'share', `A (1 + w)`,
            rows normalised again.
        queries: None for all, 'end', a role or token positions.

    Raises:
        InterpError: E201, another rule.
    """

    heads: Any
    weights: Reference
    rule: str = "logits"
    queries: Positions = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in RULES:
            raise InterpError("E201", f"rule is {self.rule!r}", fix=f"known: {', '.join(RULES)}")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def raised(scores: Tensor, context: HookContext) -> Tensor:
            weight = at_keys(self.weights[KEYS], batch, scores.shape[-1]).to(scores)[:, None, None]
            hidden = scores <= torch.finfo(scores.dtype).min / 2
            more = weight * scores.abs() if self.rule == "logits" else torch.log1p(weight).clamp(min=HIDDEN)
            return torch.where(hidden, scores, scores + more)

        return [
            (point_name("attn.hook_attn_scores", layer, tower), replace_rows(batch, heads, self.queries, raised))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]


@dataclass(frozen=True)
class Deactivate(Intervention):
    """Adaptive deactivation: heads that look at what stands behind the picture, written text among it, lose that attention.

    Where a head's attention to tokens behind the picture is at least `threshold`, those weights become 0 and the row is
    not normalised again (TianyunYoung/Hallucination-Attribution; Yang et al. 2025).

    Args:
        heads: those that were found to bring hallucinations.
        queries: None for all, 'end', a role or token positions.

    Raises:
        InterpError: E205, a threshold outside 0 to 1.
    """

    heads: Any
    threshold: float = 0.4
    queries: Positions = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise InterpError("E205", f"threshold is {self.threshold}", fix="0 to 1")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        behind = after_image(batch)

        def quiet(pattern: Tensor, context: HookContext) -> Tensor:
            keys = behind.to(pattern.device)[:, None, None]
            mass = (pattern * keys).sum(-1, keepdim=True)
            return torch.where((mass >= self.threshold) & keys, 0.0, pattern)

        return [
            (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, self.queries, quiet))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]
