"""Tracing against the definition written out, on several architectures, and against the edges of planted models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.circuits.graph.flow import Flow
from interp.circuits.tracing import Firing, Trace, TracedEdge, Tracer, TraceSettings
from interp.circuits.triples import Triples, Turning, shortest_prefix
from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch, pad
from interp.hooks.model import HookedModel
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError
from interp.zoo.registry import list_models

ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "olmo2", "phi3", "gemma3", "mixtral", "gpt_oss")
"""Learned positions; partial rotary in parallel blocks; grouped queries; biases; norms on queries and keys, of each head
and of all; fused projections; windows; experts; sinks."""

PLANTED = [name for name in list_models() if name.startswith("planted-induction")]
ROWS = [[5, 6, 7, 8, 9, 10, 11], [21, 22, 23, 24, 25]]
EVERY = TraceSettings(fires_at=0.0, share=np.inf, covered=np.inf)


@cache
def tracer(name: str, settings: TraceSettings = EVERY) -> Tracer:
    return Tracer.of(HookedModel.from_hf(sharp_model(name), name=name), settings)


def traced_run(name: str, side: str = "right") -> tuple[Tracer, Batch, Any]:
    found = tracer(name)
    batch = found.flow.model.batch(pad(ROWS, 0, side))
    return found, batch, found.run(batch)


@cache
def planted(name: str) -> tuple[Flow, Batch]:
    model, task = interp.load(name), interp.task("bundled", model=name)
    return Flow.of(model), tokenise(model.tokenizer, task.examples(model.tokenizer).examples).clean


def every_pair(layer: int, heads: int) -> list[Firing]:
    return [
        Firing(row, layer, head, dest, src)
        for row, ids in enumerate(ROWS)
        for head in range(heads)
        for src, dest in combinations(range(len(ids)), 2)
    ]


def scores_of(run: Any, firings: list[Firing]) -> torch.Tensor:
    return torch.stack(
        [run.cache["attn_scores", one.layer][one.prompt, one.head, one.dest, one.src] for one in firings]
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contributions_sum_to_the_score_of_the_model(name: str) -> None:
    found, _, run = traced_run(name)
    for layer in range(found.flow.n_layers):
        firings = [one for one in every_pair(layer, 4) if scores_of(run, [one]) > -1e4]
        assert len(firings) > 50
        given = scores_of(run, firings).double()
        assert given.abs().max() > 0.5
        assert float((found.triples(run, layer, firings).values.sum(1) - given).abs().max()) <= 1e-4


def test_triples_are_those_of_the_matrix_with_biases_folded_in() -> None:
    found, _, run = traced_run("gpt2")
    block, firing = found.flow.model.adapter.model.transformer.h[1], Firing(0, 1, 2, 5, 3)  # type: ignore[attr-defined]
    weight, bias = (getattr(block.attn.c_attn, part).detach().double() for part in ("weight", "bias"))
    q, k = (torch.cat([weight[:, s], bias[None, s]]) for s in (slice(32, 48), slice(96, 112)))
    u, sizes, v = torch.linalg.svd(q @ k.T / 4)
    x = block.ln_1(run.cache["resid_pre", 1])[0].detach().double()
    dest, src = (torch.cat([x[at], torch.ones(1)]) for at in (5, 3))
    expected = [float(sizes[i] * (dest @ u[:, i]) * (v[i] @ src)) for i in range(16)]
    triples = found.triples(run, 1, [firing])
    torch.testing.assert_close(triples.values[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)

    ordered = sorted(range(16), key=lambda i: -expected[i])
    total, kept = 0.0, []
    for i in ordered:
        kept.append(i)
        total += expected[i]
        if total > sum(expected):
            break
    assert 0 < len(kept) < 16
    by_score = sum(sizes[i] * (dest @ u[:, i]) * v[i] for i in kept)
    by_root = sum(sizes[i].sqrt() * (dest @ u[:, i]).sign() * v[i] for i in kept)
    for is_root, reading in ((False, by_score), (True, by_root)):
        torch.testing.assert_close(triples.reading("k", 1.0, is_root=is_root)[0], reading, rtol=1e-4, atol=1e-6)


def test_rotary_positions_stand_inside_the_matrix() -> None:
    found, _, run = traced_run("llama")
    model, firing = found.flow.model.adapter.model.model, Firing(0, 1, 3, 6, 2)  # type: ignore[attr-defined]
    cos, sin = (part[0].double() for part in model.rotary_emb(run.cache["resid_pre", 1], torch.arange(7)[None]))
    attn = model.layers[1].self_attn
    q, k = attn.q_proj.weight[48:64].detach().double(), attn.k_proj.weight[16:32].detach().double()

    def turned(weight: torch.Tensor, at: int) -> torch.Tensor:
        half = torch.cat([-weight[8:], weight[:8]])
        return cos[at, :, None] * weight + sin[at, :, None] * half

    sizes = torch.linalg.svdvals(turned(q, 6).T @ turned(k, 2) / 4)[:16]
    torch.testing.assert_close(found.triples(run, 1, [firing]).sizes[0], sizes, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "mixtral", "olmo2"])
def test_shares_of_all_parts_sum_to_the_score_where_nothing_has_a_bias(name: str) -> None:
    found, batch, run = traced_run(name)
    firings = [one for one in every_pair(1, 4) if run.fires[1][one.prompt, one.head, one.dest, one.src]]
    edges = found(batch, firings).edges
    n = 0
    for firing in firings:
        for side in "qk":
            given = [edge.weight for edge in edges if edge.firing == firing and edge.reader.endswith(f".{side}")]
            if given:
                n += 1
                assert sum(given) == pytest.approx(float(scores_of(run, [firing])[0]), abs=1e-4)
                assert len(given) == 6
    assert n >= 20


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("weighting", ["score", "root"])
def test_the_induction_head_is_traced_to_the_head_before_it(name: str, weighting: str) -> None:
    flow, batch = planted(name)
    trace = Tracer.of(flow, TraceSettings(weighting=weighting))(batch)
    kept = {f"{edge.writer}->{edge.reader}" for edge in trace.edges}
    shared = flow.graph.layers[1].kv_heads < flow.graph.layers[1].heads
    previous = f"L0H0->{'L1KV1' if shared else 'L1H2'}.k"
    position = "pos_embed" if flow.is_split else "embed"
    own = f"{'L0KV0' if shared else 'L0H0'}.k"
    assert kept == {previous, "embed->L1H2.q", f"{position}->L0H0.q", f"{position}->{own}"}
    by_prompt = [edge for edge in trace.edges if edge.reader == previous.split("->")[1]]
    assert sorted(edge.firing.prompt for edge in by_prompt) == list(range(batch.size))
    ids = batch.input_ids
    for edge in by_prompt:
        firing = edge.firing
        assert edge.position == firing.src and firing.dest == int(batch.end[firing.prompt])
        assert ids[firing.prompt, firing.src - 1] == ids[firing.prompt, firing.dest]


def test_without_a_previous_token_head_that_fires_nothing_is_traced_through_it() -> None:
    flow, batch = planted("planted-induction")
    trace = Tracer.of(flow, TraceSettings(fires_at=1.1))(batch)
    assert not trace.edges and not trace.silent


def test_another_token_than_the_last_can_be_asked_for() -> None:
    flow, batch = planted("planted-induction")
    read_at = torch.full((batch.size,), 25)
    edges = Tracer.of(flow)(batch, read_at=read_at).edges
    assert {edge.firing.dest for edge in edges if edge.firing.layer == 1} == {25}
    assert edges == Tracer.of(flow)(batch, sorted({edge.firing for edge in edges if edge.firing.dest == 25})).edges


def test_roots_that_do_not_fire_are_named() -> None:
    flow, batch = planted("planted-induction")
    at_end = int(batch.end[0])
    roots = [Firing(0, 1, 2, at_end, 17), Firing(0, 1, 2, at_end, 3), Firing(0, 1, 0, at_end, 17)]
    trace = Tracer.of(flow)(batch, roots)
    assert set(trace.silent) == set(roots[1:])
    assert {edge.firing for edge in trace.edges if edge.firing.layer == 1} == {roots[0]}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_on_the_left_changes_positions_alone(name: str) -> None:
    found, (right, left) = tracer(name), [traced_run(name, side)[1] for side in ("right", "left")]
    traces = [replace(found, settings=TraceSettings(fires_at=0.2))(batch) for batch in (right, left)]
    shifts = [0, len(ROWS[0]) - len(ROWS[1])]

    def told(trace: Trace, is_left: bool) -> dict[tuple[Any, ...], float]:
        shift = shifts if is_left else [0, 0]
        return {
            (edge.writer, edge.reader, edge.firing.prompt, edge.firing.dest - shift[edge.firing.prompt],
             edge.firing.src - shift[edge.firing.prompt]): edge.weight
            for edge in trace.edges
        }  # fmt: skip

    one, other = told(traces[0], False), told(traces[1], True)
    assert one.keys() == other.keys() and len(one) > 5
    for key, weight in one.items():
        assert other[key] == pytest.approx(weight, abs=1e-4)


def test_first_tokens_padding_and_negative_scores_are_no_firings() -> None:
    found, batch, run = traced_run("gpt2")
    for layer, fires in run.fires.items():
        for row, head, dest, src in np.ndindex(*fires.shape):
            score = float(run.cache["attn_scores", layer][row, head, dest, src])
            expected = 0 < src <= dest < len(ROWS[row]) and score >= 0
            assert bool(fires[row, head, dest, src]) == expected
    assert {one.dest for one in found.looking_from(run, batch.end) if one.prompt == 1} == {4}


def test_the_shortest_prefix_is_that_of_a_loop() -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(50, 7, generator=draw)
    target = values.sum(1) * torch.rand(50, generator=draw)
    for row, (given, goal, kept) in enumerate(zip(values, target, shortest_prefix(values, target), strict=True)):
        expected, total = set(), 0.0
        for index in sorted(range(7), key=lambda i: -given[i]):  # noqa: B023 - used at once
            expected.add(index)
            total += float(given[index])
            if total > goal:
                break
        assert set(kept.nonzero()[:, 0].tolist()) == expected, row


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_turnings_are_found_from_what_they_do(is_interleaved: bool, n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    angles = 3 * torch.rand(2, 5, 1, n // 2, generator=draw).double()

    def turned(x: torch.Tensor) -> torch.Tensor:
        after = x.clone()
        for pair in range(n // 2):
            i, j = (2 * pair, 2 * pair + 1) if is_interleaved else (pair, pair + n // 2)
            cos, sin = angles[..., pair].cos(), angles[..., pair].sin()
            after[..., i], after[..., j] = cos * x[..., i] - sin * x[..., j], sin * x[..., i] + cos * x[..., j]
        return after

    x, other = torch.randn(2, 2, 5, 3, 8, generator=draw).double()
    found = Turning.between(x, turned(x))
    assert found is not None
    torch.testing.assert_close(found(other, found.factors[:, :, None]), turned(other))
    assert Turning.between(x, other) is None


def test_scores_of_edges_are_sums_by_prompt_and_place() -> None:
    graph = planted("planted-induction")[0].graph
    firings = [Firing(0, 1, 2, 4, 2), Firing(1, 1, 2, 4, 2), Firing(1, 1, 2, 3, 1)]
    trace = Trace(tuple(TracedEdge("L0H0", "L1H2.k", one, one.src, float(i + 1)) for i, one in enumerate(firings)))
    _, writer, reader = graph.edge("L0H0->L1H2.k")
    for prompt, total in ((None, 6), (0, 1), (1, 5)):
        scores = trace.edge_scores(graph, prompt=prompt)
        assert scores[0, writer, reader] == total == scores.sum()
    places = np.array([[0, 0, 1, -1, 0], [0, 1, -1, 0, 0]])
    scores = trace.edge_scores(graph.at_places(("a", "b")), places)
    assert scores[:, writer, reader].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("root", "code"),
    [(Firing(0, 2, 0, 4, 2), "E203"), (Firing(0, 1, 4, 4, 2), "E203"), (Firing(0, 1, 0, 2, 4), "E205"),
     (Firing(64, 1, 0, 4, 2), "E205"), (Firing(0, 1, 0, 4, -1), "E205")],
)  # fmt: skip
def test_roots_that_cannot_be_are_refused(root: Firing, code: str) -> None:
    flow, batch = planted("planted-induction")
    with pytest.raises(InterpError) as caught:
        Tracer.of(flow)(batch, [root])
    assert caught.value.code == code


def test_scores_that_are_more_than_products_are_refused() -> None:
    model = HookedModel.from_hf(sharp_model("gemma2"), name="gemma2")
    with pytest.raises(InterpError) as caught:
        Tracer.of(model, EVERY)(model.batch(pad(ROWS, 0)))
    assert caught.value.code == "E403" and "not only products" in caught.value.what
    with pytest.raises(InterpError) as caught:
        Tracer.of(HookedModel.from_hf(sharp_model("bloom"), name="bloom"))
    assert caught.value.code == "E403"
    with pytest.raises(InterpError) as caught:
        TraceSettings(weighting="other")
    assert caught.value.code == "E205"


def test_a_share_of_the_score_is_reached_by_the_fewest_triples() -> None:
    values = torch.tensor([[4.0, -1.0, 3.0, 0.5]], dtype=torch.float64)
    unit = torch.eye(4, dtype=torch.float64)[None]
    ones = torch.ones(1, 4, dtype=torch.float64)
    triples = Triples(values, {"q": unit, "k": unit}, {"q": ones, "k": ones}, values)
    for share, kept in ((0.5, [4, 0, 0, 0]), (1.0, [4, 0, 3, 0]), (np.inf, [4, -1, 3, 0.5])):
        assert triples.reading("k", share, is_root=False)[0].tolist() == kept
