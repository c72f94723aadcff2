"""Inputs drawn from seeds, and what published formulas give on them.

The numbers were made by a program of plain loops in double precision, which shares nothing with this repository: they are
what `interp` must come to by its own ways. `SOURCES` says whose formula each row is.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SOURCES = {
    "sink": "sail-sg/Attention-Sink, `compute_attention_sink`: column 0, then the largest column, of 4 heads",
    "sink_rate": "the same, share of the 4 heads in percent with a column above 0.3, of every column",
    "act": "GATECH-EIC/ACT, `atten_process_cal` with thresholds 0.1 and 0.4: z of 2 heads in rows 7 and 15, entries 0 and 2",
    "act_n": "the same, columns turned down",
    "var": "seilk/VisAttnSink: row 13 of 4 heads, at the visual sink and at another token of the picture",
    "var_n": "the same, rows of all 6 heads that are changed",
    "entropy": "GuoTianYu2000/Active-Dormant-Attention, `row_headwise_average_normalized_entropy`, of 6 heads",
    "count": "nightdessert/Retrieval_Head, `retrieval_calculate`, of 8 heads",
    "set": "the same heads by the paper (arXiv 2404.15574)",
    "query": "princeton-pli/QRHead, `score_docs_per_head_for_detection`: documents of 7, 1 and 3 tokens, of 6 heads",
    "sav": "chancharikmitra/SAVs, `record_head_performance`, of 8 heads",
    "clipped": "Qualcomm-AI-research/outlier-free-transformers, `clipped_softmax`: z of 2 heads in rows 4 and 8, entries 0, 1",
    "streaming": "mit-han-lab/duo-attention, `generate_streaming_mask` of 13 tokens, made for 16: keys that each row sees",
}

EXPECTED = {
    "sink": [0.25000314, 0.30095463, 0.26835993, 0.25953414, 0.3398965, 0.30095463, 0.3148601, 0.47337563],
    "sink_rate": [25.0, 0.0, 0.0, 25.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 0.0],
    "act": [-0.04536665, 0.43888895, 0.4099039, -0.65997245, 0.03392282, 0.24795575, -0.21522257, 0.42708327],
    "act_n": [5, 7],
    "var": [0.14601856, 0.38637395, 0.00135131, 0.02234114, 0.02996349, 0.04247575, 0.09737914, 0.35342953],
    "var_n": [22],
    "entropy": [0.50027021, 0.4289806, 0.34814666, 0.46945147, 0.48599188, 0.38682952],
    "count": [0.25, 0.0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.5],
    "set": [0.33333333, 0.0, 0.33333333, 0.33333333, 0.33333333, 0.33333333, 0.33333333, 0.33333333],
    "query": [-0.12057213, 0.12548369, -0.32623882, -1.75181118, 0.5319244, -0.7031026, 0.0, 0.0, -0.4634153, -0.36718289],
    "sav": [7, 10, 9, 8, 9, 8, 7, 7],
    "clipped": [0.26562182, 0.05341285, -0.86656783, -0.93776791, 0.2524176, 1.20003641, -0.26388479, 0.72511379],
    "streaming": [1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
}  # fmt: skip


def normal(seed: int, *shape: int) -> Tensor:
    """Normal numbers of numpy's old generator, which is frozen."""
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape))


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape))


def integers(seed: int, low: int, high: int, size: int) -> list[int]:
    """From low to below high."""
    found: list[int] = np.random.RandomState(seed).randint(low, high, size=size).tolist()
    return found


def maps(seed: int, heads: int, length: int, sharpness: float) -> Float[Tensor, "1 head query_pos key_pos"]:
    """Causal softmax of normal scores."""
    scores = sharpness * normal(seed, 1, heads, length, length)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)
