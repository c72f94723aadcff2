"""The byte-level tokenizer of the bundled language models: whole known words, single bytes for the rest."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = {"unk_token": "<|unk|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
PIECES = Regex(r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""Words, pairs of digits and runs of signs, each with the space before it; blanks otherwise."""

PRE_TOKENIZER = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
)


def build_tokenizer(texts: Iterable[str], positions: int) -> PreTrainedTokenizerFast:
    """A tokenizer for which every piece of these texts is one token.

    The merge list is empty and `ignore_merges` is set: a piece found in the vocabulary is one token, any other is spelt
    in bytes. So no vocabulary goes to fragments of words, and any text can be typed.
    """
    found = {piece for text in texts for piece, _ in PRE_TOKENIZER.pre_tokenize_str(text)}
    pieces = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(found)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = PRE_TOKENIZER
    backend.decoder = decoders.ByteLevel()
    bos = SPECIAL["bos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **SPECIAL,
    )
