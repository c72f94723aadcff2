"""The parts that toys stand on, against naive computation."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from interp.zoo.toys import low_rank_bottleneck, variance_position
from interp.zoo.toys.base import seeded
from interp.zoo.toys.in_context_regression import Heads, InContextRegression
from interp.zoo.toys.mqar import Mqar, Recall
from interp.zoo.toys.training import Attention
from interp.zoo.toys.trees import TreeGrammar, draw_rules


def chance(grammar: TreeGrammar, leaves: tuple[int, ...]) -> float:
    """Probability of all leaves, by summing over every labelling of the inner nodes of a tree of depth 2."""
    rules, symbols = grammar.rules.tolist(), range(len(grammar.rules))
    total = 0.0
    for root, left, right in product(symbols, repeat=3):
        if grammar.filtered == 0:
            inner = rules[root][left][right]
        else:
            inner = sum(rules[root][left]) * sum(rules[root][x][right] for x in symbols)
        total += inner * rules[left][leaves[0]][leaves[1]] * rules[right][leaves[2]][leaves[3]] / len(symbols)
    return total


@pytest.mark.parametrize("filtered", [0, 1])
def test_belief_propagation_is_the_sum_over_all_trees(filtered: int) -> None:
    with seeded(0):
        grammar = TreeGrammar(draw_rules(3, 1.0), 2, filtered)
        leaves = grammar.sample(5)
        unknown = torch.rand(leaves.shape) < 0.5
    posterior = grammar.posterior(leaves, unknown)
    for row, hidden, found in zip(leaves.tolist(), unknown.tolist(), posterior, strict=True):
        worlds = [
            world
            for world in product(range(3), repeat=4)
            if all(gone or at == known for at, known, gone in zip(world, row, hidden, strict=True))
        ]
        weights = torch.tensor([chance(grammar, world) for world in worlds], dtype=torch.float64)
        for leaf in (at for at in range(4) if hidden[at]):
            each = [sum(w for w, world in zip(weights, worlds, strict=True) if world[leaf] == s) for s in range(3)]
            expected = torch.tensor([float(e) for e in each], dtype=torch.float64) / weights.sum()
            torch.testing.assert_close(found[leaf], expected)


@pytest.mark.parametrize("filtered", [0, 1, 2])
def test_leaves_are_drawn_with_the_same_marginals_whatever_the_filter(filtered: int) -> None:
    with seeded(1):
        rules = draw_rules(3, 1.0)
        leaves = TreeGrammar(rules, 2, filtered).sample(20000)
    for leaf, sides in enumerate(product((rules.sum(2), rules.sum(1)), repeat=2)):
        expected = (sides[0] @ sides[1]).mean(0)
        shares = torch.bincount(leaves[:, leaf], minlength=3) / len(leaves)
        torch.testing.assert_close(shares.double(), expected, atol=0.02, rtol=0)


def test_rules_are_distributions_with_one_parent_a_pair() -> None:
    with seeded(3):
        rules = draw_rules(4, 1.0)
    torch.testing.assert_close(rules.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    assert torch.equal((rules > 0).sum(0), torch.ones(4, 4, dtype=torch.long))


def test_linear_recall_is_a_state_of_outer_products() -> None:
    with seeded(4), torch.no_grad():
        model, tokens = Recall(12, 8, 4, 5, softmax=False), torch.randint(12, (2, 9))
        x = model.embed(tokens)
        state, before = torch.zeros(2, 4, 8), torch.zeros(2, 8)
        for at in range(9):
            state = state + model.k(before)[:, :, None] * model.v(x[:, at])[:, None]
            expected = model.out((model.q(x[:, at])[:, None] @ state)[:, 0] / 2)
            torch.testing.assert_close(model(tokens)[:, at], expected)
            before = x[:, at]


def test_recall_answers_are_the_values_that_follow_the_keys() -> None:
    with seeded(5):
        tokens, answers = Mqar().draw(6, 7)
    for row, said in zip(tokens.tolist(), answers.tolist(), strict=True):
        told = dict(zip(row[:14:2], row[1:14:2], strict=True))
        assert len(told) == 7
        assert [told[key] - Mqar().keys for key in row[14:]] == said


def test_the_best_gradient_step_has_the_stated_risk() -> None:
    chosen = InContextRegression()
    with seeded(6):
        z, query, y = chosen.draw(60000, chosen.examples)
    guess = (z[..., :-1] * z[..., -1:]).mean(1).mul(query).sum(-1)
    scale = (guess @ y) / (guess @ guess)
    assert float((scale * guess - y).square().mean()) == pytest.approx(chosen.step_risk, rel=0.03)


def test_regression_heads_are_a_weighted_mean_of_examples() -> None:
    with seeded(7), torch.no_grad():
        model, z, query = Heads(2, 3), torch.randn(4, 6, 3), torch.randn(4, 2)
        for row in range(4):
            total = torch.zeros(())
            for head in range(3):
                weights = torch.stack([query[row] @ model.kq[head] @ token for token in z[row]]).softmax(0)
                total = total + (weights @ z[row]) @ model.ov[head]
            torch.testing.assert_close(model(z, query)[row], total)


def test_attention_is_the_loop_over_heads_and_keys() -> None:
    with seeded(8), torch.no_grad():
        layer, x = Attention(6, heads=2, causal=True), torch.randn(2, 5, 6)
        q, k, v = layer.q(x), layer.k(x), layer.v(x)
        z = torch.zeros(2, 5, 6)
        for row, at, part in product(range(2), range(5), (slice(0, 3), slice(3, 6))):
            weights = (k[row, : at + 1, part] @ q[row, at, part] / 3**0.5).softmax(0)
            z[row, at, part] = weights @ v[row, : at + 1, part]
        torch.testing.assert_close(layer(x), layer.o(z))


def test_slope_and_probe_of_an_exact_law() -> None:
    t = torch.arange(1, 50, dtype=torch.float64)
    assert variance_position.slope(3 / t) == pytest.approx(-1)
    assert variance_position.probe((3 / t).expand(4, -1)) == pytest.approx(1)
    noise = torch.rand(64, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert variance_position.probe(noise) < 0.05


def test_the_smallest_head_counts_the_rank_and_ignores_row_shifts() -> None:
    with seeded(9):
        x = torch.randn(6, 6, dtype=torch.float64)
        logits = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64)
    shifted = logits + torch.arange(6.0, dtype=torch.float64)[:, None]
    assert low_rank_bottleneck.smallest(x, logits.softmax(-1)) == 2
    assert low_rank_bottleneck.smallest(x, shifted.softmax(-1)) == 2
