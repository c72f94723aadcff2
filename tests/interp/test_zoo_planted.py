import json
from functools import cache
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp
from interp.zoo import registry
from interp.zoo.planted import writing
from interp.zoo.recipes.planted_chain import GAINS, PlantedChain, carried, slopes
from interp.zoo.recipes.planted_induction import DISTINCT, PlantedInduction

PLANTED = {name: recipe for name, recipe in registry.list_recipes().items() if recipe.kind == "planted"}
TWINS = [name for name in PLANTED if name.startswith("planted-induction")]
HEADLESS = "blocks.*.attn.hook_pattern"


@cache
def opened(name):
    return interp.load(registry.ROOT / name)


@cache
def rows(name):
    lines = (registry.ROOT / name / "examples.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def patterns(name):
    """Head -> its pattern on the clean prompts."""
    _, cache_ = opened(name).run_with_cache([row["clean"] for row in rows(name)], names=HEADLESS)
    found = [pattern.unbind(1) for pattern in cache_.values()]
    return {f"L{layer}H{head}": one for layer, heads in enumerate(found) for head, one in enumerate(heads)}


def logit_diff(name, **edit):
    model = opened(name)
    with model.edit(*([interp.Ablate(**edit)] if edit else [])):
        logits = model([row["clean"] for row in rows(name)])[:, -1]
    ids = ([model.tokenizer(row[key])["input_ids"][-1] for row in rows(name)] for key in ("answer", "distractor"))
    answer, distractor = (logits.gather(1, torch.tensor(column)[:, None]) for column in ids)
    return float((answer - distractor).mean())


def test_all_programs_are_there():
    assert {"copy", "duplicate", "sink", "or", "and", "backup", "chain", "induction"} <= {n[8:] for n in PLANTED}
    assert {recipe.build().config.model_type for recipe in map(PLANTED.get, TWINS)} == {
        "gpt2", "llama", "gpt_neox", "olmo2",
    }  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_the_recipe_gives_the_bundled_weights_again_bit_for_bit(name, tmp_path):
    recipe = PLANTED[name]
    recipe.save(recipe.build(), tmp_path)
    for path in (tmp_path / "model.safetensors", tmp_path / "examples.jsonl"):
        assert path.read_bytes() == (registry.ROOT / name / path.name).read_bytes()


@pytest.mark.parametrize("name", PLANTED)
def test_every_question_is_answered_rightly_by_the_model_without_our_hooks(name):
    import interp.zoo.plain  # noqa: F401

    tokenizer = AutoTokenizer.from_pretrained(registry.ROOT / name)
    model = AutoModelForCausalLM.from_pretrained(registry.ROOT / name)
    assert len(rows(name)) >= 64 and all(row["answer"] != row["distractor"] for row in rows(name))
    for prompt, right in (("clean", "answer"), ("corrupt", "distractor")):
        ids = torch.tensor([tokenizer(row[prompt])["input_ids"] for row in rows(name)])
        wanted = [tokenizer(row[right], add_special_tokens=False)["input_ids"] for row in rows(name)]
        assert model(ids).logits[:, -1].argmax(-1)[:, None].tolist() == wanted


@pytest.mark.parametrize("name", PLANTED)
def test_true_heads_look_where_they_must_and_others_do_not(name):
    found, recipe = patterns(name), PLANTED[name]
    for index, row in enumerate(rows(name)):
        targets = recipe.targets([writing.BOS, *row["clean"].split()])
        for label, target in targets.items():
            assert min(float(found[label][index, q, k]) for q, k in target.items()) > 0.99
    for label in targets:
        seen = {
            other: sum(float(pattern[index, q, k]) for q, k in target.items()) / len(target)
            for other, pattern in found.items()
            for target in [targets[label]]
            if other not in targets
        }
        assert max(seen.values(), default=0) <= 0.1


@pytest.mark.parametrize("name", PLANTED)
def test_the_stated_edges_are_those_of_the_exact_sweep(name):
    """Recomputed for a few; the card says so for all, and its figures are checked by the verification."""
    recipe, card = PLANTED[name], registry.list_models()[name]
    fast = name in ("planted-copy", "planted-duplicate", "planted-or", "planted-and")
    figures = recipe.measure(registry.ROOT / name) if fast else card["measured"]
    for kind, found in figures["edges"].items():
        assert found["missing"] == found["unstated"] == [], kind
        assert found["stated"] == len(card["truth"]["edges"][kind])
        assert found["strongest other"] < recipe.floor < found["weakest stated"]
    assert set(card["truth"]["edges"]["program"]) >= set(card["truth"]["edges"]["resample"])


@pytest.mark.parametrize("name", TWINS)
def test_the_twins_do_the_same_with_the_same_prompts(name):
    assert [row["clean"] for row in rows(name)] != [] and set(rows(name)[0]["clean"].split()) <= set(
        PLANTED[name].words
    )
    assert PLANTED[name].words == PLANTED["planted-induction"].words
    truth = PLANTED[name].truth()
    length = len(rows(name)[0]["clean"].split()) + 1
    previous = patterns(name)["L0H0"].diagonal(-1, 1, 2).sum(-1).mean() / length  # the 'mul' score: row 0 has none
    assert truth.scores["previous_token"]["L0H0"] == pytest.approx(float(previous), abs=1e-3) == (length - 1) / length
    for head in truth.heads:
        assert logit_diff(name, heads=[head]) < 0.05 * logit_diff(name)


def test_the_stripe_of_the_induction_head_is_at_its_ceiling():
    """[BOS, r1..rS, r1..rS]: S + 2 cells lie on the stripe, and one of them is no induction but no rest on BOS either."""
    model, words = opened("planted-induction"), PlantedInduction().words[:DISTINCT]
    _, cache_ = model.run_with_cache(" ".join([*words, *words]), names="blocks.1.attn.hook_pattern")
    stripe = cache_["blocks.1.attn.hook_pattern"][0, 2].diagonal(1 - DISTINCT)
    assert len(stripe) == DISTINCT + 2
    assert float(stripe.mean()) == pytest.approx((DISTINCT + 1) / (DISTINCT + 2), abs=1e-3)


def test_the_ordinary_ablation_finds_the_two_heads():
    result = interp.ablate(
        opened("planted-induction"), interp.task("induction", n=12), operator="mean", shown_prompts=0
    )
    claimed = {label for label, yes in zip(result.heads, result.evidence.claimed, strict=True) if yes}
    assert claimed == {"L0H0", "L1H2"}


def test_noise_and_size_are_the_recipes():
    small, silent = PlantedInduction(n_words=10, noise=0.0), PlantedInduction(seed=3)
    weight = small.build().transformer.h[0].attn.c_attn.weight
    assert (
        weight.shape[0] < 80 and float(weight.detach()[:, weight.shape[0] // 4 : weight.shape[0] // 2].abs().sum()) == 0
    )
    assert not torch.equal(silent.build().transformer.h[0].mlp.c_fc.weight, PlantedInduction().build().transformer.h[0].mlp.c_fc.weight)  # fmt: skip


def test_or_needs_neither_head_alone_but_one_of_them():
    whole = logit_diff("planted-or")
    for head in ("L0H1", "L0H3"):
        assert logit_diff("planted-or", heads=[head]) == pytest.approx(whole, rel=0.01)
    assert logit_diff("planted-or", heads=["L0H1", "L0H3"]) < -0.9 * whole


def test_and_needs_both_heads():
    whole = logit_diff("planted-and")
    for heads in (["L0H1"], ["L0H3"], ["L0H1", "L0H3"]):
        assert logit_diff("planted-and", heads=heads) < -0.9 * whole


@pytest.mark.parametrize("gate", ["planted-or", "planted-and"])
def test_gates_are_right_for_every_combination(gate):
    model, recipe = opened(gate), PLANTED[gate]
    for red, blue in product((False, True), repeat=2):
        said = model(f"w1 {'red' if red else 'w2'} w3 w4 {'blue' if blue else 'w5'} w6")[0, -1].argmax()
        wanted = (red or blue) if gate == "planted-or" else (red and blue)
        assert model.tokenizer.decode([int(said)]) == ("yes" if wanted else "no")
        assert recipe.opens(red, blue) == wanted


def test_the_backup_wakes_where_the_first_head_is_gone():
    name, whole = "planted-backup", logit_diff("planted-backup")
    for head in ("L0H1", "L1H2"):
        assert logit_diff(name, heads=[head]) == pytest.approx(whole, rel=0.01)
    assert abs(logit_diff(name, heads=["L0H1", "L1H2"])) < 0.01 * whole
    model, prompts = opened(name), [row["clean"] for row in rows(name)]
    place = [next(i for i, word in enumerate(p.split(), 1) if word[0].isupper()) for p in prompts]
    with model.edit(interp.Ablate(heads=["L0H1"])):
        _, awake = model.run_with_cache(prompts, names="blocks.1.attn.hook_pattern")
    for index, key in enumerate(place):
        assert float(awake["blocks.1.attn.hook_pattern"][index, 2, -1, key]) > 0.99
        assert float(patterns(name)["L1H2"][index, -1, key]) < 0.01 < 0.99 < float(patterns(name)["L1H2"][index, -1, 0])


def test_the_sink_rests_on_bos_whose_value_is_nothing():
    model = opened("planted-sink")
    _, cache_ = model.run_with_cache("w5 w9 again w2 again", names=["*pattern", "*hook_v", "*hook_z"])
    pattern = cache_["blocks.0.attn.hook_pattern"][0, 3]
    assert pattern.argmax(-1).tolist() == [0, 0, 0, 2, 0, 4]
    assert float(cache_["blocks.0.attn.hook_v"][0, 0, 3].abs().max()) == 0
    assert float(cache_["blocks.0.attn.hook_z"][0, [1, 2, 4], 3].abs().max()) < 1e-6
    assert [model.tokenizer.decode([int(i)]) for i in model("w5 w9 again")[0, 2:].argmax(-1)] == ["w10", "w9"]


def test_the_copy_head_copies_by_its_eigenvalues():
    """Sum of the eigenvalues of W_E W_OV W_U over the sum of their absolute values."""
    model = opened("planted-copy").adapter.model
    scores = {}
    for head in range(4):
        view = writing.head_weights(model, 0, head)
        circuit = model.model.embed_tokens.weight @ view["v"] @ view["o"] @ model.lm_head.weight.T
        values = torch.linalg.eigvals(circuit.detach().double())
        scores[f"L0H{head}"] = float(values.real.sum() / values.abs().sum())
    stated = PLANTED["planted-copy"].truth().scores["copying"]
    assert scores["L0H2"] == pytest.approx(stated["L0H2"], abs=1e-6)
    assert max(abs(score) for head, score in scores.items() if head not in stated) < 0.9


def paths(reader):
    """Every way from the embedding to a reader, as lists of edges."""
    for edge in GAINS:
        writer, target = edge.removesuffix(".v").split("->")
        if target == reader:
            yield from ([[edge]] if writer == "embed" else [[*path, edge] for path in paths(writer)])


def test_the_closed_form_of_the_chain_is_the_sum_over_paths():
    previous, current = 3.0, -2.0
    total, by_edge = 0.0, dict.fromkeys(GAINS, 0.0)
    for path in paths("logits"):
        value = previous if path[0] == "embed->L0H0.v" else current
        for edge in path:
            value *= GAINS[edge]
        total += value
        for edge in path:
            by_edge[edge] += 2 * value
    assert total == pytest.approx(previous + 1.5 * current)
    for edge, effect in by_edge.items():
        assert slopes()[edge] * carried(previous, current)[edge] == pytest.approx(effect), edge
    logits = opened("planted-chain")(f"1 {previous:.0f} {current:.0f}")[0, -1]
    high, low = (PlantedChain().places(word)[0] for word in ("high", "low"))
    assert float(logits[high] - logits[low]) == pytest.approx(2 * total, abs=1e-4)


def test_the_sweep_of_the_chain_is_its_closed_form():
    assert registry.list_models()["planted-chain"]["measured"]["largest difference to the closed form"] <= 1e-4
    assert PlantedChain().measure(registry.ROOT / "planted-chain")["largest difference to the closed form"] <= 1e-4


@pytest.mark.parametrize("name", PLANTED)
def test_each_word_is_one_token_and_others_are_unknown(name):
    tokenizer, recipe = opened(name).tokenizer, PLANTED[name]
    assert tokenizer(" ".join(recipe.words))["input_ids"] == list(range(len(recipe.words) + 1))
    assert tokenizer("unheard-of")["input_ids"] == [0, tokenizer.unk_token_id] == [0, len(recipe.words) + 1]
    assert len(tokenizer) == opened(name).adapter.config.vocab_size


def test_each_folder_is_small():
    sizes = [sum(path.stat().st_size for path in (registry.ROOT / name).iterdir()) for name in PLANTED]
    assert max(sizes) < 1_000_000
