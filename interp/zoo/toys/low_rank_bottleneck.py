"""Low-rank bottleneck: which attention patterns a head of a given size can form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.zoo.toys.base import Finding, Toy

Inputs = Float[Tensor, "pos d"]
Pattern = Float[Tensor, "query key"]

EXACT = 1e-8
"""A pattern is formed when no entry is further off than this, in float64."""


@dataclass(frozen=True)
class LowRankBottleneck(Toy):
    """One head on fixed inputs of full rank, asked for a given positive pattern P over n positions.

    Theorem 1 of the paper: head size n forms every P. Derived beside it: softmax ignores a constant added to a row, so
    P can be formed exactly when the row-centred log P has rank at most the head size; a generic P needs n - 1, and a
    smaller head must leave something out. The control is a P planted with logits of rank n/2.

    Measured, seeds 0 to 4: error 5e-15 or less at size n; smallest sizes n - 1 and n/2 in all; KL divergence 0.013 to
    0.033 at n/2, 5.3 to 11.5 times that at n/4, 3e-5 of it or less at n - 1. Control: 2e-8 of it or less.

    Attributes:
        positions: n, also the width of the inputs.
        spread: standard deviation of the logits of the random P.
        iterations: of L-BFGS, in float64.
    """

    name: ClassVar[str] = "low-rank-bottleneck"
    source: ClassVar[str] = (
        "Bhojanapalli et al. 2020, Low-Rank Bottleneck in Multi-head Attention Models, arXiv 2002.07028"
    )
    claim: ClassVar[str] = "A head forms any pattern over n positions at head size n, and leaves a residual well below."

    positions: int = 12
    spread: float = 2.0
    iterations: int = 200

    def findings(self, seed: int) -> list[Finding]:
        n, half = self.positions, self.positions // 2
        x = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q * n**0.5
        target = (self.spread * torch.randn(n, n, dtype=torch.float64)).softmax(-1)
        factors = torch.randn(2, n, half, dtype=torch.float64)
        planted = (self.spread / half**0.5 * factors[0] @ factors[1].T).softmax(-1)
        return self._formed(x, target, planted) + self._trained(x, target, planted)

    def _formed(self, x: Inputs, target: Pattern, planted: Pattern) -> list[Finding]:
        """What the heads written in closed form can do."""
        n = self.positions
        return [
            Finding(
                "Head size n forms a random pattern: largest error of the constructed head.",
                error(target, closed_form(x, target, n)),
                high=EXACT,
            ),
            Finding(
                "The smallest head that forms a random pattern has size n - 1, the rank of its centred logarithm: "
                "difference of the two.",
                float(smallest(x, target) - (n - 1)),
                0.0,
                0.0,
            ),
            Finding(
                "Control: the smallest head for a pattern planted with logits of rank n/2 has size n/2: difference.",
                float(smallest(x, planted) - n // 2),
                0.0,
                0.0,
            ),
        ]

    def _trained(self, x: Inputs, target: Pattern, planted: Pattern) -> list[Finding]:
        """What training from random weights finds."""
        n, half = self.positions, self.positions // 2
        quarter_left, half_left, most_left = (
            divergence(target, train(x, target, size, self.iterations)) for size in (half // 2, half, n - 1)
        )
        planted_left = divergence(planted, train(x, planted, half, self.iterations))
        return [
            Finding("Trained at head size n/2, a residual is left: KL divergence in nats a row.", half_left, low=0.005),
            Finding("At n/4 more is left: KL divergence over that at n/2.", quarter_left / half_left, low=3.0),
            Finding("At n - 1 next to nothing is left: over that at n/2.", most_left / half_left, high=1e-3),
            Finding(
                "Control: of the planted pattern next to nothing is left at n/2: over that of the random pattern.",
                planted_left / half_left,
                high=1e-3,
            ),
        ]


def centred_log(pattern: Pattern) -> Pattern:
    """Log pattern with zero row means: the one choice of logits of lowest rank."""
    return pattern.log() - pattern.log().mean(-1, keepdim=True)


def scores(x: Inputs, w_q: Float[Tensor, "d size"], w_k: Float[Tensor, "d size"]) -> Pattern:
    """Scaled dot products of one head."""
    return einsum(x @ w_q, x @ w_k, "query size, key size -> query key") / w_q.shape[1] ** 0.5


def head(x: Inputs, pattern: Pattern, size: int) -> tuple[Float[Tensor, "d size"], Float[Tensor, "d size"]]:
    """Query and key weights whose scores are the nearest of this rank to the centred log pattern."""
    left, values, right = torch.linalg.svd(centred_log(pattern))
    root = values[:size].sqrt() * size**0.25
    return torch.linalg.solve(x, left[:, :size] * root), torch.linalg.solve(x, right[:size].T * root)


def closed_form(x: Inputs, pattern: Pattern, size: int) -> Pattern:
    """Scores of `head`."""
    return scores(x, *head(x, pattern, size))


def train(x: Inputs, pattern: Pattern, size: int, iterations: int) -> Pattern:
    """Scores of the head of this size that L-BFGS finds from random weights."""
    weights = [torch.randn(len(x), size, dtype=x.dtype).div(len(x) ** 0.5).requires_grad_() for _ in range(2)]
    optimiser = torch.optim.LBFGS(
        weights, max_iter=iterations, history_size=50, line_search_fn="strong_wolfe", tolerance_change=1e-16
    )

    def closure() -> Float[Tensor, ""]:
        optimiser.zero_grad()
        loss = -(pattern * scores(x, *weights).log_softmax(-1)).sum(-1).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return scores(x, *weights).detach()


def error(pattern: Pattern, logits: Pattern) -> float:
    """Largest difference of an attention weight."""
    return float((logits.softmax(-1) - pattern).abs().max())


def divergence(pattern: Pattern, logits: Pattern) -> float:
    """Mean over rows of KL(pattern, softmax of logits), in nats."""
    return float((pattern * (pattern.log() - logits.log_softmax(-1))).sum(-1).mean())


def smallest(x: Inputs, pattern: Pattern) -> int:
    """Smallest head size whose closed form is exact; the number of positions plus one where none is."""
    sizes = range(1, len(x) + 1)
    return next((size for size in sizes if error(pattern, closed_form(x, pattern, size)) <= EXACT), len(x) + 1)
