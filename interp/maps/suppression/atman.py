"""AtMan: attention scores to one token are turned down in all layers, and the metric is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext, Operator
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.interventions import Hook, Intervention
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.hooks.swap import seen_by
from interp.kernels.backends.eager import attention_pattern, attention_scores, repeat_kv, z_from_pattern
from interp.kernels.errors import InterpError
from interp.maps.look import Look
from interp.maps.method import Method

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")
FACTORS = "factors"


@dataclass(frozen=True)
class Suppressed(Intervention):
    """Scores to keys come nearer to the lowest of their row: `l' = low + (l - low) * factor`.

    A factor of 1 changes nothing, and one of 0 leaves what the least attended key has.

    Args:
        factors: under `FACTORS`, of each key [batch pos].
        later: the lowest score is taken over all keys, those included that a query may not see.
    """

    factors: Reference
    later: bool = False

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        layers = [(layer, n) for layer, n in enumerate(model.heads[""]) if n]
        if self.later:
            return [(point_name(OPERATOR, layer), Unmasked(n, self.factors[FACTORS])) for layer, n in layers]
        return [(point_name("attn.hook_attn_scores", layer), self._turned_down) for layer, _ in layers]

    def _turned_down(self, scores: Tensor, context: HookContext) -> Tensor:
        seen = scores > torch.finfo(scores.dtype).min / 2
        low = scores.masked_fill(~seen, torch.inf).amin(-1, keepdim=True)
        return torch.where(seen, turned_down(scores, low, self.factors[FACTORS]), scores)


class Unmasked(Operator):
    """Hook on `attn.hook_operator`: attention computed anew, with the lowest score of a row taken before masking."""

    def __init__(self, n_heads: int, factors: Float[Tensor, "batch pos"]) -> None:
        self.heads, self.factors = range(n_heads), factors

    def __call__(self, value: Tensor, context: HookContext) -> Float[Tensor, "batch pos head d_head"]:
        call = context.call
        assert call is not None, f"{context.name} was not told what attention was called with"
        real, allowed, bias, causal = seen_by(call)
        n = call.q.shape[1] // call.k.shape[1]
        scores = attention_scores(
            call.q, repeat_kv(call.k, n), call.scaling, softcap=call.options.get("softcap"), bias=bias
        )
        hidden = torch.zeros(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        hidden = hidden if not causal else torch.ones_like(hidden).triu(1)
        hidden = hidden if allowed is None else hidden | ~allowed
        hidden = hidden if real is None else hidden | ~real[:, None, None]
        low = (scores if real is None else scores.masked_fill(~real[:, None, None], torch.inf)).amin(-1, keepdim=True)
        scores = turned_down(scores, low, self.factors).masked_fill(hidden, torch.finfo(scores.dtype).min)
        pattern = attention_pattern(
            scores, sink=call.options.get("s_aux"), normaliser=call.options.get("normaliser") or "softmax"
        )
        return z_from_pattern(pattern, repeat_kv(call.v, n))


def turned_down(
    scores: Float[Tensor, "batch head query_pos key_pos"],
    low: Float[Tensor, "batch head query_pos 1"],
    factors: Float[Tensor, "batch key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """`low + (l - low) * factor`; a factor of 1 gives l to the last bit."""
    factors = factors.to(scores)[:, None, None, :]
    return torch.where(factors == 1, scores, low + (scores - low) * factors)


@dataclass(frozen=True, eq=False)
class AtMan(Method):
    """What the metric loses when scores to the token are turned down in all layers and heads, one run a token.

    The paper reads the cross-entropy of the target, which is the metric `log_prob`. It multiplies scores by the factor;
    scores of either sign need a lowest one to be 0 first. 'paper' takes that over the keys that a query sees.
    'official-code' takes it before masking, so that later tokens have a say in the lowest score; padding has none. It
    cannot run where other edits of scores are in force.

    Attributes:
        factor: that a score above the lowest is multiplied by; 1 changes nothing.
        similar: cosine of embeddings from which other tokens are turned down too, by `(1 - factor)(1 - cos) + factor`
            (the paper's and the official code's correlated tokens, 0.6 there); None turns down the token alone.

    Raises:
        InterpError: E201 unknown variant; E205 a factor or cosine that makes no sense.
    """

    name: ClassVar[str] = "atman"
    source: ClassVar[str] = "Deiseroth et al. 2023, arXiv 2301.08110, section 3"
    says: ClassVar[str] = "the metric falls when attention to it is turned down"
    reads: ClassVar[str] = "changes"
    signed: ClassVar[bool] = True

    factor: float = 0.1
    similar: float | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        self.check_choice("variant", VARIANTS)
        if not 0 <= self.factor <= 1 or self.similar is not None and not 0 < self.similar <= 1:
            what = f"factor={self.factor}, similar={self.similar}"
            raise InterpError("E205", what, where=f"method {self.name}", fix="a factor of 0 to 1, a cosine above 0")

    @property
    def bears_edits(self) -> bool:
        """See `Method.bears_edits`."""
        return self.variant == "paper"

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        variants = [
            Suppressed(Reference({FACTORS: one}, "factors", paired=True), later=self.variant == "official-code")
            for one in self.factors(look).unbind(1)
        ]
        return (look.baseline - look.under(variants)).T

    def factors(self, look: Look) -> Float[Tensor, "batch token key_pos"]:
        """Factor of each key in the run that turns down each token; 1 at all other keys."""
        own = torch.eye(look.real.shape[1], device=look.real.device).expand(len(look.real), -1, -1)
        if self.similar is None:
            return torch.where(own > 0, self.factor, 1.0)
        unit = torch.nn.functional.normalize(embeddings(look), dim=-1)
        cosine = einsum(unit, unit, "batch token d_model, batch key_pos d_model -> batch token key_pos")
        near = torch.where(own > 0, 1.0, cosine.clamp(max=1))
        factors = (1 - self.factor) * (1 - near) + self.factor
        return torch.where((near >= self.similar) | (own > 0), factors, 1.0)


def embeddings(look: Look) -> Float[Tensor, "batch pos d_model"]:
    """Token embeddings, before anything is added to them."""
    return look.model.run_with_cache(look.batch, "hook_embed")[1]["hook_embed"].float()
