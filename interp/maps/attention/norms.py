"""Attention weighted by what is moved: the length of what each key writes, rolled through the layers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.maps.attention.mixing import mixing, rolled
from interp.maps.look import Look
from interp.maps.method import Method

Pattern = Float[Tensor, "batch head query_pos key_pos"]
Values = Float[Tensor, "batch pos head d_head"]
Output = Float[Tensor, "head d_head d_model"]
Square = Float[Tensor, "batch query_pos key_pos"]
OVER = ("rollout", "last")


def summed_norms(pattern: Pattern, values: Values, w_out: Output) -> Square:
    """`||sum_h A_h[q,k] f_h(x_k)||` with `f_h(x) = v_h(x) W_O^h`: value bias included, output bias not.

    By the Gram matrix over heads, `||.||^2 = sum_hg A_h A_g <f_h, f_g>`, so that [query key d_model] is never made.
    """
    metric = einsum(w_out, w_out, "h i d_model, g j d_model -> h i g j")
    gram = einsum(values, metric, values, "batch pos h i, h i g j, batch pos g j -> batch pos h g")
    moved = einsum(gram, pattern, "batch k h g, batch g q k -> batch h q k")
    squared: Tensor = einsum(pattern, moved, "batch h q k, batch h q k -> batch q k")
    return squared.clamp(min=0).sqrt()


def head_norms(pattern: Pattern, values: Values, w_out: Output) -> Pattern:
    """`||A_h[q,k] f_h(x_k)|| = A_h[q,k] ||f_h(x_k)||`, head by head."""
    metric = einsum(w_out, w_out, "h i d_model, h j d_model -> h i j")
    squared: Tensor = einsum(values, metric, values, "batch pos h i, h i j, batch pos h j -> batch h pos")
    return pattern * squared.clamp(min=0).sqrt()[:, :, None]


@dataclass(frozen=True, eq=False)
class NormMap(Method):
    """Norms instead of weights: rows made to sum to 1, then as rollout has it, or those of the last layer.

    What a layer does to its sum afterwards (a norm, a gate before the projection) is not in it.

    Attributes:
        over: 'rollout' multiplies all layers, 'last' shows the last one.

    Raises:
        InterpError: E201, another word for `over`.
    """

    reads: ClassVar[str] = "attention"

    over: str = "rollout"

    def __post_init__(self) -> None:
        self.check_choice("over", OVER)

    @abstractmethod
    def norms(self, pattern: Pattern, values: Values, w_out: Output) -> Square:
        """What each key moves at each query."""

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        parts = list(zip(look.layers, look.patterns, look.values, strict=True))
        chosen = parts if self.over == "rollout" else parts[-1:]
        layers = [self._shares(self.norms(pattern, values, look.w_out(layer))) for layer, pattern, values in chosen]
        return rolled([mixing(one) for one in layers] if self.over == "rollout" else layers, look.rows)

    def _shares(self, norms: Square) -> Square:
        """Rows that sum to 1; rows that move nothing, as those of padding, stay 0."""
        return norms / norms.sum(-1, keepdim=True).clamp(min=1e-300)


@dataclass(frozen=True, eq=False)
class ValueNorm(NormMap):
    """`||sum_h A_h f_h(x)||`: heads that write against each other cancel."""

    name: ClassVar[str] = "value-norm"
    source: ClassVar[str] = "Kobayashi et al. 2020, arXiv 2004.10102, eq. 4 and section 4.1 (all heads of a layer)"
    says: ClassVar[str] = "attention moves something from it towards the answer"

    def norms(self, pattern: Pattern, values: Values, w_out: Output) -> Square:
        return summed_norms(pattern, values, w_out)


@dataclass(frozen=True, eq=False)
class ValueNormByHead(NormMap):
    """Mean over heads of `||A_h f_h(x)||`."""

    name: ClassVar[str] = "value-norm-by-head"
    source: ClassVar[str] = "Kobayashi et al. 2020, arXiv 2004.10102, eq. 4 (head by head)"
    says: ClassVar[str] = "heads move something from it towards the answer, each by itself"

    def norms(self, pattern: Pattern, values: Values, w_out: Output) -> Square:
        return head_norms(pattern, values, w_out).mean(1)
