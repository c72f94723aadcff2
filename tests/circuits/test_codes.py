"""Discrete codes: counts against loops, training, and what the baseline finds in planted models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

import interp
from interp.circuits.codes import Autoencoder, CodeSettings, HeadCodes, head_codes, mean_results, only_first, trained
from interp.circuits.graph.graph import Graph, LayerShape
from interp.hooks.batch import Batch, pad
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId
from interp.hooks.pairs import tokenise
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError

SEEDS = range(3)
FEW = CodeSettings(features=20, steps=60)
DRAWN = np.random.default_rng(3)


@cache
def planted(name: str) -> tuple[HookedModel, Batch, Batch]:
    model, task = interp.load(name), interp.task("bundled", model=name)
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples)
    assert pairs.corrupt is not None
    return model, pairs.clean, pairs.corrupt


@cache
def found(name: str, seed: int, settings: CodeSettings = FEW) -> HeadCodes:
    return head_codes(*planted(name), seed=seed, settings=settings)


def vectors(n: int = 6, heads: int = 3, width: int = 8) -> torch.Tensor:
    return torch.randn(n, heads, width, generator=torch.Generator().manual_seed(2))


def drawn_codes(prompts: int, others: int, heads: int, codes: int) -> HeadCodes:
    clean, corrupt = (DRAWN.integers(0, codes, (n, heads)) for n in (prompts, others))
    ids = tuple(HeadId("", layer, head) for layer in range(heads // 2) for head in range(2))
    return HeadCodes(ids, clean, corrupt, np.zeros(1))


@pytest.mark.parametrize(("prompts", "others"), [(7, 7), (1, 9), (12, 2)])
def test_counts_and_pairs_are_those_of_loops_over_sets(prompts: int, others: int) -> None:
    codes = drawn_codes(prompts, others, heads=6, codes=4)
    for head in range(6):
        assert codes.counts[head] == len(set(codes.clean[:, head]) - set(codes.corrupt[:, head]))
    for one, other in product(range(6), repeat=2):
        both, never = (
            {(row[one], row[other]) for row in table.tolist()} for table in (codes.clean, codes.corrupt)
        )  # fmt: skip
        assert codes.pair_scores[one, other] == (len(both - never) if one != other else 0)


def test_values_that_stand_nowhere_else() -> None:
    first, second = np.array([[0, 5], [0, 5], [3, 7]]), np.array([[3, 8], [4, 9]])
    assert only_first(first, second).tolist() == [1, 2]


def test_the_softmax_is_over_all_heads_and_ranks_as_the_counts() -> None:
    codes = drawn_codes(20, 3, heads=6, codes=9)
    expected = torch.tensor(codes.counts).double().softmax(0).numpy()
    np.testing.assert_allclose(codes.head_scores, expected, rtol=1e-12)


def test_the_order_of_prompts_changes_nothing() -> None:
    codes = drawn_codes(9, 8, heads=6, codes=5)
    other = replace(codes, clean=codes.clean[DRAWN.permutation(9)], corrupt=codes.corrupt[DRAWN.permutation(8)])
    np.testing.assert_array_equal(codes.counts, other.counts)
    np.testing.assert_array_equal(codes.pair_scores, other.pair_scores)
    encoder, x = trained(vectors(), FEW, torch.Generator().manual_seed(0)), vectors(9)
    order = torch.randperm(9)
    np.testing.assert_array_equal(encoder.codes(x)[order.numpy()], encoder.codes(x[order]))


@pytest.mark.parametrize("variant", ["paper", "official-code"])
def test_the_loss_goes_down_and_norms_stay(variant: str) -> None:
    x = vectors()
    encoder = trained(x, replace(FEW, variant=variant, rate=1e-2), torch.Generator().manual_seed(0))
    assert encoder.losses[-1] < 0.5 * encoder.losses[0]
    assert np.all(np.diff(encoder.losses)[:20] < 0)
    ones = torch.ones(FEW.features)
    torch.testing.assert_close(encoder.encoder.norm(dim=1), ones)
    axis = {"paper": 0, "official-code": 1}[variant]
    norms = encoder.decoder.norm(dim=axis)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_first_loss_is_that_of_the_definition() -> None:
    x = vectors()
    encoder = trained(x, replace(FEW, steps=1, rate=0.0), torch.Generator().manual_seed(0))
    total = 0.0
    for row in x.flatten(0, 1).double():
        features = [max(0.0, float(row @ w.double() + b)) for w, b in zip(encoder.encoder, encoder.offset, strict=True)]
        rebuilt = encoder.decoder.double() @ torch.tensor(features, dtype=torch.float64)
        total += float((rebuilt - row).square().mean()) + FEW.sparsity * sum(features)
    assert encoder.losses[0] == pytest.approx(total / 18, rel=1e-5)


def test_a_common_scale_makes_codes_independent_of_the_size_of_the_stream() -> None:
    x = vectors()
    assert isinstance(trained(x, FEW, torch.Generator()), Autoencoder)
    codes = [
        trained(size * x, replace(FEW, unit_scale=True), torch.Generator().manual_seed(1)).codes(size * x)
        for size in (1, 256)
    ]
    np.testing.assert_array_equal(*codes)


def test_silent_heads_have_one_code() -> None:
    silent = torch.zeros(4, 2, 8)
    encoder = trained(silent, replace(FEW, unit_scale=True), torch.Generator().manual_seed(0))
    assert len(np.unique(encoder.codes(silent))) == 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_means_are_those_of_results_at_real_positions(name: str) -> None:
    model = HookedModel.from_hf(tiny_model(name))
    batch = model.batch(pad([[5, 6, 7, 8, 9], [11, 12, 13]], 0))
    _, cached = model.run_with_cache(batch, "*hook_result")
    for row, n in enumerate((5, 3)):
        expected = torch.cat([cached["result", layer][row, :n].mean(0) for layer in range(2)])
        torch.testing.assert_close(mean_results(model, batch)[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_edges_have_the_score_of_their_pair(kv_heads: int) -> None:
    codes = drawn_codes(12, 4, heads=6, codes=6)
    graph = Graph.of_shape([LayerShape(2, kv_heads)] * 3).at_places(("early", "late"))
    scores, table = codes.edge_scores(graph), codes.pair_scores
    assert scores.shape == graph.full.shape and not scores[~graph.full].any()
    for place, writer, reader in zip(*np.nonzero(graph.full), strict=True):
        part, read = graph.writers[writer], graph.readers[reader]
        expected = 0
        if part.kind == "head" and read.part in "qkv":
            heads = [read.head] if read.part == "q" or kv_heads == 2 else [0, 1]
            expected = max(table[2 * part.layer + part.head, 2 * read.layer + head] for head in heads)  # type: ignore[operator]
        assert scores[place, writer, reader] == expected
    assert scores.max() > 0


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    name = "planted-induction"
    again = head_codes(*planted(name), seed=0, settings=FEW)
    np.testing.assert_array_equal(found(name, 0).clean, again.clean)
    np.testing.assert_array_equal(found(name, 0).losses, again.losses)
    assert (found(name, 0).losses != found(name, 1).losses).all()


def auroc(scores: np.ndarray, is_true: np.ndarray) -> float:
    """Share of pairs of a true and another head that are ranked right; ties count half."""
    margin = scores[is_true][:, None] - scores[~is_true][None]
    return float((margin > 0).mean() + (margin == 0).mean() / 2)


@pytest.mark.parametrize("name", ["planted-induction", "planted-induction-gqa"])
def test_true_heads_of_planted_models_are_found_better_than_by_chance(name: str) -> None:
    values = []
    for seed in SEEDS:
        codes = found(name, seed, CodeSettings())
        is_true = np.array([head.label in ("L0H0", "L1H2") for head in codes.heads])
        values.append(auroc(codes.counts, is_true))
    assert min(values) >= 0.9, values


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"variant": "other"}, {"examples": 1}):
        with pytest.raises(InterpError) as caught:
            CodeSettings(**settings)  # type: ignore[arg-type]
        assert caught.value.code == "E205"
