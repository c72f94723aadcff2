import json
import os
import shutil
import subprocess
import sys

import pytest

from interp.kernels.errors import InterpError
from interp.zoo import registry
from interp.zoo.recipe import KINDS

MINI = registry.ROOT / "mini"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(MINI, tmp_path / "mini")


def test_mini_is_listed_and_found():
    assert "mini" in registry.list_models()
    assert registry.find("mini") == MINI and (MINI / "config.json").is_file()
    assert registry.find("gpt2") is None and registry.find("../zoo/mini") is None and registry.find("") is None


def test_the_files_of_mini_are_whole():
    card = registry.verify(MINI)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(card["sha256"])


def test_all_bundled_models_together_stay_small():
    minis = [name for name in registry.list_models() if name == "mini" or name.startswith("mini-")]
    sizes = {folder.name: sum(path.stat().st_size for path in folder.iterdir()) for folder in registry.ROOT.iterdir()}
    assert sum(sizes.values()) <= 60_000_000
    assert sum(sizes[name] for name in minis if name != "mini-vlm") <= 16_000_000


def test_every_model_has_a_recipe_and_every_recipe_a_model():
    assert list(registry.list_models()) == list(registry.list_recipes())


@pytest.mark.parametrize("name", registry.list_models())
def test_every_card_is_complete_and_every_file_whole(name):
    card = registry.verify(registry.ROOT / name)
    recipe = registry.recipe_of(name)
    assert card["name"] == name == recipe.name and card["kind"] == recipe.kind in KINDS
    assert card["recipe"] == json.loads(json.dumps(recipe.numbers)) and card["data"] == recipe.data
    assert {"architecture", "parameters", "command", "measured", "measured_by", "versions"} <= set(card)
    assert {path.name for path in (registry.ROOT / name).iterdir()} == {*card["sha256"], "card.json"}
    truth = recipe.truth()
    assert card.get("truth") == (None if truth is None else json.loads(json.dumps(truth.to_dict())))
    assert (truth is None) == (card["kind"] == "trained") or name.startswith("bigram")


def test_a_damaged_file_is_named(copy):
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InterpError, match="E701.*model.safetensors has SHA-256"):
        registry.verify(copy)


def test_a_missing_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InterpError, match="E701.*tokenizer.json is missing"):
        registry.verify(copy)


def test_listing_models_loads_neither_torch_nor_transformers():
    code = "import sys, interp.zoo.registry as r; r.list_models(); sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_cards_are_plain_json(copy):
    assert json.loads((copy / "card.json").read_text("utf-8"))["name"] == "mini"
