"""Heads that bring hallucinations: without them a wrong answer is less likely, and a right one is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.interventions import Ablate
from interp.hooks.naive import plain_outputs
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.hooks.rerun.sweep import sweep
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

KINDS = ("difference", "absolute", "log")


@dataclass(frozen=True, eq=False)
class HallucinationInfluence(Scorer):
    """`P(token) - P(token | z_h = 0)` of the token that the model says where it is wrong; chance is the same of its pair's
    corrupt prompt, where it is right. The published contrast is the mean of the one less the mean of the other.

    Pairs in which the model is right on the clean prompt, or wrong on the corrupt one, have no score. The published code
    takes all hallucinated and all other object tokens of captions instead of pairs; for that see `contrast`. Its head
    counts are written down (32 x 32 x 128); here they are the model's.

    Attributes:
        kind: 'difference', the published default; 'absolute', its size; 'log', of logarithms of probabilities.

    Raises:
        InterpError: E201, another kind; E303, prompts without answers or corrupt sides.
    """

    name: ClassVar[str] = "hallucination-influence"
    source: ClassVar[str] = (
        "Yang et al. 2025, Understanding and Mitigating Hallucination in LVLMs via Modular Attribution"
    )
    says: ClassVar[str] = "wrong answers need it more than right ones do"
    chance: ClassVar[str] = "its influence on the right answer to the pair's corrupt prompt"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "corrupt"})
    task: ClassVar[str] = "shapes"
    options: ClassVar[Mapping[str, Any]] = {"ask": "absent"}
    operator: ClassVar[str] = "zero"

    kind: str = "difference"

    def __post_init__(self) -> None:
        self.check_choice("kind", KINDS)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        if pairs.corrupt is None or pairs.answer is None:
            raise InterpError("E303", "prompts without an answer or a corrupt side", where=f"scorer {self.name}")
        sides = tuple(zip((pairs.clean, pairs.corrupt), _read_corrupt(pairs), strict=True))
        said = [plain_outputs(model, batch, at, batch_size).argmax(-1) for batch, at in sides]
        answer = pairs.answer if pairs.answer.ndim == 2 else pairs.answer[:, None]
        right = [(one.cpu()[:, None] == answer).any(-1).tolist() for one in said]
        found, left_out = np.full((2, len(heads), len(pairs)), np.nan), dict[int, str]()
        for row, (clean, corrupt) in enumerate(zip(*right, strict=True)):
            if clean or not corrupt:
                left_out[row] = "the model is right" if clean else "the model is wrong on the corrupt prompt too"
                continue
            for side, (batch, at) in enumerate(sides):
                one = slice(row, row + 1)
                lost = influence(model, batch.rows(row, row + 1), at[one], said[side][one], heads, self.kind, 1)
                found[side, :, row] = lost[:, 0].numpy()
        return Scores(found[0], found[1], left_out=left_out)


def _read_corrupt(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Where answers are read on either side; corrupt prompts have as many tokens, but maybe other padding."""
    assert pairs.corrupt is not None
    return pairs.read_at, pairs.read_at - pairs.clean.first.cpu() + pairs.corrupt.first.cpu()


def influence(
    model: HookedModel,
    batch: Batch,
    read_at: Int[Tensor, " batch"],
    tokens: Int[Tensor, " batch"],
    heads: Sequence[HeadId],
    kind: str = "difference",
    batch_size: int = 32,
) -> Float[Tensor, "head batch"]:
    """What the probability of each prompt's token loses without each head, at every position."""

    def likely(output: Float[Tensor, "part d_vocab"], start: int, stop: int) -> Float[Tensor, " part"]:
        found = output.double().log_softmax(-1).gather(-1, tokens[start:stop, None].to(output.device))[:, 0]
        return found if kind == "log" else found.exp()

    variants = [Ablate(heads=[head.label]) for head in heads]
    without, clean = sweep(model, batch, variants, read_at, likely, batch_size=batch_size)
    lost = clean - without
    return lost.abs() if kind == "absolute" else lost


def contrast(
    influences: Float[np.ndarray, "head token"], hallucinated: Bool[np.ndarray, " token"]
) -> Float[np.ndarray, " head"]:
    """Mean influence on hallucinated tokens less that on all others, as the published code ranks heads.

    Its 30 highest are hallucination heads, its 30 lowest faithful ones.

    Raises:
        InterpError: E303, tokens of one kind alone.
    """
    if hallucinated.all() or not hallucinated.any():
        raise InterpError(
            "E303", "tokens of one kind alone", where="contrast", fix="give hallucinated and other tokens"
        )
    difference: np.ndarray = influences[:, hallucinated].mean(1) - influences[:, ~hallucinated].mean(1)
    return difference
