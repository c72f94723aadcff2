"""In-context linear regression: what a softmax attention layer learns to do with examples of a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from interp.zoo.toys.base import Finding, Toy, seeded
from interp.zoo.toys.training import fit

TESTS = 32768
"""Prompts a risk is measured on."""


@dataclass(frozen=True)
class InContextRegression(Toy):
    """y = w.x + noise, a new w a prompt: x, y of `examples` points and the x of a query; say its y.

    The layer sees z = (x, y) and computes sum over heads of mu_h . sum_i softmax_i(z_query KQ_h z_i) z_i. With x and
    w Gaussian and |w|^2 = 1 on average, the best single step of gradient descent has the closed-form risk
    1 - 1 / (1 + (d + 1 + d s^2) / n) + s^2 (unit prior, noise variance s^2), which two heads of opposite sign can
    imitate and one head cannot.

    Measured, seeds 0 to 4: off the diagonal 0.041 to 0.061, spread of the diagonal 0.007 to 0.026, read-out beside y
    0.007 to 0.009, sums within 0.004 of zero; ratio to the closed form 1.01 to 1.06, four heads over two 0.995 to
    0.998, twice the length 0.72 to 0.74. Controls: one head 1.64 to 1.66, over ridge 2.29 to 2.34.

    Attributes:
        dimension: d, of x.
        examples: n, points before the query.
        noise: s, standard deviation of the noise.
        batch: prompts a step.
        steps: of training.
        rate: highest learning rate.
    """

    name: ClassVar[str] = "in-context-regression"
    source: ClassVar[str] = (
        "He et al. 2025, In-Context Linear Regression Demystified: Training Dynamics and Mechanistic Interpretability "
        "of Multi-Head Softmax Attention, arXiv 2503.12734"
    )
    claim: ClassVar[str] = (
        "Two softmax heads learn one step of gradient descent: diagonal key-query maps, read-outs that sum to zero."
    )

    dimension: int = 5
    examples: int = 40
    noise: float = 0.3
    batch: int = 256
    steps: int = 1500
    rate: float = 2e-2

    def findings(self, seed: int) -> list[Finding]:
        models = {heads: self.train(seed, heads) for heads in (1, 2, 4)}
        prompts = self.draw(TESTS, self.examples)
        risks = {heads: risk(model, *prompts) for heads, model in models.items()}
        longer = risk(models[2], *self.draw(TESTS, 2 * self.examples))
        return [
            *shape_findings(models[2]),
            Finding(
                "The four heads' read-outs sum to zero as well: sum over total size.", balance(models[4]), -0.05, 0.05
            ),
            Finding(
                "Two heads reach the risk of the best single gradient step: ratio to the closed form.",
                risks[2] / self.step_risk,
                0.9,
                1.1,
            ),
            Finding("Four heads do no better than two: ratio of their risks.", risks[4] / risks[2], 0.95, 1.05),
            Finding("Control: one head does worse: its risk over that of two.", risks[1] / risks[2], low=1.3),
            Finding(
                "Control: the step is not exact inference: risk over that of ridge regression.",
                risks[2] / self.ridge_risk(*prompts),
                low=1.5,
            ),
            Finding(
                "Prompts twice as long as in training lower the risk further: ratio to the trained length.",
                longer / risks[2],
                high=0.9,
            ),
        ]

    @property
    def step_risk(self) -> float:
        """Mean squared error of the best single gradient step, in closed form."""
        d, n, variance = self.dimension, self.examples, self.noise**2
        return 1 - 1 / (1 + (d + 1 + d * variance) / n) + variance

    def train(self, seed: int, heads: int) -> Heads:
        """A layer of this many heads after training; the seed fixes weights and prompts."""
        with seeded(seed):
            return self._train(heads)

    def _train(self, heads: int) -> Heads:
        model = Heads(self.dimension, heads)

        def loss() -> Float[Tensor, ""]:
            z, query, y = self.draw(self.batch, self.examples)
            return (model(z, query) - y).square().mean()

        fit(model.parameters(), loss, steps=self.steps, rate=self.rate)
        return model

    def ridge_risk(
        self, z: Float[Tensor, "batch example entry"], query: Float[Tensor, "batch d"], y: Float[Tensor, " batch"]
    ) -> float:
        """Mean squared error of the posterior mean of w, which no predictor can beat."""
        x, told = z[..., :-1], z[..., -1:]
        penalty = self.dimension * self.noise**2 * torch.eye(self.dimension)
        w = torch.linalg.solve(x.transpose(-1, -2) @ x + penalty, x.transpose(-1, -2) @ told)[..., 0]
        return float((einsum(query, w, "batch d, batch d -> batch") - y).square().mean())

    def draw(
        self, batch: int, examples: int
    ) -> tuple[Float[Tensor, "batch example entry"], Float[Tensor, "batch d"], Float[Tensor, " batch"]]:
        """Examples (x, y), the query's x, and its y."""
        w = torch.randn(batch, self.dimension) / self.dimension**0.5
        x = torch.randn(batch, examples + 1, self.dimension)
        y = einsum(x, w, "batch example d, batch d -> batch example") + self.noise * torch.randn(batch, examples + 1)
        return torch.cat([x, y[..., None]], -1)[:, :-1], x[:, -1], y[:, -1]


