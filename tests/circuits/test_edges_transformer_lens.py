"""Edge attribution against `transformer_lens.tools.analysis.attribution_patching`, summed over positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.bench.edges import DIFFERENCE, build_model, by_transformer_lens, denoised, label, pairs
from interp.circuits.graph.flow import Flow
from tests.cases.edges import opened


def test_a_tiny_model() -> None:
    model = opened("gpt2")
    flow, bridge = Flow.of(model), model.to_transformer_lens()
    found, expected = compared(flow, bridge, model, rows=2, width=9)
    assert expected.abs().max() > 1e-2
    assert (found - expected).abs().max() < DIFFERENCE


@pytest.mark.slow
def test_the_shape_of_gpt2_small() -> None:
    model = build_model()
    found, expected = compared(Flow.of(model), model.to_transformer_lens(), model, rows=1, width=16)
    assert expected.abs().max() > 1e-2
    assert (found - expected).abs().max() < DIFFERENCE


def compared(flow: Flow, bridge: Any, model: Any, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and theirs [pair writer reader]; what positions wrote is a writer that they do not have."""
    made = pairs(model, rows, width, 0, vocabulary=100)
    ours = denoised(flow, *made)
    each = [[batch.rows(row, row + 1) for batch in made] for row in range(rows)]
    theirs = torch.stack([by_transformer_lens(bridge, flow.graph, clean, corrupt) for clean, corrupt in each])
    known = [index for index, part in enumerate(flow.graph.writers) if part.label != "pos_embed"]
    assert not theirs[:, [index for index in range(len(flow.graph.writers)) if index not in known]].any()
    return ours[:, known], theirs[:, known]


def test_every_edge_is_theirs_at_each_position() -> None:
    """Their edges, by our names, are all of ours but those out of positions."""
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    model = opened("gpt2")
    graph, (clean, corrupt) = Flow.of(model).graph, pairs(model, 1, 5, 0, vocabulary=100)
    config = EdgeAttributionConfig(granularity="edge")
    scores = attribution_patch(
        model.to_transformer_lens(), clean.input_ids, corrupt.input_ids, lambda logits: logits[0, -1, 3], config
    ).edge_scores
    named = {f"{label(writer)}->{label(reader)}" for writer, reader in scores}
    assert named == {name for name in graph.labels() if not name.startswith("pos_embed")}
    assert len(scores) == 5 * len(named)
