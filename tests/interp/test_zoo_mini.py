"""The bundled model as it is shipped: its tokenizer, its accuracy, its heads."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.tasks.induction import Induction
from interp.tasks.ioi import NAMES, OBJECTS, PLACES, Ioi
from interp.zoo.language.evaluate import accuracies, head_shares
from interp.zoo.registry import find, list_models


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(find("mini"))


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(find("mini")).eval()


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
def test_any_text_is_taken_and_given_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]


def test_task_words_are_single_tokens(tokenizer):
    for word in (*NAMES, *PLACES, *OBJECTS):
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_are_set_and_differ(tokenizer):
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4 and None not in special


def test_architecture_is_what_the_card_says(model):
    card, config = list_models()["mini"], model.config
    assert (type(model).__name__, config.num_attention_heads, config.num_key_value_heads) == (
        card["architecture"],
        card["heads"],
        card["kv_heads"],
    )
    assert config.num_key_value_heads < config.num_attention_heads and config.max_position_embeddings >= 256
    assert sum(parameter.numel() for parameter in model.parameters()) == card["parameters"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_held_out_accuracy(model, tokenizer):
    tasks = (Ioi(n=200, seed=77, split="test"), Induction(n=200, seed=77))
    found = accuracies(model, tokenizer, tasks)
    assert found["ioi"] >= 0.95 and found["induction"] >= 0.95


@pytest.mark.parametrize(("length", "repeat"), [(8, 3), (32, 10), (45, 44)])
def test_induction_works_at_other_distances(model, tokenizer, length, repeat):
    assert accuracies(model, tokenizer, (Induction(n=100, seed=5, length=length, repeat=repeat),))["induction"] >= 0.9


def test_some_head_carries_ioi(model, tokenizer):
    shares = head_shares(model, tokenizer, Ioi(n=64, seed=78, split="test"))
    assert max(shares.values()) >= 0.25
