"""Softmax attention by any rule, given as the two callbacks of FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import View
from interp.kernels.variants.softmax import Softmax

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Callbacks(Softmax):
    """`p = softmax over j with mask_mod(b, h, i, j) of score_mod(scale <q_i, k_j>, b, h, i, j)`.

    The callbacks are called once with indices that broadcast, not once a cell, so they may index tensors (`slopes[h]`)
    and compute, but not branch. As in FlexAttention, i counts the queries and j the keys of the tensors from 0, padding
    and all; nothing is aligned, and nothing is causal unless the mask says so. h is the head of the model. The
    `key_mask`, `documents`, `mask` and `bias` of the call hold beside the callbacks, and so does `causal`.

    Args:
        score_mod: new scores from scores; None leaves them.
        mask_mod: True where a key is seen; None sees all.

    Raises:
        InterpError: E205, an answer that is not the right kind of tensor or fits no [batch, head, query, key].
    """

    name: ClassVar[str] = "callbacks"
    source: ClassVar[str] = "FlexAttention: Dong et al. 2024, arXiv 2412.05496"

    causal: bool = False
    score_mod: ScoreMod | None = None
    mask_mod: MaskMod | None = None

    @property
    def looks_ahead(self) -> str:
        return "" if self.causal else "the callbacks alone know what they let be seen"

    def scores(self, view: View) -> Float[Tensor, "batch head row key_pos"]:
        scores = super().scores(view)
        if self.score_mod is None:
            return scores
        return _fitting(self.score_mod(scores, *_indices(view)), scores, "score_mod", floating=True).to(scores)

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"] | None:
        if self.mask_mod is None:
            return None
        whole = torch.empty(view.q.shape[:3] + view.k.shape[2:3], device="meta")
        return _fitting(self.mask_mod(*_indices(view)), whole, "mask_mod", floating=False)

    def request(self, problem: Any) -> str:
        return "only eager and blockwise call callbacks"


def _indices(view: View) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch, head, query and key, each along its own axis."""
    problem, device = view.problem, view.problem.q.device
    batch = torch.arange(problem.batch, device=device)
    heads = torch.tensor(problem.head_index[view.heads], device=device)
    rows = torch.arange(problem.n_queries, device=device)[view.rows]
    keys = torch.arange(problem.n_keys, device=device)
    return batch[:, None, None, None], heads[:, None, None], rows[:, None], keys


def _fitting(answer: Any, whole: Tensor, name: str, floating: bool) -> Tensor:
    """The answer of a callback as a tensor of the shape of all scores."""
    kind = "floating" if floating else "bool"
    if (
        not isinstance(answer, Tensor)
        or (answer.is_floating_point() if floating else answer.dtype == torch.bool) is False
    ):
        got = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise InterpError("E205", f"{name} must give a {kind} tensor, and gives {got}", where="Callbacks")
    try:
        return answer.expand(whole.shape)
    except RuntimeError as error:
        raise InterpError(
            "E205",
            f"{name} gives {list(answer.shape)}, which does not broadcast to {list(whole.shape)}",
            where="Callbacks",
            fix="compute with b, h, q_idx and kv_idx as tensors that broadcast",
        ) from error
