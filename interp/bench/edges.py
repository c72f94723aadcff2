"""Edge attribution against TransformerLens' own, `transformer_lens.tools.analysis.attribution_patching`, interleaved.

Random weights of GPT-2 small's shape with a small vocabulary: the arithmetic does not depend on their values. That tool
takes pairs one by one; here several are taken at once, with scores of each by itself. Every round times one pair there
and one batch here, and holds the scores of that pair against each other. The graph of the model and the copies of its
weights, which are made once, are made before.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.engine import ANSWER, DISTRACTOR, seconds
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Graph
from interp.circuits.question import Question
from interp.hooks.batch import Batch, pad
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.tiny import tiny_model

VOCABULARY = 5000
BAR = 25.0
"""Smallest ratio of the times that is good enough."""

DIFFERENCE = 1e-5
"""Largest difference of a score that is good enough."""


@dataclass(frozen=True)
class EdgeRow:
    """What was measured.

    Attributes:
        edges: of the graph; that tool has as many at each position.
        ours, theirs: seconds a pair, medians over rounds.
        ratio: theirs / ours, median over rounds.
        difference: largest one of a score summed over positions.
        largest: of these scores.
    """

    edges: int
    ours: float
    theirs: float
    ratio: float
    difference: float
    largest: float

    @property
    def met(self) -> bool:
        """Fast enough, and the same numbers."""
        return self.ratio >= BAR and self.difference <= DIFFERENCE


def build_model() -> HookedModel:
    """GPT-2 small with random weights and few tokens."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
    return HookedModel.from_hf(tiny_model("gpt2", **sizes), name="gpt2-small-shape")


def pairs(model: HookedModel, rows: int, width: int, seed: int, vocabulary: int = VOCABULARY) -> tuple[Batch, Batch]:
    """Random prompts of one length, clean and corrupt."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randint(DISTRACTOR + 1, vocabulary, (rows, width), generator=draw).tolist() for _ in range(2)]
    return model.batch(pad(made[0], 0)), model.batch(pad(made[1], 0))


def denoised(flow: Flow, clean: Batch, corrupt: Batch) -> Float[Tensor, "batch writer reader"]:
    """Linear estimates at the corrupt run of what the clean value of each edge restores."""
    n = corrupt.size
    question = Question(
        corrupt, corrupt.end, metric("logit_diff"), torch.full((n,), ANSWER), torch.full((n,), DISTRACTOR)
    )
    contrast = Contrast(flow, question, flow.record(clean), flow.record(corrupt))
    return METHODS["eap-denoise"].run(contrast, Settings()).scores[:, 0]


def by_transformer_lens(bridge: Any, graph: Graph, clean: Batch, corrupt: Batch) -> Float[Tensor, "writer reader"]:
    """The same by TransformerLens, for one pair."""
    from interp.hooks.adapters.transformer_lens import attribution_patch

    return summed(graph, attribution_patch(bridge, clean.input_ids, corrupt.input_ids, _difference))


def _difference(logits: Float[Tensor, "1 pos d_vocab"]) -> Float[Tensor, ""]:
    return logits[0, -1, ANSWER] - logits[0, -1, DISTRACTOR]


def summed(graph: Graph, scores: Mapping[Any, float]) -> Float[Tensor, "writer reader"]:
    """TransformerLens' scores, by our names and summed over positions."""
    found = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for (writer, reader), score in scores.items():
        found[graph.writer_index[label(writer)], graph.reader_index[label(reader)]] += score
    return found


def label(node: Any) -> str:
    """Our name of one of TransformerLens' nodes; its embedding is that of tokens alone."""
    if node.kind in ("embed", "logits"):
        return str(node.kind)
    if node.kind in ("mlp_in", "mlp_out"):
        return f"M{node.layer}"
    head = f"L{node.layer}H{node.head}"
    return head if node.kind == "attn_head_out" else f"{head}.{node.kind[0]}"


def measure(model: HookedModel, bridge: Any, *, rows: int, width: int, rounds: int) -> EdgeRow:
    """Time both, round by round, one after the other."""
    flow = Flow.of(model)
    known = [flow.graph.writer_index[part.label] for part in flow.graph.writers if part.label != "pos_embed"]
    first = pairs(model, 1, width, seed=0)
    denoised(flow, *first), by_transformer_lens(bridge, flow.graph, *first)  # first calls are slower
    ours, theirs, difference, largest = [], [], 0.0, 0.0
    for number in range(rounds):
        clean, corrupt = pairs(model, rows, width, seed=number)
        elapsed, scores = seconds(partial(denoised, flow, clean, corrupt))
        ours.append(elapsed / rows)
        one = clean.rows(0, 1), corrupt.rows(0, 1)
        elapsed, expected = seconds(partial(by_transformer_lens, bridge, flow.graph, *one))
        theirs.append(elapsed)
        difference = max(difference, float((scores[0] - expected)[known].abs().max()))
        largest = max(largest, float(expected.abs().max()))
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    return EdgeRow(flow.graph.n_edges, statistics.median(ours), statistics.median(theirs), ratio, difference, largest)