class Heads(nn.Module):
    """Softmax attention from the query to the examples, all heads summed.

    The read-outs of y start with alternating signs, as the paper's analysis has it: two heads that start with the same
    sign may stay one head, and then score like one.

    Args:
        dimension: d, of x; tokens have one entry more.
        heads: number of heads.
    """

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.kq = nn.Parameter(0.1 * torch.randn(heads, dimension, dimension + 1))
        signs = torch.tensor([1.0, -1.0]).repeat(heads)[:heads]
        first = torch.cat([torch.randn(heads, dimension), signs[:, None]], 1)
        self.ov = nn.Parameter(0.1 * first)

    def forward(
        self, z: Float[Tensor, "batch example entry"], query: Float[Tensor, "batch d"]
    ) -> Float[Tensor, " batch"]:
        scores = einsum(query, self.kq, z, "batch d, head d e, batch example e -> batch head example")
        mean = einsum(scores.softmax(-1), z, "batch head example, batch example e -> batch head e")
        return einsum(mean, self.ov, "batch head e, head e -> batch")


@torch.no_grad()
def risk(
    model: Heads, z: Float[Tensor, "batch example entry"], query: Float[Tensor, "batch d"], y: Float[Tensor, " batch"]
) -> float:
    """Mean squared error on these prompts."""
    return float((model(z, query) - y).square().mean())


def shape_findings(model: Heads) -> list[Finding]:
    """What the weights of two trained heads look like."""
    maps, read = model.kq.detach(), model.ov.detach()
    size = model.kq.shape[1]
    diagonal = maps[:, :, :size].diagonal(dim1=1, dim2=2)
    scale = diagonal.mean(1).abs()
    rest = maps - nn.functional.pad(torch.diag_embed(diagonal), (0, 1))
    return [
        Finding(
            "Each key-query map is diagonal, and blind to y: largest other entry over the mean of the diagonal.",
            float((rest.abs().amax((1, 2)) / scale).max()),
            high=0.15,
        ),
        Finding(
            "Its diagonal is homogeneous: standard deviation over mean.",
            float((diagonal.std(1) / scale).max()),
            high=0.1,
        ),
        Finding(
            "Each head reads out y alone: largest other entry over that of y.",
            float((read[:, :-1].abs().amax(1) / read[:, -1].abs()).max()),
            high=0.05,
        ),
        Finding("The two read-outs sum to zero: sum over total size.", balance(model), -0.05, 0.05),
        Finding(
            "The head that adds y attends to like x, the one that subtracts it to unlike x: smallest product of a "
            "head's read-out and the mean of its diagonal.",
            float((diagonal.mean(1) * read[:, -1]).min()),
            low=0.1,
        ),
    ]


def balance(model: Heads) -> float:
    """Sum over heads of what they read out of y, over the sum of absolute values."""
    read = model.ov.detach()[:, -1]
    return float(read.sum() / read.abs().sum())
