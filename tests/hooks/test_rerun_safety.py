"""What the engine refuses, when it falls back, and that it leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.interventions import Ablate, Patch
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.restart import layers
from interp.kernels.errors import InterpError
from tests.cases.rerun import full_forwards, prompts, run, variants


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
