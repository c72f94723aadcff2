"""`mini`: four Llama layers that do `ioi` and `induction`; what it is made of and what it reads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES, draw, name_pairs
from interp.zoo.recipes import filler

SPECIAL = {"unk_token": "<|unk|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
IGNORED = -100  # label of positions without a loss, as transformers has it
PAIRS = name_pairs(list(NAMES), "train")


@dataclass(frozen=True)
class Mini:
    """The recipe's numbers. A step reads `text_rows` documents and about `repeat_tokens` tokens of repeated sequences."""

    name: ClassVar[str] = "mini"
    data: ClassVar[str] = (
        "Generated: sentences of the task ioi in all templates with the train pairs of names, plain everyday sentences, "
        "and repeated sequences of random tokens from the whole ordinary vocabulary."
    )

    seed: int = 0
    steps: int = 4000
    warmup: int = 100
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    width: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 352
    positions: int = 256
    text_rows: int = 64
    repeat_tokens: int = 2048
    long_every: int = 8
    row_lengths: tuple[int, ...] = (48, 64, 96, 128)


def words() -> list[str]:
    """Words that are one token each with a space before them, in a fixed order."""
    templates = [word.strip(".,") for template in TEMPLATES for word in template.split() if "[" not in word]
    return sorted({*NAMES, *PLACES, *OBJECTS, *templates, *filler.all_words()})


def build_tokenizer(recipe: Mini) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that takes any text: whole known words, single bytes for the rest.

    The merge list is empty and `ignore_merges` is set: a piece found in the vocabulary is one token, any other is spelt
    in bytes. So no vocabulary goes to fragments of words.
    """
    capitalised = [word for word in words() if word[0].isupper()]
    pieces = [
        *SPECIAL.values(),
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(f"Ġ{word}" for word in words()),
        *capitalised,
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    bos = SPECIAL["bos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=recipe.positions,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **SPECIAL,
    )


def build_model(recipe: Mini, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model; its weights come from torch's global generator."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def batches(
    recipe: Mini, tokenizer: PreTrainedTokenizerFast, step: int
) -> list[tuple[Int[np.ndarray, "batch pos"], Int[np.ndarray, "batch pos"]]]:
    """What step number `step` reads: (input ids, labels) of the documents and of the repeated sequences.

    Depends on seed and step alone, so that training resumed from a checkpoint reads what it would have read.
    """
    rng = random.Random(f"mini/{recipe.seed}/{step}")
    is_long = step % recipe.long_every == 0
    texts = [document(rng, is_long) for _ in range(recipe.text_rows // (4 if is_long else 1))]
    return [text_batch(texts, tokenizer, max(recipe.row_lengths)), repeat_batch(recipe, tokenizer, rng)]


def document(rng: random.Random, is_long: bool) -> str:
    """A few sentences, at least one of them a question of `ioi` with its answer, from the train pairs."""
    questions = [ioi_sentence(rng) for _ in range(rng.randint(1, 3) if is_long else 1)]
    fillers = [filler.sentence(rng) for _ in range(rng.randint(1, 4) if is_long else rng.random() < 0.3)]
    parts = questions + fillers
    rng.shuffle(parts)
    return " ".join(parts)


def ioi_sentence(rng: random.Random) -> str:
    """One `ioi` prompt followed by its answer and a full stop."""
    example = draw(rng, rng.randrange(2), list(NAMES), PAIRS, "abc", None)
    return f"{example.clean}{example.answer}."


def text_batch(texts: list[str], tokenizer: PreTrainedTokenizerFast, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents with BOS and EOS, cut at `longest` tokens, padded on the right."""
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id][:longest] for text in texts]
    ids = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id, dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = labels[index, : len(row)] = row
    return ids, labels


def repeat_batch(recipe: Mini, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """BOS, then random different tokens of the whole ordinary vocabulary, over and over to the end of the row."""
    ordinary = range(len(SPECIAL), len(tokenizer))
    length = rng.choice(recipe.row_lengths)
    ids = np.full((max(1, recipe.repeat_tokens // length), length), tokenizer.bos_token_id, dtype=np.int64)
    for row in ids:
        row[1:] = np.resize(rng.sample(ordinary, rng.randint(3, length // 2)), length - 1)
    return ids, ids.copy()
