"""Ablation by the engine against one full forward each."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import interp
from interp.circuits import question
from interp.hooks.rerun import engine
from interp.kernels.errors import InterpError
from interp.sweeps.rerun import narrowed


@pytest.fixture(scope="module")
def mini() -> Any:
    return interp.load("mini")


@pytest.mark.parametrize("metric", ["logit_diff", "kl", "log_prob", "top1", "prob_diff"])
def test_the_same_numbers(mini: Any, metric: str) -> None:
    task = interp.task("ioi", n=8, seed=3)
    asked: dict[str, Any] = {"heads": "L0H*,2.1", "metric": metric, "n_controls": 1, "batch_size": 3}
    slow, fast, tight = (
        interp.ablate(mini, task, **asked, **how) for how in ({"engine": "forwards"}, {}, {"memory": 1})
    )
    for result in (fast, tight):
        np.testing.assert_allclose(result.effects, slow.effects, atol=1e-4)
        np.testing.assert_allclose(result.baseline, slow.baseline, atol=1e-4)


@pytest.mark.parametrize("name", ["planted-copy", "planted-induction-gqa", "compiled-reverse"])
@pytest.mark.parametrize("operator", ["zero", "uniform"])
def test_the_same_numbers_on_other_models(name: str, operator: str) -> None:
    model, task = interp.load(name), interp.task("bundled", n=4, model=name)
    asked: dict[str, Any] = {"operator": operator, "n_controls": 0, "heads": "0.*"}
    slow, fast = (interp.ablate(model, task, engine=how, **asked) for how in ("forwards", "rerun"))
    np.testing.assert_allclose(fast.effects, slow.effects, atol=1e-4)


def test_what_does_nothing_has_an_effect_of_exactly_0(mini: Any) -> None:
    """After the answer was read nothing matters: the last layer's heads at the first token, in a causal model."""
    result = interp.ablate(mini, interp.task("ioi", n=4), heads="3.*", positions=(1,), operator="zero", n_controls=0)
    assert (result.effects == 0).all()
    assert "no run: what the metric reads cannot change" in result.run.method["sweep"]


def test_says_how_it_was_computed(mini: Any) -> None:
    task = interp.task("ioi", n=4)
    fast, slow = (interp.ablate(mini, task, heads="L0H0", engine=how) for how in ("rerun", "forwards"))
    assert "what can change alone" in fast.run.method["sweep"] and "fewer operations" in fast.run.method["sweep"]
    assert slow.run.method["sweep"] == "one full forward for each variant and batch"


def test_a_batch_is_recorded_once(mini: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the baseline; what it costs is measured, and the run goes on, with what is recorded then."""
    task = interp.task("ioi", n=4)
    first = interp.ablate(mini, task, heads="L0H*")  # proves the shortcuts on this model
    recorded, plain = Mock(wraps=engine.record), Mock(wraps=question.plain_outputs)
    monkeypatch.setattr(engine, "record", recorded)
    monkeypatch.setattr(question, "plain_outputs", plain)
    assert (interp.ablate(mini, task, heads="L0H*").values == first.values).all() and recorded.call_count == 1
    stored = interp.ablate(mini, task, heads="L0H*", out=tmp_path / "run")
    assert (stored.values == first.values).all() and recorded.call_count == 2 and not plain.called


def test_unknown_engine(mini: Any) -> None:
    with pytest.raises(InterpError, match="did you mean 'rerun'"):
        interp.ablate(mini, interp.task("ioi", n=4), engine="reruns")


def test_vocabulary_entries_of_several_answers() -> None:
    import torch

    from interp.circuits.question import Question
    from interp.hooks.batch import pad
    from interp.hooks.metrics import metric

    answer, distractor = torch.tensor([[7, 9], [3, -1], [50, 51]]), torch.tensor([[2, 9], [7, 1], [60, 61]])
    batch = pad([[1, 2], [1, 2], [1, 2]], 0)
    question = Question(batch, torch.tensor([1, 1, 1]), metric("logit_diff"), answer, distractor)
    columns, inner = narrowed(question, 0, 2)
    assert columns is not None and columns.tolist() == [1, 2, 3, 7, 9]
    logits = torch.randn(2, 64)
    assert torch.equal(question.measure(logits, 0, 2, None), inner.measure(logits[:, columns], 0, 2, None))
    assert narrowed(Question(batch, question.read_at, metric("kl")), 0, 2)[0] is None
