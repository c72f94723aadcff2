import json
import os
import shutil
import subprocess
import sys

import pytest

from interp.kernels.errors import InterpError
from interp.zoo import registry

MINI = registry.ROOT / "mini"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(MINI, tmp_path / "mini")


def test_mini_is_listed_and_found():
    assert "mini" in registry.list_models()
    assert registry.find("mini") == MINI and (MINI / "config.json").is_file()
    assert registry.find("gpt2") is None and registry.find("../zoo/mini") is None and registry.find("") is None
    assert "'mini'" in registry.near("minni")


def test_the_card_of_mini_is_complete_and_its_files_are_whole():
    card = registry.verify(MINI)
    assert {
        "name",
        "architecture",
        "parameters",
        "data",
        "recipe",
        "command",
        "measured",
        "measured_by",
        "versions",
        "sha256",
    } <= set(card)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(card["sha256"])
    assert {path.name for path in MINI.iterdir()} == {*card["sha256"], "card.json"}
    assert sum(path.stat().st_size for path in MINI.iterdir()) <= 8_000_000


def test_the_card_states_the_accuracy_the_model_must_have():
    measured = registry.list_models()["mini"]["measured"]
    assert min(measured["accuracy"].values()) >= 0.95 and set(measured["accuracy"]) == {"ioi", "induction"}
    assert max(measured["logit_diff_lost"]["ioi"].values()) >= 0.25


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
