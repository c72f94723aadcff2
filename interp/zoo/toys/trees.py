"""Sequences from a tree of rules, whole or filtered, and exact inference on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rules = Float[Tensor, "symbol symbol symbol"]
"""P(left child, right child | parent); axes in the order parent, left, right."""


def draw_rules(symbols: int, spread: float) -> Rules:
    """Random rules, in float64: each pair of children has one possible parent, and log-normal weight.

    Args:
        symbols: values of a node; each is the parent of as many pairs.
        spread: standard deviation of the log weights.
    """
    pairs = symbols**2
    weights = torch.zeros(symbols, pairs, dtype=torch.float64)
    weights[torch.randperm(pairs) % symbols, torch.arange(pairs)] = (
        spread * torch.randn(pairs, dtype=torch.float64)
    ).exp()
    return (weights / weights.sum(1, keepdim=True)).view(symbols, symbols, symbols)


@dataclass(frozen=True, eq=False)
class TreeGrammar:
    """A binary tree with uniform root. Source: Garnier-Brun et al. 2024, section 2.

    Attributes:
        rules: see `Rules`; the same everywhere in the tree.
        depth: levels below the root; there are 2^depth leaves.
        filtered: nodes at this level are drawn independently given the root, with the marginals they have in the whole
            tree; levels below follow the rules. 0 is the whole tree, `depth` makes leaves independent given the root.
    """

    rules: Rules
    depth: int
    filtered: int

    @property
    def marginals(self) -> Float[Tensor, "node root symbol"]:
        """P(symbol | root) of each node at the filtered level."""
        tables = [torch.eye(len(self.rules), dtype=self.rules.dtype)]
        for _ in range(self.filtered):
            tables = [table @ side for table in tables for side in (self.rules.sum(2), self.rules.sum(1))]
        return torch.stack(tables)

    def sample(self, count: int) -> Int[Tensor, "count leaf"]:
        """Leaves of this many trees."""
        symbols = len(self.rules)
        root = torch.randint(symbols, (count,))
        nodes = torch.stack([torch.multinomial(table[root], 1)[:, 0] for table in self.marginals], 1)
        for _ in range(self.depth - self.filtered):
            pairs = torch.multinomial(self.rules.view(symbols, -1)[nodes.flatten()], 1)
            nodes = torch.cat([pairs // symbols, pairs % symbols], 1).view(count, -1)
        return nodes

    @torch.enable_grad()
    def posterior(
        self, leaves: Int[Tensor, "batch leaf"], unknown: Bool[Tensor, "batch leaf"]
    ) -> Float[Tensor, "batch leaf symbol"]:
        """P(leaf | all known leaves) where a leaf is unknown, by belief propagation; what else it holds is no use.

        The downward pass is the gradient of the upward one: an unknown leaf sends a message of ones, and the slope of
        the log evidence along it is its posterior.
        """
        messages = torch.nn.functional.one_hot(leaves, len(self.rules)).to(self.rules.dtype)
        messages = messages.masked_fill(unknown[..., None], 1.0).requires_grad_()
        nodes = messages
        for _ in range(self.depth - self.filtered):
            nodes = einsum(
                self.rules, nodes[:, 0::2], nodes[:, 1::2], "up left right, b node left, b node right -> b node up"
            )
        evidence = einsum(self.marginals, nodes, "node root symbol, b node symbol -> b node root").prod(1).mean(1)
        return torch.autograd.grad(evidence.log().sum(), messages)[0]
