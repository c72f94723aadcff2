"""Attention flow: how much can go from each token to the answer through a network of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.maps.attention.mixing import mixing
from interp.maps.look import Look
from interp.maps.method import Method

if TYPE_CHECKING:
    from interp.circuits.question import Question
    from interp.hooks.model import HookedModel

LONGEST = 32
"""Tokens, above which one flow for each token takes too long."""

SCALE = 2**30
"""Capacities are whole numbers, so that a flow is found exactly: multiples of 1/SCALE."""


@dataclass(frozen=True, eq=False)
class Flow(Method):
    """Maximum flow from the read position above the last layer to each token below the first.

    Every token of every layer is a node, and the capacity between layers is `rowNorm(mean_h A_h + I)`. One flow a token,
    divided by their sum. Exact for capacities rounded to 2^-30.

    Raises:
        InterpError: E205, prompts of more than 32 tokens.
    """

    name: ClassVar[str] = "flow"
    source: ClassVar[str] = "Abnar and Zuidema 2020, arXiv 2005.00928, section 3"
    says: ClassVar[str] = "much can go from it to the answer through the attention of all layers"
    reads: ClassVar[str] = "attention"

    def check(self, model: HookedModel, question: Question) -> None:
        longest = int(question.batch.lengths.max())
        if longest > LONGEST:
            what = f"a prompt of {longest} tokens, and flow takes one maximum flow for each"
            raise InterpError("E205", what, where=f"method {self.name}", fix=f"at most {LONGEST} tokens, or rollout")

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        layers = torch.stack([mixing(pattern.mean(1)) for pattern in look.patterns], 1).cpu().numpy()
        rows, found = look.rows.cpu().numpy(), np.zeros(look.rows.shape)
        for prompt, real in enumerate(look.real.cpu().numpy()):
            inside = np.ix_(range(layers.shape[1]), real, real)
            flows = max_flows(layers[prompt][inside], rows[prompt][real])
            found[prompt, real] = flows / flows.sum()
        return torch.from_numpy(found)


def max_flows(
    capacity: Float[np.ndarray, "layer query_pos key_pos"], rows: Float[np.ndarray, " pos"]
) -> Float[np.ndarray, " pos"]:
    """Maximum flow to each token below the first layer.

    Args:
        capacity: between the tokens above a layer and those below it, the first layer first.
        rows: capacity from the source to the tokens above the last layer.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    n_layers, n = capacity.shape[:2]
    above, query, key = np.nonzero(capacity)
    source = (n_layers + 1) * n
    ends = np.flatnonzero(rows)
    start = np.concatenate([(above + 1) * n + query, np.full(len(ends), source)])
    stop = np.concatenate([above * n + key, n_layers * n + ends])
    size = np.rint(np.concatenate([capacity[above, query, key], rows[ends]]) * SCALE).astype(np.int32)
    network = coo_array((size, (start, stop)), shape=(source + 1, source + 1)).tocsr()
    return np.array([maximum_flow(network, source, token, method="dinic").flow_value for token in range(n)]) / SCALE
