"""What scores are of: attention heads, and routed experts, which are addressed like heads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from interp.hooks.names import HeadId, parse_head

_EXPERT = re.compile(r"^L(\d+)E(\d+)$")

NOUNS = {"query_head": "head", "expert": "expert"}
"""What one row of a score is called, by its axis."""


@dataclass(frozen=True, order=True)
class ExpertId(HeadId):
    """One routed expert of a mixture-of-experts model: layer, and its number among the experts there (`head`)."""

    @property
    def label(self) -> str:
        """`L5E1`."""
        return f"L{self.layer}E{self.head}"

    def __str__(self) -> str:
        return self.label


def parse_part(label: str) -> HeadId:
    """A head (`L5H1`, `vision.L5H1`) or an expert (`L5E1`).

    Raises:
        InterpError: E202, neither.
    """
    expert = _EXPERT.match(label.strip())
    return parse_head(label) if expert is None else ExpertId("", int(expert[1]), int(expert[2]))
