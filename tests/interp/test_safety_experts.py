"""Experts of mixture-of-experts models: contrast of what requests are routed to, and experts that are suppressed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.heads.effects.ablation import twins
from interp.heads.parts import ExpertId, parse_part
from interp.heads.result import HeadScores
from interp.heads.run import score
from interp.heads.safety.routers import experts_of, routed, routers, suppressed
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId
from interp.hooks.pairs import tokenise
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.tasks.safety import HARMFUL

KINDS = ("mixtral", "gpt_oss", "qwen2_moe")


@cache
def tokenizer() -> Any:
    return interp.load("mini").tokenizer


def network(kind: str) -> Any:
    if kind != "qwen2_moe":
        return tiny_model(kind, vocab_size=len(tokenizer()))
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Qwen2MoeConfig(
            vocab_size=len(tokenizer()), hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_experts=4,
            num_experts_per_tok=2, shared_expert_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, norm_topk_prob=False,
        )  # fmt: skip
        model = Qwen2MoeForCausalLM(config).eval()
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.mlp.gate.weight, std=0.2)
        return model


@cache
def opened(kind: str) -> HookedModel:
    return HookedModel.from_hf(network(kind), tokenizer())


@cache
def planted() -> HookedModel:
    """A tiny Mixtral that sends harmful verbs to expert 2 of layer 1."""
    model = network("mixtral")
    mark = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    with torch.no_grad():
        verbs = [tokenizer()(f" {verb}", add_special_tokens=False)["input_ids"][0] for verb in HARMFUL]
        embed = model.model.embed_tokens.weight
        embed.copy_(50 * (embed - torch.outer(embed @ mark, mark)) - 4 * mark)  # large beside what attention writes
        embed[verbs] += 12 * mark
        gate = model.model.layers[1].mlp.gate
        gate.weight.copy_(gate.weight - torch.outer(gate.weight @ mark, mark))
        gate.weight[2] = 4 * mark
    return HookedModel.from_hf(model, tokenizer())


def asked(n: int = 8):
    return tokenise(tokenizer(), interp.task("safety", n=n, ask="harmful").examples(tokenizer()).examples)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_routed_is_what_the_router_chose(kind: str) -> None:
    """Loop over tokens on what the router itself gives."""
    model, batch = opened(kind), asked(3).clean
    seen: dict[int, Any] = {}
    handles = [
        router.register_forward_hook(lambda _, given, output, layer=layer: seen.__setitem__(layer, output))
        for layer, router in routers(model).items()
    ]
    found = routed(model, batch)
    for handle in handles:
        handle.remove()
    assert sorted(found) == [0, 1] and len(experts_of(model)) == 8
    for layer, (_, weights, chosen) in seen.items():
        loop = torch.zeros(len(weights), 4, dtype=torch.float64)
        for token in range(len(weights)):
            for weight, number in zip(weights[token], chosen[token], strict=True):
                loop[token, number] += float(weight)
        assert torch.allclose(found[layer].flatten(0, 1), loop) and (loop > 0).sum(1).max() == 2


def test_the_planted_expert_is_first_and_the_result_speaks_of_experts(tmp_path) -> None:
    found = score(planted(), "expert-contrast", n=16)
    assert isinstance(found, HeadScores) and found.axis == "expert" and len(found.heads) == 8
    assert found.top(1)[0].label == "L1E2" and found.claimed[found.heads.index("L1E2")]
    assert "expert" in found.headline() and found.plot().layout.xaxis.title.text == "expert"
    assert set(found.to_frame()["layer"]) == {0, 1}
    found.save(tmp_path / "run")
    assert HeadScores.load(tmp_path / "run") == found
    some = score(planted(), "expert-contrast", n=16, heads="L1E2,L0E0")
    assert some.heads == ("L1E2", "L0E0") and np.allclose(some.values[0], found.values[found.heads.index("L1E2")])


def test_contrast_is_the_difference_of_class_means_or_the_ratio() -> None:
    pairs = asked(8)
    sums = []
    for side in (pairs, twins(pairs)):
        weights = routed(planted(), side.clean)
        sums.append(
            torch.stack([(weights[one.layer][..., one.head] * side.clean.mask).sum(1) for one in experts_of(planted())])
        )
    task = interp.task("safety", n=8, ask="harmful")
    difference, ratio = (score(planted(), "expert-contrast", task, contrast=one) for one in ("difference", "ratio"))
    assert np.allclose(difference.mean, (sums[0].mean(1) - sums[1].mean(1)).numpy())
    assert np.allclose(ratio.values, ((sums[0] - sums[1]) / (sums[0] + sums[1])).numpy(), equal_nan=True)
    counts = score(planted(), "expert-contrast", task, activation="count")
    assert np.allclose(counts.values, counts.values.round()) and counts.values[6].mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_suppressed_expert_leaves_its_weight_to_the_others(kind: str) -> None:
    """The oracle is the same model with a router that does it token by token."""
    model, batch = opened(kind), asked(3).clean
    gone = [ExpertId("", 0, 1), ExpertId("", 1, 0), ExpertId("", 1, 3)]
    plain = model(batch)
    with suppressed(model, gone):
        logits = model(batch)
        weights = routed(model, batch)
    assert torch.equal(model(batch), plain) and (logits - plain)[batch.mask].abs().max() > 1e-4
    assert all((weights[one.layer][..., one.head] == 0).all() for one in gone)

    slow = HookedModel.from_hf(network(kind), tokenizer())
    for layer, router in routers(slow).items():
        router.forward = by_token(router.forward, {one.head for one in gone if one.layer == layer})
    assert torch.allclose(slow(batch)[batch.mask], logits[batch.mask], atol=1e-5)


def by_token(forward: Any, gone: set[int]) -> Any:
    def run(hidden: torch.Tensor) -> Any:
        scores, weights, chosen = forward(hidden)
        weights = weights.clone()
        for row, numbers in zip(weights, chosen.tolist(), strict=True):
            total = float(row.sum())
            rest = sum(float(weight) for weight, number in zip(row, numbers, strict=True) if number not in gone)
            for place, number in enumerate(numbers):
                row[place] = 0 if number in gone else row[place] * total / rest
        return scores, weights, chosen

    return run


def test_mistakes_with_experts_are_refused() -> None:
    model, batch = opened("mixtral"), asked(2).clean
    with pytest.raises(InterpError, match="no such expert in layer 1: 9"), suppressed(model, [ExpertId("", 1, 9)]):
        model(batch)
    with pytest.raises(InterpError, match="did not run"), suppressed(model, [ExpertId("", 1, 1)]):
        pass
    with pytest.raises(InterpError, match="has no routed experts"):
        score(interp.load("mini"), "expert-contrast", n=4)
    with pytest.raises(InterpError, match="has no L0E7"):
        score(planted(), "expert-contrast", n=4, heads="L0E7")
    with pytest.raises(ZeroDivisionError), suppressed(model, [ExpertId("", 1, 1)]):
        1 / 0  # noqa: B018
    assert not any(router._forward_hooks for router in routers(model).values())


def test_labels_of_parts() -> None:
    assert parse_part("L3E12") == ExpertId("", 3, 12) and parse_part("L3E12").label == "L3E12"
    assert parse_part("vision.L1H2") == HeadId("vision", 1, 2) and parse_part("L1H2") != ExpertId("", 1, 2)
    with pytest.raises(InterpError, match="not a head label"):
        parse_part("L3X1")
