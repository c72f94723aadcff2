"""What `mini-vlm` can do, and how often it sees what is not there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.zoo.vision.batch import Lexicon, answer_logits
from interp.zoo.vision.heads import head_effects
from interp.zoo.vision.questions import Question
from interp.zoo.vision.quiz import Quiz, adversarial, blank, regular
from interp.zoo.vision.scenes import PAIRS, World

N_REGULAR, N_ADVERSARIAL, N_HEADS, N_SEEN = 128, 512, 32, 2000


@torch.no_grad()
def top_tokens(model: Any, lexicon: Lexicon, quiz: Quiz) -> list[int]:
    """The token with the largest logit of the whole vocabulary, per question."""
    tops = [answer_logits(model, batch)[0].argmax(-1).cpu() for batch in quiz.batches(lexicon)]
    return torch.cat(tops).tolist()


def says(model: Any, lexicon: Lexicon, quiz: Quiz, words: Sequence[str]) -> Bool[Tensor, " question"]:
    """Whether the model's answer to each question is the word given for it."""
    tops = top_tokens(model, lexicon, quiz)
    return torch.tensor([top == lexicon.id_of(f" {word}") for top, word in zip(tops, words, strict=True)])


def right(model: Any, lexicon: Lexicon, quiz: Quiz) -> Bool[Tensor, " question"]:
    """Whether each question is answered rightly."""
    return says(model, lexicon, quiz, [question.answer for question in quiz.flat()])


def false_yes(model: Any, lexicon: Lexicon, quiz: Quiz) -> Bool[Tensor, " question"]:
    """Whether the model says yes, per question whose answer is no."""
    assert {question.answer for question in quiz.flat()} == {"no"}
    return says(model, lexicon, quiz, ["yes"] * len(quiz.flat()))


def share(values: Tensor | Sequence[bool]) -> float:
    """Mean, rounded as it stands in the card."""
    return round(float(torch.as_tensor(values).double().mean()), 4)


def by_kind(quiz: Quiz, values: Bool[Tensor, " question"]) -> dict[str, float]:
    """Share per kind of question, and over all."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for question, value in zip(quiz.flat(), values.tolist(), strict=True):
        groups[question.kind].append(value)
    return {"all": share(values), **{kind: share(found) for kind, found in sorted(groups.items())}}


def guessed(quiz: Quiz, seen: Sequence[Question]) -> Bool[Tensor, " question"]:
    """Whether each question is answered rightly without its picture, by the most frequent answer among those seen.

    That is the answer to the same text, or to the same kind of question where the text was never seen.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in seen:
        answers[question.text][question.answer] += 1
        answers[question.kind][question.answer] += 1
    best = {key: found.most_common(1)[0][0] for key, found in answers.items()}
    return torch.tensor([best.get(q.text, best[q.kind]) == q.answer for q in quiz.flat()])


def by_companion(quiz: Quiz, values: Bool[Tensor, " question"]) -> dict[str, float]:
    """Share per companion; each picture of the quiz has one question."""
    found = {}
    for index, (_, companion) in enumerate(PAIRS):
        found[" ".join(companion)] = share(
            [bool(v) for v, s in zip(values, quiz.scenes, strict=True) if s.pair == index]
        )
    return found


def progress(model: Any, lexicon: Lexicon, world: World) -> dict[str, float]:
    """Few held-out figures, for a training to print."""
    found: dict[str, float] = {}
    for split in ("cell", "look"):
        quiz = regular(world, split, 64)
        found |= {f"{split} {kind}": value for kind, value in by_kind(quiz, right(model, lexicon, quiz)).items()}
    absent, twin = (share(false_yes(model, lexicon, quiz)) for quiz in adversarial(world, 128))
    return {**found, "false yes": absent, "without anchor": twin}


def figures(model: Any, lexicon: Lexicon, world: World) -> dict[str, Any]:
    """The card's figures."""
    cell, look = (regular(world, split, N_REGULAR) for split in ("cell", "look"))
    absent, twin = adversarial(world, N_ADVERSARIAL)
    mistaken = false_yes(model, lexicon, absent)
    return {
        "questions": {"regular": len(cell.flat()), "adversarial": len(absent.flat())},
        "accuracy": {
            "held-out cells": by_kind(cell, right(model, lexicon, cell)),
            "held-out colour and shape": by_kind(look, right(model, lexicon, look)),
            "blank picture": by_kind(cell, right(model, lexicon, blank(cell, world))),
            "most frequent training answer": by_kind(cell, guessed(cell, regular(world, "train", N_SEEN).flat())),
        },
        "false_yes": {
            "companion absent": share(mistaken),
            "without anchor": share(false_yes(model, lexicon, twin)),
            "by companion": by_companion(absent, mistaken),
        },
        "mean_ablation": head_effects(
            model,
            lexicon,
            {"held-out cells": regular(world, "cell", N_HEADS), "companion absent": adversarial(world, N_HEADS)[0]},
        ),
    }
