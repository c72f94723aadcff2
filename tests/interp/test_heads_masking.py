"""The masking test: what is left without the heads that score highest, beside matched sets of others."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.heads.masking import Masking, control_sets, masking_test
from interp.heads.run import score
from interp.hooks.interventions import Ablate
from interp.hooks.model import HookedModel
from interp.hooks.naive import plain_outputs
from interp.hooks.names import parse_heads
from interp.hooks.pairs import tokenise
from interp.hooks.reference import mean_reference
from interp.kernels.errors import InterpError

TRUE = {"L1H2", "L1H3"}
INPUTS = {"L0H0", "L0H1"}
"""Heads that the true ones read: the answer needs each of them too, and it needs no other."""

FACT = re.compile(r"The secret word of (\w+) is (\w+)")


@cache
def opened() -> HookedModel:
    return interp.load("mini-retrieval")


@cache
def found(name: str = "retrieval"):
    return score(opened(), name, interp.task("retrieval", n=22, length=96))


@cache
def masked_with(match: str, operator: str = "mean", seed: int = 1, template: int = 0) -> Masking:
    task = interp.task("retrieval", n=22, length=96, seed=seed, split="test", template=template)
    return masking_test(opened(), found(), task, operator=operator, match=match, seed=seed)


@pytest.mark.parametrize(
    ("seed", "template", "operator"),
    [(1, 0, "zero"), (1, 0, "mean"), (2, 0, "zero"), (2, 0, "mean"), (1, 1, "zero"), (1, 1, "mean"), (1, 2, "mean")],
)
def test_without_them_the_model_cannot_answer_and_without_others_it_can(seed: int, template: int, operator: str):
    """Ten different sets of heads that the true ones cannot read; other prompts, and sentences that it never read."""
    test = masked_with("later", operator, seed, template)
    assert set(test.heads) == TRUE and len(TRUE) <= len(found().heads) / 4
    assert test.clean.mean() > 0.95 and test.masked.mean() < 0.3
    assert len(set(test.controls)) == 10 and (test.controlled.mean(1) > 0.8).all() and test.separates
    assert not set().union(*test.controls) & (TRUE | INPUTS)
    assert "of 10 different sets" in test.headline() and test.headline() in repr(test) and not test.also_needed


def test_in_their_own_layer_there_is_one_set_to_compare_with():
    test = masked_with("layer")
    assert test.masked.mean() < 0.3 and (test.controlled.mean(1) > 0.8).all()
    assert set(test.controls) == {("L1H0", "L1H1")} and "10 draws of 1 different set" in test.headline()


@pytest.mark.parametrize("seed", [1, 2])
def test_of_all_layers_sets_fall_that_hold_what_the_true_heads_read_and_no_others(seed: int):
    test = masked_with("norm", seed=seed)
    assert len(set(test.controls)) == 10 and not set().union(*test.controls) & TRUE
    for heads, mean in zip(test.controls, test.controlled.mean(1), strict=True):
        assert mean < 0.4 if INPUTS & set(heads) else mean > 0.8
    assert set(test.also_needed) == INPUTS & set().union(*test.controls) != set()
    assert f"Needed too, alone: {', '.join(test.also_needed)}" in test.headline()


def test_controls_are_nearer_in_norm_than_chance_would_have_it():
    heads = parse_heads("all", opened().heads)
    norms = np.random.default_rng(0).permuted(np.repeat([1.0, 20.0], 8))
    one = heads[int(np.flatnonzero(norms == 1.0)[0])]
    drawn = control_sets([one], heads, norms, "norm", 200, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn)) == 15  # all that there are
    twice = control_sets([one], heads, norms, "layer", 200, np.random.default_rng(0))
    pool = {head.label: norm for head, norm in zip(heads, norms, strict=True) if head.layer == one.layer}
    near = np.mean([pool[found[0]] == 1.0 for found in twice])
    chance = np.mean([norm == 1.0 for label, norm in pool.items() if label != one.label])
    assert len(twice) == 200 and near > max(chance, 0.8)


def test_heads_that_are_not_needed_do_not_separate():
    task = interp.task("retrieval", n=4, length=64)
    test = masking_test(opened(), found("attention-distance"), task, k=1, match="layer")
    assert test.masked.mean() == 1.0 and not test.separates and "not distinguishable" in test.headline()


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 9, "match": "norm"}, {"k": 9, "match": "layer"}])
def test_sets_without_enough_others_are_refused(options):
    with pytest.raises(InterpError, match="E205"):
        masking_test(opened(), found(), interp.task("retrieval", n=4, length=64), **options)


@pytest.mark.parametrize("options", [{"operator": "none"}, {"match": "none"}])
def test_unknown_words_are_refused(options):
    with pytest.raises(InterpError, match="E201.*none"):
        masking_test(opened(), found(), interp.task("retrieval", n=4, length=64), **options)


def test_masked_heads_are_ablated_in_the_whole_prompt():
    """The masked metric is that of a model whose heads write nothing at all."""
    task = interp.task("retrieval", n=3, length=48)
    test = masking_test(opened(), found(), task, operator="zero", metric="logit_diff", n_controls=1)
    cut = cut_model()
    pairs = tokenise(cut.tokenizer, task.examples(cut.tokenizer).examples)
    logits = plain_outputs(cut, pairs.clean, pairs.read_at, 3)
    rows = torch.arange(3)
    expected = logits[rows, pairs.answer] - logits[rows, pairs.distractor]
    assert np.abs(test.masked - expected.double().numpy()).max() <= 1e-3


@cache
def cut_model() -> HookedModel:
    network = interp.load("mini-retrieval").adapter.model
    with torch.no_grad():
        network.model.layers[1].self_attn.o_proj.weight.unflatten(1, (4, -1))[:, [2, 3]] = 0
    return HookedModel.from_hf(network, opened().tokenizer)


def test_masked_heads_are_ablated_in_every_step_of_decoding():
    """Cached decoding under the mask writes what a model without the heads writes, from whole texts."""
    task = interp.task("retrieval", n=4, length=64, seed=3)
    prompts = tokenise(opened().tokenizer, task.examples(opened().tokenizer).examples).clean
    masked = opened().generate(
        prompts, edits=[Ablate(heads=sorted(TRUE), operator="zero")], max_new_tokens=12, logits=True
    )
    whole = cut_model().generate(prompts, max_new_tokens=12, logits=True, cached=False)
    assert masked.method == "cached" and [step.kind for step in masked.steps].count("decode") == 11
    assert torch.equal(masked.tokens, whole.tokens)
    torch.testing.assert_close(masked.logits, whole.logits, atol=1e-3, rtol=1e-3)
    assert not torch.equal(masked.tokens, opened().generate(prompts, max_new_tokens=12).tokens)


def test_facts_that_are_written_step_by_step_are_wrong_without_them_and_right_without_others():
    """After the answer the model goes on to state other facts of the text, which decoding alone reads."""
    examples = interp.task("retrieval", n=11, length=96, seed=1, split="test").examples(opened().tokenizer).examples
    pairs = tokenise(opened().tokenizer, examples)
    reference = mean_reference(opened(), [pairs.clean])
    stated = [set(FACT.findall(str(one.clean))) for one in examples]

    def recalled(heads: Sequence[str]) -> tuple[float, int]:
        """Share of the facts written after the answer that the text states, and how many are written."""
        edits = [Ablate(heads=heads, operator="mean", reference=reference)] if heads else []
        texts = opened().generate(pairs.clean, edits=edits, max_new_tokens=12).texts
        right = [fact in facts for text, facts in zip(texts, stated, strict=True) for fact in FACT.findall(text)]
        return float(np.mean(right)), len(right)

    controls = masked_with("later").controls
    assert recalled(()) == (1.0, 11)
    share, n = recalled(sorted(TRUE))
    assert share < 0.3 and n >= 6
    for share, n in map(recalled, controls):
        assert share > 0.8 and n >= 3


def test_the_notebook_shows_the_heads_their_controls_and_what_feeds_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(Path(__file__).parents[2] / "notebooks" / "08_retrieval_heads.py"))
    cells, table, gates, looked = (names[name] for name in ("cells", "table", "gates", "looked"))
    assert cells[cells["head"].isin(TRUE)]["score"].mean() >= 0.99
    assert all(set(table[way].nlargest(2).index) == TRUE for way in table)
    assert (gates > 0.5).sum().is_monotonic_decreasing and list(gates.index[gates[4.0] > 0.5]) == ["L1 kv 1"]
    for test in (names["masked"], names["reworded"]):
        assert test.separates and test.masked.mean() < 0.3 and (test.controlled.mean(1) > 0.8).all()
    assert set(names["anywhere"].also_needed) <= INPUTS
    assert looked["all heads"].min() > 0.5
    for name, column in looked.items():
        assert column.max() < 0.3 if INPUTS & set(name.split()) else name == "all heads" or column.min() > 0.5
    assert "fetch the fact" in capsys.readouterr().out
