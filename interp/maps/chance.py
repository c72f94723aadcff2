"""A map of nothing: random numbers, beside which every other map is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.maps.look import Look
from interp.maps.method import Method

RANDOM = "random"


@dataclass(frozen=True, eq=False)
class RandomMap(Method):
    """Independent numbers from 0 to 1, of each prompt's own seed."""

    name: ClassVar[str] = RANDOM
    source: ClassVar[str] = "control"
    says: ClassVar[str] = "nothing"
    reads: ClassVar[str] = "nothing"

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        width = look.real.shape[1]
        rows = [drawn(look.seed, prompt, 0, width) for prompt in range(look.start, look.stop)]
        return torch.from_numpy(np.stack(rows))


def drawn(seed: int, prompt: int, draw: int, n: int) -> Float[np.ndarray, " pos"]:
    """The numbers of one prompt and draw; the first ones are the same whatever the width of a batch."""
    return np.random.default_rng([seed, prompt, draw]).random(n)
