"""`ordered-command`: the first word says how the letters after it are to be moved; a chain of three variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.zoo.ordered.base import Ordered
from interp.zoo.ordered.interchange import UNASKED, Program, Settle
from interp.zoo.truth import Truth

COMMANDS = ("copy", "reverse", "rotate")
LETTERS = tuple("abcdef")
N = 5


class Command(Program):
    """BOS, a command, five letters; at each letter the answer is the one that the command puts there.

    Variables: `command`, read at every letter; `target`, the place that each letter's answer comes from; `moved`, the
    letter found there. Places are counted from the first letter.
    """

    words = (*COMMANDS, *LETTERS)
    length = 2 + N

    def draw(self, rng: np.random.Generator, n: int) -> Int[Tensor, "n pos"]:
        """See `Program.draw`."""
        command = rng.integers(1, 1 + len(COMMANDS), size=(n, 1))
        letters = rng.integers(1 + len(COMMANDS), 1 + len(self.words), size=(n, N))
        return torch.from_numpy(np.concatenate([np.zeros_like(command), command, letters], axis=1))

    def compute(self, ids: Int[Tensor, "n pos"], settle: Settle) -> Int[Tensor, "n pos"]:
        """See `Program.compute`."""
        place = torch.arange(N, device=ids.device)
        command = settle("command", ids[:, 1:2].expand(-1, N))
        targets = torch.stack([place, N - 1 - place, (place - 1) % N])
        target = settle("target", targets[command - 1, place])
        moved = settle("moved", ids[:, 2:].gather(1, target))
        return torch.cat([torch.full_like(ids[:, :2], UNASKED), moved], dim=1)


@dataclass(frozen=True)
class OrderedCommand(Ordered):
    """L0H1 brings the command to every letter, M0 makes a place of it, L1H2 fetches the letter there."""

    name: ClassVar[str] = "ordered-command"
    data: ClassVar[str] = "Generated: a command word, five random letters, and the letters as the command moves them."
    program: ClassVar[Program] = Command()
    alignment: ClassVar[dict[str, tuple[str, ...]]] = {"command": ("L0H1",), "target": ("M0",), "moved": ("L1H2",)}
    causal: ClassVar[bool] = False

    steps: int = 1400

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        offset = ["pos_embed->M0", "pos_embed->L1H2.k"]
        moving = ["embed->L0H1.v", "L0H1->M0", "M0->L1H2.q", "embed->L1H2.v", "L1H2->logits"]
        return Truth(
            heads={"L0H1": "reads the command", "L1H2": "fetches the letter at the place that M0 names"},
            edges={"program": [*offset, *moving], "resample": [*moving, "embed->L0H1.k", "M0->L1H2.k"]},
            note=(
                "M0 makes places of commands. Positions are the same in all prompts, so resampling leaves those edges "
                "out. Training chose to find the command by its key, and to let places at the letters' own positions "
                "take part in the match."
            ),
        )


RECIPES = (OrderedCommand(),)
