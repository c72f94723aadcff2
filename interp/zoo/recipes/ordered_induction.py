"""`ordered-induction`: what came after this letter before? The pair of heads that language models grow by themselves."""

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

LETTERS = tuple("abcdef")
NONE = "none"
N = 9


class Induction(Program):
    """BOS and nine letters; at each letter the answer is the one that followed it earlier, or `none`.

    Where the letter was followed by different ones, nothing is asked. Variables: `before`, the token before each letter
    (BOS before the first); `found`, the answer.
    """

    words = (*LETTERS, NONE)
    length = 1 + N

    def draw(self, rng: np.random.Generator, n: int) -> Int[Tensor, "n pos"]:
        """See `Program.draw`."""
        letters = rng.integers(1, 1 + len(LETTERS), size=(n, N))
        return torch.from_numpy(np.concatenate([np.zeros((n, 1), dtype=letters.dtype), letters], axis=1))

    def compute(self, ids: Int[Tensor, "n pos"], settle: Settle) -> Int[Tensor, "n pos"]:
        """See `Program.compute`."""
        letters = ids[:, 1:]
        before = settle("before", ids[:, :-1])
        matches = (letters[:, :, None] == before[:, None, :]).tril()
        followers = torch.nn.functional.one_hot(letters, len(self.words)).float()
        seen = matches.float() @ followers > 0
        none = torch.where(seen.any(-1), UNASKED, len(self.words))
        found = settle("found", torch.where(seen.sum(-1) == 1, seen.int().argmax(-1), none))
        return torch.cat([torch.full_like(ids[:, :1], UNASKED), found], dim=1)


@dataclass(frozen=True)
class OrderedInduction(Ordered):
    """L0H2 brings the token before, L1H1 looks for a place whose token before is this letter."""

    name: ClassVar[str] = "ordered-induction"
    data: ClassVar[str] = "Generated: nine random letters, and at each the one that followed the same letter earlier."
    program: ClassVar[Program] = Induction()
    alignment: ClassVar[dict[str, tuple[str, ...]]] = {"before": ("L0H2",), "found": ("L1H1",)}

    steps: int = 700

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        offset = ["pos_embed->L0H2.q", "pos_embed->L0H2.k"]
        moving = ["embed->L0H2.v", "embed->L1H1.q", "L0H2->L1H1.k", "embed->L1H1.v", "L1H1->logits"]
        return Truth(
            heads={"L0H2": "previous token", "L1H1": "induction"},
            edges={"program": [*offset, *moving], "resample": moving},
            note="Positions are the same in all prompts, so resampling leaves those edges out.",
        )


RECIPES = (OrderedInduction(),)
