"""Writing weights by hand: named parts of the residual stream, single heads of several families, a tokenizer of words, questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BOS, UNKNOWN = "<bos>", "<unk>"
SHARPNESS = 60.0
"""Score of a match, against 0 of a miss: attention of a planted head is one-hot to within exp(-60)."""

LOUD = 10.0
"""Logit of the answer, against 0 of any other word."""


def parts(**widths: int) -> dict[str, slice]:
    """Named parts of the residual stream, one after the other."""
    ends = [0, *accumulate(widths.values())]
    return dict(zip(widths, (slice(*pair) for pair in pairwise(ends)), strict=True))


def numbered(n: int) -> tuple[str, ...]:
    """The words w1 to wn."""
    return tuple(f"w{index}" for index in range(1, n + 1))


def head_weights(model: Any, layer: int, head: int) -> dict[str, Tensor]:
    """Views of one head's weights, to be written to: q, k, v [d_model d_head], o [d_head d_model].

    With grouped queries, k and v are those of the group that the head belongs to.

    Raises:
        KeyError: a family that nothing is planted in.
    """
    config = model.config
    n = config.num_attention_heads
    if config.model_type == "gpt2":
        attn, width = model.transformer.h[layer].attn, config.n_embd // n
        columns = (
            slice(part * config.n_embd + head * width, part * config.n_embd + (head + 1) * width) for part in range(3)
        )
        views = dict(zip("qkv", (attn.c_attn.weight[:, part] for part in columns), strict=True))
        return {**views, "o": attn.c_proj.weight[head * width : (head + 1) * width]}
    if config.model_type == "gpt_neox":
        attn, width = model.gpt_neox.layers[layer].attention, config.hidden_size // n
        rows = attn.query_key_value.weight.view(n, 3, width, -1)[head]
        out = attn.dense.weight[:, head * width : (head + 1) * width]
        return {**dict(zip("qkv", (part.T for part in rows), strict=True)), "o": out.T}
    attn = {"llama": model.model, "olmo2": model.model, "plain": model.model}[config.model_type].layers[layer].self_attn
    width, group = attn.head_dim, head * config.num_key_value_heads // n
    q, kv = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
    return {
        "q": attn.q_proj.weight[q].T,
        "k": attn.k_proj.weight[kv].T,
        "v": attn.v_proj.weight[kv].T,
        "o": attn.o_proj.weight[:, q].T,
    }


def cleared(model: Any, layer: int, head: int) -> dict[str, Tensor]:
    """`head_weights`, set to zero."""
    weights = head_weights(model, layer, head)
    for view in weights.values():
        view.zero_()
    return weights


def randomise(model: nn.Module, noise: float, seed: int) -> None:
    """Matrices of all layers drawn anew, everything else zero; the caller writes norms, embeddings and its heads."""
    generator = torch.Generator().manual_seed(seed)
    inside = {id(p) for child in model.modules() if isinstance(child, nn.ModuleList) for p in child.parameters()}
    for parameter in model.parameters():
        parameter.zero_()
        if id(parameter) in inside and parameter.ndim == 2:
            parameter.normal_(0, noise, generator=generator)


def undo_norm(norm: Any, total: float, squares: float) -> None:
    """Weights that make a norm the identity on vectors with this sum and this sum of squares."""
    mean = total / len(norm.weight) if hasattr(norm, "bias") else 0.0
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    norm.weight.fill_((squares / len(norm.weight) - mean**2 + epsilon) ** 0.5)
    if hasattr(norm, "bias"):
        norm.bias.fill_(mean)


def word_tokenizer(words: Sequence[str], positions: int) -> Any:
    """One token a word: BOS is 0, the words follow, and what is none of them is the last token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((BOS, *words, UNKNOWN))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        unk_token=UNKNOWN,
    )


@dataclass(frozen=True)
class Question:
    """Two prompts of the same length; the distractor is what is right for the corrupt one. Numbers are no answers."""

    clean: str
    corrupt: str
    answer: str | None = None
    distractor: str | None = None


def write_questions(path: Path, questions: Sequence[Question], prefix: str) -> None:
    """One JSON object a line, as `interp.tasks.file` reads it."""
    lines = []
    for index, question in enumerate(questions):
        told = {name: value for name, value in asdict(question).items() if value is not None}
        lines.append(json.dumps({"id": f"{prefix}-{index:04d}", **told}) + "\n")
    path.write_text("".join(lines), "utf-8")
