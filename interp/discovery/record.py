"""Parts of a circuit as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from interp.circuits.graph.graph import Graph, LayerShape
from interp.discovery.roles import Roles, Share


def as_record(graph: Graph) -> dict[str, Any]:
    """A graph as plain data."""
    embeddings = [part.label for part in graph.writers if part.layer is None]
    return {"layers": [asdict(layer) for layer in graph.layers], "embeddings": embeddings, "places": list(graph.places)}


def from_record(data: Mapping[str, Any]) -> Graph:
    """What `as_record` gave."""
    layers = [LayerShape(**layer) for layer in data["layers"]]
    return Graph.of_shape(layers, data["embeddings"]).at_places(data["places"])


def numbers_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Missing numbers are nan again."""
    return {name: float("nan") if value is None else value for name, value in line.items()}


def roles_of(data: Mapping[str, Any]) -> Roles:
    names = {head: tuple(found) for head, found in data["names"].items()}
    return Roles(names, tuple(Share(**numbers_of(one)) for one in data["shares"]))
