"""The head of bigram-backcopy works on triggers and rests elsewhere, in every seed and every normalisation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import interp
from interp.zoo.backcopy import look
from interp.zoo.recipes.bigram_backcopy import HELD_OUT, LETTERS, RECIPES, make_chain
from interp.zoo.registry import ROOT, verify
from interp.zoo.train import train

TOLERANCE = 1e-3
"""Largest difference of a weight after a whole training: machines round differently."""

PAIR = ("answer", "distractor")

each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.normaliser)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(recipe, folder):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = recipe.build()
    train(recipe, model, folder, checkpoint_every=recipe.steps, resume=False)
    return model.eval()


def assert_active_on_triggers_and_dormant_off_them(found):
    assert found["copy_accuracy"] >= 0.98 and found["kl_off"] <= 0.05
    assert found["zero_loss_on"] >= 2 and abs(found["zero_loss_off"]) <= 0.02


def assert_attention_and_norms_show_it(found, normaliser):
    assert found["output_off_to_on"] <= 0.55
    assert found["share_before_on"] >= 0.8 and found["attention_bos_on"] <= 0.02
    if normaliser == "softmax":
        assert found["mass_on"] == pytest.approx(1) and found["mass_off"] == pytest.approx(1)
        assert found["attention_bos_off"] >= 20 * found["attention_bos_on"] and found["value_bos"] <= 0.6
    else:
        assert found["mass_off"] <= 0.1 * found["mass_on"] and found["attention_bos_off"] <= 0.02
        assert found["sink_share"] == 0


@each
def test_the_shipped_model_does_what_its_card_says(recipe):
    folder = ROOT / recipe.name
    card = verify(folder)
    found = recipe.measure(folder)
    assert found == pytest.approx(card["measured"], abs=1e-3, rel=1e-3)
    assert_active_on_triggers_and_dormant_off_them(found)
    assert_attention_and_norms_show_it(found, recipe.normaliser)


@each
def test_the_figures_are_those_of_the_hooked_model(recipe):
    model = interp.load(recipe.name)
    ids = recipe.sequences(HELD_OUT, 8, recipe.length)
    wanted = torch.from_numpy(recipe.chain.expected(ids.numpy())).float()
    names = ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_v", "blocks.0.attn.hook_z"]
    logits, cache = model.run_with_cache(ids, names=names)
    with torch.no_grad():
        seen = look(model.adapter.model, ids, wanted)
        without = look(model.adapter.model, ids, wanted, torch.zeros_like(seen.z))
    torch.testing.assert_close(seen.logits, logits, atol=1e-4, rtol=1e-4)
    for name, mine in zip(names, (seen.pattern[:, None], seen.values[:, :, None], seen.z[:, :, None]), strict=True):
        torch.testing.assert_close(mine, cache[name].reshape(mine.shape), atol=1e-5, rtol=1e-4)
    with model.edit(interp.Ablate(heads=["L0H0"], operator="zero")):
        torch.testing.assert_close(without.logits, model(ids), atol=1e-4, rtol=1e-4)


@each
def test_its_prompts_end_in_a_trigger(recipe):
    lines = (ROOT / recipe.name / "examples.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    triggers = {LETTERS[token - 1] for token in np.flatnonzero(recipe.chain.is_trigger)}
    assert len(rows) == 64 and len(triggers) == 3
    for row in rows:
        clean, corrupt = row["clean"].split(), row["corrupt"].split()
        assert clean[-1] in triggers and clean[-2] not in triggers and corrupt[-2] not in triggers
        assert row["answer"] == f" {clean[-2]}" and row["distractor"] == f" {corrupt[-2]}" != row["answer"]
        assert [place for place in range(len(clean)) if clean[place] != corrupt[place]] == [len(clean) - 2]
    model = interp.load(recipe.name)
    letters, others = (torch.tensor([LETTERS.index(row[name].strip()) + 1 for row in rows]) for name in PAIR)
    for side, right, wrong in (("clean", letters, others), ("corrupt", others, letters)):
        logits = model([row[side] for row in rows])[:, -1]
        assert (logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])).mean() > 4


def test_sequences_follow_the_chain():
    chain = make_chain(seed=3, triggers=3)
    ids = chain.draw(np.random.default_rng(0), 400, 30)
    triggers = set(np.flatnonzero(chain.is_trigger).tolist())
    counts = np.zeros((21, 21))
    for row in ids.tolist():
        assert row[0] == 0 and row[1] not in triggers | {0}
        for place in range(2, 30):
            if row[place - 1] in triggers:
                assert row[place] == row[place - 2]
            else:
                counts[row[place - 1], row[place]] += 1
    for token in np.flatnonzero(counts.sum(1) > 300):
        assert np.abs(counts[token] / counts[token].sum() - chain.follows[token]).max() < 0.1
    rows = chain.follows[1:, 1:]
    rest = np.linalg.solve(np.vstack([(rows.T - np.eye(20))[:-1], np.ones(20)]), np.eye(20)[-1])  # it stays as it is
    assert triggers == set((np.argsort(rest)[-3:] + 1).tolist())


def test_expected_tokens_by_hand():
    chain = make_chain(seed=0, triggers=3)
    trigger, plain = np.flatnonzero(chain.is_trigger)[0], np.flatnonzero(~chain.is_trigger)[1:3]
    found = chain.expected(np.array([[0, plain[0], trigger, plain[0], plain[1]]]))[0]
    assert found.sum(-1) == pytest.approx(np.ones(5)) and np.array_equal(found[0], chain.first)
    assert np.array_equal(found[2], np.eye(21)[plain[0]])
    assert all(np.array_equal(found[place], chain.follows[token]) for place, token in ((1, plain[0]), (4, plain[1])))


def test_two_short_trainings_agree_bit_for_bit(tmp_path):
    recipe = replace(RECIPES[0], steps=8, warmup=2, batch=8)
    first, second = (trained(recipe, tmp_path / name).state_dict() for name in ("first", "second"))
    untrained = recipe.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], untrained["lm_head.weight"])
    other = trained(replace(recipe, seed=1), tmp_path / "other").state_dict()
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.slow
@each
def test_the_recipe_makes_the_shipped_weights(recipe, tmp_path):
    found, shipped = trained(recipe, tmp_path).state_dict(), load_file(ROOT / recipe.name / "model.safetensors")
    assert found.keys() == shipped.keys()
    assert all(torch.allclose(found[name], shipped[name], atol=TOLERANCE, rtol=0) for name in shipped)
