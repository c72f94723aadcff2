"""The engine against full forwards: random variants on many architectures, and every part by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate, Intervention, Knockout, Patch, Redistribute, Scale, Steer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, mean_reference, paired_reference
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.memory import LiveBytes
from interp.hooks.rerun.record import record
from interp.hooks.rerun.restart import layers
from interp.hooks.rerun.tree import plant
from interp.kernels.errors import InterpError

CAUSAL = (
    "gpt2",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "olmo2",
    "phi3",
    "gemma2",
    "gemma3",
    "mistral",
    "mixtral",
    "gpt_oss",
)
RESTARTED = ("bert", "bloom", "falcon", "gptj")
STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
LENGTHS = (9, 12, 7)
BATCHES = len(LENGTHS)


def prompts(model: Any, seed: int, side: str = "right", common: int = 0) -> tuple[Batch, Batch]:
    """Prompts of several lengths that begin alike for `common` tokens, and others that part from them after three."""
    draw = random.Random(seed)
    head = [draw.randrange(3, 100) for _ in range(common)]
    rows = [head + [draw.randrange(3, 100) for _ in range(length)] for length in LENGTHS]
    others = [row[: common + 3] + [draw.randrange(3, 100) for _ in row[common + 3 :]] for row in rows]
    found = [model.batch(pad(part, 0, side)) for part in (rows, others)]
    return found[0], found[1]


def variants(model: Any, clean: Batch, corrupt: Batch, seed: int, n: int = 24) -> list[Any]:
    """Random interventions of every kind that the model allows, one by one and together."""
    draw = random.Random(f"variants/{seed}")
    mean, other = mean_reference(model, [clean]), paired_reference(model, [corrupt], "*")
    width = clean.input_ids.shape[1]
    open_points = model.adapter.available

    def positions() -> Any:
        return draw.choice((None, None, "end", draw.randrange(width), tuple(draw.sample(range(width), 3))))

    def heads() -> Any:
        layer = draw.randrange(model.n_layers)
        count = model.heads[""][layer]
        return draw.choice(
            ((layer, draw.randrange(count)), tuple((layer, h) for h in draw.sample(range(count), 2)), "all")
        )

    def one() -> Intervention:
        layer, head = draw.randrange(model.n_layers), heads()
        makers: list[Callable[[], Intervention]] = [
            lambda: Ablate(heads=head, positions=positions()),
            lambda: Ablate(heads=head, operator="mean", reference=mean, positions=positions()),
            lambda: Ablate(heads=head, operator="resample", reference=other, positions=positions()),
            lambda: Scale(heads=head, factor=draw.choice((-1.0, 0.5, 3.0)), positions=positions()),
            lambda: Patch("z", other, heads=head, positions=positions()),
        ]
        if point_name("attn.hook_pattern", 0) in open_points:
            at = (layer, draw.randrange(model.heads[""][layer]))
            makers += [
                lambda: Ablate(heads=(at,), operator=draw.choice(("uniform", "identity", "to-sink"))),
                lambda: Patch("pattern", other, heads=(at,), positions=positions()),
                lambda: Patch("v", other, kv_heads=((layer, 0),), positions=positions()),
                lambda: Knockout(heads=(at,), queries="end", keys=1),
                lambda: Redistribute(heads=(at,), take=0, give=1),
            ]
        makers += [
            lambda point=point: Patch(point, other, layers=[layer], positions=positions())  # type: ignore[misc]
            for point in STREAM
            if point_name(f"hook_{point}", layer) in open_points
        ]
        name = point_name("hook_resid_pre", layer)
        if name in open_points:
            vector = torch.randn(other[name].shape[-1], generator=torch.Generator().manual_seed(layer))
            makers.append(lambda: Steer(layer, Reference({name: vector}), 0.5, positions=positions()))
        return draw.choice(makers)()

    return [one() if draw.random() < 0.75 else [one(), one()] for _ in range(n)]


@torch.no_grad()
def full_forwards(model: Any, batch: Batch, chosen: list[Any], read_at: torch.Tensor) -> torch.Tensor:
    """The oracle: one full forward a variant."""
    found = []
    for variant in chosen:
        with model.edit(*([variant] if isinstance(variant, Intervention) else variant)):
            found.append(model(batch)[torch.arange(batch.size), read_at])
    return torch.stack(found)


def run(engine: Rerun, **options: Any) -> torch.Tensor:
    """Outputs of all variants, in their order."""
    plan = engine.plan(**options)
    values = torch.full((len(engine.variants), *engine.clean.shape), float("nan"))
    for chunk in plan.chunks:
        values[list(chunk.variants)] = engine.run(chunk)
    return values


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", [*CAUSAL, *RESTARTED])
def test_equals_full_forwards(hooked: Any, architecture: str, side: str) -> None:
    model = hooked(architecture)
    if side == "left" and model.adapter.position_ids == "none":
        pytest.skip("this architecture cannot be told positions")
    clean, corrupt = prompts(model, seed=1, side=side, common=6)
    chosen = variants(model, clean, corrupt, seed=len(architecture))
    read_at = clean.end.cpu()
    want = full_forwards(model, clean, chosen, read_at)
    engine = Rerun(model, clean, chosen, read_at)
    whole = run(engine)
    assert (whole - want).abs().max() <= 1e-5
    if architecture in CAUSAL:
        assert set(engine.plan().routes) <= {"nodes", "layers", "nothing"}
        assert engine.plan().routes["nodes"] > len(chosen) / 2
    for budget in (1, engine.recording.n_bytes + 200_000):
        assert (run(Rerun(model, clean, chosen, read_at), budget=budget) - whole).abs().max() <= 1e-5


def test_one_variant_a_run_where_memory_allows_no_more(hooked: Any) -> None:
    model = hooked("llama")
    clean, _ = prompts(model, 0)
    engine = Rerun(model, clean, [Ablate(heads=((0, head),)) for head in range(4)], clean.end.cpu())
    assert [len(chunk.variants) for chunk in engine.plan(budget=1).chunks] == [1, 1, 1, 1]
    assert [len(chunk.variants) for chunk in engine.plan().chunks] == [4]
    fixed, each = engine._measured(engine.routes[0])
    three = engine.recording.n_bytes + fixed + 3 * each
    assert [len(chunk.variants) for chunk in engine.plan(budget=three).chunks] == [3, 1]


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "bert"])
def test_same_plan_same_bits(hooked: Any, architecture: str) -> None:
    model = hooked(architecture)
    clean, corrupt = prompts(model, 2)
    chosen = variants(model, clean, corrupt, 5)
    first, second = (run(Rerun(model, clean, chosen, clean.end.cpu())) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_variant_that_changes_nothing_changes_nothing(hooked: Any, architecture: str) -> None:
    model = hooked(architecture)
    clean, _ = prompts(model, 3)
    points = ("attn.hook_z", "hook_mlp_out", "hook_resid_post")
    names = [point_name(point, layer) for point in points for layer in range(model.n_layers)]
    own = Reference(record(model.adapter, clean, names, ()).named, "the same run", paired=True)
    nothing: list[Any] = [
        Scale(heads="all", factor=1.0),
        Patch("z", own, heads="all"),
        Patch("resid_pre", own, layers=[1]),
        Patch("mlp_out", own, layers=[0]),
        [Scale(heads=((0, 0),), factor=1.0), Patch("resid_post", own, layers=[0])],
        Ablate(heads="all", positions=tuple(range(max(LENGTHS) - 1, max(LENGTHS)))),  # only the longest prompt has it
    ]
    engine = Rerun(model, clean, nothing, clean.end.cpu())
    values = run(engine)
    assert torch.equal(values[:-1], engine.clean.expand(len(nothing) - 1, -1, -1))
    changed = (values[-1] != engine.clean).any(1)
    assert changed.tolist() == [length == max(LENGTHS) for length in LENGTHS]


def test_edits_of_attention_that_change_nothing(hooked: Any) -> None:
    """The recorded run uses fast attention, an edited pattern the plain one: that difference must not count."""
    model = hooked("llama")
    clean, _ = prompts(model, 3)
    first = Redistribute(heads=((0, 0),), take=0, give=1, share=0.0)
    engine = Rerun(model, clean, [first], clean.end.cpu())
    assert torch.equal(run(engine)[0], engine.clean)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_common_beginnings_run_once(hooked: Any, architecture: str) -> None:
    model = hooked(architecture)
    clean, corrupt = prompts(model, 4, common=20)
    source = paired_reference(model, [corrupt])
    chosen: list[Any] = [
        Ablate(heads=((0, 1),)),
        Ablate(heads=((0, 1),), positions=5),
        Ablate(heads=((0, 0),), operator="resample", reference=source),
        Ablate(heads=((0, 2),), operator="mean", reference=mean_reference(model, [clean])),
    ]
    want = full_forwards(model, clean, chosen, clean.end.cpu())
    shared = Rerun(model, clean, chosen, clean.end.cpu())
    alone = Rerun(model, clean, chosen, clean.end.cpu(), share=False)
    assert (run(shared) - want).abs().max() <= 1e-5
    assert (run(alone) - want).abs().max() <= 1e-5
    assert all(route.is_shared for route in shared.routes)
    assert not any(route.is_shared for route in alone.routes)
    assert shared.routes[0].flops < 0.6 * alone.routes[0].flops  # 20 + 28 tokens instead of 88


def test_prompts_that_part_in_their_edit_do_not_share(hooked: Any) -> None:
    model = hooked("llama")
    clean, _ = prompts(model, 4, common=20)
    _, corrupt = prompts(model, 4, common=0)
    ids = torch.randint(3, 100, clean.input_ids.shape, generator=torch.Generator().manual_seed(0))
    other = model.batch(Batch({**clean.inputs, "input_ids": torch.where(clean.mask, ids, 0)}, clean.mask))
    variant = Ablate(heads=((0, 1),), operator="resample", reference=paired_reference(model, [other]))
    engine = Rerun(model, clean, [variant], clean.end.cpu())
    assert not engine.routes[0].is_shared
    assert (run(engine) - full_forwards(model, clean, [variant], clean.end.cpu())).abs().max() <= 1e-5


def test_tree_of_common_beginnings() -> None:
    batch = pad([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6], [7, 2, 3]], 0)
    tree = plant(batch, batch.end, torch.arange(4).expand(4, 4), share=True)
    assert tree.size == 9  # 1, 2, 3, 4, 5, 6, 7, 2, 3
    assert tree.is_shared
    assert tree.path.tolist() == [[0, 1, 2, 3], [0, 1, 4, -1], [0, 1, 2, 5], [6, 7, 8, -1]]
    assert tree.read.tolist() == [3, 4, 5, 8]
    changed = np.zeros(9, dtype=bool)
    changed[2] = True
    assert np.flatnonzero(tree.below(changed)).tolist() == [2, 3, 5]
    assert [(branch.row, branch.start, branch.stop, branch.level) for branch in tree.branches] == [
        (0, 0, 2, 0),
        (0, 2, 3, 1),
        (0, 3, 4, 2),
        (1, 2, 3, 1),
        (2, 3, 4, 2),
        (3, 0, 3, 0),
    ]
    early = plant(batch, torch.tensor([1, 2, 1, 0]), torch.arange(4).expand(4, 4), share=True)
    assert early.size == 4  # tokens after the one that is read do not count


@pytest.mark.parametrize("columns", [[5], [50, 9, 5]])
def test_chosen_vocabulary_entries(hooked: Any, columns: list[int]) -> None:
    model = hooked("gemma2")  # its logits have a soft cap after the output layer
    clean, corrupt = prompts(model, 6)
    chosen = variants(model, clean, corrupt, 7)
    engine = Rerun(model, clean, chosen, clean.end.cpu(), columns=torch.tensor(columns))
    want = full_forwards(model, clean, chosen, clean.end.cpu())[..., columns]
    assert (run(engine) - want).abs().max() <= 1e-5


def test_metric_read_before_the_end(hooked: Any) -> None:
    model = hooked("qwen2")
    clean, corrupt = prompts(model, 8)
    chosen = variants(model, clean, corrupt, 9)
    read_at = torch.tensor([4, 11, 5])
    engine = Rerun(model, clean, chosen, read_at)
    assert (run(engine) - full_forwards(model, clean, chosen, read_at)).abs().max() <= 1e-5


def test_later_edits_run_in_flight(hooked: Any) -> None:
    """Edits in several layers: what comes later sees what came before."""
    model = hooked("gemma3")  # six layers, sliding and full attention
    clean, corrupt = prompts(model, 10)
    other = paired_reference(model, [corrupt], "*")
    vector = Reference({point_name("hook_resid_pre", 3): torch.randn(64, generator=torch.Generator().manual_seed(1))})
    chosen: list[Any] = [
        Ablate(heads="all"),
        [Ablate(heads=((0, 1),)), Scale(heads=((4, 2),), factor=-2.0, positions="end")],
        [Ablate(heads=((2, 1),), positions=4), Steer(3, vector, positions=2)],
        [Patch("resid_pre", other, layers=[1], positions=5), Patch("mlp_out", other, layers=[1], positions=6)],
        [Patch("z", other, heads=((3, 0),)), Patch("resid_post", other, layers=[5], positions=5)],
        [Scale(heads=((5, 0),), factor=2.0, positions=1), Patch("mlp_out", other, layers=[5])],
    ]
    engine = Rerun(model, clean, chosen, clean.end.cpu())
    assert engine.plan().routes == {"nodes": len(chosen)}
    assert (run(engine) - full_forwards(model, clean, chosen, clean.end.cpu())).abs().max() <= 1e-5


@pytest.mark.parametrize("architecture", ["llava", "gemma3_vlm", "qwen2_5_vl", "vit", "clip", "siglip"])
def test_models_that_see(hooked: Any, architecture: str) -> None:
    """Images and encoders: restarts where they are exact, full forwards where not, and the same numbers."""
    from interp.hooks.naive import read_output
    from interp.hooks.prompts import from_inputs

    model = hooked(architecture)
    batch = from_inputs(model.adapter.probe_inputs)
    read_at = torch.full((batch.size,), -1) if batch.mask is None else batch.end.cpu()
    chosen: list[Any] = [
        Ablate(heads=(f"{tower}.L{layer}H0".removeprefix("."),))
        for tower, counts in model.heads.items()
        for layer in range(len(counts))
        if counts[layer]
    ]
    engine = Rerun(model, batch, chosen, read_at)
    values = run(engine)
    for index, variant in enumerate(chosen):
        with model.edit(variant), torch.no_grad():
            want = read_output(model(batch), batch, read_at)
        assert (values[index] - want).abs().max() <= 1e-5


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


def test_full_forwards_while_interventions_are_in_force(hooked: Any) -> None:
    model = hooked("llama")
    clean, _ = prompts(model, 0)
    variant = Ablate(heads="L0H0")
    with model.edit(Ablate(heads="L1H1")):
        engine = Rerun(model, clean, [variant], clean.end.cpu())
        values = run(engine)
    assert engine.plan().routes == {"forward": 1}
    want = full_forwards(model, clean, [[Ablate(heads="L1H1"), variant]], clean.end.cpu())
    assert torch.equal(values, want)


def test_refused_points_raise(hooked: Any) -> None:
    model = hooked("bloom")
    clean, _ = prompts(model, 0)
    with pytest.raises(InterpError, match="E403"):
        Rerun(model, clean, [Ablate(heads="L0H0", operator="uniform")], clean.end.cpu())


def test_leaves_no_trace(hooked: Any) -> None:
    """Forwards that were taken over, and one that failed half way, leave the model as it was."""
    model = hooked("llama")
    clean, corrupt = prompts(model, 0)

    def state() -> tuple[Any, ...]:
        modules = list(model.adapter.model.modules())
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
        overridden = [module for module in modules if "forward" in module.__dict__]
        return hooks, overridden, [config._attn_implementation_internal for config in model.adapter.configs]

    before, output = state(), model(clean)
    run(Rerun(model, clean, variants(model, clean, corrupt, 1), clean.end.cpu()))
    assert state() == before
    broken = Patch("z", Reference({point_name("attn.hook_z", 0): torch.zeros(3, 5)}), heads="L0H0")
    with pytest.raises(InterpError, match="E206"):
        run(Rerun(model, clean, [broken], clean.end.cpu()))
    fails = Rerun(model, clean, [Ablate(heads="L0H0")], clean.end.cpu())
    plan = fails.plan()
    handle = layers(model.adapter)[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fails.run(plan.chunks[0])
    handle.remove()
    assert state() == before
    assert torch.equal(model(clean), output)


def test_an_engine_that_would_be_wrong_is_not_used(hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof on the probe input catches a shortcut that does not hold; full forwards then do the work."""
    from interp.hooks.rerun import attention, nodes, proof

    model = hooked("mistral", tokenizer="another model")
    clean, _ = prompts(model, 0)
    right = nodes.attend
    monkeypatch.setattr(nodes, "attend", lambda *args: 1.01 * right(*args))
    monkeypatch.setattr(proof, "PROVEN", {})
    engine = Rerun(model, clean, [Ablate(heads="L0H0")], clean.end.cpu())
    assert engine.plan().routes == {"layers": 1}
    assert "differs by" in engine.plan().reasons[0]
    assert attention.attend is right


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
