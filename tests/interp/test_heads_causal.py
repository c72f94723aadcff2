"""Gradients, direct attribution and independence of heads, against finite differences, loops and closed forms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer
from interp.heads.effects.gradient import bertology_importance, mean_cosine, michel_importance
from interp.heads.run import score
from interp.hooks.interventions import Scale
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.naive import read_output
from interp.hooks.names import parse_heads
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError

MICHEL = (0.5026125, 0.5075677, 0.6998255, 0.6267886, 0.5825811, 0.5174314)
BERTOLOGY = (0.1839962, 0.0, 1.0, 0.8773503, 0.3173417, 0.269916)
"""Numbers of the published formulas on seeded input, from a loop over numpy arrays."""


@cache
def opened(name: str = "mini") -> HookedModel:
    return interp.load(name)


@cache
def asked(n: int = 3):
    model = opened()
    return tokenise(model.tokenizer, interp.task("induction", n=n, length=6).examples(model.tokenizer).examples)


@pytest.mark.parametrize("name", ["logit_diff", "log_prob"])
def test_attribution_is_the_derivative_by_a_factor_on_the_head(name: str) -> None:
    model, pairs = opened(), asked()
    found = scorer("gradient-attribution", metric=name).measure(model, pairs, parse_heads("L2H*", model.heads), 2)
    step = 1e-2

    def at(head: int, factor: float) -> torch.Tensor:
        with model.edit(Scale((f"L2H{head}",), factor)):
            rows = read_output(model(pairs.clean), pairs.clean, pairs.read_at).double()
        return metric(name)(rows, pairs.answer, pairs.distractor)

    for head in range(8):
        slope = (at(head, 1 + step) - at(head, 1 - step)) / (2 * step)
        assert np.abs(found.values[head] - slope.numpy()).max() <= 1e-3 * max(1.0, float(slope.abs().max()))


def test_a_head_that_writes_nothing_has_no_importance_and_no_share() -> None:
    network = interp.load("mini").adapter.model
    with torch.no_grad():
        network.model.layers[2].self_attn.o_proj.weight.unflatten(1, (8, -1))[:, 3] = 0
    model = HookedModel.from_hf(network, opened().tokenizer)
    for name in ("gradient-importance", "gradient-attribution", "direct-logit-attribution"):
        values = scorer(name).measure(model, asked(), parse_heads("L2H3,L2H4", model.heads), 3).values
        assert np.abs(values[0]).max() == 0 and np.abs(values[1]).min() > 0


def test_importance_is_that_of_a_loop_and_chance_that_of_random_directions() -> None:
    """In the last layer one position has a gradient, so the mean over positions with one is that position alone."""
    model, pairs = opened(), asked(1)
    heads = parse_heads("L3H*", model.heads)
    found = scorer("gradient-importance").measure(model, pairs, heads, 1)
    signed = scorer("gradient-attribution").measure(model, pairs, heads, 1)
    assert np.abs(found.values - np.abs(signed.values)).max() <= 1e-9
    draw = torch.Generator().manual_seed(0)
    for size in (2, 16):
        x = torch.randn(200_000, size, generator=draw)
        assert float((x[:, 0] / x.norm(dim=-1)).abs().mean()) == pytest.approx(mean_cosine(size), rel=1e-2)


def test_published_importance_on_stored_numbers() -> None:
    """Both formulas on seeded normal numbers; a loop gives them again, and the numbers stand above."""
    draw = np.random.default_rng(0)
    products = torch.from_numpy(draw.normal(size=(2, 3, 4, 5)))
    lengths = torch.tensor([5, 3, 4, 5])
    for prompt, length in enumerate(lengths.tolist()):
        products[:, :, prompt, length:] = 0
    values, running, legacy = products.numpy(), np.zeros((2, 3)), np.zeros((2, 3))
    for start in (0, 2):
        for prompt in (start, start + 1):
            running += values[:, :, prompt].sum(-1)
        legacy += np.abs(running)
    legacy /= 17
    legacy /= np.sqrt((legacy**2).sum(1, keepdims=True))
    legacy = (legacy - legacy.min()) / (legacy.max() - legacy.min())
    paper = np.abs(values).sum((2, 3)) / np.array([[17.0], [4.0]])
    paper /= np.sqrt((paper**2).sum(1, keepdims=True))
    assert np.abs(michel_importance(products, lengths).numpy() - paper).max() <= 1e-12
    assert np.abs(bertology_importance(products, lengths, 2).numpy() - legacy).max() <= 1e-12
    assert michel_importance(products, lengths).numpy().ravel() == pytest.approx(MICHEL, abs=1e-6)
    assert bertology_importance(products, lengths, 2).numpy().ravel() == pytest.approx(BERTOLOGY, abs=1e-6)
    by_single = bertology_importance(products, lengths, 1)
    assert (by_single - bertology_importance(products, lengths, 4)).abs().max() > 0.05
    with pytest.raises(InterpError, match="E206"):
        michel_importance(products, lengths[:3])


def test_direct_attribution_is_that_of_dla() -> None:
    model, task = opened(), interp.task("induction", n=6)
    found, whole = score(model, "direct-logit-attribution", task), interp.dla(model, task)
    rows = [whole.labels.index(label) for label in found.heads]
    assert np.abs(found.values - whole.values[rows]).max() <= 1e-5  # dla shows patterns, so attention runs another way
    assert (found.null == 0).all()


@pytest.mark.parametrize(
    ("model", "name", "head"),
    [
        ("planted-copy", "direct-logit-attribution", "L0H2"),
        ("planted-copy", "gradient-attribution", "L0H2"),
        ("planted-induction", "direct-logit-attribution", "L1H2"),
    ],
)
def test_the_planted_writer_is_the_only_one_claimed(model: str, name: str, head: str) -> None:
    found = score(opened(model), name, interp.task("bundled", model=model, n=16))
    assert [label for label, yes in zip(found.heads, found.claimed, strict=True) if yes] == [head]


def test_a_head_of_places_is_independent_of_its_input_and_a_head_of_words_is_so_where_it_rests() -> None:
    """Idle rows of the induction head rest on the first token, whatever stands there; noise looks everywhere alike."""
    found = score(opened("planted-induction"), "input-independence", interp.task("bundled", model="planted-induction"))
    mean = dict(zip(found.heads, found.mean, strict=True))
    assert mean["L0H0"] >= 0.99 and mean["L1H2"] < 0.7
    assert {label for label, yes in zip(found.heads, found.claimed, strict=True) if yes} == {"L0H0", "L1H2"}


def test_overlap_is_that_of_a_loop() -> None:
    model, pairs = opened(), asked(2)
    heads = parse_heads("L1H*", model.heads)
    found = scorer("input-independence").measure(model, pairs, heads, 2)
    ids = [row[keep].tolist() for row, keep in zip(pairs.clean.input_ids, pairs.clean.mask, strict=True)]
    order = torch.randperm(len(ids[0]) - 1, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = [[row[0], *(row[1:][place] for place in order)] for row in ids]
    sides = [model.run_with_cache(side, "*pattern")[1]["pattern", 1].double() for side in (ids, mixed)]
    for head in range(8):
        for prompt in range(2):
            one, other = (side[prompt, head].numpy() for side in sides)
            rows = [sum(min(one[q, k], other[q, k]) for k in range(q + 1)) for q in range(1, len(one))]
            even = [sum(min(one[q, k], 1 / (q + 1)) for k in range(q + 1)) for q in range(1, len(one))]
            assert found.values[head, prompt] == pytest.approx(np.mean(rows), abs=1e-6)
            assert found.null[head, prompt] == pytest.approx(np.mean(even), abs=1e-6)
