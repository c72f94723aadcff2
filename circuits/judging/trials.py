"""`Trials`: the metric under circuits, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked import TOKENS, MaskedRuns
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import StandIn
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges


@dataclass(eq=False)
class Trials:
    """Runs of prompts under circuits; what is not finite stays so.

    Attributes:
        posed: the prompts that judge.
        stand: what stands in for what is out.
        prompts: of one forward, at most.
        tokens: of one forward, where one circuit does not have more.
    """

    flow: Flow
    posed: Posed
    stand: StandIn
    prompts: int = 64
    tokens: int = TOKENS

    def __call__(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit prompt"]:
        """The metric under each circuit."""
        if not len(circuits):
            return np.zeros((0, len(self.posed)))
        found = [runs.values(circuits, self.tokens).double().cpu().numpy() for runs in self.runs]
        return np.concatenate(found, axis=1)

    @property
    def contrasts(self) -> list[Contrast]:
        """The prompts, some at a time."""
        return [runs.contrast for runs in self.runs]

    @property
    def forwards(self) -> float:
        """What it has cost, in forwards of all prompts."""
        sizes = [len(runs.contrast.question.read_at) for runs in self.runs]
        return float(np.average([runs.forwards for runs in self.runs], weights=sizes))

    @cached_property
    def runs(self) -> list[MaskedRuns]:
        starts = range(0, len(self.posed), self.prompts)
        parts = [self.posed.rows(start, min(start + self.prompts, len(self.posed))) for start in starts]
        return [MaskedRuns(self.stand.contrast(self.flow, part)) for part in parts]
