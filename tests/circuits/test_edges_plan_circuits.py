"""Plans of methods that run circuits: what they hold is what was said, and a budget is held by smaller forwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.circuits.edges.acdc import acdc
from interp.circuits.edges.attribution import Attribution, Contrast
from interp.circuits.edges.counts import COUNTS
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.edges.plan import BOUNDED, EdgePlan, plan
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.flow import Flow
from interp.hooks.rerun.memory import peak
from interp.kernels.errors import InterpError
from tests.cases.edges import asked, opened, prompts

SETTINGS = Settings(steps=1, epochs=1, tau=0.5, taus=(0.5,), budget=20.0, size=0.1)
PROMPTS, WIDTH = 3, 24
SIZES = {
    "llama": dict(hidden_size=64, intermediate_size=176, num_attention_heads=4, num_key_value_heads=2),
    "gpt2": dict(n_embd=64, n_head=4),
    "gemma2": dict(hidden_size=64, intermediate_size=176, num_attention_heads=4, num_key_value_heads=2, head_dim=16),
}
TOLD = ("mask-gradient", "exact", "pruning", "eap-ig-activations")


def example(architecture: str) -> Flow:
    return Flow.of(opened(architecture, **SIZES[architecture]))


def planned(flow: Flow, method: str, budget: int | None = None, **options: int) -> EdgePlan:
    behind = any(norm is not None for norm in flow.norms.values())
    return plan(
        flow.graph, Shape.of(flow), prompts=PROMPTS, width=WIDTH, method=method, settings=SETTINGS,
        behind_norm=behind, flow=flow, budget=budget, **options,
    )  # fmt: skip


def scored(flow: Flow, method: str, tokens: int | None, batch: int = PROMPTS) -> Attribution:
    """From prompts to scores."""
    clean, corrupt = (prompts(flow.model, (WIDTH,) * batch, seed) for seed in (0, 1))
    contrast = Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt), tokens=tokens)
    return METHODS[method].run(contrast, SETTINGS)


def test_every_method_is_planned() -> None:
    assert set(COUNTS) == set(METHODS)
    flow = example("gpt2")
    for method in METHODS:
        said = planned(flow, method)
        assert said.bytes > 0 and said.flops > 0 and said.tokens is None, method
        assert ("at most" in str(said).splitlines()[1]) == (method in BOUNDED)


@pytest.mark.parametrize("method", TOLD)
@pytest.mark.parametrize("architecture", SIZES)
def test_memory_and_a_budget(architecture: str, method: str) -> None:
    flow = example(architecture)
    said = planned(flow, method)
    assert said.bytes == pytest.approx(peak(lambda: scored(flow, method, None)), rel=0.15)
    less = planned(flow, method, said.bytes * 2 // 3, batch=PROMPTS)
    assert less.tokens is not None and less.bytes <= said.bytes * 2 // 3
    held = peak(lambda: scored(flow, method, less.tokens))
    assert less.bytes == pytest.approx(held, rel=0.15)


@pytest.mark.parametrize("architecture", SIZES)
def test_memory_of_growth_is_a_bound(architecture: str) -> None:
    """It does not try as many circuits side by side as it may; forwards are a bound as well."""
    flow = example(architecture)
    said, found = planned(flow, "growth"), []
    held = peak(lambda: found.append(scored(flow, "growth", None)))
    assert held <= 1.15 * said.bytes <= 3.5 * held
    assert found[0].forwards <= said.forwards / PROMPTS


@pytest.mark.parametrize(
    "architecture", ["gpt2", *(pytest.param(one, marks=pytest.mark.slow) for one in ("llama", "gemma2"))]
)
def test_memory_of_acdc_is_a_bound(architecture: str) -> None:
    flow, found = example(architecture), []
    least = planned(flow, "acdc", 1 << 40)
    assert peak(lambda: found.append(scored(flow, "acdc", least.tokens))) <= 1.15 * least.bytes
    budget = least.bytes // 2
    less = planned(flow, "acdc", budget)
    assert less.tokens is not None and less.bytes <= budget
    assert peak(lambda: found.append(scored(flow, "acdc", less.tokens))) <= 1.15 * budget
    assert found[0].forwards <= least.forwards / PROMPTS and less.bound is not None
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["mask-gradient", "pruning", "exact", "eap-ig-activations", "growth"])
def test_smaller_forwards_give_the_same_scores(method: str) -> None:
    flow = example("llama")
    at_once, few = (scored(flow, method, tokens, 4) for tokens in (None, WIDTH))
    scale = float(at_once.scores.abs().max())
    torch.testing.assert_close(few.scores, at_once.scores, atol=1e-4 * max(1.0, scale), rtol=0)
    assert few.forwards == pytest.approx(at_once.forwards, rel=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ensemble"}))
def test_forwards(method: str) -> None:
    flow = example("gpt2")
    said, took = planned(flow, method).forwards / PROMPTS - 2, scored(flow, method, None).forwards
    assert said == pytest.approx(took) or (method in BOUNDED and said >= took)


@pytest.mark.parametrize("method", ["acdc", "exact", "pruning", "mask-gradient", "growth", "eap-ig-activations"])
def test_a_graph_too_large_for_the_budget_is_refused(method: str) -> None:
    with pytest.raises(InterpError, match="need") as caught:
        planned(example("gpt2"), method, 1 << 16)
    assert caught.value.code == "E603" and "more memory" in caught.value.fix


def test_parts_count_as_much_as_the_whole() -> None:
    flow = example("llama")
    clean, corrupt = (prompts(flow.model, (WIDTH,) * 3, seed) for seed in (0, 1))
    contrast = Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt))
    some = replace(contrast, tokens=2 * WIDTH)
    found, parted = acdc(contrast, 0.5), acdc(some, 0.5)
    assert (found.circuit == parted.circuit).all()
    assert parted.forwards == pytest.approx(found.forwards, rel=0.2)
    assert np.abs(found.losses - parted.losses).max() < 1e-4
