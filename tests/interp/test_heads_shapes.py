"""Entropy, distance, influence and sinks of heads: closed forms of even attention, and a loop over patterns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer
from interp.heads.patterns.distance import local_and_global
from interp.heads.patterns.rhythm import rhythm
from interp.heads.run import score
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_head, parse_heads
from interp.hooks.pairs import tokenise
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError

LENGTH = 24
SHAPES = ("entropy", "attention-distance", "waad", "fai", "sink-share")


@pytest.fixture(scope="module")
def even() -> HookedModel:
    """A model whose queries are 0, so that every row is even."""
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    return HookedModel.from_hf(model)


@pytest.mark.parametrize("name", SHAPES)
def test_even_attention_scores_what_its_closed_form_says(even: HookedModel, name: str) -> None:
    """Sink-share is H_T / T at the first token, distance the mean of q / 2 and normalised entropy 1."""
    ids = even.batch([list(range(3, 3 + LENGTH))])
    pairs = as_pairs(ids)
    heads = parse_heads("all", even.heads)
    found = scorer(name).measure(even, pairs, heads, 4)
    harmonic = sum(1 / n for n in range(1, LENGTH + 1))
    queries = np.arange(1, LENGTH)
    clipped = [np.minimum(q - np.arange(q + 1), 10).mean() for q in queries]
    later = [np.mean([1 / (i + 1) for i in range(j + 10, min(LENGTH, j + 51))]) for j in range(LENGTH - 10)]
    closed = {
        "entropy": 1.0,
        "attention-distance": (queries / 2).mean(),
        "waad": np.mean(clipped),
        "fai": np.mean(later),
        "sink-share": harmonic / LENGTH,
    }[name]
    assert np.abs(found.values - closed).max() <= 1e-5 * max(1, closed)
    if name != "entropy":
        assert np.abs(found.null - closed).max() <= 1e-9 * max(1, closed)


def as_pairs(batch):
    from interp.hooks.examples import Example

    return tokenise(None, [Example("one", tuple(batch.input_ids[0].tolist()))])


def test_distance_without_the_first_token_is_that_of_rows_without_it() -> None:
    model = interp.load("mini")
    pairs = tokenise(model.tokenizer, interp.task("induction", n=1, length=8).examples(model.tokenizer).examples)
    _, seen = model.run_with_cache(pairs.clean, "*hook_pattern")
    heads = parse_heads("all", model.heads)
    found = scorer("attention-distance", sinks="excluded").measure(model, pairs, heads, 1)
    for place, head in enumerate(heads):
        pattern = seen["pattern", head.layer][0, head.head].double().numpy()
        rows = [
            sum(pattern[q, k] * (q - k) for k in range(1, q + 1)) / pattern[q, 1 : q + 1].sum()
            for q in range(2, len(pattern))
        ]
        assert found.values[place, 0] == pytest.approx(np.mean(rows), abs=1e-4)
        chance = np.mean([np.mean([q - k for k in range(1, q + 1)]) for q in range(2, len(pattern))])
        assert found.null[place, 0] == pytest.approx(chance, abs=1e-9)


def test_entropy_and_sink_share_are_those_of_a_loop() -> None:
    model = interp.load("mini")
    pairs = tokenise(model.tokenizer, interp.task("induction", n=1, length=8).examples(model.tokenizer).examples)
    _, seen = model.run_with_cache(pairs.clean, "*hook_pattern")
    heads = parse_heads("L1H*", model.heads)
    spread = scorer("entropy").measure(model, pairs, heads, 1)
    sinks = scorer("sink-share", least=4).measure(model, pairs, heads, 1)
    for place, head in enumerate(heads):
        pattern = seen["pattern", head.layer][0, head.head].double().numpy()
        size = len(pattern)
        rows = [-sum(p * math.log(p) for p in pattern[q] if p > 0) / math.log(q + 1) for q in range(1, size)]
        received = [pattern[k:, k].mean() for k in range(size - 3)]
        assert spread.values[place, 0] == pytest.approx(np.mean(rows), abs=1e-5)
        assert sinks.values[place, 0] == pytest.approx(max(received), abs=1e-5)


def test_a_planted_sink_is_collapsed_and_found_and_the_others_are_overloaded() -> None:
    model, task = interp.load("planted-sink"), interp.task("bundled", model="planted-sink", n=16)
    found = score(model, ["entropy", "sink-share"], task)
    notes = " ".join(found["entropy"].run.warnings)
    assert "collapsed (one key a query): L0H3." in notes and "overloaded (all keys alike): L0H0, L0H1, L0H2." in notes
    sinks = found["sink-share"]
    assert [label for label, yes in zip(sinks.heads, sinks.claimed, strict=True) if yes] == ["L0H3"]


def test_heads_split_into_local_and_global_ones() -> None:
    mean = torch.tensor([5.0, 1.0, float("nan"), 9.0, 3.0, 7.0])
    assert local_and_global(mean, 0.4) == ([1, 4], [3, 5])
    with pytest.raises(InterpError, match="E205"):
        local_and_global(mean, 0.6)


def test_parameters_that_make_no_sense_are_refused() -> None:
    wrong = (("waad", {"window": 0}), ("fai", {"delta": 9, "horizon": 3}), ("sink-share", {"least": 0}))
    for name, options in wrong:
        with pytest.raises(InterpError, match="E205"):
            scorer(name, **options)


def test_rhythm_is_that_of_the_mean_pattern_of_local_and_of_global_heads() -> None:
    model = interp.load("mini")
    pairs = tokenise(model.tokenizer, interp.task("induction", n=2, length=16).examples(model.tokenizer).examples)
    found = rhythm(model, pairs, delta=4, horizon=8)
    assert len(found.local_heads) == len(found.global_heads) == 9 and not set(found.local_heads) & set(
        found.global_heads
    )
    _, seen = model.run_with_cache(pairs.clean, "*hook_pattern")

    def mean(labels: tuple[str, ...]) -> np.ndarray:
        heads = [parse_head(label) for label in labels]
        return np.mean([seen["pattern", head.layer][:, head.head].double().numpy() for head in heads], axis=0)

    local, far = mean(found.local_heads), mean(found.global_heads)
    size = local.shape[-1]
    for prompt in range(2):
        for at in range(size):
            waad = sum(local[prompt, at, key] * min(at - key, 10) for key in range(at + 1))
            assert float(found.waad[prompt, at]) == pytest.approx(waad, abs=1e-5)
            later = [far[prompt, query, at] for query in range(at + 4, min(size, at + 9))]
            fai = float(found.fai[prompt, at])
            assert fai == pytest.approx(np.mean(later), abs=1e-5) if later else math.isnan(fai)
