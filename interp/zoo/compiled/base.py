"""Programs compiled by tracr: transformers whose every head and MLP is a known line of a known program.

A prompt is BOS and up to seven symbols, and the model answers at every position. Logits are those dimensions of the stream that
hold the result: 1 for the right symbol and 0 for others, or the number itself for the word `value`.
"""

from __future__ import annotations

import json
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from interp.zoo.compiled.port import Compiled, compile_program, numbered_anew, port, tracr, wiring
from interp.zoo.planted.figures import edge_figures
from interp.zoo.planted.writing import Question, word_tokenizer, write_questions
from interp.zoo.recipe import Recipe
from interp.zoo.truth import Truth

LENGTH = 7
HELD = 16
"""Prompts whose outputs tracr computes, to be held against the port's."""

EXPECTED = "tracr.json"
VALUE = "value"
Reads = Mapping[str, str]
"""Reader -> the writers that it reads, with blanks between them."""

NOTE = (
    "'program' lists the edges whose two ends share a dimension of the stream; 'resample' and 'zero' those whose exact "
    "effect is over a millionth of the largest, in mean squared change of the logits at the last position, which is what "
    "the bundled questions ask about. Prompts are all of one length, so resampling shows nothing of what only counts "
    "positions."
)


@dataclass(frozen=True)
class CompiledProgram(Recipe):
    """A model that tracr compiles from RASP.

    Attributes:
        n: number of questions.
    """

    kind: ClassVar[str] = "compiled"
    symbols: ClassVar[tuple[Any, ...]]
    says: ClassVar[tuple[str, ...]]
    heads: ClassVar[Mapping[str, str]]
    program_edges: ClassVar[Reads]
    resample_edges: ClassVar[Reads]
    zero_edges: ClassVar[Reads]
    floor: ClassVar[float] = 1e-6

    n: int = 64

    @abstractmethod
    def program(self, lib: Any, rasp: Any) -> Any:
        """The RASP expression; `lib` holds tracr's examples."""

    @abstractmethod
    def right(self, symbols: Sequence[Any]) -> list[Any]:
        """What the program says at each position, computed in plain Python."""

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary: what is read, then what is only said."""
        return tuple(dict.fromkeys([*map(str, self.symbols), *self.says]))

    def build(self) -> Any:
        """See `Recipe.build`.

        Raises:
            InterpError: E601, tracr is not installed.
        """
        compiled = assembled(self)
        assert tuple(compiled.outputs) == self.says, f"tracr says {tuple(compiled.outputs)}"
        return port(compiled, self.symbols, self.words)

    def prompts(self) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Pairs of random prompts with different results at the end."""
        rng = random.Random(f"{self.name}/{self.seed}")
        pairs: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        while len(pairs) < self.n:
            clean, corrupt = (tuple(rng.choices(self.symbols, k=LENGTH)) for _ in range(2))
            if self.right(clean)[-1] != self.right(corrupt)[-1]:
                pairs.append((clean, corrupt))
        return pairs

    def question(self, clean: Sequence[Any], corrupt: Sequence[Any]) -> Question:
        """A pair as text; numbers are no answers."""
        prompts = " ".join(map(str, clean)), " ".join(map(str, corrupt))
        if self.says == (VALUE,):
            return Question(*prompts)
        return Question(*prompts, f" {self.right(clean)[-1]}", f" {self.right(corrupt)[-1]}")

    def save(self, model: Any, folder: Path) -> None:
        """See `Recipe.save`; tracr's own outputs on the first clean prompts go into `tracr.json`."""
        model.save_pretrained(folder)
        word_tokenizer(self.words, model.config.max_position_embeddings).save_pretrained(folder)
        pairs, compiled = self.prompts(), assembled(self)
        write_questions(folder / "examples.jsonl", [self.question(*pair) for pair in pairs], self.name)
        outputs = [[[round(float(x), 8) for x in row] for row in compiled.run(clean)] for clean, _ in pairs[:HELD]]
        (folder / EXPECTED).write_text(json.dumps({"says": self.says, "outputs": outputs}) + "\n", "utf-8")

    def measure(self, folder: Path) -> dict[str, Any]:
        """See `Recipe.measure`."""
        from interp.hooks.loading import open_folder

        model: Any = open_folder(folder, name=self.name)
        rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text("utf-8").splitlines()]
        clean, corrupt = (torch.tensor(model.tokenizer([row[name] for row in rows])["input_ids"])
                          for name in ("clean", "corrupt"))  # fmt: skip
        expected = json.loads((folder / EXPECTED).read_text("utf-8"))
        said = model(clean[: len(expected["outputs"])])[
            ..., [self.words.index(symbol) + 1 for symbol in expected["says"]]
        ]
        plain = model.adapter.model
        return {
            "questions": len(rows),
            "accuracy": {"clean": self.accuracy(model, clean), "corrupt": self.accuracy(model, corrupt)},
            "largest difference to tracr": round(float((said - torch.tensor(expected["outputs"])).abs().max()), 7),
            "program": differences(self.edges["program"], wiring(plain)),
            "edges": edge_figures(plain, clean, corrupt, self.edges, floor=self.floor, at=slice(-1, None)),
        }

    def accuracy(self, model: Any, ids: Int[Tensor, "batch pos"]) -> float:
        """Share of positions after BOS at which the model says what the program says."""
        logits = model(ids)[:, 1:]
        by_word = {str(symbol): symbol for symbol in self.symbols}
        right = [self.right([by_word[self.words[token - 1]] for token in row]) for row in ids[:, 1:].tolist()]
        if self.says == (VALUE,):
            close = (logits[..., self.words.index(VALUE) + 1] - torch.tensor(right)).abs() < 1e-4
            return float(close.float().mean())
        wanted = torch.tensor([[self.words.index(str(symbol)) + 1 for symbol in row] for row in right])
        return float((logits.argmax(-1) == wanted).float().mean())

    @property
    def edges(self) -> dict[str, list[str]]:
        """The stated edges, one by one."""
        tables = {"program": self.program_edges, "resample": self.resample_edges, "zero": self.zero_edges}
        return {
            kind: [f"{writer}->{reader}" for reader, writers in table.items() for writer in writers.split()]
            for kind, table in tables.items()
        }

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        return Truth(dict(self.heads), self.edges, {}, NOTE)


@cache
def assembled(recipe: CompiledProgram) -> Compiled:
    """The program as tracr compiles it."""
    _, lib, rasp = tracr()
    numbered_anew(rasp)
    return compile_program(recipe.program(lib, rasp), recipe.symbols, LENGTH)


def differences(stated: Sequence[str], found: Sequence[str]) -> dict[str, Any]:
    """Edges that are stated or found, but not both."""
    return {
        "stated": len(stated),
        "missing": sorted(set(stated) - set(found)),
        "unstated": sorted(set(found) - set(stated)),
    }
