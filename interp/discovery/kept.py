"""`KeptTrials`: the metric under circuits, some circuits at a time, each lot kept in the ledger of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from interp.circuits.files import digest
from interp.circuits.graph.graph import Edges
from interp.circuits.judging.trials import Trials
from interp.sweeps.entries import Entry
from interp.sweeps.ledger import Ledger

FORWARDS = 4
"""Forwards of a lot, where one circuit does not take more: what is lost where a run is killed."""


@dataclass(eq=False)
class KeptTrials(Trials):
    """Trials whose numbers do not depend on whether a ledger keeps them: lots are cut alike.

    Attributes:
        ledger: of the run.
        side: whether these prompts choose or judge.
    """

    ledger: Ledger = field(default_factory=Ledger)
    side: str = ""

    def __call__(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit prompt"]:
        """The metric under each circuit."""
        lots = [circuits[start : start + self.lot] for start in range(0, len(circuits), self.lot)]
        return np.concatenate([self._values(lot) for lot in lots]) if lots else super().__call__(())

    @property
    def lot(self) -> int:
        """Circuits that are kept together: as many as fill some forwards."""
        n_prompts, width = self.posed.mask.shape
        batches = -(-n_prompts // self.prompts)
        together = max(1, self.tokens // (min(n_prompts, self.prompts) * width))
        return together * max(1, FORWARDS // batches)

    def _values(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit prompt"]:
        masks = np.packbits(np.stack(circuits)).tobytes()
        asked = {"what": "circuits", "side": self.side, "n": len(circuits), "masks_sha256": digest(masks)}
        return self.ledger.kept(asked, lambda: Entry({"values": Trials.__call__(self, circuits)})).arrays["values"]
