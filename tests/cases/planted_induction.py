"""A planted model: weights written by hand so that exactly two heads do induction, among heads that write noise.

GPT-2 shape, two layers of four heads, MLPs silent. The residual stream has four parts of `WIDTH` dimensions each: the
token, its position, the token before it, and the answer. L0H0 copies the token before into the third part; L1H2 looks
for the place whose third part is the current token and copies the token there into the fourth part, which the output
layer reads. The other six heads have random weights. Norms are undone exactly: the stream holds a known number of ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WIDTH = 48
N_HEADS = 4
TRUE_HEADS = frozenset({"L0H0", "L1H2"})
SHARPNESS = 60.0
"""Score of a match, against 0 of a miss: attention of the true heads is one-hot to within exp(-60)."""

TOKEN, POSITION, BEFORE, ANSWER = (slice(part * WIDTH, (part + 1) * WIDTH) for part in range(4))


def planted_induction(noise: float = 0.02, seed: int = 0) -> Any:
    """A transformers GPT-2 that continues repeated sequences of token ids 1 to WIDTH - 1; id 0 is the BOS token.

    Args:
        noise: standard deviation of the weights of the six other heads.
        seed: of those weights.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=WIDTH, n_positions=WIDTH, n_embd=4 * WIDTH, n_layer=2, n_head=N_HEADS, n_inner=8, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    unit = torch.eye(WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight[:, TOKEN] = unit
        model.transformer.wpe.weight[:, POSITION] = unit
        for block, ones in zip(model.transformer.h, (2, 3), strict=True):
            _undo_norm(block.ln_1, ones)
            block.attn.c_attn.weight.normal_(0, noise, generator=generator)
            block.attn.c_proj.weight.normal_(0, noise, generator=generator)
        first, second = (block.attn for block in model.transformer.h)
        _plant(first, 0, query=(POSITION, previous_position()), key=POSITION, copies=TOKEN, to=BEFORE)
        _plant(second, 2, query=(TOKEN, unit), key=BEFORE, copies=TOKEN, to=ANSWER)
        _undo_norm(model.transformer.ln_f, 4)
        model.lm_head.weight[:, ANSWER] = 10 * unit
    return model


def previous_position() -> Tensor:
    """Turns position p into p - 1; position 0 asks for itself."""
    shift = torch.zeros(WIDTH, WIDTH)
    shift[0, 0] = 1
    shift[torch.arange(1, WIDTH), torch.arange(WIDTH - 1)] = 1
    return shift


def _undo_norm(norm: Any, ones: int) -> None:
    """Weight and bias that make a LayerNorm the identity on a vector of `ones` ones and zeros elsewhere."""
    share = ones / (4 * WIDTH)
    norm.weight.fill_((share * (1 - share) + norm.eps) ** 0.5)
    norm.bias.fill_(share)


def _plant(attn: Any, head: int, *, query: tuple[slice, Tensor], key: slice, copies: slice, to: slice) -> None:
    """Write one head: match `query` with `key`, copy `copies` of the matched token into `to`."""
    q, k, v = (slice(part * 4 * WIDTH + head * WIDTH, part * 4 * WIDTH + (head + 1) * WIDTH) for part in range(3))
    z = slice(head * WIDTH, (head + 1) * WIDTH)
    for columns in (q, k, v):
        attn.c_attn.weight[:, columns] = 0
    attn.c_proj.weight[z] = 0
    attn.c_attn.weight[query[0], q] = SHARPNESS * WIDTH**0.5 * query[1]
    attn.c_attn.weight[key, k] = torch.eye(WIDTH)
    attn.c_attn.weight[copies, v] = torch.eye(WIDTH)
    attn.c_proj.weight[z, to] = torch.eye(WIDTH)


def planted_tokenizer() -> Any:
    """Words w1 to w47, one token each, and the BOS token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<bos>": 0, **{f"w{index}": index for index in range(1, WIDTH)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>")
