"""The deceptive control: patterns are moved from a token that counts to one that does not, and the answer stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.hooks.interventions import Hook, Intervention
from interp.hooks.naive import read_output
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.maps.look import Look
from interp.sinks.settings import TOLERANCE

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

RATE = 0.3
"""Of the search, in units of scores."""

SCALES = torch.linspace(1, 0, 11)
"""Parts of what the search found, the largest first, of which each prompt gets the first that keeps its answer."""


@dataclass(frozen=True)
class Moved(Intervention):
    """Something is added to scores before the softmax: rows of patterns still sum to what they did.

    Args:
        offsets: by hook name, [batch head query_pos key_pos].
    """

    offsets: Reference

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def add(scores: Tensor, context: HookContext) -> Tensor:
            return shifted(scores, self.offsets[context.name].to(scores))

        return [(name, add) for name in self.offsets.values]


def shifted(scores: Tensor, offsets: Tensor) -> Tensor:
    """Scores with something added where a query may see a key."""
    seen = scores > torch.finfo(scores.dtype).min / 2
    return torch.where(seen, scores + offsets, scores)


@dataclass(frozen=True, eq=False)
class Deceit:
    """Moved patterns, and how far they went.

    Attributes:
        edit: what moves them.
        true, decoy: position of the token that attention was taken from, and of the one that got it.
        distance: total variation between the rows of before and after, mean over layers, heads and queries.
        change: of the output: KL in nats, or 1 - cosine.
        mass: mean attention of all rows on the true token and on the decoy, before and after [batch 4].
    """

    edit: Moved
    true: Int[Tensor, " batch"]
    decoy: Int[Tensor, " batch"]
    distance: Float[Tensor, " batch"]
    change: Float[Tensor, " batch"]
    mass: Float[Tensor, "batch 4"]


def deceive(
    look: Look, effects: Float[Tensor, "batch pos"], tokens: Bool[Tensor, "batch pos"], steps: int
) -> Deceit | None:
    """Move attention from the token that counts most to the one that counts least, in all layers and heads.

    Adam looks for what to add to the scores of each prompt, so that attention to the decoy less attention to the true
    token is as large as can be, and the output as it was; then each prompt takes the largest part of it under which the
    output changes by no more than `interp.sinks.settings.TOLERANCE` (Jain and Wallace 2019, arXiv 1902.10186, section
    4.2.2, for patterns of one layer; the aim is that of Pruthi et al. 2020, arXiv 1909.07913).

    Args:
        effects: what the metric loses without each token.
        tokens: that may be taken away; None comes back where a prompt has fewer than two.
    """
    if bool((tokens.sum(1) < 2).any()):
        return None
    tokens = tokens.cpu()
    true = effects.nan_to_num(nan=-torch.inf).masked_fill(~tokens, -torch.inf).argmax(1)
    others = tokens.clone()
    others[torch.arange(len(true)), true] = False
    decoy = effects.abs().nan_to_num(nan=torch.inf).masked_fill(~others, torch.inf).argmin(1)
    search = Search(look, true, decoy)
    offsets = search.run(steps)
    scale, change = search.kept(offsets)
    own = {name: value * scale.to(value)[:, None, None, None] for name, value in offsets.items()}
    edit = Moved(Reference(own, "moved attention", paired=True))
    with look.model.edit(edit):
        after = Look(look.model, look.question, look.start, look.stop).patterns
    return Deceit(edit, true, decoy, search.distance(after), change, search.mass(after))


class Search:
    """Looks for offsets of scores; the weights of the model stay as they are."""

    def __init__(self, look: Look, true: Int[Tensor, " batch"], decoy: Int[Tensor, " batch"]) -> None:
        self.look, self.true, self.decoy = look, true.to(look.real.device), decoy.to(look.real.device)
        self.names = [point_name("attn.hook_attn_scores", layer) for layer in look.layers]
        self.is_logits = look.question.metric.kind == "logits"
        self.bound = TOLERANCE["kl" if self.is_logits else "cosine"]

    def run(self, steps: int) -> dict[str, Float[Tensor, "batch head query_pos key_pos"]]:
        """Offsets by hook name."""
        offsets = {
            name: torch.zeros_like(pattern, dtype=self.look.model.dtype).requires_grad_()
            for name, pattern in zip(self.names, self.look.patterns, strict=True)
        }
        optimiser = torch.optim.Adam(list(offsets.values()), lr=RATE)
        for _ in range(steps):
            seen: dict[str, Tensor] = {}
            output = self.forward(offsets, seen)
            gain = self._gain([seen[name.replace("attn_scores", "pattern")] for name in self.names])
            loss = (self.change(output) / self.bound - 0.5).clamp(min=0) - gain
            grads = torch.autograd.grad(loss.sum(), list(offsets.values()))
            for value, grad in zip(offsets.values(), grads, strict=True):
                value.grad = grad
            optimiser.step()
        return {name: value.detach() for name, value in offsets.items()}

    def forward(self, offsets: Mapping[str, Tensor], seen: dict[str, Tensor]) -> Float[Tensor, "batch d_out"]:
        """What is read of a run with these offsets; patterns go to `seen`, with their graph."""

        def add(scores: Tensor, context: HookContext) -> Tensor:
            return shifted(scores, offsets[context.name])

        def keep(pattern: Tensor, context: HookContext) -> None:
            seen[context.name] = pattern

        hooks: dict[str, HookFn] = {name: add for name in offsets}
        hooks |= {name.replace("attn_scores", "pattern"): keep for name in offsets}
        output = self.look.model.run_with_hooks(self.look.batch, hooks, grad=True)
        return read_output(output, self.look.batch, self.look.read_at)

    def change(self, output: Float[Tensor, "batch d_out"]) -> Float[Tensor, " batch"]:
        """Of the output of each prompt."""
        clean = self.look.clean.to(output.device).float()
        if not self.is_logits:
            return 1 - torch.cosine_similarity(output.float(), clean, dim=-1)
        log_p, log_q = clean.log_softmax(-1), output.float().log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def _gain(self, patterns: list[Tensor]) -> Float[Tensor, " batch"]:
        """Attention to the decoy less attention to the true token, mean over layers, heads and queries."""
        parts = [self._rows(one, self.decoy) - self._rows(one, self.true) for one in patterns]
        return torch.stack(parts).mean(0)

    def _rows(self, pattern: Tensor, key: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Attention to one key of each prompt, mean over heads and real queries."""
        index = key[:, None, None, None].expand(*pattern.shape[:3], 1)
        mass = pattern.gather(-1, index)[..., 0] * self.look.real[:, None]
        return mass.mean(1).sum(-1) / self.look.real.sum(-1)

    @torch.no_grad()
    def kept(self, offsets: Mapping[str, Tensor]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The largest part of the offsets under which each prompt keeps its output, and the change that is left."""
        scale = torch.full((len(self.true),), -1.0)
        change = torch.zeros(len(self.true))
        for part in SCALES:
            found = self.change(self.forward({name: value * part for name, value in offsets.items()}, {})).cpu()
            new = (scale < 0) & (found <= self.bound)
            scale, change = torch.where(new, part, scale), torch.where(new, found, change)
        return scale.clamp(min=0), change.clamp(min=0).double()

    def distance(self, after: tuple[Tensor, ...]) -> Float[Tensor, " batch"]:
        """Total variation between rows, mean over layers, heads and real queries."""
        parts = [(a - b).abs().sum(-1).mean(1) / 2 for a, b in zip(after, self.look.patterns, strict=True)]
        real = self.look.real
        return ((torch.stack(parts).mean(0) * real).sum(-1) / real.sum(-1)).cpu()

    def mass(self, after: tuple[Tensor, ...]) -> Float[Tensor, "batch 4"]:
        """On the true token before and after, and on the decoy before and after."""
        columns = [
            torch.stack([self._rows(one, key) for one in patterns]).mean(0)
            for key in (self.true, self.decoy)
            for patterns in (self.look.patterns, after)
        ]
        return torch.stack(columns, -1).cpu()
