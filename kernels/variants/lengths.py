"""How long the document of each query is."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.kernels.problem import Problem


def lengths(problem: Problem) -> Int[Tensor, "batch query_pos"]:
    """Real keys in the document of each query; all real keys where queries stand nowhere among them."""
    return problem.once("document lengths of queries", _lengths)


def starts(problem: Problem) -> Int[Tensor, "batch key_pos"]:
    """For each key, the index of its document's first key."""
    return torch.arange(problem.n_keys, device=problem.q.device) - problem.key_at


def _lengths(problem: Problem) -> Tensor:
    real = problem.real_keys.long()
    offset = problem.n_keys - problem.n_queries
    if offset < 0 or not problem.aligned:
        return real.sum(-1, keepdim=True).expand(-1, problem.n_queries)
    start = starts(problem)
    counts = torch.zeros_like(start).scatter_add_(1, start, real)
    return counts.gather(1, start)[:, offset:]
