"""The engine against full forwards: random variants on many architectures, and what must be exactly nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.interventions import Ablate, Patch, Redistribute, Scale, Steer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, paired_reference
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.record import record
from interp.hooks.rerun.restart import side_modules
from tests.cases.rerun import CAUSAL, LENGTHS, RESTARTED, full_forwards, prompts, run, variants


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


@pytest.mark.parametrize("architecture", ["llava", "gemma3_vlm", "qwen2_5_vl"])
def test_images_are_looked_at_once(hooked: Any, architecture: str) -> None:
    """However many variants begin in the language model: what the vision tower gives is recorded with the rest."""
    from interp.hooks.prompts import from_inputs

    model = hooked(architecture)
    batch = from_inputs(model.adapter.probe_inputs)
    heads = [f"L{layer}H{head}" for layer in range(model.n_layers) for head in range(2)]
    chosen: list[Any] = [Ablate(heads=head) for head in heads]
    chosen.append([Scale(heads="L1H1", factor=2.0), Patch("q", paired_reference(model, [batch], "*"), heads="L1H0")])
    want = full_forwards(model, batch, chosen, batch.end.cpu())
    run(Rerun(model, batch, chosen, batch.end.cpu()))  # the proof, once a model
    looks: list[int] = []
    (seeing,) = side_modules(model.adapter)
    handle = next(seeing.children()).register_forward_pre_hook(lambda *_: looks.append(1))
    engine = Rerun(model, batch, chosen, batch.end.cpu())
    engine.why_layers = "asked for"
    values = run(engine)
    handle.remove()
    assert engine.plan().routes == {"layers": len(chosen)} and len(looks) == 1
    assert (values - want).abs().max() <= 1e-5
    assert engine.recording.side_outputs and engine.recording.n_bytes > engine.recording.output.nbytes


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
