"""What edges carry: against forwards by hand, and in models where the directions are known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.circuits.edges.attribution import ABLATED, CLEAN, Contrast, along_inputs
from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.replacements import stand_in
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.circuits.understanding.carried import carried
from interp.circuits.understanding.carrying import Carrying
from interp.circuits.understanding.directions import random_bases, spanned
from interp.circuits.understanding.projected import Cut, EdgeCuts
from interp.circuits.understanding.subspaces import ordered, read, ways_to_read, written
from interp.hooks.examples import Example
from interp.hooks.metrics import metric
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError
from interp.zoo.recipes.planted_induction import PlantedInduction
from tests.cases.edges import ANSWER, DISTRACTOR, HANDS, all_in, contrasted, opened, paired, real
from tests.cases.posed import planted

EDGE = "L0H0->L1H2.k"
PARTS = PlantedInduction().parts


@cache
def flow() -> Flow:
    return Flow.of(interp.load("planted-induction"))


def looked_up(words: list[tuple[int, int]], n: int = 10) -> Contrast:
    """`wa x ... y x' ... wa`, asked for x; in the other prompt the first word is another one, and nothing else."""
    examples = []
    for index, (first, other) in enumerate(words):
        rest = [word for word in range(20, 20 + n)]
        rest = rest[index % n :] + rest[: index % n]
        text, corrupt = ([one, *rest, first] for one in (first, other))
        clean, corrupted = (" ".join(f"w{word}" for word in one) for one in (text, corrupt))
        examples.append(Example(str(index), clean, f" w{rest[0]}", f" w{rest[1]}", corrupted))
    pairs = tokenise(flow().model.tokenizer, examples)
    assert pairs.corrupt is not None
    question = Question.of(pairs, metric("logit_diff"))
    return Contrast(flow(), question, flow().record(pairs.clean), flow().record(pairs.corrupt))


def test_one_word_against_another_is_one_direction_of_what_the_head_before_wrote() -> None:
    """The word before is written into a part of the stream that is known."""
    found = carried(looked_up([(1, 2)] * 6), EDGE, asked=Carrying(n_random=5, among="stream"))
    assert (found.rank, found.is_proved, found.curve[0].rank) == (1, True, 1)
    expected = torch.zeros(len(found.basis))
    expected[PARTS["BEFORE"].start + 1], expected[PARTS["BEFORE"].start + 2] = 0.5**0.5, -(0.5**0.5)
    assert abs(float(found.basis[:, 0] @ expected)) > 1 - 1e-5
    assert found.share > 0.99
    assert abs(found.outside.mean) < 0.01 * found.whole.mean
    assert found.random.mean < 0.1 * found.whole.mean
    assert found.beaten_by == 0


def test_a_direction_of_some_words_says_nothing_of_others() -> None:
    chosen, same, other = looked_up([(1, 2)] * 6), looked_up([(1, 2), (2, 1)] * 3), looked_up([(3, 4), (5, 6)] * 3)
    asked = Carrying(n_random=5, among="stream")
    assert carried(chosen, EDGE, same, asked).is_proved
    found = carried(chosen, EDGE, other, asked)
    assert (found.held_out, found.is_proved) == (True, False)
    assert found.share < 0.02
    assert found.findings["inside"].holds is False
    assert found.findings["outside"].holds is False


def test_as_many_directions_as_words_are_told_apart() -> None:
    """Four words that stand in for each other differ in three directions; random ones of what is written do less."""
    words = [(first, 1 + first % 4) for first in (1, 2, 3, 4)] * 3
    found = carried(looked_up(words), EDGE, asked=Carrying(n_random=10, among="stream"))
    assert (found.rank, found.is_proved) == (3, True)
    inside = PARTS["BEFORE"]
    assert (found.basis[inside].square().sum(0) - 1).abs().max() < 1e-4
    assert {one.rank: one.is_enough for one in found.curve}[2] is False


@pytest.mark.parametrize("name", ["planted-induction", "planted-induction-parallel", "planted-induction-postnorm"])
def test_all_directions_have_the_exact_effect_and_none_has_nothing(name: str) -> None:
    case = planted(name)
    contrast = stand_in("resample", case.flow, case.taken).contrast(case.flow, case.taken)
    effects = exact(contrast).scores
    for label in case.truth["resample"]:
        edge = case.flow.graph.edge(label)
        way = ways_to_read(case.flow.graph.readers[edge[2]])[0]
        basis = ordered(written(contrast, edge, "differences"), read(contrast, edge, way))
        cuts = EdgeCuts(MaskedRuns(contrast), edge)
        inside, outside, nothing = cuts([Cut(basis), Cut(basis, inside=False), Cut(basis[:, :0])])
        expected = effects[:, *edge].double().numpy()
        assert expected.mean() > 1
        assert np.abs(cuts.whole - expected).max() < 1e-5
        assert np.abs(inside - expected).max() < 2e-5
        assert np.abs(outside).max() < 2e-5
        assert np.abs(nothing).max() < 2e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
def test_every_way_to_write_and_read_holds_all_of_the_effect(architecture: str) -> None:
    found, clean, corrupt = paired(opened(architecture))
    contrast, graph = contrasted(found, clean, corrupt), found.graph
    effects = exact(contrast).scores
    shared = "H" if graph.layers[1].heads == graph.layers[1].kv_heads else "KV"
    edges = ["L0H1->L1H0.q", f"L0H1->L1{shared}0.k", f"M0->L1{shared}1.v", "embed->L1H1.q", "L1H0->logits", "L0H0->M1"]
    for label in edges:
        edge = graph.edge(label)
        for way in ways_to_read(graph.readers[edge[2]]):
            for how in ("differences", "weights") if label.startswith("L") else ("differences",):
                if architecture == "gemma2" and way == "scores":  # they are more than products
                    with pytest.raises(InterpError, match="E403"):
                        read(contrast, edge, way, fires_at=0.01)
                    continue
                basis = ordered(written(contrast, edge, how), read(contrast, edge, way, fires_at=0.01))
                assert (basis.T @ basis - torch.eye(basis.shape[1])).abs().max() < 1e-9
                inside, outside = EdgeCuts(MaskedRuns(contrast), edge)([Cut(basis), Cut(basis, inside=False)])
                expected = effects[:, *edge].double().numpy()
                assert np.abs(inside - expected).max() < 2e-5
                assert np.abs(outside).max() < 2e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_cuts_equal_forwards_by_hand(architecture: str) -> None:
    found, clean, corrupt = paired(opened(architecture))
    hand = HANDS[architecture](found.model.adapter.model)  # type: ignore[attr-defined]
    others = all_in(hand, corrupt)[1]
    basis = random_bases(torch.eye(len(next(iter(others.values()))[0, 0])).double(), 5, 1, 0)[0]
    shared = "H" if found.graph.layers[1].heads == found.graph.layers[1].kv_heads else "KV"
    whole = measured_by_hand(hand, clean, lambda _, writes: sum(writes.values(), torch.zeros(())))
    for label in (f"L0H0->L1{shared}0.k", "M0->L1H1.q", "L1H1->logits", "embed->M0"):
        for inside in (True, False):

            def mix(reader: str, writes: dict[str, Tensor], label: str = label, inside: bool = inside) -> Tensor:
                total = sum(writes.values(), torch.zeros(()))
                writer, _, out = label.partition("->")
                if reader != out:
                    return total
                shift = others[writer] - writes[writer]
                within = shift @ basis @ basis.T
                return total + (within if inside else shift - within)

            cuts = EdgeCuts(MaskedRuns(contrasted(found, clean, corrupt)), found.graph.edge(label), tokens=1)
            expected = (whole - measured_by_hand(hand, clean, mix)).numpy()
            given = cuts([Cut(basis[:, :2]), Cut(basis, inside)])[1]
            assert np.abs(expected).max() > 1e-4
            assert np.abs(given - expected).max() < 2e-5


def measured_by_hand(hand: object, clean: object, mix: object) -> Tensor:
    logits = hand.run(clean.input_ids, real(clean), mix)[0]  # type: ignore[attr-defined]
    last = logits[torch.arange(clean.size), clean.end]  # type: ignore[attr-defined]
    return (last[:, ANSWER] - last[:, DISTRACTOR]).detach()


def test_edges_of_one_place_are_cut_there() -> None:
    found, clean, corrupt = paired(opened("llama"))
    found = Flow(found.model, found.graph.at_places(("even", "odd")), found.norms, found.reads, found.error)
    contrast = contrasted(found, clean, corrupt, place_of=torch.arange(clean.input_ids.shape[1]).repeat(2, 1) % 2)
    edge = found.graph.edge("embed->L1H1.q@odd")
    rows = written(contrast, edge, "differences")
    assert len(rows) == 4 + 3  # real tokens at odd positions
    basis = ordered(rows, read(contrast, edge, "weights"))
    effects = exact(contrast).scores[:, *edge].double().numpy()
    inside, outside = EdgeCuts(MaskedRuns(contrast), edge)([Cut(basis), Cut(basis, inside=False)])
    assert np.abs(inside - effects).max() < 2e-5
    assert np.abs(outside).max() < 2e-5


def test_scores_are_read_along_what_stands_at_the_other_token() -> None:
    """The key of the word after w1 is read for w1, or for the start, on which the head rests; nothing else is."""
    contrast = looked_up([(1, 2)] * 2)
    columns = read(contrast, flow().graph.edge("L0H0->L1H2.k"), "scores")
    largest = columns.abs().argsort(0, descending=True)[:2]
    places = {PARTS["BEFORE"].start + 1, PARTS["TOKEN"].start}
    assert columns.shape[1] == 2
    assert {*largest.flatten().tolist()} == places


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
def test_scores_are_products_of_readings_with_the_stream(architecture: str) -> None:
    """Rotary positions, norms of queries and keys, shared keys; these models have no biases, which would stand beside."""
    found, clean, corrupt = paired(opened(architecture), lengths=(6, 5))
    contrast = contrasted(found, clean, corrupt)
    _, cache = found.model.run_with_cache(clean, "blocks.1.*")
    pattern, scores, stream = cache["pattern", 1], cache["attn_scores", 1].double(), cache["resid_pre", 1].double()
    group = found.graph.layers[1].heads // found.graph.layers[1].kv_heads
    for label, behind in ((f"M0->L1{'KV' if group > 1 else 'H'}0.k", range(group)), ("M0->L1H0.q", range(1))):
        columns = read(contrast, found.graph.edge(label), "scores", fires_at=0.3)
        expected = []
        for row, head, dest, src in np.ndindex(2, len(behind), 6, 6):
            if (
                real(clean)[row, dest]
                and src
                and pattern[row, head, dest, src] >= 0.3
                and scores[row, head, dest, src] >= 0
            ):
                expected.append((scores[row, head, dest, src], stream[row, src if label.endswith("k") else dest]))
        assert len(expected) == columns.shape[1] > 0
        for reading, (score, x) in zip(columns.T, expected, strict=True):
            assert abs(reading @ x - score) < 1e-4 * max(1.0, abs(score))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_gradients_read_as_edge_attribution_does(architecture: str) -> None:
    """Rows and columns stand in the same order, so that their products are the scores of EAP at both ends."""
    found, clean, corrupt = paired(opened(architecture), lengths=(21, 18))
    contrast = contrasted(found, clean, corrupt)
    ends = [along_inputs(contrast, path).scores.sum(0) for path in (CLEAN, ABLATED)]
    shared = "H" if found.graph.layers[1].heads == found.graph.layers[1].kv_heads else "KV"
    for label in (f"L0H1->L1{shared}1.k", "embed->L1H2.q", f"M0->L1{shared}0.v", "L0H3->M1", "L1H1->logits"):
        edge = found.graph.edge(label)
        rows, columns = written(contrast, edge, "differences"), read(contrast, edge, "gradients")
        assert columns.shape[1] == 2 * len(rows) == 2 * 39
        for expected, half in zip(ends, columns.chunk(2, 1), strict=True):
            score = float(expected[edge])
            assert abs(float((rows.T * half).sum()) - score) < 1e-4 * max(1.0, abs(score))


def test_weights_are_those_of_the_reader_with_the_gain_before_it() -> None:
    tiny = opened("llama")
    found, clean, corrupt = paired(tiny)
    contrast, layer = contrasted(found, clean, corrupt), tiny.adapter.model.model.layers[1]  # type: ignore[attr-defined]
    gain, width = layer.input_layernorm.weight, layer.self_attn.head_dim
    for part, number in (("q", 2), ("k", 1), ("v", 1)):
        weight = getattr(layer.self_attn, f"{part}_proj").weight[number * width : (number + 1) * width]
        name = f"L1H{number}.q" if part == "q" else f"L1KV{number}.{part}"
        columns = read(contrast, found.graph.edge(f"M0->{name}"), "weights")
        assert (columns - (weight * gain).T).abs().max() < 1e-6


def test_what_cannot_be_asked_is_refused() -> None:
    contrast = looked_up([(1, 2)])
    graph = flow().graph
    for idle in ("L0H1->L1H2.k", "pos_embed->L0H0.q"):  # the second carries the same in both prompts
        with pytest.raises(InterpError, match="(?s)E205.*not told from 0"):
            carried(contrast, idle)
    with pytest.raises(InterpError, match="E201"):
        carried(contrast, "L0H9->L1H2.k")
    with pytest.raises(InterpError, match="(?s)E205.*no head"):
        written(contrast, graph.edge("M0->logits"), "weights")
    with pytest.raises(InterpError, match="(?s)E205.*gradients"):
        read(contrast, graph.edge("M0->logits"), "scores")
    with pytest.raises(InterpError, match="(?s)E205.*looks at another"):
        read(contrast, graph.edge("embed->L1H2.q"), "scores", fires_at=2.0)
    with pytest.raises(InterpError, match="E201"):
        read(contrast, graph.edge("embed->L1H2.q"), "score")
    for wrong in ({"share": 0.4}, {"n_random": -1}, {"rank": -1}):
        with pytest.raises(InterpError, match="E205"):
            Carrying(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InterpError, match="E201"):
        Carrying(among="all")


def test_a_rank_that_is_asked_for_is_taken_and_nothing_is_claimed_without_controls() -> None:
    found = carried(looked_up([(1, 2)] * 4), EDGE, asked=Carrying(rank=0, n_random=3))
    assert (found.rank, found.n_random, found.curve) == (0, 0, ())
    assert found.inside.mean == 0
    assert found.outside.mean == pytest.approx(found.whole.mean)
    assert not found.is_proved
    one = carried(looked_up([(1, 2)] * 4), EDGE, asked=Carrying(rank=1, n_random=3))
    assert one.findings["random"].holds is None  # one direction is all that is written there
    assert "untested" in str(one)
    assert "100%" in one._repr_html_()


def test_random_bases_are_orthonormal_and_lie_inside() -> None:
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    within = spanned(torch.cat([rows, rows[:1] + rows[1:2]]))
    assert within.shape == (9, 4)
    drawn = random_bases(within, 2, 3, 0)
    assert len(drawn) == 3
    for one in drawn:
        assert (one.T @ one - torch.eye(2)).abs().max() < 1e-12
        assert (within @ within.T @ one - one).abs().max() < 1e-12
    assert random_bases(within, 4, 3, 0) == []
    assert (drawn[0] - drawn[1]).abs().max() > 0.01
