"""A tiny training: it learns, stops, goes on, and ends where an undisturbed one ends."""

import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interp.kernels.errors import InterpError
from interp.tasks.induction import Induction
from interp.tasks.ioi import NAMES, Ioi, in_test
from interp.zoo import evaluate, train
from interp.zoo.recipes import filler, mini
from interp.zoo.registry import verify

TINY = mini.Mini(
    steps=6,
    warmup=2,
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    hidden=24,
    text_rows=8,
    repeat_tokens=128,
    row_lengths=(16, 24),
    long_every=3,
)
FEW = (Ioi(n=4, split="test"), Induction(n=4))


@pytest.fixture(autouse=True)
def small_evaluation(monkeypatch):
    monkeypatch.setattr(evaluate, "HELD_OUT", FEW)


def test_resumed_training_ends_in_the_same_weights_bit_for_bit(tmp_path, monkeypatch):
    whole = train.train(TINY, tmp_path / "whole", checkpoint_every=100)
    real_step = train.train_step

    def cut(recipe, step, *rest):
        if step == 5:
            raise KeyboardInterrupt
        return real_step(recipe, step, *rest)

    monkeypatch.setattr(train, "train_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, tmp_path / "cut", checkpoint_every=4)
    monkeypatch.setattr(train, "train_step", real_step)
    torch.manual_seed(99)
    resumed = train.train(TINY, tmp_path / "cut", checkpoint_every=4, resume=True)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    untrained = mini.build_model(TINY, mini.build_tokenizer(TINY)).state_dict()
    assert not torch.equal(first["model.norm.weight"], untrained["model.norm.weight"])


def test_training_writes_a_whole_model_folder(tmp_path):
    folder = train.train(replace(TINY, steps=2), tmp_path, checkpoint_every=1)
    card = verify(folder)
    assert (
        card["recipe"]["width"] == 16 and set(card["measured"]["accuracy"]) == {"ioi", "induction"} and json.dumps(card)
    )
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_key_value_heads == 1
    with pytest.raises(InterpError, match="already here"):
        train.train(TINY, tmp_path)
    with pytest.raises(InterpError, match="no checkpoint"):
        train.train(TINY, tmp_path / "other", resume=True)


def test_loss_falls():
    torch.manual_seed(0)
    recipe = replace(TINY, steps=60, learning_rate=0.02)
    tokenizer = mini.build_tokenizer(recipe)
    model = mini.build_model(recipe, tokenizer)
    optimiser = train.build_optimiser(recipe, model)
    losses = [train.train_step(recipe, step, model, tokenizer, optimiser)[0] for step in range(60)]
    assert losses[0] > 6.5 and np.mean(losses[-5:]) < 4.5


def test_learning_rate_warms_up_and_decays():
    recipe = mini.Mini(steps=1000, warmup=100, learning_rate=1.0)
    rates = [train.learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == rates[99] == 1.0 and rates[550] == pytest.approx(0.5) and rates[-1] < 1e-5
    assert np.all(np.diff(rates[99:]) <= 0)


def test_training_text_never_names_a_test_pair_in_a_question():
    rng = random.Random(0)
    for _ in range(300):
        text = mini.ioi_sentence(rng)
        answer = text.rstrip(".").split()[-1]
        subject = next(
            name
            for name in NAMES
            if text.replace(",", " ").replace(".", " ").split().count(name) == 2 and name != answer
        )
        assert not in_test(answer, subject)


def test_repeated_sequences_repeat_and_cover_the_vocabulary():
    recipe = replace(TINY, repeat_tokens=40_000, row_lengths=(32,))
    tokenizer = mini.build_tokenizer(recipe)
    ids, labels = mini.repeat_batch(recipe, tokenizer, random.Random(0))
    assert (ids == labels).all() and (ids[:, 0] == tokenizer.bos_token_id).all()
    for row in ids[:50, 1:]:
        period = next(length for length in range(3, 17) if (row[length:] == row[:-length]).all())
        assert len(set(row[:period])) == period
    assert set(ids[:, 1:].flatten()) == set(range(4, len(tokenizer)))


def test_documents_end_and_padding_has_no_loss():
    tokenizer = mini.build_tokenizer(TINY)
    ids, labels = mini.text_batch(["Mary", "Mary and John went"], tokenizer, 128)
    assert ids[0, -1] == tokenizer.pad_token_id and labels[0, -1] == mini.IGNORED
    assert ids[1, -1] == labels[1, -1] == tokenizer.eos_token_id


def test_every_word_of_the_plain_sentences_is_one_token():
    tokenizer, rng = mini.build_tokenizer(TINY), random.Random(0)
    text = " ".join(filler.sentence(rng) for _ in range(500))
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(text.split()) + sum(
        text.count(mark) for mark in ".,?"
    )
    assert "[" not in text


def test_an_unknown_recipe_gets_a_suggestion(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "minni", "--out", "x"])
    with pytest.raises(InterpError, match="(?s)E201.*did you mean 'mini'"):
        train.main()
