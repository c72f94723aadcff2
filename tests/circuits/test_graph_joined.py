"""Heads that a norm joins: found in models, and kept by pruning, so that no metric changes by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Graph
from interp.hooks.model import HookedModel
from tests.cases.edges import contrasted, opened, paired
from tests.cases.more_models import MORE, opened_more

JOINED = {
    "gpt2": False,
    "qwen3": False,  # a norm for each head's queries and keys
    "falcon": False,  # one key for all heads
    "mixtral": False,
    "granite": False,  # a factor behind the heads is no norm
    "gemma2": True,
    "olmo2": True,
    "glm4": True,
    "olmoe": True,  # queries of all heads share a norm, and keys do
}


def model_of(name: str) -> HookedModel:
    return opened_more(name) if name in MORE else opened(name)


@pytest.mark.parametrize("name", JOINED)
def test_layers_that_join_their_heads_are_found(name: str) -> None:
    assert {shape.is_joined for shape in Flow.of(model_of(name)).graph.layers} == {JOINED[name]}


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "olmo2", "olmoe"])
@pytest.mark.parametrize("places", [("",), ("early", "late")])
def test_pruning_changes_no_metric(name: str, places: tuple[str, ...]) -> None:
    """And would, if heads that a norm joins were taken out one by one."""
    flow, clean, corrupt = paired(model_of(name))
    flow = replace(flow, graph=flow.graph.at_places(places))
    place_of = (clean.input_ids % 2).long() if len(places) > 1 else None
    graph, runs = flow.graph, MaskedRuns(contrasted(flow, clean, corrupt, place_of=place_of))
    embeddings = [part.label for part in graph.writers if part.layer is None]
    apart = Graph.of_shape([replace(one, is_joined=False) for one in graph.layers], embeddings).at_places(places)
    draw = np.random.default_rng(0)
    some = [graph.full & (draw.random(graph.full.shape) < share) for share in np.tile(np.linspace(0.03, 0.2, 6), 2)]
    pruned = [graph.pruned(one) for one in some]
    assert any((one != other).any() and other.any() for one, other in zip(some, pruned, strict=True))
    found = runs.values([*some, *pruned, *(apart.pruned(one) for one in some)]).unflatten(0, (3, -1))
    assert (found[0] - found[1]).abs().max() < 1e-5
    assert ((found[0] - found[2]).abs().max() > 1e-3) == JOINED[name]
