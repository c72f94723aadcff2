"""The bundled language models as they are shipped: their tokenizer, their accuracy, their heads."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.tasks.induction import Induction
from interp.tasks.ioi import Ioi
from interp.tasks.registry import task
from interp.tasks.words import COLOURS, NAMES, OBJECTS, PLACES
from interp.zoo.language.evaluate import accuracies, head_shares, label
from interp.zoo.registry import find, list_models

BARS = {
    "ioi": 0.95, "induction": 0.95, "safety": 0.95, "docstring": 0.95, "colored_objects": 0.9, "mcqa": 0.9,
    "greater_than": 0.9, "arithmetic": 0.85,
}  # fmt: skip
LONG = ["retrieval needle 64", "retrieval needle 256", "retrieval needle 512", "retrieval key_value 256"]
LANGUAGE = ["mini", "mini-retrieval"]
MARGIN = 0.06  # two standard errors of a share near 0.9 on 100 questions


@cache
def opened(name: str) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(find(name)).eval(), AutoTokenizer.from_pretrained(find(name))


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Mary",
        "a  b\n\tc\r\n",
        "don't stop",
        "naïve café 漢字 \U0001f600 \u202e",
        "x\x00y",
        "ZZZ 1234567890 %$#@",
    ],
)
def test_any_text_is_taken_and_given_back(name, text):
    _, tokenizer = opened(name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]


def test_task_words_and_numbers_are_single_tokens():
    _, tokenizer = opened("mini")
    for word in (*NAMES, *PLACES, *OBJECTS, *COLOURS, *map(str, range(100))):
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer("1743", add_special_tokens=False)["input_ids"]) == 2


@pytest.mark.parametrize("name", LANGUAGE)
def test_special_tokens_are_set_and_differ(name):
    _, tokenizer = opened(name)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4 and None not in special


@pytest.mark.parametrize("name", LANGUAGE)
def test_architecture_is_what_the_card_says(name):
    model, _ = opened(name)
    card, config = list_models()[name], model.config
    assert (type(model).__name__, config.num_attention_heads, config.num_key_value_heads) == (
        card["architecture"],
        card["heads"],
        card["kv_heads"],
    )
    assert config.num_key_value_heads < config.num_attention_heads
    assert sum(parameter.numel() for parameter in model.parameters()) == card["parameters"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_cards_state_accuracies_above_the_bars():
    stated = list_models()["mini"]["measured"]["accuracy"]
    assert {name: share for name, share in stated.items() if share < BARS[name]} == {} and stated.keys() == BARS.keys()
    stated = list_models()["mini-retrieval"]["measured"]["accuracy"]
    assert min(stated[name] for name in LONG) >= 0.9 and stated["induction"] >= 0.95


@pytest.mark.parametrize("name", BARS)
def test_held_out_accuracy(name):
    split = {} if name == "induction" else {"split": "test"}
    found = accuracies(*opened("mini"), (task(name, n=100, seed=77, **split),))
    assert found[name] >= BARS[name] - MARGIN


@pytest.mark.parametrize(("form", "length"), [("needle", 128), ("needle", 512), ("key_value", 256)])
def test_held_out_retrieval_at_every_depth(form, length):
    asked = task("retrieval", n=66, seed=77, split="test", form=form, length=length)
    assert accuracies(*opened("mini-retrieval"), (asked,))[label(asked)] >= 0.9 - MARGIN


@pytest.mark.parametrize(("length", "repeat"), [(8, 3), (32, 10), (45, 44)])
def test_induction_works_at_other_distances(length, repeat):
    asked = Induction(n=100, seed=5, length=length, repeat=repeat)
    assert accuracies(*opened("mini"), (asked,))["induction"] >= 0.9


def test_some_head_carries_ioi():
    shares = head_shares(*opened("mini"), Ioi(n=64, seed=78, split="test"))
    assert max(shares.values()) >= 0.25


def test_some_heads_carry_retrieval_at_512_tokens():
    shares = head_shares(*opened("mini-retrieval"), task("retrieval", n=22, seed=78, split="test", length=512))
    assert max(shares.values()) >= 0.25
