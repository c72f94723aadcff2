"""Retrieval scores over a grid of text lengths and depths of the needle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.heads.result import HeadScores
from interp.heads.retrieval.retrieval import Retrieval
from interp.heads.run import score
from interp.kernels.errors import InterpError
from interp.tasks.retrieval import DEPTHS
from interp.tasks.retrieval import Retrieval as RetrievalTask

if TYPE_CHECKING:
    import pandas as pd

    from interp.hooks.model import HookedModel


TOKENS = 2048
"""In one batch, at most, unless one prompt is longer: a prompt that runs alone needs no mask of queries by keys."""


@dataclass(frozen=True, eq=False)
class RetrievalGrid:
    """Scores at every length; depths are those of the prompts.

    Attributes:
        lengths: in tokens, at most.
        scores: of each length; None where no answer held the needle, for the reason in `empty`.
        empty: length -> why there are no scores.
        seconds: of each length.
    """

    lengths: tuple[int, ...]
    scores: tuple[HeadScores | None, ...]
    empty: dict[int, str]
    seconds: tuple[float, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a head, length and depth (in percent): mean score, and trials kept. Cells without any are left out."""
        import pandas as pd

        rows = []
        for length, scores in zip(self.lengths, self.scores, strict=True):
            if scores is None:
                continue
            depths = np.array([int(prompt.id.rsplit("-", 1)[1]) for prompt in scores.prompts])
            for depth in np.unique(depths):
                means = scores.values[:, depths == depth].mean(1)
                kept = int((depths == depth).sum())
                rows += [
                    (head, length, int(depth), value, kept) for head, value in zip(scores.heads, means, strict=True)
                ]
        return pd.DataFrame(rows, columns=["head", "length", "depth", "score", "kept"])


def retrieval_grid(
    model: HookedModel,
    lengths: Sequence[int],
    scorer: Retrieval | None = None,
    *,
    per_depth: int = 2,
    batch_size: int = 8,
    seed: int = 0,
) -> RetrievalGrid:
    """The retrieval score over lengths times depths from the start of a text to its end.

    Args:
        lengths: of the texts, in tokens.
        per_depth: trials in each cell.
        batch_size: prompts that run together, at most; about `TOKENS` tokens do.

    Raises:
        InterpError: E205 no length; what `score` raises, but for lengths at which every answer misses the needle.
    """
    if not lengths:
        raise InterpError("E205", "no length", where="retrieval grid", fix="lengths=[128, 256]")
    asked, found, empty, seconds = scorer or Retrieval(), list[HeadScores | None](), dict[int, str](), []
    for length in lengths:
        clock = time.monotonic()
        task = RetrievalTask(n=per_depth * DEPTHS, seed=seed, length=length)
        try:
            together = max(1, min(batch_size, TOKENS // length))
            found.append(score(model, asked, task, batch_size=together, seed=seed))
        except InterpError as error:
            if error.code != "E311" or "prompts kept" not in error.what:
                raise
            empty[length] = error.what
            found.append(None)
        seconds.append(round(time.monotonic() - clock, 3))
    return RetrievalGrid(tuple(lengths), tuple(found), empty, tuple(seconds))
