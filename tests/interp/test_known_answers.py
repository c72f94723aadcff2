"""The known-answer table, and ablation held against it. Later methods parametrise their tests over the same table."""

import re

import pytest

import interp
from interp.hooks.names import parse_head
from tests.cases.known_answers import CASES

READER = re.compile(r"(L\d+H\d+\.[qkv]|M\d+|logits)$")
WRITER = re.compile(r"(embed|pos_embed|L\d+H\d+|M\d+)$")
REDUNDANT = {"planted-or": set(), "planted-backup": {"L0H1"}}
"""Single ablation shows nothing of heads for which another one stands in: of the gate neither, and of the copy and its
backup only the first, whose resampled output names the wrong word."""


@pytest.fixture(scope="module", params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


def test_the_table_holds_every_kind():
    assert {case.kind for case in CASES.values()} >= {"planted", "compiled", "trained to order"}


def test_truths_name_heads_and_edges_that_exist(case):
    model = case.model()
    layers = {f"M{layer}" for layer in range(model.n_layers)}
    for head in case.truth.heads:
        found = parse_head(head)
        assert found.head < model.heads[""][found.layer]
    assert case.truth.heads and (case.truth.edges or case.kind == "trained")
    for edges in case.truth.edges.values():
        assert len(edges) == len(set(edges)) > 0
        for edge in edges:
            writer, reader = edge.split("->")
            assert WRITER.match(writer) and READER.match(reader), edge
            assert not writer.startswith("M") or writer in layers


def test_every_kind_of_edge_is_among_those_of_the_program(case):
    if case.kind not in ("planted", "compiled"):
        pytest.skip("training leaves small effects of other edges")
    program = set(case.truth.edges["program"])
    assert all(set(edges) <= program for edges in case.truth.edges.values())


def test_the_model_answers_its_prompts(case):
    model, task = case.model(), case.task()
    if any(example.answer is None for example in task.examples(model.tokenizer).examples):
        pytest.skip("the answer is a number, not a token; its card holds it against the program")
    result = interp.ablate(model, task, heads=[next(iter(case.truth.heads))], metric="top1", shown_prompts=0)
    assert result.baseline.mean() == 1.0


def test_resampling_claims_the_heads_that_carry_the_answer_and_no_other(case):
    if case.kind != "planted" or case.name == "planted-chain":
        pytest.skip("heads of compiled models have no matched controls; in the chain every head has an effect")
    result = interp.ablate(case.model(), case.task(), heads="all", operator="resample", shown_prompts=0)
    shares = abs(result.effects.mean(1) / result.baseline.mean())  # noise heads differ from each other by a thousandth
    claimed = {
        label
        for label, yes, share in zip(result.heads, result.evidence.claimed, shares, strict=True)
        if yes and share > 0.01
    }
    carried = {edge.split("->")[0] for edge in case.truth.edges["resample"]} & set(case.truth.heads)
    assert claimed == REDUNDANT.get(case.name, carried)
