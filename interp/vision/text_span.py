"""TextSpan: the texts that say best what a head writes about pictures.

Gandelsman et al. 2024, arXiv 2310.05916, Algorithm 1. Texts are projected on the directions in which the head's outputs
lie; the text along which the outputs vary most is chosen and taken away from outputs and texts alike; and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError, suggest

VARIANTS = ("paper", "official-code")
NOTHING = 1e-10
"""Squared length of a text, as a share of the longest one, under which nothing is left of it."""


@dataclass(frozen=True, eq=False)
class TextSpan:
    """Chosen texts, in the order of choice.

    Attributes:
        chosen: numbers of the texts.
        directions: what was left of each when it was chosen, of length 1; they are orthogonal.
        residual: variance of the outputs, summed over dimensions, before the first choice and after each.
        reconstruction: the outputs made of their mean and the chosen directions.
    """

    chosen: tuple[int, ...]
    directions: Float[Tensor, "step d_embed"]
    residual: Float[Tensor, " steps"]
    reconstruction: Float[Tensor, "image d_embed"]

    @property
    def explained(self) -> Float[Tensor, " step"]:
        """Share of the variance that the texts up to each explain."""
        whole = self.residual[0]
        return 1 - self.residual[1:] / (whole if whole > 0 else torch.ones_like(whole))


def text_span(
    outputs: Float[Tensor, "image d_embed"],
    texts: Float[Tensor, "text width"],
    *,
    n: int = 10,
    rank: int = 80,
    code: str = "paper",
) -> TextSpan:
    """The texts along which outputs of a head vary most.

    Variances are those of the published code: unbiased, around the mean; the projection takes the directions of the
    outputs before their mean is taken away, at most `rank` of them. It stops when nothing is left of any text.

    Args:
        outputs: what a head added to the embedding of each picture.
        texts: embeddings of candidate descriptions.
        n: how many to choose.
        code: 'official-code' chooses the same texts, but goes on when nothing is left of them, where rounding chooses; and
            its reconstruction on a CPU is that of the last picture for every picture. The published buffer is one row that
            is shown for all pictures, so the additions of all pictures are written to one place and the last one stays.

    Raises:
        InterpError: E201 another code; E205 fewer than two pictures, or no text; E206 other widths.
    """
    if code not in VARIANTS:
        raise InterpError("E201", f"code is {code!r}", fix=suggest(code, VARIANTS))
    if len(outputs) < 2 or not len(texts):
        raise InterpError("E205", f"{len(outputs)} pictures and {len(texts)} texts", fix="give at least 2 pictures")
    if outputs.shape[1] != texts.shape[1]:
        what = f"outputs have {outputs.shape[1]} dimensions, texts {texts.shape[1]}"
        raise InterpError("E206", what, fix="embed texts with the same model")
    data, left = outputs.double(), _spanned(outputs.double(), texts.double(), rank)
    mean = data.mean(0, keepdim=True)
    data = data - mean
    least = NOTHING * left.square().sum(1).max()
    chosen, directions, residual = [], [], [data.var(0).sum()]
    for _ in range(n):
        if code == "paper" and float(left.square().sum(1).max()) <= least:
            break
        spreads = (data @ left.T).std(0)
        best = int(np.argmax(spreads.numpy()))  # not a number counts as largest, as in the published code
        along = left[best] / left[best].norm()
        data, left = data - torch.outer(data @ along, along), left - torch.outer(left @ along, along)
        chosen.append(best)
        directions.append(along)
        residual.append(data.var(0).sum())
    rebuilt = outputs.double() - data
    if code == "official-code":
        rebuilt = rebuilt[-1:].expand_as(rebuilt).clone()
    taken = torch.stack(directions) if directions else data.new_zeros(0, data.shape[1])
    return TextSpan(tuple(chosen), taken, torch.stack(residual), rebuilt)


def _spanned(
    outputs: Float[Tensor, "image d_embed"], texts: Float[Tensor, "text d_embed"], rank: int
) -> Float[Tensor, "text d_embed"]:
    """Texts projected on the first right singular vectors of the outputs."""
    rows = torch.linalg.svd(outputs, full_matrices=False).Vh[:rank]
    return texts @ rows.T @ rows


@dataclass(frozen=True)
class HeadTexts:
    """What a head writes about, in words.

    Attributes:
        layer, head: which.
        texts: the chosen ones, first choice first.
        explained: share of the variance that they explain together.
        by_chance: the same of as many directions chosen among random ones, as many as there are texts: mean over draws.
        p: share of draws that explain as much, counted as (r + 1) / (draws + 1).
    """

    layer: int
    head: int
    texts: tuple[str, ...]
    explained: float
    by_chance: float
    p: float

    def __str__(self) -> str:
        share = f"{self.explained:.0%} of its variance, {self.by_chance:.0%} by chance, p {self.p:.2g}"
        return f"L{self.layer}H{self.head}: {'; '.join(self.texts)} ({share})"


def head_texts(
    heads: Float[Tensor, "image layer head d_embed"],
    texts: Float[Tensor, "text d_embed"],
    names: Sequence[str],
    *,
    chosen: Sequence[tuple[int, int]],
    n: int = 5,
    rank: int = 80,
    draws: int = 19,
    seed: int = 0,
) -> list[HeadTexts]:
    """Texts that say what heads write, each beside the same from random directions.

    Args:
        heads: `ImageParts.heads`.
        names: the texts themselves.
        chosen: (layer, head) pairs.
        draws: sets of random directions, each with as many as there are texts.
    """
    found, draw = [], torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, *texts.shape, generator=draw, dtype=torch.float64)
    for layer, head in chosen:
        outputs = heads[:, layer, head]
        span = text_span(outputs, texts, n=n, rank=rank)
        share = _last(span)
        null = np.array([_last(text_span(outputs, one, n=n, rank=rank)) for one in noise])
        p = (1 + int((null >= share).sum())) / (draws + 1)
        words = tuple(names[index] for index in span.chosen)
        found.append(HeadTexts(layer, head, words, share, float(null.mean()), p))
    return found


def _last(span: TextSpan) -> float:
    return float(span.explained[-1]) if len(span.chosen) else 0.0
