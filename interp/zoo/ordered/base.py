"""What models trained to order share: their shape, their training, their files. See `interp.zoo.ordered.interchange`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.zoo.ordered.figures import figures, summary
from interp.zoo.ordered.interchange import Lesson, Program, losses
from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.planted.writing import Question, word_tokenizer, write_questions
from interp.zoo.recipe import Training
from interp.zoo.truth import Truth

EXAMPLES = 64


@dataclass(frozen=True)
class Ordered(Training):
    """A GELU transformer with LayerNorm, trained to compute a program at given nodes.

    Attributes:
        layers, heads, width, hidden: sizes.
        batch: prompts a step.
        spread: standard deviation of the weights at the start.
    """

    kind: ClassVar[str] = "trained to order"
    program: ClassVar[Program]
    alignment: ClassVar[Mapping[str, tuple[str, ...]]]
    causal: ClassVar[bool] = True

    steps: int = 2000
    learning_rate: float = 3e-3
    warmup: int = 100
    layers: int = 2
    heads: int = 4
    width: int = 48
    hidden: int = 96
    batch: int = 64
    spread: float = 0.1

    def build(self) -> PlainTransformer:
        """See `Recipe.build`."""
        config = PlainConfig(
            vocab_size=len(self.program.words) + 2, hidden_size=self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.hidden, hidden_act="gelu", causal=self.causal,
            max_position_embeddings=self.program.length, initializer_range=self.spread, bos_token_id=0,
            eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        return PlainTransformer(config)

    def backward(self, model: Any, step: int) -> dict[str, float]:
        """See `Training.backward`."""
        rng = np.random.default_rng([self.seed, 0, step])
        ids = self.program.draw(rng, self.batch).to(model.device)
        found = losses(Lesson(model, self.program, self.alignment, ids), rng)
        torch.stack(list(found.values())).sum().backward()
        return {name: loss.item() for name, loss in found.items()}

    def progress(self, model: Any) -> dict[str, float]:
        """See `Training.progress`."""
        return summary(model, self.program, self.alignment)

    def questions(self) -> list[Question]:
        """Pairs of prompts with different answers at the last position."""
        drawn = self.program.draw(np.random.default_rng([self.seed, 2]), 64 * EXAMPLES)
        answer = self.program.run(drawn)["answer"][:, -1]
        (clean, corrupt), (right, wrong) = drawn.chunk(2), answer.chunk(2)
        usable = ((right >= 0) & (wrong >= 0) & (right != wrong)).nonzero()[:EXAMPLES, 0]
        word = (" ", *self.program.words)
        return [
            Question(self.text(clean[row]), self.text(corrupt[row]), f" {word[right[row]]}", f" {word[wrong[row]]}")
            for row in usable
        ]

    def text(self, ids: Int[Tensor, " pos"]) -> str:
        """A prompt as words; BOS is the tokenizer's."""
        return " ".join(self.program.words[token - 1] for token in ids[1:].tolist())

    def save(self, model: Any, folder: Path) -> None:
        """See `Recipe.save`."""
        model.save_pretrained(folder)
        word_tokenizer(self.program.words, self.program.length).save_pretrained(folder)
        write_questions(folder / "examples.jsonl", self.questions(), self.name)

    def measure(self, folder: Path) -> dict[str, Any]:
        """See `Recipe.measure`."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            untrained = self.build()
        return figures(self.program, self.alignment, folder, untrained, self.truth().edges)

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        raise NotImplementedError
