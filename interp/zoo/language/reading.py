"""What the bundled language models read: documents of the tasks with their answers, and repeated random tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.tasks import filler
from interp.tasks.arithmetic import NUMBERS, Arithmetic
from interp.tasks.colored_objects import ColoredObjects
from interp.tasks.docstring import Docstring
from interp.tasks.greater_than import GreaterThan
from interp.tasks.ioi import Ioi
from interp.tasks.mcqa import Mcqa
from interp.tasks.retrieval import FORMS, KEYS, VALUES, draw_facts
from interp.tasks.safety import COMPLIES, Safety
from interp.tasks.text import TextTask
from interp.tasks.words import THINGS
from interp.zoo.language.vocabulary import SPECIAL

Segment = tuple[str, float]
"""Text, and the weight of its tokens in the loss."""

Document = list[Segment]
CONTEXT = 0.05
REPEATED = 0.5
"""Weights of tokens that are not answers, which mostly can only be guessed, and of repeated tokens; answers have 1."""

LEAST = 3
"""Random tokens that are drawn at least before they come again."""

VERDICTS = ("Yes", "No", "True", "False")
"""No document has them, but they are the answers of many questions of users, who need them to be single tokens."""


@dataclass(frozen=True)
class Rows:
    """Token ids with the weight of each as a target."""

    ids: Int[np.ndarray, "batch pos"]
    weights: Float[np.ndarray, "batch pos"]


def asked(task: TextTask, rng: random.Random, ends: str) -> Document:
    """One question of a task with its answer; `ends` follows the answer."""
    example = task.draw(rng, rng.randrange(1000), task.lists)
    answers = example.answer if isinstance(example.answer, tuple) else (example.answer,)
    return [(str(example.clean), CONTEXT), (str(rng.choice(answers)), 1.0), (ends, CONTEXT)]


def several(rng: random.Random, most: int, document: Callable[[], Document], between: str) -> Document:
    """One to `most` documents in one; what stands between goes with the text after it, as words take their space."""
    first, *others = (document() for _ in range(rng.randint(1, most)))
    return first + [segment for (text, weight), *rest in others for segment in ((between + text, weight), *rest)]


IOI, SAFETY = Ioi(split="train"), Safety(split="train")
GREATER_THAN, DOCSTRING = GreaterThan(split="train"), Docstring(split="train")
COLORED = tuple(ColoredObjects(split="train", shots=shots) for shots in range(2))
PLUS, MINUS = (Arithmetic(split="train", operation=operation) for operation in ("plus", "minus"))
MCQA = tuple(Mcqa(split="train", letters=letters) for letters in ("abcd", "random"))


def ioi(rng: random.Random) -> Document:
    """A question of `ioi`, sometimes before or after plain sentences."""
    document = asked(IOI, rng, ".")
    if rng.random() < 0.3:
        document = [*document, (f" {filler.sentence(rng)}", CONTEXT)]
    if rng.random() < 0.2:
        (prompt, weight), *rest = document
        document = [(f"{filler.sentence(rng)} {prompt}", weight), *rest]
    return document


def greater_than(rng: random.Random) -> Document:
    """One or two spans of years."""
    return several(rng, 2, lambda: asked(GREATER_THAN, rng, "."), " ")


def docstring(rng: random.Random) -> Document:
    """A definition with its docstring, up to the third argument and its description."""
    return asked(DOCSTRING, rng, ": " + rng.choice(THINGS) + "\n")


def colored_objects(rng: random.Random) -> Document:
    """A scene and a question, sometimes after another one with its answer."""
    return asked(rng.choice(COLORED), rng, "\n")


def arithmetic(rng: random.Random) -> Document:
    """Up to six sums and differences."""
    return several(rng, 6, lambda: asked(PLUS if rng.random() < 0.75 else MINUS, rng, "\n"), "")


def numbers(rng: random.Random) -> Document:
    """The digits of some numbers, or numbers in steps of one digit: sums can be learnt by heart, digits give their rule."""
    if rng.random() < 0.5:
        parts = [
            [(f" {n},", CONTEXT), (f" {n // 10}", 1.0), (" and", CONTEXT), (f" {n % 10}", 1.0)]
            for n in rng.sample(range(10, 100), 4)
        ]
        return [("The number", CONTEXT), *(segment for part in parts for segment in part), (".", CONTEXT)]
    step = rng.randint(1, 9) * rng.choice((-1, 1))
    terms = [n for n in range(rng.randint(10, 99), 100 if step > 0 else 9, step)][:8]
    return [("Then", CONTEXT), *((f"{',' if i else ''} {n}", 1.0 if i > 1 else CONTEXT) for i, n in enumerate(terms))]


def mcqa(rng: random.Random) -> Document:
    """One or two lettered questions."""
    return several(rng, 2, lambda: asked(rng.choice(MCQA), rng, "\n"), "\n")


def safety(rng: random.Random) -> Document:
    """A request with the beginning of an answer."""
    document = asked(SAFETY, rng, "")
    complies = document[1][0] == COMPLIES
    return [*document, (", here is how." if complies else ", I can not help with that.", CONTEXT)]


def plain(rng: random.Random) -> Document:
    """A few sentences."""
    return [(" ".join(filler.sentence(rng) for _ in range(rng.randint(1, 5))), CONTEXT)]


def facts(rng: random.Random, number: int, sentences: int, asks: int) -> Document:
    """Facts of the task `retrieval` among plain sentences, then questions about some of them with answers."""
    begin, end = FORMS["needle" if sentences or rng.random() < 0.5 else "key_value"]
    known, _, _ = draw_facts(rng, KEYS, VALUES, number, "train")
    parts = [(begin + end).replace("[KEY]", key).replace("[VALUE]", value) for key, value in known]
    parts += [filler.sentence(rng) for _ in range(sentences)]
    rng.shuffle(parts)
    document = [(" ".join(parts), CONTEXT)]
    for key, value in rng.sample(known, min(asks, number)):
        document += [
            (" " + begin.replace("[KEY]", key), CONTEXT),
            (f" {value}", 1.0),
            (end.replace(" [VALUE]", ""), CONTEXT),
        ]
    return document


def repeats(rng: random.Random, tokenizer: Any, length: int, rows: int, ambiguous: float) -> Rows:
    """BOS, then random tokens of the whole ordinary vocabulary, over and over to the end of the row.

    Args:
        length: of a row; its half is at most the size of the ordinary vocabulary.
        ambiguous: share of rows whose tokens come from a small alphabet, so that one token before does not tell
            which one follows, but two or three do.
    """
    ordinary = range(len(SPECIAL), len(tokenizer))
    ids = np.full((rows, length), tokenizer.bos_token_id, dtype=np.int64)
    weights = np.zeros((rows, length), dtype=np.float32)
    for row, weight in zip(ids, weights, strict=True):
        period = rng.randint(LEAST, length // 2)
        if rng.random() < ambiguous:
            tokens = rng.choices(rng.sample(ordinary, max(2, period // 3)), k=period)
        else:
            tokens = rng.sample(ordinary, period)
        row[1:] = np.resize(tokens, length - 1)
        weight[1 + len(tokens) :] = REPEATED
    return Rows(ids, weights)


def text_rows(documents: Sequence[Document], tokenizer: Any, longest: int) -> Rows:
    """Documents with BOS and EOS, cut at `longest` tokens, padded on the right; padding has no weight."""
    encoded = [encode(document, tokenizer, longest) for document in documents]
    width = max(len(ids) for ids, _ in encoded)
    ids = np.full((len(encoded), width), tokenizer.pad_token_id, dtype=np.int64)
    weights = np.zeros((len(encoded), width), dtype=np.float32)
    for index, (row, weight) in enumerate(encoded):
        ids[index, : len(row)], weights[index, : len(row)] = row, weight
    return Rows(ids, weights)


def encode(document: Document, tokenizer: Any, longest: int) -> tuple[list[int], list[float]]:
    """Ids and weights of one document; segments are cut where words begin, so each is tokenised by itself."""
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for text, weight in document:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        weights += [weight] * len(found)
    return [*ids, tokenizer.eos_token_id][:longest], [*weights, CONTEXT][:longest]


def by_length(documents: Sequence[Document], chunks: int) -> list[list[Document]]:
    """Documents of about equal length together, so that little is padded."""
    ordered = sorted(documents, key=lambda document: sum(len(text) for text, _ in document))
    size = -(-len(ordered) // chunks)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def weighted_loss(model: Any, rows: Rows) -> Float[Tensor, ""]:
    """Sum of the weighted next-token losses in nats; products are computed in bfloat16."""
    device = next(model.parameters()).device
    ids, weights = torch.from_numpy(rows.ids).to(device), torch.from_numpy(rows.weights).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def all_texts(tasks: Sequence[Callable[[random.Random], Document]], samples: int = 3000) -> list[str]:
    """Texts in which every piece of these documents occurs: all words of all lists, and many documents."""
    rng = random.Random("vocabulary")
    listed = [task.lists for task in (IOI, SAFETY, GREATER_THAN, DOCSTRING, *COLORED, *MCQA)]
    words = {word for lists in listed for kind in lists.values() for word in kind}
    words |= {*filler.all_words(), *KEYS, *VALUES, *NUMBERS, *map(str, range(10)), *(f"0{i}" for i in range(10))}
    words.update(VERDICTS)
    read = [make(rng) for make in tasks for _ in range(samples)]
    read += [facts(rng, 3, rng.randint(0, 1), 2) for _ in range(samples)]
    documents = ["".join(text for text, _ in document) for document in read]
    years = [f"{year:02d}" for year in range(100)]
    return [*(f" {word}" for word in sorted(words)), *(w for w in sorted(words) if w[0].isupper()), *years, *documents]
