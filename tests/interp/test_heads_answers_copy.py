"""The copy score of names in its three forms, against loops over the modules of a model of another family."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.heads import scorer
from interp.heads.answers.places import every_head
from interp.heads.run import score
from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError

FORMS = ("official-code", "paper", "arena")
WIDTH, HEADS, LAYERS = 24, 3, 3


@cache
def opened() -> HookedModel:
    """A GPT-2 with random weights, biases and gains, so that each norm and bias counts."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=WIDTH, n_head=HEADS, n_layer=LAYERS, n_positions=16)
    network: Any = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return HookedModel.from_hf(network)


@cache
def pairs() -> Pairs:
    rows = ((3, 7, 9, 7, 12, 5), (8, 4, 30, 11, 8, 2), (6, 21, 22, 23, 24, 1))
    names = ((9, 7), (4, 8), (22, 39))
    return tokenise(None, [Example(str(i), row, *both) for i, (row, both) in enumerate(zip(rows, names, strict=True))])


def read_by(form: str, network: Any, ids: Tensor) -> Tensor:
    """What W_V reads at every place of one prompt, in modules of the model."""
    body = network.transformer
    if form == "arena":
        tokens = body.wte(ids)
        return tokens + body.h[0].mlp(body.h[0].ln_2(tokens))
    stream = network(ids[None], output_hidden_states=True).hidden_states[1][0]
    return body.h[1].ln_1(stream) if form == "official-code" else stream


@torch.no_grad()
def by_loop(form: str, k: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of own and of other names among the k highest, head by prompt."""
    network, asked = opened().adapter.model, pairs()
    found, size = np.full((2, LAYERS * HEADS, len(asked)), np.nan), WIDTH // HEADS
    for row, ids in enumerate(asked.clean.input_ids):
        answer, distractor = int(asked.answer[row]), int(asked.distractor[row])
        read = read_by(form, network, ids)
        for layer, block in enumerate(network.transformer.h):
            for head in range(HEADS):
                columns = slice(2 * WIDTH + head * size, 2 * WIDTH + (head + 1) * size)
                hits: list[list[bool]] = [[], []]
                for place, token in enumerate(ids[:-1].tolist()):
                    if token not in (answer, distractor):
                        continue
                    value = read[place] @ block.attn.c_attn.weight[:, columns]
                    value = value + block.attn.c_attn.bias[columns] if form == "official-code" else value
                    written = sign * value @ block.attn.c_proj.weight[head * size : (head + 1) * size]
                    highest = network.lm_head(network.transformer.ln_f(written)).topk(k).indices.tolist()
                    other = distractor if token == answer else answer
                    hits[0].append(token in highest)
                    hits[1].append(other in highest)
                found[:, layer * HEADS + head, row] = [np.mean(side) for side in hits]
    return found[0], found[1]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("form", FORMS)
def test_copy_scores_are_those_of_a_loop(form: str, sign: int) -> None:
    model = opened()
    found = scorer("ioi-copy", form=form, sign=sign, k=8).measure(model, pairs(), every_head(model), 2)
    values, null = by_loop(form, 8, sign)
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.null, null)
    assert 0 < values.mean() < 1


def test_the_forms_differ() -> None:
    """On random weights each form counts other names: the name of the form belongs beside the number."""
    values = [by_loop(form, 8, 1)[0] for form in FORMS]
    assert all((one != other).any() for i, one in enumerate(values) for other in values[:i])
    assert [scorer("ioi-copy", form=form).variant for form in FORMS] == ["official-code", "paper", "official-code"]


@pytest.mark.parametrize("form", ["paper", "arena"])
def test_the_planted_copy_head_is_at_the_ceiling(form: str) -> None:
    """Of 12 names 5 are the highest whatever is written, so the other heads are at chance and not at 0."""
    model, task = interp.load("planted-copy"), interp.task("bundled", model="planted-copy")
    found = score(model, "ioi-copy", task, form=form)
    assert found.mean[2] == 1.0 and found.claimed.tolist() == [False, False, True, False]
    assert score(model, "ioi-copy", task, form=form, sign=-1).mean[2] == 0.0


def test_models_of_one_layer_have_no_second_norm() -> None:
    with pytest.raises(InterpError) as caught:
        score(interp.load("planted-copy"), "ioi-copy", interp.task("bundled", model="planted-copy"))
    assert caught.value.code == "E403" and "arena" in caught.value.fix
