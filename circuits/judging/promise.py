"""Which pairs of parts may stand in for each other, from gradients: what the second becomes worth once the first is out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.gradients import frozen
from interp.circuits.graph.graph import Edges
from interp.circuits.judging.trials import Trials


@dataclass(frozen=True, eq=False)
class Awakening:
    """The change of the second's linear effect when the first is out; a `Promise` for `redundancy`.

    One forward and backward for each part. The linear effect is that of edge attribution at the circuit without the first
    part, so a part that is flat there too (a saturated one) has no promise: pairs that are left out are not cleared.
    """

    trials: Trials

    def __call__(self, parts: Sequence[Edges]) -> Float[np.ndarray, "first second"]:
        """[first, second]: mean over prompts of the change, in size."""
        full = self.trials.flow.graph.full
        seconds = np.stack(parts).reshape(len(parts), -1).astype(np.float64)
        whole = self._pulls([full])
        each = np.concatenate([self._pulls([full & ~part]) for part in parts])
        return np.abs((each - whole) @ seconds.T)

    def _pulls(self, circuits: Sequence[Edges]) -> Float[np.ndarray, "circuit edge"]:
        """Gradient of the mean metric at every edge's mask."""
        total: Tensor | None = None
        for runs in self.trials.runs:
            device = self.trials.flow.model.device
            masks = torch.from_numpy(np.stack(circuits).astype(np.float32)).to(device).requires_grad_()
            with frozen(self.trials.flow.model), torch.enable_grad():
                measured = runs.measured(runs.outputs(masks))
                (pull,) = torch.autograd.grad(measured.sum(), [masks])
            total = pull if total is None else total + pull
        assert total is not None
        return (total / len(self.trials.posed)).flatten(1).double().cpu().numpy()
