"""A training that stops and goes on ends where an undisturbed one ends; one that would become another one is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from interp.kernels.errors import InterpError
from interp.zoo import checkpoint
from interp.zoo.language.model import LanguageModel
from interp.zoo.recipes.bigram_backcopy import BigramBackcopy, BigramBackcopyRelu
from interp.zoo.recipes.mini import Mini, Phase
from interp.zoo.recipes.mini_vlm import MiniVlm
from interp.zoo.recipes.ordered_balance import OrderedBalance
from interp.zoo.recipes.ordered_induction import OrderedInduction
from interp.zoo.registry import find
from interp.zoo.train import claim, make, train

BIGRAM = BigramBackcopy(steps=6, warmup=2, batch=4)
MINI = Mini(
    steps=6, warmup=2, width=16, layers=2, heads=2, kv_heads=1, head_width=8, hidden=24,
    phases=(Phase(0, {"ioi": 2}, 1, 2), Phase(2, {"ioi": 1, "arithmetic": 1, "mcqa": 1}, 1, 2)),
)  # fmt: skip
VLM = MiniVlm(
    steps=6, warmup=2, pictures=2, questions=3, vision_width=16, vision_layers=1, vision_heads=2, width=16, layers=1,
    heads=2, kv_heads=1, hidden=24,
)  # fmt: skip
ORDERED = OrderedInduction(steps=6, warmup=2, width=16, hidden=8, batch=8)
TINY = {recipe.name: recipe for recipe in (BIGRAM, MINI, VLM, ORDERED)}

each = pytest.mark.parametrize("recipe", TINY.values(), ids=TINY)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No figures at checkpoints, and the tokenizer of language models as it is bundled."""
    for kind in map(type, TINY.values()):
        monkeypatch.setattr(kind, "progress", lambda recipe, model: {})
    monkeypatch.setattr(LanguageModel, "tokenizer", AutoTokenizer.from_pretrained(find("mini")))


def weights(recipe, folder, *, seed=0, every=100, resume=False):
    """Weights at the end of a training."""
    folder.mkdir(exist_ok=True)
    claim(recipe, folder, resume)
    torch.manual_seed(seed)
    model = recipe.build()
    train(recipe, model, folder, checkpoint_every=every, resume=resume)
    return model.state_dict()


def interrupted(recipe, folder, monkeypatch):
    """A training that ends at step 5, with a checkpoint after step 4."""
    real = type(recipe).backward

    def cut(self, model, step):
        if step == 5:
            raise KeyboardInterrupt
        return real(self, model, step)

    with monkeypatch.context() as patch:
        patch.setattr(type(recipe), "backward", cut)
        with pytest.raises(KeyboardInterrupt):
            weights(recipe, folder, every=4)


@each
def test_a_resumed_training_ends_in_the_same_weights_bit_for_bit(recipe, tmp_path, monkeypatch):
    whole = weights(recipe, tmp_path / "whole")
    interrupted(recipe, tmp_path / "cut", monkeypatch)
    resumed = weights(recipe, tmp_path / "cut", seed=99, resume=True)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    torch.manual_seed(0)
    untrained = recipe.build().state_dict()
    assert sum(not torch.equal(whole[name], untrained[name]) for name in whole) > 0.5 * len(whole)


@each
def test_a_checkpoint_says_which_recipe_made_it(recipe, tmp_path, monkeypatch):
    interrupted(recipe, tmp_path / "cut", monkeypatch)
    with safe_open(tmp_path / "cut" / checkpoint.FILE, "pt") as file:
        kept = file.metadata()
    assert kept["step"] == "4"
    assert json.loads(kept["recipe"]) == json.loads(json.dumps({"recipe": recipe.name, **recipe.numbers}))
    checkpoint.check(tmp_path / "cut", replace(recipe))


@pytest.fixture
def begun(tmp_path):
    """A folder with the training of `BIGRAM`."""
    weights(BIGRAM, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(BIGRAM, steps=9), "steps: there 6, here 9"),
        (replace(BIGRAM, seed=1, batch=5), "batch: there 4, here 5; seed: there 0, here 1"),
        (BigramBackcopyRelu(**{**BIGRAM.numbers, "normaliser": "softmax"}),
         "recipe: there 'bigram-backcopy-softmax', here 'bigram-backcopy-relu'"),
    ],
    ids=["steps", "two", "name"],
)  # fmt: skip
def test_a_training_of_another_recipe_is_not_gone_on_with(begun, other, said, monkeypatch):
    monkeypatch.setattr(type(other), "build", lambda self: pytest.fail("refused only after the model was built"))
    before = (begun / checkpoint.FILE).read_bytes()
    with pytest.raises(InterpError, match="E204") as caught:
        make(other, begun, resume=True)
    assert caught.value.what == f"the checkpoint was made by another recipe: {said}"
    assert (begun / checkpoint.FILE).read_bytes() == before


def test_two_recipes_that_share_their_numbers_are_told_apart(tmp_path):
    same = {"steps": 2, "width": 16, "hidden": 8, "batch": 8}
    weights(OrderedInduction(**same), tmp_path)
    with pytest.raises(InterpError, match="recipe: there 'ordered-induction', here 'ordered-balance'"):
        make(OrderedBalance(**same), tmp_path, resume=True)


def test_numbers_inside_a_number_are_named(tmp_path, monkeypatch):
    interrupted(MINI, tmp_path, monkeypatch)
    phases = (MINI.phases[0], replace(MINI.phases[1], documents={"ioi": 1, "arithmetic": 2}))
    said = "phases/1/documents/arithmetic: there 1, here 2; phases/1/documents/mcqa: there 1, here None"
    with pytest.raises(InterpError, match=said):
        make(replace(MINI, phases=phases), tmp_path, resume=True)


def test_a_checkpoint_that_names_no_recipe_is_refused(begun):
    path = begun / checkpoint.FILE
    save_file(load_file(path), path, metadata={"step": "6"})
    with pytest.raises(InterpError, match="E204.*does not say which recipe"):
        make(BIGRAM, begun, resume=True)


def test_a_training_is_neither_overwritten_nor_resumed_from_nothing(begun, tmp_path_factory):
    with pytest.raises(InterpError, match="already here"):
        make(BIGRAM, begun)
    with pytest.raises(InterpError, match="no checkpoint"):
        make(BIGRAM, tmp_path_factory.mktemp("empty"), resume=True)
