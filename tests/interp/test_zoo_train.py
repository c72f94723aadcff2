"""A tiny training: what it reads, how it learns, what it leaves behind."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.kernels.errors import InterpError
from interp.zoo import checkpoint, train
from interp.zoo.language.model import DOCUMENTS
from interp.zoo.recipes.mini import Mini, Phase
from interp.zoo.registry import recipe_of, verify

TINY = Mini(
    steps=6,
    warmup=2,
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_width=8,
    hidden=24,
    phases=(Phase(0, {"ioi": 2}, 1, 2), Phase(2, dict.fromkeys(DOCUMENTS, 1), 1, 2)),
)


@pytest.fixture(autouse=True)
def small_evaluation(monkeypatch):
    monkeypatch.setattr(Mini, "n_asked", 4)
    monkeypatch.setattr(Mini, "n_ablated", 2)
    monkeypatch.setattr(Mini, "tokenizer", TINY.tokenizer)  # built once: it is the same for all sizes


def test_a_checkpoint_holds_the_state_of_every_optimiser(tmp_path):
    torch.manual_seed(0)
    model = TINY.build()
    optimisers = TINY.optimisers(model)
    owned = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    assert len(optimisers) == 2 and {id(p) for p in owned} == {id(p) for p in model.parameters()}
    assert len(owned) == len(set(map(id, owned)))
    TINY.backward(model, 0)
    for optimiser in optimisers:
        optimiser.step()
    checkpoint.save(tmp_path, 1, TINY, model, optimisers)
    other = TINY.build()
    others = TINY.optimisers(other)
    assert checkpoint.load(tmp_path, other, others) == 1
    for mine, theirs in zip(optimisers, others, strict=True):
        assert len(mine.state) == len(theirs.state) > 0
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q) and (p in mine.state) == (q in theirs.state)
            assert all(torch.equal(value, theirs.state[q][key]) for key, value in mine.state.get(p, {}).items())


def test_training_writes_a_whole_model_folder(tmp_path):
    folder = train.make(replace(TINY, steps=2), tmp_path, checkpoint_every=1)
    card = verify(folder)
    assert card["recipe"]["width"] == 16 and set(card["measured"]["accuracy"]) > {"ioi", "mcqa"} and json.dumps(card)
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_key_value_heads == 1


def test_loss_falls(tmp_path, capsys):
    recipe = replace(TINY, steps=60, learning_rate=0.02)
    torch.manual_seed(0)
    model = recipe.build()
    first = recipe.backward(model, 0)["loss"]
    train.train(recipe, model, tmp_path, checkpoint_every=60, resume=False)
    last = np.mean([recipe.backward(model, step)["loss"] for step in range(5)])
    assert first > 6.5 and last < 6.2 and "step 60" in capsys.readouterr().err


def test_learning_rate_warms_up_and_decays():
    recipe = Mini(steps=1000, warmup=100)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == rates[99] == 1.0 and rates[550] == pytest.approx(0.5) and rates[-1] < 1e-5
    assert np.all(np.diff(rates[99:]) <= 0)


def test_steps_read_what_seed_and_step_say():
    first, again, other = (TINY.rows(random.Random(f"x{step}"), step) for step in (0, 0, 1))
    assert all(
        np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights) for a, b in zip(first, again, strict=True)
    )
    assert not all(
        a.ids.shape == b.ids.shape and np.array_equal(a.ids, b.ids) for a, b in zip(first, other, strict=True)
    )


def test_an_unknown_recipe_gets_a_suggestion():
    with pytest.raises(InterpError, match="(?s)E201.*did you mean 'mini'"):
        recipe_of("minni")
