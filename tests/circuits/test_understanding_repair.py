"""Heads that are made to look where they should, in a model whose head is known and whose prompts mislead it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.circuits.group_result import Limits
from interp.circuits.question import Question
from interp.circuits.understanding.measured import measured
from interp.circuits.understanding.overrides import AsIn, LookAt, Override, Uniform
from interp.circuits.understanding.repair import OverrideEffect, find_heads, repair
from interp.circuits.understanding.repaired import Repairing
from interp.hooks.examples import Example
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.naive import sweep
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from tests.cases.edges import asked, opened, prompts

HEAD = HeadId("", 1, 2)


@cache
def model() -> HookedModel:
    return interp.load("planted-induction")


@cache
def misled(n: int = 16, seed: int = 0) -> Pairs:
    """Prompts that end in a word that is new; their other sides end in one that came before. Asked for what followed it."""
    draw, examples = np.random.default_rng(seed), []
    for index in range(n):
        words = [f"w{one}" for one in draw.permutation(np.arange(1, 33))[:12]]
        place = int(draw.integers(1, 9))
        start = len(" ".join(words[: place + 1])) + 1
        spans = {"wanted": (start, start + len(words[place + 1]))}
        text, donor = " ".join(words), " ".join([*words[:-1], words[place]])
        examples.append(Example(str(index), text, f" {words[place + 1]}", f" {words[place - 1]}", donor, spans, spans))
    return tokenise(model().tokenizer, examples)


def question(seed: int = 0) -> Question:
    return Question.of(misled(seed=seed), metric("logit_diff"))


def overrides(seed: int = 0) -> dict[str, Override]:
    pairs = misled(seed=seed)
    assert pairs.corrupt is not None
    return {"role": LookAt(model(), pairs.clean, "wanted"), "donor": AsIn(model(), pairs.corrupt)}


@pytest.mark.parametrize("kind", ["role", "donor"])
def test_the_head_that_looks_for_the_word_repairs_the_task(kind: str) -> None:
    found = repair(model(), question(), overrides()[kind], "L1H2", Repairing(n_controls=12))
    assert found.is_repaired
    assert found["repaired"].accuracy.mean == 1
    for name in ("untouched", "random heads", "uniform"):  # a uniform pattern copies all words alike
        assert found[name].accuracy.mean < 0.5
        assert abs(found[name].metric.mean) < 0.2
    assert found["repaired"].gain.mean > 5
    assert found["repaired"].metric.mean == pytest.approx(found["untouched"].metric.mean + found["repaired"].gain.mean)
    assert abs(found["random heads"].gain.mean) < 0.1
    assert (found.beaten_by, found.n_controls) == (0, 3)  # there are three other heads in the layer
    assert f"L1H2, to {found.override}: raises logit_diff" in str(found)
    assert "repaired" in found._repr_html_()


def test_other_heads_repair_nothing() -> None:
    found = repair(model(), question(), overrides()["role"], "L1H1", Repairing(n_controls=5))
    assert not found.is_repaired
    assert found["repaired"].accuracy.mean < 0.2
    assert found.findings["untouched"].holds is not True or found.findings["random heads"].holds is not True
    assert "not shown to raise logit_diff" in str(found)


def test_the_search_finds_the_head_on_one_half_and_it_repairs_the_other_prompts() -> None:
    found = find_heads(model(), question(), overrides()["role"], limits=Limits(max_size=3, n_controls=5, min_gain=0.2))
    assert found.group == ("L1H2",)
    assert found.n_prompts == (8, 8)
    assert found.steps[0].beaten_by == 0
    assert "look at wanted" in found.run.method["objective"]
    assert repair(model(), question(3), overrides(3)["role"], found.group, Repairing(n_controls=5)).is_repaired


def test_a_set_without_controls_is_not_called_repaired() -> None:
    heads = "L1H1,L1H2,L1H3"
    with pytest.raises(InterpError, match="E205.*left to compare"):
        repair(model(), question(), overrides()["role"], heads)
    found = repair(model(), question(), overrides()["role"], heads, Repairing(n_controls=0))
    assert found["repaired"].accuracy.mean == 1
    assert (found.n_controls, found.is_repaired) == (0, False)
    assert found.findings["random heads"].words == "untested"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_overrides_equal_plain_forwards(architecture: str) -> None:
    tiny = opened(architecture)
    batch, donor = prompts(tiny, (9, 7, 8), 0), prompts(tiny, (9, 7, 8), 5)
    batch = replace(batch, spans={"there": ((2, 3), (1,), (4,)), "here": ((5,), (6,), (6, 7))})
    heads = [HeadId("", 0, 1), HeadId("", 1, 0), HeadId("", 1, 3)]
    made = [
        LookAt(tiny, batch, "there"),
        LookAt(tiny, batch, "there", "here"),
        AsIn(tiny, donor, batch_size=2),
        Uniform(),
    ]
    variants = [one(heads) for one in made]
    ask = asked(batch)
    values, clean = measured(tiny, ask, variants, 2)
    expected = sweep(tiny, batch, variants, ask.read_at, lambda out, a, b: ask.measure(out, a, b, None), batch_size=3)
    assert np.abs(values - expected.numpy()).max() < 1e-5
    assert np.abs(values - clean).max(1).min() > 1e-3
    assert np.abs(values[:, None] - values[None]).max(2)[~np.eye(4, dtype=bool)].min() > 1e-4


def test_the_pattern_is_where_it_was_asked_for_and_nowhere_else() -> None:
    tiny = opened("llama")
    batch = replace(prompts(tiny, (9, 7), 0), spans={"there": ((2, 3), (1,))})
    seen: dict[str, torch.Tensor] = {}
    with tiny.edit(LookAt(tiny, batch, "there")([HEAD])):
        tiny.run_with_hooks(batch, {"blocks.1.attn.hook_pattern": lambda value, _: seen.update(value=value)})
    _, cache = tiny.run_with_cache(batch, "blocks.1.attn.hook_pattern")
    expected = cache["pattern", 1].clone()
    expected[0, 2, 8], expected[1, 2, 6] = 0, 0
    expected[0, 2, 8, [2, 3]], expected[1, 2, 6, 1] = 0.5, 1
    assert (seen["value"] - expected).abs().max() < 1e-6


def test_the_objective_is_the_gain_and_no_head_gains_nothing() -> None:
    effect = OverrideEffect(model(), question(), overrides()["role"])
    found = effect([frozenset(), frozenset([HEAD])])
    values, clean = measured(model(), question(), [overrides()["role"]([HEAD])], 4)
    assert (found[0] == 0).all()
    assert np.abs(found[1] - (values[0] - clean)).max() < 1e-5


def test_what_cannot_be_looked_at_is_refused() -> None:
    batch = misled().clean
    with pytest.raises(InterpError, match="E313.*called 'wante'"):
        LookAt(model(), batch, "wante")
    with pytest.raises(InterpError, match="E313.*behind"):
        LookAt(model(), batch, "wanted", 1)
    with pytest.raises(InterpError, match="E313.*called 'nowhere'"):
        LookAt(model(), batch, "wanted", "nowhere")
    with pytest.raises(InterpError, match="E203"):
        repair(model(), question(), overrides()["role"], "L5H0")
