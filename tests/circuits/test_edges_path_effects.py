"""The exact effect of an edge out of a head is path patching with one receiver and MLPs held: two codes, one number."""

from __future__ import annotations

import pytest
import torch

from interp.circuits.edges.exact import exact
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.paths import Paths, Sender
from interp.circuits.receivers import parse_receivers, reaches
from interp.hooks.names import parse_head
from tests.cases.edges import contrasted, opened, paired

RECEIVERS = {
    "gpt2": ("logits", "M1", "L1H2.q", "L1H0.k", "L1H1.v"),
    "llama": ("logits", "M1", "L1H2.q", "L1KV1.k", "L1KV0.v"),
    "gpt_neox": ("logits", "M1", "L1H3.q", "L1H3.v"),
}


@pytest.mark.parametrize("architecture", RECEIVERS)
def test_direct_paths_are_edges(architecture: str) -> None:
    flow, clean, corrupt = paired(opened(architecture))
    contrast, model = contrasted(flow, clean, corrupt), flow.model
    scores, graph = METHODS["path-patching"].run(contrast, Settings()).scores, flow.graph
    assert torch.equal(scores, exact(contrast).scores)
    question = contrast.question
    whole = question.measure(question.clean(model, 0, clean.size, 8), 0, clean.size, None)
    largest = 0.0
    for label in RECEIVERS[architecture]:
        receivers = parse_receivers(label, model)
        heads = [part.label for part in graph.writers if part.kind == "head"]
        senders = [head for head in heads if graph.exists[graph.writer_index[head], graph.reader_index[label]]]
        senders = [head for head in senders if reaches(parse_head(head), receivers)]
        paths = Paths(model, clean, corrupt, question.read_at, receivers)
        for numbers, outputs, _ in paths.outputs([Sender((parse_head(head),)) for head in senders]):
            for number, output in zip(numbers, outputs, strict=True):
                effect = whole - question.measure(output, 0, clean.size, None)
                score = scores[:, 0, graph.writer_index[senders[number]], graph.reader_index[label]]
                assert (effect - score).abs().max() < 2e-5 * max(1.0, float(whole.abs().max()))
                largest = max(largest, float(score.abs().max()))
    assert largest > 1e-2, "the paths must do something"
