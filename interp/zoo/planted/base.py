"""What planted models share: how they are saved, asked and measured. See `interp.zoo.planted.writing` for how they are written.

Heads and MLPs that a program leaves alone keep small random weights, so that a method meets noise where it should find
nothing.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.planted.writing import Question, randomise, word_tokenizer, write_questions
from interp.zoo.recipe import Recipe

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.zoo.planted.figures import Asked


@dataclass(frozen=True)
class Planted(Recipe):
    """A model whose weights are written.

    Attributes:
        noise: standard deviation of the weights that belong to no program.
        n: number of questions.
    """

    kind: ClassVar[str] = "planted"
    floor: ClassVar[float] = 0.01
    """An edge matters where its effect is over this share of the largest, in mean squared change of the logits."""

    noise: float = 0.02
    n: int = 64

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """The vocabulary without BOS and the unknown word."""

    @abstractmethod
    def question(self, rng: random.Random) -> Question:
        """One question."""

    @abstractmethod
    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        """True head -> query position -> key position where all of its attention must be.

        Args:
            words: of one prompt; the first is BOS.
        """

    def questions(self) -> list[Question]:
        """The bundled questions."""
        rng = random.Random(f"{self.name}/{self.seed}")
        return [self.question(rng) for _ in range(self.n)]

    def save(self, model: Any, folder: Path) -> None:
        """See `Recipe.save`."""
        model.save_pretrained(folder)
        word_tokenizer(self.words, model.config.max_position_embeddings).save_pretrained(folder)
        write_questions(folder / "examples.jsonl", self.questions(), self.name)

    def measure(self, folder: Path) -> dict[str, Any]:
        """See `Recipe.measure`."""
        from interp.zoo.planted.figures import figures

        return figures(self, folder)

    def more(self, model: HookedModel, asked: Asked) -> dict[str, Any]:
        """Figures that belong to this program alone."""
        return {}


@dataclass(frozen=True)
class PlantedPlain(Planted):
    """A program without norms, where the stream is the plain sum of what is written to it.

    Words and BOS each have a dimension in the part TOKEN of the stream, ONE is 1 everywhere, and each position has a
    dimension in POSITION where there is such a part.
    """

    layers: ClassVar[int] = 1
    heads: ClassVar[int] = 4
    d_head: ClassVar[int]
    neurons: ClassVar[int] = 0
    positions: ClassVar[int] = 32

    @property
    @abstractmethod
    def parts(self) -> dict[str, slice]:
        """The stream, see `interp.zoo.planted.writing.parts`."""

    @abstractmethod
    def write(self, model: Any, part: dict[str, slice]) -> None:
        """Write the heads of the program, its MLPs and its output layer."""

    def places(self, *words: str) -> list[int]:
        """Dimensions of these words in TOKEN, which are also their token ids."""
        return [self.words.index(word) + 1 for word in words]

    @torch.no_grad()
    def build(self) -> Any:
        """See `Recipe.build`."""
        part = self.parts
        config = PlainConfig(
            vocab_size=len(self.words) + 2, hidden_size=max(slot.stop for slot in part.values()),
            num_hidden_layers=self.layers, num_attention_heads=self.heads, head_dim=self.d_head,
            intermediate_size=self.neurons, max_position_embeddings=self.positions, norm="none", bos_token_id=0,
            eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        model: Any = PlainTransformer(config)
        randomise(model, self.noise, self.seed)
        tokens = range(len(self.words) + 1)
        model.model.embed_tokens.weight[tokens, tokens] = 1
        model.model.embed_tokens.weight[:, part["ONE"]] = 1
        if "POSITION" in part:
            model.model.embed_positions.weight[:, part["POSITION"]] = torch.eye(self.positions)
        self.write(model, part)
        return model.eval()
