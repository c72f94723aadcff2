"""What a plan says of forwards, operations and memory, against what torch counts while edges are scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.memory import Memory
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.edges.plan import EdgePlan, plan
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Graph, LayerShape
from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.hooks.rerun.memory import peak
from interp.kernels.errors import InterpError
from tests.cases.edges import asked, opened, paired, prompts

LLAMA = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2)
SIZES: dict[str, dict[str, int]] = {
    "llama": LLAMA,
    "gpt2": dict(n_embd=128, n_layer=3, n_head=8, n_positions=128),
    "gpt_neox": {name: size for name, size in LLAMA.items() if name != "num_key_value_heads"},
    "gemma2": {**LLAMA, "head_dim": 16},
    "mixtral": LLAMA,
}
SETTINGS = Settings(steps=2)


def scored(flow: Flow, batch: int, width: int, method: str) -> None:
    """From prompts to scores."""
    clean, corrupt = (prompts(flow.model, (width,) * batch, seed) for seed in (0, 1))
    METHODS[method].run(Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt)), SETTINGS)


def planned(flow: Flow, shape: Shape, batch: int, width: int, method: str) -> EdgePlan:
    behind = any(norm is not None for norm in flow.norms.values())
    return plan(
        flow.graph, shape, prompts=batch, batch=batch, width=width, method=method, settings=SETTINGS, behind_norm=behind
    )


@pytest.mark.parametrize(("batch", "width"), [(1, 64), (4, 100)])
@pytest.mark.parametrize("method", ["eap", "eap-ig"])
@pytest.mark.parametrize("architecture", SIZES)
def test_memory(architecture: str, method: str, batch: int, width: int) -> None:
    flow = Flow.of(opened(architecture, **SIZES[architecture]))
    said = planned(flow, Shape.of(flow), batch, width, method).bytes
    assert said == pytest.approx(peak(lambda: scored(flow, batch, width, method)), rel=0.15)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_memory_without_weights(architecture: str) -> None:
    """The plain passes of a model of fake tensors tell what the true passes of a true one hold."""
    flow = Flow.of(opened(architecture, **SIZES[architecture]))
    known, config = Shape.of(flow), flow.model.adapter.config  # type: ignore[attr-defined]
    with FakeTensorMode():
        shape = Shape.without_weights(type(flow.model.adapter.model)(config).eval())  # type: ignore[attr-defined]
    assert (shape.d_model, shape.token, shape.pair) == (known.d_model, known.token, known.pair)
    assert shape.backward.token == pytest.approx(known.backward.token, rel=0.3)
    assert planned(flow, shape, 4, 64, "eap").bytes == pytest.approx(planned(flow, known, 4, 64, "eap").bytes, rel=0.15)


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_operations(architecture: str, method: str) -> None:
    flow = Flow.of(opened(architecture, **SIZES[architecture]))
    shape = Shape.of(flow)
    scored(flow, 1, 32, "eap")
    with FlopCounterMode(display=False) as counter:
        scored(flow, 2, 32, method)
    assert planned(flow, shape, 2, 32, method).flops == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_forwards_are_those_of_the_methods() -> None:
    flow, clean, corrupt = paired(opened("gpt2"))
    shape, settings = Shape.of(flow), Settings(steps=3, rule="trapezoid")
    for name in ("eap", "eap-denoise", "clean-corrupted", "eap-ig"):
        found = METHODS[name].run(Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt)), settings)
        said = plan(flow.graph, shape, prompts=5, width=9, method=name, settings=settings)
        assert said.forwards == 5 * (found.forwards + 2), name


def test_a_budget_decides_how_many_prompts_go_together() -> None:
    flow = Flow.of(opened("llama", **SIZES["llama"]))
    shape = Shape.of(flow)
    for budget in (3 << 20, 10 << 20, 50 << 20):
        said = plan(flow.graph, shape, prompts=64, width=32, budget=budget)
        assert said.bytes <= budget
        more = Memory(flow.graph, shape, 32, True, False, 1 << 24, 64, 1).bytes(said.batch + 1)
        assert said.batch == 64 or more > budget
        assert peak(partial(scored, flow, said.batch, 32, "eap")) <= 1.15 * budget
        assert f"{said.batch} at a time" in str(said) and "allowed" in str(said)


def test_a_budget_for_no_prompt_is_refused() -> None:
    flow = Flow.of(opened("llama", **SIZES["llama"]))
    with pytest.raises(InterpError, match="1 prompt of 32 tokens need") as caught:
        plan(flow.graph, Shape.of(flow), prompts=4, width=32, budget=1 << 18)
    assert caught.value.code == "E603" and "more memory" in caught.value.fix
    with pytest.raises(InterpError, match="4 prompts of 32 tokens need"):
        plan(flow.graph, Shape.of(flow), prompts=4, batch=4, width=32, budget=1 << 18)


def test_what_cannot_be_planned_is_refused() -> None:
    flow = Flow.of(opened("gpt2"))
    for method in ("exact", "given"):
        with pytest.raises(InterpError) as caught:
            plan(flow.graph, Shape.of(flow), prompts=4, width=32, method=method)
        assert caught.value.code == "E205"


LLAMA_3_8B: dict[str, Any] = dict(
    vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_attention_heads=32, num_key_value_heads=8
)


@contextmanager
def bfloat16() -> Iterator[None]:
    """Models are made in it inside the block."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_llama_3_8b_is_planned_without_weights() -> None:
    graph = Graph.of_shape([LayerShape(32, 8)] * 32)
    config = LlamaConfig(**LLAMA_3_8B, num_hidden_layers=32)
    with FakeTensorMode(), bfloat16():
        shape = Shape.without_weights(LlamaForCausalLM(config).eval())
    assert graph.n_edges == 805_681
    assert (shape.d_model, shape.d_head, shape.item) == (4096, 128, 2)
    weights = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336)  # of a layer
    assert (shape.token, shape.logits) == (32 * weights, 4096 * 128_256)
    said = plan(graph, shape, prompts=1, width=200)
    assert said.flops == pytest.approx(2 * (4 * 200 * shape.token), rel=0.25), "forwards, and less for products"
    written = 2 * 200 * 4096 * (1 + 2 * 32)  # bytes of one run's writers
    assert 3 * written < said.bytes < 16 * 2**30
    with pytest.raises(InterpError, match="need"):
        plan(graph, shape, prompts=1, width=200, budget=1 << 30)


@pytest.mark.slow
def test_two_layers_of_llama_3_8b_hold_what_was_said() -> None:
    """In float32, with few tokens in the vocabulary; weights take 2 GB."""
    sizes = {**LLAMA_3_8B, "vocab_size": 512, "max_position_embeddings": 256}
    flow = Flow.of(HookedModel.from_hf(sharp_model("llama", **sizes, num_hidden_layers=2)))
    shape = Shape.of(flow)
    said = planned(flow, shape, 1, 200, "eap").bytes
    held = peak(lambda: scored(flow, 1, 200, "eap"))
    assert said == pytest.approx(held, rel=0.15)
    assert said < 4 * 2**30
