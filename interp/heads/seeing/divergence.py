"""Vision-aware heads: a picture changes what they put out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.vision.divergence import MEASURES, AtAnswer, answer_z, divergence, without_outliers
from interp.vision.pictures import Read, blanked, read_of, without_picture

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

AGAINST = ("nothing", "blank", "other")


@dataclass(frozen=True, eq=False)
class VisionDivergence(Scorer):
    """VHD: distance of z where the answer is read, with the picture and without.

    Held against no picture, a head may score because tokens moved up or because it reads any picture alike; so chance is
    what a blank picture does to it. Against a blank picture, or another one, chance is no change.

    Attributes:
        measure_by: 'l2' (the paper's), 'squared', 'cosine' or 'relative', see `interp.vision.divergence`.
        against: 'nothing', the prompt without the picture's tokens (the paper's); 'blank', a picture of the mean colour;
            'other', the picture of the pair's corrupt prompt.
        outliers: keep heads that the paper's outlier rule sets to 0.

    Raises:
        InterpError: E201, another word; E314, prompts without a picture; E303, against 'other' without corrupt prompts.
    """

    name: ClassVar[str] = "vhd"
    source: ClassVar[str] = (
        "He et al. 2025, Cracking the Code of Hallucination in LVLMs, arXiv 2412.13949, equations 4 to 7"
    )
    says: ClassVar[str] = "what it puts out depends on the picture"
    chance: ClassVar[str] = "what a blank picture does, where the score is held against no picture; else nothing"
    ceiling: ClassVar[float | None] = None
    roles: ClassVar[tuple[str, ...]] = ("image",)
    task: ClassVar[str] = "shapes"
    options: ClassVar[Mapping[str, Any]] = {"ask": "presence"}

    measure_by: str = "l2"
    against: str = "nothing"
    outliers: bool = False

    def __post_init__(self) -> None:
        self.check_choice("measure_by", MEASURES)
        self.check_choice("against", AGAINST)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        layers = sorted({head.layer for head in heads})
        values, null = torch.zeros((2, len(heads), len(pairs)), dtype=torch.float64)
        for start, stop in batches(len(pairs), batch_size):
            seen = answer_z(model, read_of(pairs, start, stop), layers)
            unseen = answer_z(model, self._other_side(model, pairs, start, stop), layers)
            values[:, start:stop] = self._picked(seen, unseen, heads)
            if self.against == "nothing":
                empty = answer_z(model, blanked(model, pairs.examples[start:stop]), layers)
                null[:, start:stop] = self._picked(empty, unseen, heads)
        return Scores(values.numpy(), null.numpy())

    def _other_side(self, model: HookedModel, pairs: Pairs, start: int, stop: int) -> Read:
        """What the prompts are held against."""
        if self.against == "nothing":
            return without_picture(model, *read_of(pairs, start, stop))
        if self.against == "blank":
            return blanked(model, pairs.examples[start:stop])
        if pairs.corrupt is None:
            raise InterpError("E303", "prompts without a corrupt side", where="vhd", fix="against='blank'")
        return read_of(replace(pairs, clean=pairs.corrupt), start, stop)

    def _picked(self, seen: AtAnswer, unseen: AtAnswer, heads: Sequence[HeadId]) -> Tensor:
        found = {}
        for layer, z in seen.items():
            distance = divergence(z, unseen[layer], self.measure_by)
            found[layer] = distance if self.outliers else without_outliers(distance, unseen[layer])
        return torch.stack([found[head.layer][:, head.head] for head in heads]).cpu()
