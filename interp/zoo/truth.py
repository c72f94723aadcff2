"""`Truth`: the known answer of a model, that methods are held against."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Truth:
    """What a model's heads do and which edges carry it, known by construction or by an exact sweep.

    Writers are `embed`, `pos_embed`, heads (`L0H1`) and MLPs (`M0`); readers are the inputs of heads (`L0H1.q`, `.k`,
    `.v`), MLPs and `logits`. An edge is written `writer->reader`.

    Attributes:
        heads: head -> what it does.
        edges: kind of ablation -> the edges that matter under it. 'resample' and 'zero' come from an exact sweep,
            'program' from what the weights were written from.
        scores: name of a score -> head -> the value it must have.
        note: what a reader should know.
    """

    heads: dict[str, str] = field(default_factory=dict)
    edges: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a card."""
        return asdict(self)
