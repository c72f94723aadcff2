"""Methods of token maps, each against a naive computation of its own."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

import interp
from interp.circuits.question import Question
from interp.hooks.examples import Example
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.pairs import tokenise
from interp.hooks.reference import Reference
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.maps import method, methods
from interp.maps.attention.flow import Flow, max_flows
from interp.maps.attention.norms import ValueNorm, head_norms, summed_norms
from interp.maps.gradients.attention import GradientAttention
from interp.maps.gradients.entrance import IntegratedGradients
from interp.maps.look import STREAM, Look
from interp.maps.removal import WHERE, Replaced, Unseen, leave_one_out
from interp.maps.suppression.atman import AtMan, Suppressed

IDS = [[5, 6, 7, 8, 9, 5, 6, 3, 4, 11], [9, 8, 7, 6, 5, 4], [3, 9, 3, 12, 40, 2, 7, 7]]
ARCHITECTURES = ("gpt2", "llama", "gpt_oss", "bert", "mistral", "gemma2", "gpt_neox")
"""Learned and rotary positions, shared keys, sink logits, no causality, windows, softcaps."""


def opened(name: str, **overrides) -> HookedModel:
    return HookedModel.from_hf(tiny_model(name, **overrides))


def question(prompts, name="logit_diff") -> Question:
    examples = [Example(str(i), tuple(ids), answer=20 + i, distractor=30 + i) for i, ids in enumerate(prompts)]
    return Question.of(tokenise(None, examples), metric(name))


def look(model: HookedModel, prompts=IDS, name="logit_diff", rows: tuple[int, int] | None = None) -> Look:
    asked = question(prompts, name)
    start, stop = rows or (0, asked.batch.size)
    return Look(model, asked, start, stop, neutral=1)


def naive_mixing(pattern: np.ndarray) -> np.ndarray:
    whole = pattern.mean(0) + np.eye(pattern.shape[-1])
    return whole / whole.sum(-1, keepdims=True)


def patterns(model: HookedModel, ids) -> list[np.ndarray]:
    _, cache = model.run_with_cache([ids], "*hook_pattern")
    return [cache["pattern", layer][0].double().numpy() for layer in range(model.n_layers)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rollout_is_the_naive_product_and_sums_to_one(name: str) -> None:
    model = opened(name)
    found = method("rollout").measure(look(model))
    for row, ids in enumerate(IDS):
        whole = np.eye(len(ids))
        for pattern in patterns(model, ids):
            whole = naive_mixing(pattern) @ whole
        assert whole.sum(-1) == pytest.approx(np.ones(len(ids)))
        if name != "bert":
            assert np.triu(whole, 1).max() == 0, "rollout of causal attention is lower-triangular"
        assert found[row, : len(ids)].numpy() == pytest.approx(whole[-1], abs=1e-6)
        assert float(found[row, len(ids) :].abs().sum()) == 0, "padding is nothing"


def test_last_layer_is_the_mean_row() -> None:
    model = opened("llama")
    found = method("last-layer").measure(look(model))
    for row, ids in enumerate(IDS):
        assert found[row, : len(ids)].numpy() == pytest.approx(patterns(model, ids)[-1].mean(0)[-1], abs=1e-6)


def test_max_flow_is_the_smallest_cut_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    n, n_layers = 4, 2
    for _ in range(5):
        capacity = np.tril(rng.random((n_layers, n, n)) * (rng.random((n_layers, n, n)) < 0.8) + 0.01)
        rows = np.eye(n)[rng.integers(n)]
        found = max_flows(capacity, rows)
        inner = [(layer, token) for layer in range(1, n_layers + 1) for token in range(n)]
        for sink in range(n):
            best = np.inf
            others = [(0, token) for token in range(n) if token != sink]
            for size in range(len(inner) + 1):
                for side in combinations(inner, size):  # nodes on the side of the source; lone inputs never cost more
                    near = set(side)
                    cut = sum(rows[token] for token in range(n) if (n_layers, token) not in near)
                    for layer, query, key in product(range(n_layers), range(n), range(n)):
                        crosses = (layer + 1, query) in near and (layer, key) not in near | set(others)
                        cut += capacity[layer, query, key] * crosses
                    best = min(best, cut)
            assert found[sink] == pytest.approx(best, abs=1e-7)


def test_flow_of_a_model_sums_to_one_and_refuses_long_prompts() -> None:
    model = opened("llama")
    found = method("flow").measure(look(model))
    for row, ids in enumerate(IDS):
        capacity = np.stack([naive_mixing(pattern) for pattern in patterns(model, ids)])
        expected = max_flows(capacity, np.eye(len(ids))[-1])
        assert found[row, : len(ids)].numpy() == pytest.approx(expected / expected.sum(), abs=1e-5)
    with pytest.raises(InterpError, match="E205"):
        Flow().check(model, question([list(range(1, 40))]))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_norms_are_those_of_the_vectors_in_full(name: str) -> None:
    model = opened(name)
    scene = look(model, [IDS[0]])
    for layer, pattern, values in zip(scene.layers, scene.patterns, scene.values, strict=True):
        w_out = scene.w_out(layer)
        n_heads, n = pattern.shape[1], len(IDS[0])
        by_head, summed = np.zeros((n_heads, n, n)), np.zeros((n, n))
        for query, key in product(range(n), range(n)):
            moved = [float(pattern[0, h, query, key]) * (values[0, key, h] @ w_out[h]) for h in range(n_heads)]
            by_head[:, query, key] = [float(one.norm()) for one in moved]
            summed[query, key] = float(sum(moved).norm())
        assert summed_norms(pattern, values, w_out)[0].numpy() == pytest.approx(summed, rel=1e-9, abs=1e-9)
        assert head_norms(pattern, values, w_out)[0].numpy() == pytest.approx(by_head, rel=1e-9, abs=1e-9)
    _, cache = model.run_with_cache([IDS[0]], "*hook_v")
    group = model.heads[""][0] // cache["v", 0].shape[2]
    shared = cache["v", 0][0, 3, 3 // group].double()
    assert torch.equal(scene.values[0][0, 3, 3], shared), "query heads read the value of their group"


def test_value_norm_map_is_rolled_out_or_of_the_last_layer() -> None:
    model = opened("llama")
    scene = look(model)
    last = ValueNorm(over="last").measure(scene)
    shares = summed_norms(scene.patterns[-1], scene.values[-1], scene.w_out(scene.layers[-1]))
    for row, ids in enumerate(IDS):
        own = shares[row, len(ids) - 1]
        assert torch.allclose(last[row], own / own.sum())
    assert torch.allclose(method("value-norm").measure(scene).sum(1), torch.ones(3, dtype=torch.float64))


def test_relevance_is_the_recursion_of_the_paper() -> None:
    model = opened("llama")
    scene = look(model, [IDS[0]])
    relevance = np.eye(len(IDS[0]))
    for pattern, slope in zip(scene.patterns, scene.pattern_slopes, strict=True):
        relevance = relevance + (pattern * slope).clamp(min=0).mean(1)[0].numpy() @ relevance
    assert method("relevance").measure(scene)[0].numpy() == pytest.approx(relevance[-1])


def test_pattern_slopes_are_finite_differences() -> None:
    model = HookedModel.from_hf(tiny_model("llama").double())
    scene, step = look(model, [IDS[0]]), 1e-2  # rows of later layers are rounded to float32
    slopes = scene.pattern_slopes[0][0]
    at = np.unravel_index(int(slopes.abs().argmax()), slopes.shape)

    def shifted(sign: float) -> float:
        def add(pattern, context):
            moved = pattern.clone()
            moved[(0, *at)] += sign * step
            return moved

        output = model.run_with_hooks(scene.batch, {"blocks.0.attn.hook_pattern": add})
        return float(scene.metric(output[:, -1])[0])

    assert float(slopes[at]) == pytest.approx((shifted(1) - shifted(-1)) / (2 * step), rel=1e-3)
    both = [GradientAttention().measure(scene), GradientAttention(slopes="positive").measure(scene)]
    whole = sum((p * s).sum((1, 2)) for p, s in zip(scene.patterns, scene.pattern_slopes, strict=True))
    assert torch.allclose(both[0], whole) and bool((both[1] >= both[0] - 1e-12).all())


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_integrated_gradients_are_complete(name: str) -> None:
    model = opened(name)
    scene = look(model)
    found = IntegratedGradients().measure(scene) * scene.real
    output = model.run_with_hooks(scene.batch, {STREAM: lambda value, context: scene.neutral_stream})
    ends = scene.metric(output[torch.arange(3), scene.read_at])
    assert found.sum(1).numpy() == pytest.approx((scene.baseline - ends).numpy(), rel=2e-3, abs=2e-4)


def test_input_gradient_is_a_derivative_by_a_factor_on_the_embedding() -> None:
    model = HookedModel.from_hf(tiny_model("gpt2").double())
    scene, step = look(model, [IDS[0]]), 1e-5

    def at(factor: float) -> float:
        def scale(value, context):
            return torch.cat([value[:, :4], value[:, 4:5] * factor, value[:, 5:]], 1)

        return float(scene.metric(model.run_with_hooks(scene.batch, {STREAM: scale})[:, -1])[0])

    slope = (at(1 + step) - at(1 - step)) / (2 * step)
    assert float(method("input-gradient").measure(scene)[0, 4]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "official-code"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_atman_with_a_factor_of_one_changes_nothing(name: str, variant: str) -> None:
    found = AtMan(factor=1.0, variant=variant).measure(look(opened(name)))
    assert float(found.abs().max()) < 1e-5


@pytest.mark.parametrize("later", [False, True])
def test_suppressed_scores_are_the_naive_ones(later: bool) -> None:
    model, ids, token, factor = opened("llama"), IDS[0], 3, 0.1
    _, cache = model.run_with_cache([ids], ["*rot_q", "*rot_k"])
    n = len(ids)
    q, k = cache["rot_q", 0][0].double().numpy(), cache["rot_k", 0][0].double().numpy()
    expected = np.zeros((q.shape[1], n, n))
    for head, query in product(range(q.shape[1]), range(n)):
        scores = q[query, head] @ k[:, head // 2].T / np.sqrt(q.shape[-1])
        low = scores.min() if later else scores[: query + 1].min()
        scores[token] = low + (scores[token] - low) * factor
        weights = np.exp(scores[: query + 1] - scores[: query + 1].max())
        expected[head, query, : query + 1] = weights / weights.sum()
    factors = torch.ones(1, n)
    factors[0, token] = factor
    with model.edit(Suppressed(Reference({"factors": factors}), later=later)):
        _, seen = model.run_with_cache([ids], ["*hook_v", "blocks.0.attn.hook_z"])
    values = seen["v", 0][0].double().numpy()
    z = np.stack([expected[head] @ values[:, head // 2] for head in range(q.shape[1])], 1)
    assert seen["z", 0][0].numpy() == pytest.approx(z, abs=1e-5)


def test_only_the_official_variant_lets_later_tokens_change_what_an_earlier_one_sees() -> None:
    model = opened("gpt2")
    factors = torch.ones(1, 10)
    factors[0, 2] = 0.1
    for later, is_equal in ((False, True), (True, False)):
        with model.edit(Suppressed(Reference({"factors": factors}), later=later)):
            one, other = (model([ids])[0, 5] for ids in (IDS[0], [*IDS[0][:6], 44, 50, 61, 70]))
        assert torch.allclose(one, other, atol=1e-6) == is_equal


def test_similar_tokens_are_turned_down_with_it() -> None:
    scene = look(opened("llama"), [IDS[0]])
    factors = AtMan(similar=0.99).factors(scene)
    assert factors[0, 0].numpy() == pytest.approx([0.1, 1, 1, 1, 1, 0.1, 1, 1, 1, 1], rel=1e-5), (
        "token 5 stands at 0 and 5"
    )
    assert torch.allclose(AtMan().factors(scene)[0], torch.ones(10, 10) - 0.9 * torch.eye(10))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_unseen_token_is_looked_at_by_itself_alone(name: str) -> None:
    model = opened(name)
    where = torch.zeros(1, 10, dtype=torch.bool)
    where[0, [0, 3, 4]] = True
    with model.edit(Unseen(Reference({WHERE: where}))):
        found = patterns(model, IDS[0])
    for pattern in found:
        others = pattern[:, :, [0, 3, 4]].copy()
        for column, token in enumerate((0, 3, 4)):
            others[:, token, column] = 0
        assert others.max() == 0
        if name != "gpt_oss":
            assert pattern.sum(-1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_neutral_token_is_a_prompt_with_that_token(name: str) -> None:
    model = opened(name)
    scene = look(model)
    found = leave_one_out(scene, scene.real, "neutral")
    for row, ids in enumerate(IDS):
        for place in range(len(ids)):
            other = [*ids[:place], 1, *ids[place + 1 :]]
            logits = model([other])[0, -1]
            loss = float(scene.baseline[row]) - float(logits[20 + row] - logits[30 + row])
            assert float(found[row, place]) == pytest.approx(loss, abs=2e-5)
    where = torch.zeros_like(scene.real)
    unchanged = Replaced(Reference({WHERE: where}), Reference({STREAM: scene.neutral_stream}))
    with model.edit(unchanged):
        assert torch.equal(model(scene.batch), model(scene.batch))


@pytest.mark.parametrize("name", ["llama", "bert", "gpt_oss"])
def test_a_prompt_has_the_same_map_alone_and_in_any_batch(name: str) -> None:
    model = opened(name)
    whole, part = look(model), look(model, rows=(1, 3))
    asked = tokenise(None, [Example("0", tuple(IDS[2]), answer=22, distractor=32)])
    alone = Look(model, Question.of(asked, metric("logit_diff")), 0, 1, neutral=1)
    for kind in methods():
        one = IntegratedGradients(steps=3) if kind == IntegratedGradients.name else method(kind)
        together = one.measure(whole).double()
        for row, other in ((1, one.measure(part)[0]), (2, one.measure(part)[1]), (2, one.measure(alone)[0])):
            n = len(IDS[row])
            size = max(1e-3, float(together[row, :n].abs().max()))
            if kind == "random" and len(other) == n:
                continue  # drawn by the number of the prompt in its task
            assert torch.allclose(together[row, :n], other[:n].double(), atol=1e-4 * size), kind


def test_pooled_prompts_are_read_everywhere() -> None:
    model = opened("bert")
    scene = look(model)
    pooled = Look(model, Question.of(tokenise(None, [Example("0", tuple(IDS[0]))]), metric("cosine")), 0, 1, neutral=1)
    assert scene.rows[1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert pooled.rows[0].tolist() == pytest.approx([0.1] * 10)
    with pytest.raises(InterpError, match="E407"):
        method("relevance").check(model, pooled.question)


@pytest.mark.parametrize("name", ["planted-copy", "planted-induction", "planted-induction-gqa"])
def test_causal_methods_put_the_planted_token_first(name: str) -> None:
    model = interp.load(name)
    task = interp.task("bundled", model=name, n=8)
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples, needs=frozenset({"answer"}))
    neutral = model.tokenizer.unk_token_id
    scene = Look(model, Question.of(pairs, metric("logit_diff")), 0, len(pairs), neutral=neutral)
    for kind in ("leave-one-out", "atman", "gradient-attention"):
        found = method(kind).measure(scene)
        for row in range(len(pairs)):
            ids = scene.batch.input_ids[row]
            true = int((ids == pairs.answer[row]).nonzero()[0])
            others = found[row].clone()
            # the word before the answer is what induction looks for: without it nothing is found either
            others[[true] if name == "planted-copy" else [true, true - 1]] = -torch.inf
            others[int(pairs.read_at[row])] = -torch.inf
            assert float(found[row, true]) > 0 and float(found[row, true]) > float(others.max()), (kind, row)


def test_mistakes_are_told() -> None:
    for make, code in (
        (lambda: AtMan(variant="other"), "E201"),
        (lambda: AtMan(factor=2.0), "E205"),
        (lambda: IntegratedGradients(steps=0), "E205"),
        (lambda: method("attention"), "E201"),
    ):
        with pytest.raises(InterpError, match=code):
            make()
    assert AtMan(factor=0.5).label == "atman (factor=0.5)" and AtMan().label == "atman"
