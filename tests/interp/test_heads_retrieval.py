"""Heads that fetch a fact: retrieval scores, restriction, questions, and what is left without them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer
from interp.heads.retrieval.decoding import decode
from interp.heads.retrieval.grid import retrieval_grid
from interp.heads.masking import masking_test
from interp.heads.retrieval.query_focus import query_scores
from interp.heads.retrieval.retrieval import Trial
from interp.heads.run import score
from interp.hooks.model import HookedModel
from interp.hooks.naive import plain_outputs
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError

TRUE = {"L1H2", "L1H3"}
"""The heads of mini-retrieval without which it can't answer; no other pair of their layer matters (see the test below)."""


@cache
def opened(name: str = "mini-retrieval") -> HookedModel:
    return interp.load(name)


@cache
def found(name: str):
    return score(opened(), name, interp.task("retrieval", n=22, length=96))


def claimed(scores) -> set[str]:
    return {label for label, yes in zip(scores.heads, scores.claimed, strict=True) if yes}


def test_retrieval_heads_are_found_and_few_and_score_near_the_ceiling() -> None:
    scores = found("retrieval")
    assert claimed(scores) == TRUE and len(TRUE) <= len(scores.heads) / 4
    mean = dict(zip(scores.heads, scores.mean, strict=True))
    assert all(mean[label] >= 0.99 for label in TRUE)
    assert sum(value >= 0.1 for value in mean.values()) <= len(mean) / 4  # the paper's cut
    assert scores.n_kept == 22 and scores.variant == "paper"


@pytest.mark.parametrize("name", ["streaming-restriction", "query-retrieval"])
def test_other_ways_of_asking_put_the_same_heads_first(name: str) -> None:
    scores = found(name)
    assert {row.label for row in scores.top(2)} == TRUE and claimed(scores) >= TRUE


@pytest.mark.parametrize("operator", ["zero", "mean"])
def test_without_them_the_model_cannot_answer_and_without_others_it_can(operator: str) -> None:
    task = interp.task("retrieval", n=11, length=96, seed=1, split="test")
    test = masking_test(opened(), found("retrieval"), task, operator=operator)
    assert set(test.heads) == TRUE and test.clean.mean() == 1.0 and test.masked.mean() < 0.3
    assert len(test.controls) == 10 and (test.controlled.mean(1) > 0.8).all() and test.separates
    assert not set().union(*test.controls) & TRUE
    assert "of 1 different set" in test.headline() and test.headline() in repr(test)


def test_heads_that_are_not_needed_do_not_separate() -> None:
    task = interp.task("retrieval", n=4, length=64)
    test = masking_test(opened(), found("induction"), task, k=1)
    if test.masked.mean() == 1.0:
        assert not test.separates and "not distinguishable" in test.headline()
    with pytest.raises(InterpError, match="E205"):
        masking_test(opened(), found("retrieval"), task, k=0)
    with pytest.raises(InterpError, match="E201"):
        masking_test(opened(), found("retrieval"), task, operator="none")


def test_the_formulas_of_a_trial() -> None:
    """A needle of tokens 7, 8 at 3, 4 in ten keys; the model writes 7, 8, 8 and the head looks right, right, right."""
    trial = Trial({3: 7, 4: 8}, ((9, 7), (10, 8), (11, 8)))
    assert trial.recall == 1.0
    assert trial.score([3, 4, 4], "set") == 1.0 and trial.score([3, 4, 4], "count") == 1.5
    assert trial.score([3, 3, 0], "set") == 0.5 and trial.score([4, 3, 5], "set") == 0.0
    assert trial.chance("count", 0) == pytest.approx((1 / 10 + 1 / 11 + 1 / 12) / 2)
    assert trial.chance("set", 0) == pytest.approx((1 / 10 + 1 - (10 / 11) * (11 / 12)) / 2)


def test_decoding_is_greedy_and_what_is_looked_at_is_what_each_step_looked_at() -> None:
    model = opened()
    pairs = tokenise(model.tokenizer, interp.task("retrieval", n=3, length=48).examples(model.tokenizer).examples)
    decoded = decode(model, pairs.clean, pairs.clean.end, 3, [1], [])
    for row in range(3):
        ids = pairs.clean.input_ids[row][pairs.clean.mask[row]].tolist()
        for step in range(3):
            logits, cache_ = model.run_with_cache([ids], "*pattern")
            looked = cache_["pattern", 1][0, :, -1].argmax(-1)
            assert torch.equal(decoded.looked_at[1][row, :, step], looked)
            ids.append(int(logits[0, -1].argmax()))
            assert int(decoded.emitted[row, step]) == ids[-1]
    stopped = decode(model, pairs.clean, pairs.clean.end, 3, [1], [int(decoded.emitted[0, 0])])
    assert stopped.emitted[0].tolist()[1:] in ([], [-1], [-1, -1])


