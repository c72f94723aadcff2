import json
import random
import sys

import pytest
import torch

import interp
from interp.kernels.errors import InterpError
from interp.zoo import registry
from interp.zoo.compiled.base import LENGTH, VALUE
from interp.zoo.compiled.port import comes_before, wiring
from interp.zoo.recipes.compiled import more_frequent

COMPILED = {name: recipe for name, recipe in registry.list_recipes().items() if recipe.kind == "compiled"}
DONE = {
    "compiled-reverse": (list("abcc"), list("ccba")),
    "compiled-frac-prevs": (list("xwxx"), [1, 1 / 2, 2 / 3, 3 / 4]),
    "compiled-hist": (list("abca"), [2, 1, 1, 2]),
    "compiled-sort": ([4, 1, 5, 1, 3], [1, 1, 3, 4, 5]),
    "compiled-sort-freq": (list("bacac"), list("acacb")),
    "compiled-majority": (list("abca"), ["a"] * 4),
}


def said(name, symbols):
    """What the model says at each position of one prompt."""
    model, recipe = interp.load(registry.ROOT / name), COMPILED[name]
    logits = model([" ".join(map(str, prompt)) for prompt in symbols])[:, 1:]
    if recipe.says == (VALUE,):
        return [
            row[: len(p)].tolist() for row, p in zip(logits[..., recipe.words.index(VALUE) + 1], symbols, strict=True)
        ]
    words = [[recipe.words[token - 1] for token in row] for row in logits.argmax(-1).tolist()]
    return [row[: len(prompt)] for row, prompt in zip(words, symbols, strict=True)]


def test_there_are_six_programs():
    assert set(COMPILED) == set(DONE)


@pytest.mark.parametrize("name", COMPILED)
def test_the_plain_program_says_what_it_should(name):
    symbols, result = DONE[name]
    assert COMPILED[name].right(symbols) == result


@pytest.mark.parametrize("name", COMPILED)
def test_the_model_does_the_program_on_new_prompts_of_every_length(name):
    recipe, rng = COMPILED[name], random.Random(11)
    prompts = [rng.choices(recipe.symbols, k=length) for length in range(1, LENGTH + 1) for _ in range(8)]
    for prompt, found in zip(prompts, said(name, prompts), strict=True):
        right = recipe.right(prompt)
        assert found == (pytest.approx(right, abs=1e-4) if recipe.says == (VALUE,) else [str(x) for x in right]), prompt


@pytest.mark.parametrize("name", COMPILED)
def test_the_port_says_what_tracr_says(name):
    model, recipe, folder = interp.load(registry.ROOT / name), COMPILED[name], registry.ROOT / name
    expected = json.loads((folder / "tracr.json").read_text("utf-8"))
    outputs = torch.tensor(expected["outputs"])
    assert tuple(expected["says"]) == recipe.says and outputs.std() > 0.1
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text("utf-8").splitlines()]
    logits = model([row["clean"] for row in rows[: len(outputs)]])
    found = logits[..., [recipe.words.index(word) + 1 for word in recipe.says]]
    assert found.shape == outputs.shape == (16, LENGTH + 1, len(recipe.says))
    assert float((found - outputs).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", COMPILED)
def test_stated_edges_are_those_of_the_weights_and_of_the_exact_sweep(name):
    recipe, card = COMPILED[name], registry.list_models()[name]
    figures = (
        recipe.measure(registry.ROOT / name) if name in ("compiled-hist", "compiled-frac-prevs") else card["measured"]
    )
    assert figures["accuracy"] == {"clean": 1.0, "corrupt": 1.0}
    assert figures["largest difference to tracr"] <= 1e-5
    assert figures["program"]["missing"] == figures["program"]["unstated"] == []
    model = interp.load(registry.ROOT / name).adapter.model
    assert wiring(model) == card["truth"]["edges"]["program"] == recipe.edges["program"]
    for kind, found in figures["edges"].items():
        assert found["missing"] == found["unstated"] == [], kind
        assert set(card["truth"]["edges"][kind]) <= set(card["truth"]["edges"]["program"])
        assert found["strongest other"] == 0 and found["weakest stated"] > 0.005 > 100 * recipe.floor


def test_wiring_needs_a_shared_dimension_and_a_way_to_the_output():
    model = interp.load(registry.ROOT / "compiled-frac-prevs").adapter.model
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert wiring(model) == []


def test_order_of_computation():
    assert comes_before("embed", "L0H0.q") and comes_before("L0H1", "M0") and comes_before("M0", "L1H0.k")
    assert not comes_before("L0H0", "L0H1.q") and not comes_before("M0", "L0H0.v") and comes_before("M11", "logits")
    assert comes_before("L2H0", "L10H0.q") and not comes_before("L10H0", "M9")


@pytest.mark.parametrize("name", COMPILED)
def test_attention_sees_both_ways_and_can_be_looked_at(name):
    model, recipe = interp.load(registry.ROOT / name), COMPILED[name]
    _, cache = model.run_with_cache(" ".join(map(str, recipe.symbols[:3])), names="blocks.*.attn.hook_pattern")
    assert len(cache) == model.n_layers
    for pattern in cache.values():
        assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
    assert any(float(pattern.triu(1).abs().max()) > 0 for pattern in cache.values())
    assert recipe.truth().heads.keys() <= {
        f"L{layer}H{head}" for layer, n in enumerate(model.heads[""]) for head in range(n)
    }


def test_compiling_without_tracr_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tracr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tracr", None)
    with pytest.raises(InterpError, match="tracr") as caught:
        COMPILED["compiled-majority"].build()
    assert caught.value.code == "E601" and "interp[compile]" in caught.value.fix


@pytest.mark.parametrize("name", COMPILED)
def test_the_recipe_gives_the_bundled_weights_again_where_tracr_is_installed(name, tmp_path):
    pytest.importorskip("tracr", reason="tracr is needed to compile, not to test")
    COMPILED[name].build().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (registry.ROOT / name / "model.safetensors").read_bytes()


def test_more_frequent():
    assert [more_frequent(2, 1), more_frequent(0, 1), more_frequent(3, 3)] == ["a", "b", "tie"]
