"""How noise-like the nodes are that carry no variable: their weights against shuffled ones, their outputs against chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.zoo.ordered.interchange import Activations

SHUFFLES = 4
RIDGE = 1e-2


def node_weights(model: Any) -> Iterator[tuple[str, list[Float[Tensor, "_ _"]]]]:
    """Every head and MLP of a `PlainTransformer` with its matrices."""
    for index, layer in enumerate(model.model.layers):
        attn = layer.self_attn
        for head in range(attn.num_heads):
            cut = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
            inner = [project.weight[cut] for project in (attn.q_proj, attn.k_proj, attn.v_proj)]
            yield f"L{index}H{head}", [*inner, attn.o_proj.weight[:, cut]]
        yield f"M{index}", [layer.mlp.up_proj.weight, layer.mlp.down_proj.weight]


def structure(matrices: Sequence[Float[Tensor, "_ _"]]) -> float:
    """Largest singular value against that of the same entries in random order; 1 is noise. Mean over the matrices."""
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for matrix in matrices:
        orders = [torch.randperm(matrix.numel(), generator=generator) for _ in range(SHUFFLES)]
        shuffled = torch.stack([matrix.flatten()[order].view_as(matrix) for order in orders])
        largest = torch.linalg.matrix_norm(shuffled, ord=2).mean()
        ratios.append(torch.linalg.matrix_norm(matrix, ord=2) / largest)
    return float(torch.stack(ratios).mean())


def likeness(matrices: Sequence[Float[Tensor, "_ _"]], first: Sequence[Float[Tensor, "_ _"]]) -> float:
    """Cosine between weights and what they were first drawn as; 1 is untouched but for scale. Mean over the matrices."""
    pairs = zip(matrices, first, strict=True)
    cosines = [torch.cosine_similarity(now.flatten(), then.flatten(), dim=0) for now, then in pairs]
    return float(torch.stack(cosines).mean())


def decodable(
    outputs: Activations, answer: Int[Tensor, "batch pos"], asked: Bool[Tensor, "batch pos"]
) -> Mapping[str, float]:
    """Held-out accuracy of a linear read-out (ridge regression) of the answer from each node's output alone.

    The first half of the prompts fits it, the second tests it; each output is standardised.
    """
    half = len(answer) // 2
    fit, test = asked.clone(), asked.clone()
    fit[half:], test[:half] = False, False
    wanted = torch.nn.functional.one_hot(answer.clamp(min=0)).double()
    found = {}
    for name, output in outputs.items():
        x = output.double()
        x = (x - x[fit].mean(0)) / (x[fit].std(0) + 1e-9)
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        gram = x[fit].T @ x[fit] + RIDGE * len(x[fit]) * torch.eye(x.shape[-1], dtype=x.dtype)
        weights = torch.linalg.solve(gram, x[fit].T @ wanted[fit])
        found[name] = float(((x[test] @ weights).argmax(-1) == answer[test]).double().mean())
    return found


def most_frequent(answer: Int[Tensor, "batch pos"], asked: Bool[Tensor, "batch pos"]) -> float:
    """Accuracy of always giving the most frequent answer."""
    return float(answer[asked].bincount().max() / asked.sum())