def test_trials_without_an_answer_are_dropped_with_the_reason_or_refused_when_none_is_left() -> None:
    weak = HookedModel.from_hf(_unable(), opened().tokenizer)
    with pytest.raises(InterpError, match="0 of 4 prompts kept.*needle"):
        score(weak, "retrieval", interp.task("retrieval", n=4, length=48))
    grid = retrieval_grid(weak, [48], per_depth=1)
    assert grid.scores == (None,) and "0 of 11" in grid.empty[48] and grid.to_frame().empty
    some = score(interp.load("mini"), "retrieval", interp.task("retrieval", n=22, length=64))
    assert some.n_total == 22 and some.n_kept + sum(some.drop_reasons.values()) == 22 and some.n_kept < 22


def _unable():
    network = interp.load("mini-retrieval").adapter.model
    with torch.no_grad():
        network.model.layers[1].self_attn.o_proj.weight.zero_()
    return network


def test_a_grid_has_a_cell_for_each_length_and_depth() -> None:
    grid = retrieval_grid(opened(), [48, 96], per_depth=1)
    frame = grid.to_frame()
    assert len(frame) == 2 * 11 * 16 and set(frame["depth"]) == set(range(0, 101, 10)) and (frame["kept"] == 1).all()
    assert frame[frame["head"] == "L1H2"]["score"].mean() >= 0.99


def test_a_restriction_that_hides_nothing_changes_nothing() -> None:
    model = opened()
    pairs = tokenise(model.tokenizer, interp.task("retrieval", n=2, length=48).examples(model.tokenizer).examples)
    heads = [head for head in interp_heads(model) if head.layer == 1]
    scores = scorer("streaming-restriction", recent=64).measure(model, pairs, heads, 2)
    assert np.abs(scores.values).max() <= 1e-9 and "2 of 2 prompts" in scores.notes[0]


def interp_heads(model: HookedModel):
    from interp.hooks.names import parse_heads

    return parse_heads("all", model.heads)


def test_query_scores_are_those_of_a_loop_and_where_the_published_code_differs() -> None:
    """c less its low tail, unbiased std; one token: NaN there."""
    draw = torch.Generator().manual_seed(0)
    asked, unasked = torch.rand(2, 3, 12, generator=draw).double(), torch.rand(2, 3, 12, generator=draw).double()
    asked[0, 0, 5] = -9.0
    document = torch.zeros(2, 12, dtype=torch.bool)
    document[0, 2:11], document[1, 4] = True, True
    paper, code = query_scores(asked, unasked, document), query_scores(asked, unasked, document, "official-code")
    for head in range(3):
        c = [float(asked[0, head, j] - unasked[0, head, j]) for j in range(2, 11)]
        low = np.mean(c) - 2 * np.std(c, ddof=1)
        assert float(paper[0, head]) == pytest.approx(sum(x for x in c if x > low))
        assert float(paper[1, head]) == pytest.approx(float(asked[1, head, 4] - unasked[1, head, 4]))
    assert torch.equal(paper[0], code[0]) and (code[1] == 0).all()


def test_masked_heads_are_ablated_in_the_whole_prompt() -> None:
    """The masked metric is that of a model whose heads write nothing at all."""
    task = interp.task("retrieval", n=3, length=48)
    test = masking_test(opened(), found("retrieval"), task, operator="zero", metric="logit_diff", n_controls=1)
    network = interp.load("mini-retrieval").adapter.model
    with torch.no_grad():
        network.model.layers[1].self_attn.o_proj.weight.unflatten(1, (4, -1))[:, [2, 3]] = 0
    cut = HookedModel.from_hf(network, opened().tokenizer)
    pairs = tokenise(cut.tokenizer, task.examples(cut.tokenizer).examples)
    logits = plain_outputs(cut, pairs.clean, pairs.read_at, 3)
    rows = torch.arange(3)
    expected = logits[rows, pairs.answer] - logits[rows, pairs.distractor]
    assert np.abs(test.masked - expected.double().numpy()).max() <= 1e-3
