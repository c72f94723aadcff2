"""Heads that fetch a fact: retrieval scores, restriction, trained gates, questions."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
import transformers

import interp
from interp.circuits.readout import Readout
from interp.heads import scorer
from interp.heads.retrieval.decoding import decode
from interp.heads.retrieval.gate import Gate, objective, rate_share, trained_gates
from interp.heads.retrieval.grid import retrieval_grid
from interp.heads.retrieval.query_focus import query_scores
from interp.heads.retrieval.restriction import last_stream
from interp.heads.retrieval.retrieval import Trial, trimmed
from interp.heads.run import score
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.tasks.retrieval import SENTENCES

TRUE = {"L1H2", "L1H3"}
"""The heads of mini-retrieval without which it can't answer; no other pair of their layer matters (test_heads_masking.py)."""


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


def longer(positions: int) -> HookedModel:
    """The architecture of mini-retrieval with random weights, and room for longer texts."""
    config = type(opened().adapter.model.config)(
        **{**opened().adapter.model.config.to_dict(), "max_position_embeddings": positions}
    )
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokenizer = copy.deepcopy(opened().tokenizer)
    tokenizer.model_max_length = positions
    return HookedModel.from_hf(network, tokenizer)


def grid_of(lengths: list[int]) -> None:
    """Every trial is read, and left out for what the random weights wrote."""
    model = longer(max(lengths) + 64)
    grid = retrieval_grid(model, lengths, per_depth=1)
    assert grid.scores == (None,) * len(lengths) and len(grid.seconds) == len(lengths)
    for length, seconds in zip(lengths, grid.seconds, strict=True):
        assert "0 of 11 prompts kept (11 of 11: the answer holds no more than 50% of the needle)" in grid.empty[length]
        print(f"{length} tokens, 11 depths: {seconds:.1f} s; {grid.empty[length]}")


def test_a_grid_goes_beyond_the_texts_that_the_model_was_made_for() -> None:
    grid_of([512, 1024])


@pytest.mark.slow
def test_a_grid_goes_to_8k() -> None:
    """`pytest -m slow -s -k grid_goes_to_8k` prints seconds, and why trials were left out."""
    grid_of([1024, 2048, 4096, 8192])


def test_a_prompt_loses_the_padding_that_others_brought() -> None:
    batch = asked().clean
    for row in range(batch.size):
        one = trimmed(batch.rows(row, row + 1))
        assert one.input_ids.shape[1] == int(batch.lengths[row]) and bool(one.mask.all())
        assert (
            torch.equal(one.input_ids[0], batch.input_ids[row][batch.mask[row]]) and one.spans["end"][0][0] == one.end
        )
    assert len(set(batch.lengths.tolist())) > 1


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


@cache
def asked() -> Pairs:
    examples = interp.task("retrieval", n=6, length=64).examples(opened().tokenizer).examples
    return tokenise(opened().tokenizer, examples)


@cache
def gates(penalty: float = 0.05, shared: bool = False) -> torch.Tensor:
    """Of all layers side by side."""
    found = trained_gates(opened(), asked().clean, asked().read_at, Gate(penalty=penalty), shared=shared)
    return torch.cat([found[layer] for layer in range(4)], 1)


OPEN = 3
"""The key/value head of L1H2 and L1H3 among those of all layers."""


def test_the_gate_of_the_true_heads_stays_open_and_the_dearer_it_is_the_fewer_others_do() -> None:
    cheap, dear = gates().mean(0), gates(4.0).mean(0)
    assert int(cheap.argmax()) == OPEN and float(cheap[OPEN]) >= 0.95 and int((cheap > 0.5).sum()) <= 4
    assert float(dear[OPEN]) >= 0.9 and float(dear[torch.arange(8) != OPEN].max()) < 0.5
    assert bool((cheap[[0, 2, 4, 6]] < 0.1).all())  # half of all gates close even so


