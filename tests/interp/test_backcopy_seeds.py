"""What holds of a bigram-backcopy head whatever seed it was trained from, and what ReLU and sigmoid rows do instead."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from interp.zoo.recipes.bigram_backcopy import RECIPES
from interp.zoo.registry import ROOT
from interp.zoo.train import train

SOFTMAX, RELU, SIGMOID = RECIPES
SEEDS = (0, 2, 3, 4)
"""With the chain of seed 1 three bounds on what is seen do not hold (two of them not after 4000 steps either), see below."""

CAUSAL = {
    "copy_accuracy": (0.98, 1.0),
    "kl_off": (0.0, 0.05),
    "zero_loss_on": (2.0, float("inf")),
    "zero_loss_off": (-0.02, 0.02),
}
"""What the head does on triggers and off them, by taking it away: bounds that every seed keeps."""

SEEN = {
    "attention_before_on": (0.8, 1.0),
    "attention_bos_on": (0.0, 0.02),
    "value_bos": (0.0, 0.6),
    "output_off_to_on": (0.0, 0.55),
}
"""What shows it under softmax; attention to BOS off triggers is bound to that on triggers alone."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def figures(seed: int, steps: int = SOFTMAX.steps, kind=SOFTMAX) -> dict[str, float]:
    recipe = replace(kind, seed=seed, steps=steps)
    torch.manual_seed(seed)
    model = recipe.build()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, model, Path(folder), checkpoint_every=steps, resume=False)
    return recipe.figures(model.eval())


@cache
def shipped(recipe) -> dict[str, float]:
    return recipe.measure(ROOT / recipe.name)


def outside(found: dict[str, float], bounds: dict[str, tuple[float, float]]) -> set[str]:
    """Figures that are not within their bounds."""
    return {name for name, (low, high) in bounds.items() if not low <= found[name] <= high}


def test_a_third_of_the_training_makes_the_head_active_on_triggers_and_dormant_off_them() -> None:
    """By cause; what shows it comes later: the value of BOS is not yet short."""
    found = figures(4, SOFTMAX.steps // 3)
    assert not outside(found, CAUSAL)
    assert found["value_bos"] > SEEN["value_bos"][1] and found["attention_before_on"] > 0.7


@pytest.mark.parametrize("recipe", [RELU, SIGMOID], ids=lambda recipe: recipe.normaliser)
def test_rows_that_need_not_sum_to_one_switch_off_and_have_no_sink(recipe) -> None:
    """Off triggers they hold next to nothing, BOS has no more than others, and no value is drained."""
    found, softmax = shipped(recipe), shipped(SOFTMAX)
    assert not outside(found, CAUSAL)
    assert found["mass_off"] <= 0.1 * found["mass_on"] and found["attention_bos_off"] <= 0.02
    assert found["sink_share"] == 0 < softmax["sink_share"]
    assert softmax["mass_off"] == pytest.approx(1) and softmax["attention_bos_off"] > 5 * found["attention_bos_off"]


def test_without_a_sink_values_keep_their_length() -> None:
    assert shipped(SIGMOID)["value_bos"] > SEEN["value_bos"][1] >= shipped(SOFTMAX)["value_bos"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_keeps_every_bound(seed: int) -> None:
    found = figures(seed)
    assert not outside(found, CAUSAL | SEEN), found
    assert found["attention_bos_off"] >= 20 * found["attention_bos_on"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[1:3])
@pytest.mark.parametrize("recipe", [RELU, SIGMOID], ids=lambda recipe: recipe.normaliser)
def test_other_seeds_of_free_rows_switch_off(recipe, seed: int) -> None:
    found = figures(seed, recipe.steps, recipe)
    assert not outside(found, CAUSAL | {"output_off_to_on": SEEN["output_off_to_on"]}), found
    assert found["mass_off"] <= 0.1 * found["mass_on"] and found["attention_bos_off"] <= 0.02


@pytest.mark.slow
def test_attention_to_bos_is_no_criterion() -> None:
    """The share of sequences with a sink of 0.3 at BOS goes from none to nearly all over seeds of the same head."""
    shares = [figures(seed)["sink_share"] for seed in SEEDS]
    assert min(shares) < 0.05 and max(shares) > 0.8


@pytest.mark.slow
def test_with_one_chain_what_the_head_does_holds_and_what_shows_it_does_not() -> None:
    """Seed 1: all that is causal holds, while attention is spread over other tokens and no value is short."""
    found = figures(1)
    assert not outside(found, CAUSAL)
    assert outside(found, SEEN) == {"attention_before_on", "value_bos", "output_off_to_on"}
