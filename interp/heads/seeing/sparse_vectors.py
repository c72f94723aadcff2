"""Sparse attention vectors: heads whose output alone tells the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.vision.divergence import answer_z
from interp.vision.pictures import read_of

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")
TOP = 20
"""Heads that vote, in the paper."""

Features = Float[Tensor, "head prompt d_head"]
Classes = Int[Tensor, " prompt"]


@dataclass(frozen=True, eq=False)
class SparseVectors(Scorer):
    """1 where the centroid nearest to a prompt's z (by cosine, where the answer is read) is that of its answer.

    A class is an answer; of several options, the first. Chance is one over the number of classes.

    Attributes:
        centroids: 'paper' leaves the prompt out of its own class's centroid; 'official-code' (chancharikmitra/SAVs) scores
            the prompts that made the centroids, by which heads of noise score above chance. That code also takes
            the head size from width / heads, which is wrong for models that state another one.

    Raises:
        InterpError: E201, another word for `centroids`; E303, prompts without answers.
    """

    name: ClassVar[str] = "sav"
    source: ClassVar[str] = "Mitra et al. 2025, Sparse Attention Vectors, arXiv 2412.00142"
    says: ClassVar[str] = "what it puts out alone tells the answer"
    chance: ClassVar[str] = "one over the number of answers"
    needs: ClassVar[frozenset[str]] = frozenset({"answer"})
    task: ClassVar[str] = "shapes"
    options: ClassVar[Mapping[str, Any]] = {"ask": "colour"}

    centroids: str = "paper"

    def __post_init__(self) -> None:
        self.check_choice("centroids", VARIANTS)

    @property
    def variant(self) -> str:
        return self.centroids

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        classes = classes_of(pairs)
        right = own_class(features(model, pairs, heads, batch_size), classes, leave_one_out=self.variant == "paper")
        counts = classes.bincount()
        lone = {} if self.variant == "official-code" else {
            row: "no other prompt has its answer" for row, one in enumerate(classes.tolist()) if counts[one] < 2
        }  # fmt: skip
        null = torch.full_like(right, 1 / len(counts))
        null[:, list(lone)] = torch.nan
        return Scores(right.numpy(), null.numpy(), left_out=lone)


def classes_of(pairs: Pairs) -> Classes:
    """Each prompt's answer as a number from 0 (E303)."""
    if pairs.answer is None:
        raise InterpError("E303", "prompts without an answer", where="scorer sav")
    first = pairs.answer if pairs.answer.ndim == 1 else pairs.answer[:, 0]
    return first.unique(return_inverse=True)[1]


def features(model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Features:
    """z of every head where the answer is read."""
    layers, parts = sorted({head.layer for head in heads}), []
    for start, stop in batches(len(pairs), batch_size):
        z = answer_z(model, read_of(pairs, start, stop), layers)
        parts.append(torch.stack([z[head.layer][:, head.head] for head in heads]).cpu())
    return torch.cat(parts, 1)


def own_class(found: Features, classes: Classes, *, leave_one_out: bool) -> Float[Tensor, "head prompt"]:
    """1 where the nearest centroid is that of the prompt's class; NaN where nothing else is in it.

    Of equally near centroids the one of the lower number counts.
    """
    member = torch.nn.functional.one_hot(classes).to(found)
    sums = einsum(found, member, "head prompt d_head, prompt kind -> head kind d_head")
    near = _cosines(found, sums)
    if leave_one_out:
        rest = torch.nn.functional.cosine_similarity(found, sums[:, classes] - found, dim=-1)
        near = torch.where(member.bool(), rest[..., None], near)
    right = (near.argmax(-1) == classes).to(found)
    alone = member.sum(0)[classes] < 2
    return right.masked_fill(alone & torch.tensor(leave_one_out), torch.nan)


def vote(
    train: Features, train_classes: Classes, test: Float[Tensor, "head new d_head"], *, k: int = TOP
) -> Int[Tensor, " new"]:
    """Classes of new prompts by a vote of the k heads that tell the classes of the first ones best, left out one by one.

    Ties of heads go to the lower number (the published code takes the higher), ties of votes to the class that a better
    head votes for.
    """
    score = own_class(train, train_classes, leave_one_out=True).nanmean(1)
    best = score.argsort(descending=True, stable=True)[:k]
    member = torch.nn.functional.one_hot(train_classes).to(train)
    sums = einsum(train[best], member, "head prompt d_head, prompt kind -> head kind d_head")
    votes = _cosines(test[best], sums).argmax(-1)
    return torch.tensor([Counter(column.tolist()).most_common(1)[0][0] for column in votes.T])


def _cosines(found: Features, sums: Float[Tensor, "head kind d_head"]) -> Float[Tensor, "head prompt kind"]:
    """Of every prompt with every centroid; sums stand for means, which point the same way."""
    units, centroids = (torch.nn.functional.normalize(side, dim=-1) for side in (found, sums))
    return einsum(units, centroids, "head prompt d_head, head kind d_head -> head prompt kind")