def test_one_gate_for_all_prompts_is_the_one_that_most_prompts_choose() -> None:
    one = gates(4.0, shared=True)
    assert torch.equal(one, one[:1].expand_as(one))
    assert torch.equal(one[0] > 0.5, torch.arange(8) == OPEN)


def test_gates_agree_with_the_restriction_of_single_heads() -> None:
    """A gate is open where closing it alone changes the answer's stream by more than the gate costs."""
    heads = interp_heads(opened())
    alone = scorer("streaming-restriction").measure(opened(), asked(), heads, 6).values.mean(1)
    alone = alone.reshape(8, 2).max(1)  # query heads of a key/value head
    ranks = [np.argsort(np.argsort(values)) for values in (alone, gates().mean(0).numpy())]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] >= 0.8 and alone.argmax() == OPEN
    assert alone[gates(4.0).mean(0).numpy() > 0.5].min() > 10 * alone[gates(4.0).mean(0).numpy() <= 0.5].max()


def test_query_heads_of_one_key_value_head_have_one_gate() -> None:
    found = Gate(steps=2).measure(opened(), asked(), interp_heads(opened()), 6)
    assert np.array_equal(found.values[::2], found.values[1::2]) and "share" in found.notes[0]


def test_the_objective_is_the_streams_change_and_the_price_of_gates() -> None:
    """Open gates change nothing; closed ones do what the restriction of all heads does; slopes are differences."""
    model, pairs, gate = opened(), asked(), Gate()
    readout = Readout.of(model)
    whole = last_stream(model, readout, pairs.clean, pairs.read_at)

    def of(values: torch.Tensor) -> torch.Tensor:
        parts = {layer: values[:, 2 * layer : 2 * layer + 2] for layer in range(4)}
        return objective(model, readout, pairs.clean, pairs.read_at, whole, parts, gate)

    with model.edit(Swap("all", gate.closed())):
        closed = (last_stream(model, readout, pairs.clean, pairs.read_at) - whole).square().mean(-1)
    with torch.no_grad():
        torch.testing.assert_close(of(torch.ones(6, 8)), torch.full((6,), 0.05).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(of(torch.zeros(6, 8)), closed, atol=1e-5, rtol=1e-4)
    at = torch.full((6, 8), 0.6, requires_grad=True)
    slope = torch.autograd.grad(of(at).sum(), at)[0][:, OPEN]
    step = torch.zeros(6, 8)
    step[:, OPEN] = 0.01
    with torch.no_grad():
        difference = (of(at + step) - of(at - step)) / 0.02
    torch.testing.assert_close(slope.double(), difference, atol=2e-3, rtol=2e-2)


def test_the_rate_rises_and_falls() -> None:
    assert [rate_share(step, 100) for step in (0, 4, 19, 50, 90, 99)] == pytest.approx([0.1, 0.25, 1, 1, 0.5, 0.1])


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"penalty": 0.0}, {"recent": 0}])
def test_gates_that_cannot_be_trained_are_refused(options) -> None:
    with pytest.raises(InterpError, match="E205"):
        Gate(**options)


@pytest.mark.parametrize("template", range(len(SENTENCES)))
def test_a_fact_can_be_stated_in_other_words(template: int) -> None:
    begin, end = SENTENCES[template]
    for one in interp.task("retrieval", n=4, length=96, template=template).examples(opened().tokenizer).examples:
        text, key = str(one.clean), str(one.clean)[slice(*one.spans["key"])]
        assert text[slice(*one.spans["needle"])] == (begin + end).replace("[KEY]", key).replace(" [VALUE]", one.answer)
        assert text.endswith(begin.replace("[KEY]", key)) and text.count(begin.replace("[KEY]", key)) == 2


@pytest.mark.parametrize("options", [{"template": len(SENTENCES)}, {"template": 1, "form": "key_value"}])
def test_words_that_there_are_not_are_refused(options) -> None:
    with pytest.raises(InterpError, match="E201"):
        interp.task("retrieval", **options)
