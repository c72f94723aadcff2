"""Heads found by what they look at: planted heads, closed forms, and a loop over patterns as the oracle."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer, scorers
from interp.heads.attention import TargetScorer
from interp.heads.run import score
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_head
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError

TARGETED = sorted(name for name, kind in scorers().items() if issubclass(kind, TargetScorer))
PLANTED = [
    ("planted-induction", "previous-token", "L0H0"),
    ("planted-induction-gqa", "previous-token", "L0H0"),
    ("planted-induction", "induction", "L1H2"),
    ("planted-induction-rmsnorm", "induction", "L1H2"),
    ("planted-induction-parallel", "prefix-matching", "L1H2"),
    ("planted-duplicate", "duplicate-token", "L0H1"),
]


opened = cache(interp.load)


@cache
def planted(model: str, name: str, sinks: str = "raw"):
    return score(opened(model), name, interp.task("bundled", model=model, n=32), sinks=sinks)


@pytest.mark.parametrize("sinks", ["raw", "excluded", "value"])
@pytest.mark.parametrize(("model", "name", "head"), PLANTED)
def test_the_planted_head_comes_first_and_is_the_only_one_claimed(model, name, head, sinks) -> None:
    found = planted(model, name, sinks=sinks)
    assert found.top(1)[0].label == head
    assert found.mean[found.heads.index(head)] >= 0.99 * found.ceiling
    assert np.nanmax(np.delete(found.mean, found.heads.index(head))) <= 0.1
    assert [label for label, yes in zip(found.heads, found.claimed, strict=True) if yes] == [head]


def test_a_planted_sink_is_found_by_raw_attention_and_not_by_what_it_moves() -> None:
    raw, moved = (planted("planted-sink", "first-token", sinks=sinks) for sinks in ("raw", "value"))
    index = raw.heads.index("L0H3")
    assert raw.top(1)[0].label == "L0H3" and raw.claimed[index]
    assert moved.mean[index] < 0.01 and not moved.claimed[index]


def loop(name: str, sinks: str, ids: list[int], pattern: np.ndarray, norms: np.ndarray) -> tuple[float, float]:
    """Score and chance of one head on one prompt, from its pattern [query, key] and the norm of what each key moves."""
    rows, chances = [], []
    for query in range(len(ids)):
        same = [key for key in range(query) if ids[key] == ids[query]]
        keys = {
            "previous-token": [query - 1] if query else [],
            "current-token": [query] if query else [],
            "first-token": [0] if query else [],
            "duplicate-token": same[-1:],
            "induction": [key + 1 for key in same[-1:]],
            "prefix-matching": [key + 1 for key in same],
        }[name]
        row, even = pattern[query], np.array([1.0 if key <= query else 0.0 for key in range(len(ids))])
        if sinks == "value":
            row, even = row * norms, even * norms
        if sinks == "excluded":
            keys = [key for key in keys if key]
            row, even = np.append(0, row[1:]), np.append(0, even[1:])
        if keys:
            rows.append(sum(row[key] for key in keys) / row.sum())
            chances.append(sum(even[key] for key in keys) / even.sum())
    return float(np.mean(rows)), float(np.mean(chances))


@pytest.mark.parametrize("sinks", ["raw", "excluded", "value"])
@pytest.mark.parametrize("name", TARGETED)
def test_scores_and_chance_are_those_of_a_loop_over_the_pattern(name: str, sinks: str) -> None:
    if (name, sinks) == ("first-token", "excluded"):
        pytest.skip("refused, see below")
    model = opened("mini")
    examples = interp.task("induction", n=3, length=6, repeat=5).examples(model.tokenizer).examples
    pairs = tokenise(model.tokenizer, examples)
    _, seen = model.run_with_cache(pairs.clean, ["*hook_pattern", "*hook_v"])
    heads = [head for layer in (0, 3) for head in all_heads(model, layer)]
    scores = scorer(name, sinks=sinks).measure(model, pairs, heads, 2)
    for place, head in enumerate(heads):
        values = seen["v", head.layer].double()[:, :, model.kv_head(head)]
        norms = (values @ model.w_out(head.layer)[head.head].double()).norm(dim=-1).numpy()
        for prompt in range(3):
            ids, pattern = pairs.clean.input_ids[prompt].tolist(), seen["pattern", head.layer][prompt, head.head]
            value, chance = loop(name, sinks, ids, pattern.double().numpy(), norms[prompt])
            assert scores.values[place, prompt] == pytest.approx(value, abs=1e-5)
            assert scores.null[place, prompt] == pytest.approx(chance, abs=1e-5)


def all_heads(model: HookedModel, layer: int):
    return [parse_head(f"L{layer}H{head}") for head in range(model.heads[""][layer])]


def test_several_scorers_share_one_forward_a_batch_and_give_what_each_gives_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, task = interp.load("mini"), interp.task("induction", n=6)
    asked = ["previous-token", "induction", "current-token"]
    alone = {name: score(model, name, task) for name in asked}
    forwards, forward = list[Any](), model.adapter.forward

    def counted(inputs: Any) -> Any:
        forwards.append(inputs)
        return forward(inputs)

    monkeypatch.setattr(model.adapter, "forward", counted)
    together = score(model, asked, task, batch_size=3)
    assert len(forwards) == 2 and list(together) == asked
    for name in asked:
        assert np.abs(together[name].values - alone[name].values).max() <= 1e-6
        assert together[name].run_id == alone[name].run_id


def test_without_the_first_token_a_head_is_judged_by_the_rows_in_which_it_looks_elsewhere() -> None:
    """The sink of planted-sink looks at the token before after one trigger word, and at the first token otherwise."""
    raw, excluded = (planted("planted-sink", "previous-token", sinks=sinks) for sinks in ("raw", "excluded"))
    index = raw.heads.index("L0H3")
    assert raw.mean[index] < 0.5 and excluded.mean[index] >= 0.99


@pytest.mark.parametrize("sinks", ["raw", "value"])
def test_even_attention_is_claimed_for_nothing(sinks: str) -> None:
    """Heads whose queries are 0 score what chance gives, whatever is asked of them."""
    network = interp.load("mini").adapter.model
    with torch.no_grad():
        for layer in network.model.layers:
            for parameter in layer.self_attn.q_proj.parameters():
                parameter.zero_()
    model = HookedModel.from_hf(network, opened("mini").tokenizer)
    for name, found in score(model, TARGETED, interp.task("induction", n=16), sinks=sinks).items():
        assert not found.claimed.any() and np.abs(found.mean - np.nanmean(found.null, 1)).max() <= 1e-5, name
        assert "No head can be told from chance" in found.headline()


def test_what_makes_no_sense_is_refused() -> None:
    model = interp.load("mini")
    with pytest.raises(InterpError, match="E205"):
        scorer("first-token", sinks="excluded")
    with pytest.raises(InterpError, match="E201.*value"):
        scorer("induction", sinks="values")
    with pytest.raises(InterpError, match="E201.*no parameter"):
        score(model, "induction", sink="value")
    with pytest.raises(InterpError, match="E201.*no scorer"):
        score(model, "inducktion")
    with pytest.raises(InterpError, match="E205.*twice"):
        score(model, ["induction", "induction"])
