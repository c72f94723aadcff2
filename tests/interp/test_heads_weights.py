"""Copying and composition, read off weights: planted heads, random weights, and the large matrices as the oracle."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer
from interp.heads.run import score
from interp.heads.weights.base import WeightScorer, random_rotation
from interp.heads.weights.matrices import matrices
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError

opened = cache(interp.load)
FAMILIES = ("gpt2", "llama", "gpt_neox")
"""Fused weights in two layouts, and separate ones with shared key/value heads."""


@cache
def tiny(name: str) -> HookedModel:
    return HookedModel.from_hf(tiny_model(name))


def weighed(model: HookedModel, name: str) -> torch.Tensor:
    asked = scorer(name)
    assert isinstance(asked, WeightScorer)
    return asked.weigh(model, parse_heads("all", model.heads))[0]


@pytest.mark.parametrize(
    ("model", "name", "head"),
    [
        ("planted-induction", "copying", "L1H2"),
        ("planted-induction-gqa", "copying", "L1H2"),
        ("planted-copy", "copying", "L0H2"),
        ("planted-induction", "copying-top-k", "L1H2"),
        ("planted-induction", "k-composition", "L1H2"),
    ],
)
def test_the_planted_head_is_the_only_one_claimed(model: str, name: str, head: str) -> None:
    found = score(opened(model), name)
    assert [label for label, yes in zip(found.heads, found.claimed, strict=True) if yes] == [head]
    if name == "copying":
        assert found.mean[found.heads.index(head)] >= 0.99
    if name == "k-composition":
        assert "L1H2 reads L0H0" in found.run.warnings[0]
    assert found.prompts[0].id == "weights" and found.data_hash == "" and found.n_total == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_matrices_are_what_the_layer_computes(name: str) -> None:
    """q, k and v of a prompt are the stream, over the norm's scale, times the matrices, but for positions and biases."""
    model = tiny(name)
    config, layers = model.adapter.model.config, matrices(model)
    eps = next(
        getattr(config, key) for key in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps") if hasattr(config, key)
    )
    streams = []
    for ids in ([5, 6, 7], [8, 9, 10]):
        _, cached = model.run_with_cache([ids], ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_v"])
        x = cached["resid_pre", 0][0].double()
        centred = x - x.mean(-1, keepdim=True) if name != "llama" else x
        scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        streams.append((x / scale, cached["v", 0][0].double()))
    (a, v_a), (b, v_b) = streams
    group = model.heads[""][0] // model.kv_heads[""][0]
    expected = torch.einsum("pm,hmd->phd", a - b, layers[0].v)[:, ::group]
    assert ((v_a - v_b) - expected).abs().max() <= 1e-3 * v_a.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_copying_is_that_of_the_large_matrix(name: str) -> None:
    model = tiny(name)
    own, network = matrices(model)[1], model.adapter.model
    embedding = network.get_input_embeddings().weight.detach().double()
    norm = model.adapter.towers[""].final_norm
    head = network.get_output_embeddings().weight.detach().double() * norm.weight.detach().double()
    head = head - head.mean(-1, keepdim=True) if name != "llama" else head
    for place in range(len(own.o)):
        large = embedding @ own.v[place] @ own.o[place] @ head.T
        values = torch.linalg.eigvals(large)
        expected = float(values.real.sum() / values.abs().sum())
        heads = parse_heads(f"L1H{place}", model.heads)
        assert float(scorer("copying").weigh(model, heads)[0]) == pytest.approx(expected, abs=1e-6)
        found = scorer("copying-top-k", tokens=None, k=3).weigh(model, heads)[0]
        hits = [int(token in large[token].topk(3).indices) for token in range(len(large))]
        assert float(found) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition_is_that_of_the_large_matrices(kind: str) -> None:
    model = tiny("llama")
    layers = matrices(model)
    heads = parse_heads("all", model.heads)
    table, labels = scorer(f"{kind}-composition").pairs(model, heads)
    for earlier, label in enumerate(labels):
        for later, head in enumerate(heads):
            first, second = int(label[1]), head.layer
            if first >= second:
                assert table[earlier, later] == -torch.inf
                continue
            a, b = layers[first], layers[second]
            left = a.v[int(label[3])] @ a.o[int(label[3])]
            query_key = b.q[head.head] @ b.k[head.head].T
            right = {"q": query_key, "k": query_key.T, "v": b.v[head.head] @ b.o[head.head]}[kind]
            expected = (left @ right).norm() / (left.norm() * right.norm())
            assert float(table[earlier, later]) == pytest.approx(float(expected), rel=1e-6)


def test_random_weights_are_claimed_no_oftener_than_the_level_allows() -> None:
    """p of a head without structure is uniform: over 60 random models' heads at most a tenth are under 0.05."""
    under = []
    for seed in range(6):
        torch.manual_seed(seed)
        model = HookedModel.from_hf(tiny_model("llama", seed=seed))
        heads = parse_heads("all", model.heads)
        for name in ("copying", "k-composition"):
            p = scorer(name, draws=60).measure(model, None, heads, 1).p
            under += (p[np.isfinite(p)] <= 0.05).tolist()
    assert len(under) >= 40 and np.mean(under) <= 0.15


def test_rotations_are_orthogonal_and_differ() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = random_rotation(8, draw), random_rotation(8, draw)
    assert (one @ one.T - torch.eye(8, dtype=one.dtype)).abs().max() <= 1e-12 and (one - other).abs().max() > 0.1


def test_parameters_that_make_no_sense_are_refused() -> None:
    for name, options in (("copying", {"draws": 0}), ("copying-top-k", {"k": 0}), ("copying-top-k", {"tokens": 0})):
        with pytest.raises(InterpError, match="E205"):
            scorer(name, **options)
