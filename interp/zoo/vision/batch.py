"""Pictures with several questions each as one forward: the picture is read once, each question sees it and itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from interp.zoo.vision.files import IMAGE, prompt
from interp.zoo.vision.questions import Question
from interp.zoo.vision.shapes import CELL, SIDE

PATCH = 8
N_PATCHES = (SIDE // PATCH) ** 2
POSITIONS = 256
assert CELL % PATCH == 0


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward and where its answers are.

    Attributes:
        rows, ends: row and position of the last token of each question, which predicts its answer.
        answers: token ids.
    """

    input_ids: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    attention_mask: Float[Tensor, "batch 1 pos pos"]
    pixel_values: Float[Tensor, "batch 3 48 48"]
    rows: Int[Tensor, " question"]
    ends: Int[Tensor, " question"]
    answers: Int[Tensor, " question"]

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments of the model."""
        names = ("input_ids", "position_ids", "attention_mask", "pixel_values")
        return {name: getattr(self, name).to(device) for name in names}


@dataclass(frozen=True)
class Lexicon:
    """Questions and answers as token ids of a tokenizer."""

    tokenizer: Any

    def id_of(self, token: str) -> int:
        """Id of a token of the vocabulary; answers follow a space."""
        (found,) = self.tokenizer(token, add_special_tokens=False)["input_ids"]
        return int(found)

    def prompts(self, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The prompts up to the line's end behind the image, every patch written out, and the rest of each."""
        rows = self.tokenizer([prompt(text) for text in texts])["input_ids"]
        split = rows[0].index(self.id_of(IMAGE))
        head = [*rows[0][:split], *[rows[0][split]] * N_PATCHES, rows[0][split + 1]]
        return head, [row[split + 2 :] for row in rows]


def pixels(pictures: Sequence[UInt8[np.ndarray, "48 48 3"]]) -> Float[Tensor, "batch 3 48 48"]:
    """What the image processor makes of pictures of the model's own size."""
    levels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return levels / 127.5 - 1


def pack(
    lexicon: Lexicon, pictures: Sequence[UInt8[np.ndarray, "48 48 3"]], questions: Sequence[Sequence[Question]]
) -> Batch:
    """One row a picture: the picture, then its questions, each with its answer behind it.

    Positions of every question go on from the picture's, and no question sees another, so that each is computed as if
    it stood alone.
    """
    flat = [question for row in questions for question in row]
    head, rests = lexicon.prompts([question.text for question in flat])
    answers = [lexicon.id_of(f" {question.answer}") for question in flat]
    bodies = iter([[*rest, answer] for rest, answer in zip(rests, answers, strict=True)])
    rows = [[head, *(next(bodies) for _ in row)] for row in questions]
    ids, places, part, ends = lay_out(rows, lexicon.tokenizer.pad_token_id)
    return Batch(
        input_ids=ids,
        position_ids=places,
        attention_mask=mask(part),
        pixel_values=pixels(pictures),
        rows=ends[:, 0],
        ends=ends[:, 1],
        answers=torch.tensor(answers),
    )


def lay_out(rows: list[list[list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor, Int[Tensor, "question 2"]]:
    """Ids, positions and part (see `mask`) of each token, and row and position of the last token of each question."""
    width = max(sum(map(len, row)) for row in rows)
    ids, places, part = (torch.full((len(rows), width), value) for value in (pad, 0, -1))
    ends = []
    for number, row in enumerate(rows):
        start = 0
        for index, tokens in enumerate(row):
            span, first = slice(start, start + len(tokens)), len(row[0]) if index else 0
            ids[number, span], part[number, span] = torch.tensor(tokens), index
            places[number, span] = torch.arange(first, first + len(tokens))
            start += len(tokens)
            if index:
                ends.append((number, start - 2))  # the last token is the answer
    return ids, places, part, torch.tensor(ends)


def mask(part: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch 1 pos pos"]:
    """What is added to the scores: 0 where a position may look, else the lowest number there is.

    Args:
        part: 0 for the picture, 1, 2, ... for the questions, -1 for padding.
    """
    may = (part[:, None, :] == part[:, :, None]) | (part[:, None, :] == 0)
    may &= torch.ones(part.shape[1], part.shape[1], dtype=torch.bool).tril()
    return torch.where(may, 0.0, torch.finfo(torch.float32).min)[:, None]


def answer_logits(
    model: Any, batch: Batch
) -> tuple[Float[Tensor, "question d_vocab"], Float[Tensor, "question d_vocab"]]:
    """Logits at the last token of each question, and at its answer."""
    hidden = model.model(**batch.inputs(model.device)).last_hidden_state
    return tuple(model.lm_head(hidden[batch.rows, batch.ends + behind]) for behind in (0, 1))
