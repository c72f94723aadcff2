"""What the engine says of its runs beforehand: routes, reasons, operations and memory, against what happens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.batch import pad
from interp.hooks.interventions import Ablate
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.memory import LiveBytes
from tests.cases.rerun import prompts


def test_one_variant_a_run_where_memory_allows_no_more(hooked: Any) -> None:
    model = hooked("llama")
    clean, _ = prompts(model, 0)
    engine = Rerun(model, clean, [Ablate(heads=((0, head),)) for head in range(4)], clean.end.cpu())
    assert [len(chunk.variants) for chunk in engine.plan(budget=1).chunks] == [1, 1, 1, 1]
    assert [len(chunk.variants) for chunk in engine.plan().chunks] == [4]
    fixed, each = engine._measured(engine.routes[0])
    three = engine.recording.n_bytes + fixed + 3 * each
    assert [len(chunk.variants) for chunk in engine.plan(budget=three).chunks] == [3, 1]


def test_says_why_a_faster_route_was_not_taken(hooked: Any) -> None:
    reasons = {}
    for architecture in ("bert", "bloom", "falcon"):
        model = hooked(architecture)
        clean, _ = prompts(model, 0)
        plan = Rerun(model, clean, [Ablate(heads="L0H0")], clean.end.cpu()).plan()
        assert plan.routes == {"layers": 1}
        reasons[architecture] = plan.reasons[0]
    assert reasons == {
        "bert": "attention is not causal",
        "bloom": "the model cannot be told positions",
        "falcon": "some layers compute attention in their own code",
    }


def test_operations_of_gpt2_small() -> None:
    """Held against multiply-adds counted by hand: 12 d^2 a layer and token, d times the vocabulary at the end."""
    import transformers

    from interp.hooks.adapters.huggingface import HuggingFaceAdapter

    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    d, vocabulary, adapter = 768, 50257, object.__new__(HuggingFaceAdapter)
    from interp.hooks.adapters.structure import find_towers

    adapter.projections = {}
    adapter.model, adapter.towers = model, {tower.name: tower for tower in find_towers(model)}
    cost = Cost.of(adapter)
    assert [(layer.into, layer.out, layer.mlp, layer.query, layer.pair) for layer in cost.layers] == [
        (3 * d * d, d * d, 8 * d * d, 0, 2 * d)
    ] * 12
    assert cost.forward(16, 32) == 16 * (32 * (12 * 12 * d * d + d * vocabulary) + 12 * 32 * 32 * 2 * d)


@pytest.mark.parametrize("positions", [None, "end", 3])
def test_planned_operations(hooked: Any, positions: Any) -> None:
    """Held against the operations that torch counts while the engine runs."""
    from torch.utils.flop_counter import FlopCounterMode

    model = hooked("llama", num_hidden_layers=4)
    clean, _ = prompts(model, 0)
    chosen = [Ablate(heads=((layer, 0),), positions=positions) for layer in range(4)]
    engine = Rerun(model, clean, chosen, clean.end.cpu())
    for chunk in engine.plan().chunks:
        with FlopCounterMode(display=False) as counter:
            engine.run(chunk)
        assert chunk.flops == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("positions", [None, "end", 20])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "bert"])
def test_runs_stay_within_their_memory(hooked: Any, architecture: str, positions: Any) -> None:
    sizes = {"n_embd": 256} if architecture == "gpt2" else {"hidden_size": 256, "head_dim": 64}
    if architecture == "bert":
        del sizes["head_dim"]
    model = hooked(architecture, **sizes)
    ids = torch.randint(3, 100, (6, 40), generator=torch.Generator().manual_seed(0))
    batch = model.batch(pad(ids.tolist(), 0))
    chosen = [Ablate(heads=((layer, head),), positions=positions) for layer in range(2) for head in range(4)]
    engine = Rerun(model, batch, chosen, batch.end.cpu())
    fixed, each = engine._measured(engine.routes[0])
    assert each < engine._bound(engine.routes[0])
    budget = engine.recording.n_bytes + fixed + int(3.5 * each)
    plan = engine.plan(budget=budget)
    assert max(len(chunk.variants) for chunk in plan.chunks if chunk.layer == 0) == 3
    for chunk in plan.chunks:
        if chunk.route == "nothing":
            continue
        with LiveBytes() as live:
            engine.run(chunk)
        assert live.peak + plan.recorded <= 1.1 * budget
        if chunk.layer == 0:
            assert live.peak <= 1.1 * chunk.peak


def test_live_bytes() -> None:
    with LiveBytes() as live:
        x = torch.zeros(1000)
        y = x.view(-1) + 1
        del x
        z = (y * 2).sum()
    assert live.peak == 8000 + 4
    assert live.now == 4000 + 4
    del y, z
    assert live.now == 0


def test_full_forwards_are_counted_as_such(hooked: Any) -> None:
    """An edit before the language model has no restart in it: it costs what it costs in the naive loop."""
    from interp.hooks.prompts import from_inputs

    model = hooked("llava")
    batch = from_inputs(model.adapter.probe_inputs)
    both: list[Any] = [Ablate(heads="vision.L0H0"), Ablate(heads="L0H0")]
    plan = Rerun(model, batch, both, batch.end.cpu()).plan()
    (forward,) = (chunk for chunk in plan.chunks if chunk.route == "forward")
    assert 2 * forward.flops == plan.naive_flops > plan.flops - forward.flops > 0
    alone = Rerun(model, batch, both[:1], batch.end.cpu()).plan()
    assert alone.naive_flops == alone.flops == 0 and "GFLOP" not in str(alone)
