"""Deceptive attention: a model that hides from its attention map what it decides by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.zoo.toys.base import Finding, Toy, seeded
from interp.zoo.toys.training import fit

CLASSES = 2
"""Kinds of planted tokens; the label after them means that none is there."""

TESTS = 512
"""Unseen sequences, each with a planted token, that figures are measured on."""


@dataclass(frozen=True)
class DeceptiveAttention(Toy):
    """Filler tokens and one planted token at a random place, which alone tells the class; a third have none.

    Each position sees its two neighbours (the paper's recurrent encoder does the same), then one query pools all
    positions; that pattern is what a user would be shown. The deceptive run adds -lambda log(1 - mass), mass being the
    attention on the planted token. Ablation gives the embedding at one position the mean over all tokens and takes the
    size of the change of the logits. The honest run, from the same weights and data, is the control.

    Measured, seeds 0 to 4: accuracy 1 in all; mass over even attention 4.6 to 12.6 honest, 0.002 to 0.004 deceptive;
    0.988 to 0.993 on the neighbours; ablation ranks the planted token first in all sequences of both models; accuracy
    without it 0.

    Attributes:
        fillers: number of filler tokens.
        planted: planted tokens of each class.
        length: tokens a sequence.
        width: of the residual stream.
        penalty: lambda.
        batch: sequences a step.
        steps: of training.
        rate: highest learning rate.
    """

    name: ClassVar[str] = "deceptive-attention"
    source: ClassVar[str] = (
        "Pruthi et al. 2020, Learning to Deceive with Attention-Based Explanations, arXiv 1909.07913"
    )
    claim: ClassVar[str] = (
        "A loss term hides the deciding token from the attention map at no cost in accuracy; ablation still finds it."
    )

    fillers: int = 30
    planted: int = 3
    length: int = 16
    width: int = 32
    penalty: float = 1.0
    batch: int = 128
    steps: int = 300
    rate: float = 1e-2

    def findings(self, seed: int) -> list[Finding]:
        with seeded(seed):
            honest = self.measure(self.train(0.0))
        with seeded(seed):
            deceptive = self.measure(self.train(self.penalty))
        return [
            Finding("Control: the honest model's accuracy.", honest.accuracy, low=0.98),
            Finding(
                "Control: honest attention shows the planted token: its mass over that of even attention.",
                honest.mass * self.length,
                low=2.5,
            ),
            Finding("The penalty costs no accuracy: accuracy of the deceptive model.", deceptive.accuracy, low=0.98),
            Finding(
                "Deceptive attention hides the planted token: its mass over that of even attention.",
                deceptive.mass * self.length,
                high=0.1,
            ),
            Finding("Its neighbours carry the message: attention mass on them.", deceptive.neighbours, low=0.5),
            Finding("No row of deceptive attention peaks at the planted token: share.", deceptive.peaks, high=0.01),
            Finding("Ablation ranks it first all the same: share of sequences.", deceptive.found, low=0.95),
            Finding("Control: and so it does in the honest model: share of sequences.", honest.found, low=0.95),
            Finding(
                "The deceptive model needs it: accuracy with the planted token replaced by filler.",
                deceptive.without,
                high=0.05,
            ),
        ]

    def measure(self, model: Pooled) -> Measured:
        """All figures of a trained model, on unseen sequences."""
        tokens, label, place = self.draw(TESTS)
        beside = nn.functional.pad(place, (1, 0))[:, :-1] | nn.functional.pad(place, (0, 1))[:, 1:]
        with torch.no_grad():
            logits, pattern = model(tokens)
            bare = model(self.without(tokens, place))[0]
            effects = ablation_effects(model, tokens)
        return Measured(
            accuracy=float((logits.argmax(-1) == label).float().mean()),
            mass=float(pattern[place].mean()),
            neighbours=float((pattern * beside).sum(-1).mean()),
            peaks=float(place.gather(1, pattern.argmax(1, keepdim=True)).float().mean()),
            found=float(place.gather(1, effects.argmax(1, keepdim=True)).float().mean()),
            without=float((bare.argmax(-1) == label).float().mean()),
        )

    def train(self, penalty: float) -> Pooled:
        """A model after training with this lambda."""
        model = Pooled(self.fillers + CLASSES * self.planted, self.width)

        def loss() -> Float[Tensor, ""]:
            tokens, label, place = self.draw(self.batch)
            # With no such sequences one class could be what the model says by default, which no ablation can see.
            none = torch.rand(self.batch, 1) < 1 / 3
            logits, pattern = model(torch.where(none, self.without(tokens, place), tokens))
            hidden = -(1 - (pattern * place).sum(-1)).clamp_min(1e-6).log().mean()
            answer = torch.where(none[:, 0], CLASSES, label)
            # Smoothed labels stop growth of the logits, so that fillers learn to have no effect.
            return nn.functional.cross_entropy(logits, answer, label_smoothing=0.1) + penalty * hidden

        fit(model.parameters(), loss, steps=self.steps, rate=self.rate)
        return model

    def draw(self, batch: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"], Bool[Tensor, "batch pos"]]:
        """Tokens, label, and where the planted token stands."""
        label = torch.randint(CLASSES, (batch,))
        token = self.fillers + label * self.planted + torch.randint(self.planted, (batch,))
        place = torch.randint(self.length, (batch, 1)) == torch.arange(self.length)
        return torch.where(place, token[:, None], torch.randint(self.fillers, (batch, self.length))), label, place

    def without(self, tokens: Int[Tensor, "batch pos"], place: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The same sequences with filler in these places."""
        return torch.where(place, torch.randint(self.fillers, tokens.shape), tokens)


@dataclass(frozen=True)
class Measured:
    """Figures of one model.

    Attributes:
        accuracy: share of right answers.
        mass: mean attention on the planted token.
        neighbours: mean attention on the positions beside it.
        peaks: share of sequences in which it has the largest weight.
        found: share of sequences in which its ablation has the largest effect.
        without: accuracy when it is replaced by filler.
    """

    accuracy: float
    mass: float
    neighbours: float
    peaks: float
    found: float
    without: float


class Pooled(nn.Module):
    """Embedding, a look at both neighbours, and one learned query that pools all positions for the classifier."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embed, self.near = nn.Embedding(tokens, width), nn.Conv1d(width, width, 3, padding=1)
        self.key, self.out = nn.Linear(width, 1, bias=False), nn.Linear(width, CLASSES + 1)

    def forward(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch label"], Float[Tensor, "batch pos"]]:
        return self.pool(self.embed(tokens))

    def pool(
        self, x: Float[Tensor, "batch pos width"]
    ) -> tuple[Float[Tensor, "batch label"], Float[Tensor, "batch pos"]]:
        """Logits and attention pattern from embeddings."""
        x = x + self.near(x.transpose(1, 2)).transpose(1, 2)
        pattern = self.key(x)[..., 0].softmax(-1)
        return self.out(einsum(pattern, x, "batch pos, batch pos width -> batch width")), pattern


def ablation_effects(model: Pooled, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """Size of the change of the logits when the embedding at one position gives way to the mean embedding."""
    x, length = model.embed(tokens), tokens.shape[1]
    each = torch.eye(length, dtype=torch.bool)[:, :, None]
    changed = rearrange(torch.where(each, x.mean((0, 1)), x[:, None]), "batch edit pos width -> (batch edit) pos width")
    logits = rearrange(model.pool(changed)[0], "(batch edit) label -> batch edit label", edit=length)
    return (logits - model.pool(x)[0][:, None]).norm(dim=-1)
