"""Hard circuits by matrix products: the numbers of runs that lay everything out, and less work where little is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.masked_run import MaskedRun
from interp.circuits.edges.sparse_run import SparseRun, read
from interp.circuits.graph.graph import Graph, LayerShape
from tests.cases.edges import contrasted, opened, paired

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "gemma2", "olmo2", "gpt_oss")
SHARES = (0.0, 0.03, 0.1, 0.4, 0.8, 1.0)


def case(architecture: str, places: bool, stand: str) -> Contrast:
    flow, clean, corrupt = paired(opened(architecture))
    place_of = None
    if places:
        place_of = torch.from_numpy(np.random.default_rng(1).integers(0, 3, tuple(clean.input_ids.shape)))
        flow = replace(flow, graph=flow.graph.at_places(["a", "b", "c"]))
    contrast = contrasted(flow, clean, corrupt, place_of=place_of)
    if stand == "zero":  # one row and one position stand for all
        return replace(contrast, ablated=contrast.ablated.map(lambda value: torch.zeros_like(value[:1, :1])))
    return contrast


@pytest.mark.parametrize("stand", ["resample", "zero"])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_numbers_are_those_of_runs_that_lay_everything_out(architecture: str, places: bool, stand: str) -> None:
    runs = MaskedRuns(case(architecture, places, stand))
    full, rng = runs.flow.graph.full, np.random.default_rng(0)
    for share in SHARES:
        circuits = [(rng.random(full.shape) < share) & full for _ in range(3)]
        masks = torch.from_numpy(np.stack(circuits).astype(np.float32))
        with torch.no_grad():
            expected = runs.measured(MaskedRun(runs, masks).run())
        torch.testing.assert_close(runs.values(circuits), expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max()))


def test_what_nobody_reads_is_left_as_it_comes() -> None:
    runs = MaskedRuns(case("llama", False, "resample"))
    graph = runs.flow.graph
    circuit = graph.of_labels(["embed->L0H1.q", "L0H1->M0", "M0->logits", "embed->L1H0.q", "embed->M1"])
    run = SparseRun(runs, torch.from_numpy(circuit[None].astype(np.float32)))
    mixed = {graph.readers[index].label for readers in run.mixing.values() for index in readers}
    assert mixed == {"L0KV0.k", "L0KV0.v", "M0", "logits"}  # the query reads all that it could
    assert {graph.writers[index].label for index in run.slots} == {"L0H1", "M0"}


def test_readers_are_followed_back_from_the_logits() -> None:
    graph = Graph.of_shape([LayerShape(2, 2), LayerShape(2, 2)])

    def found(*labels: str) -> set[str]:
        wanted = read(graph, graph.of_labels(labels)[0])
        return {graph.readers[index].label for index in np.flatnonzero(wanted)}

    assert found() == {"logits"}
    assert found("embed->M0", "M0->L1H0.v") == {"logits"}
    assert found("L0H1->M0", "M0->logits") == {"logits", "M0", "L0H1.q", "L0H1.k", "L0H1.v"}


def test_heads_that_a_norm_joins_are_read_together() -> None:
    graph = Graph.of_shape([LayerShape(2, 2, has_mlp=False, is_joined=True)])
    wanted = read(graph, graph.of_labels(["L0H1->logits"])[0])
    assert wanted.all()
