"""Query-focused retrieval heads: what a question makes them look at, beyond what any question would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch, pad
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.prompts import pad_id
from interp.hooks.statistics import Measuring
from interp.kernels.statistics.received import Received

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")


@dataclass(frozen=True, eq=False)
class QueryRetrieval(Scorer):
    """Attention from the question to the document that answers it, less that of a question that asks nothing.

    See `query_scores`. The second run keeps everything before the question and puts `null_query` in its place. Chance is
    0: a head that gives the document the same under both.

    Attributes:
        document, query: roles of the document and of the question, which comes last.
        null_query: the question that asks nothing.
        code: 'paper', or 'official-code', see `query_scores`.

    Raises:
        InterpError: E201, another variant.
    """

    name: ClassVar[str] = "query-retrieval"
    source: ClassVar[str] = "Zhang et al. 2025, QRHead, arXiv 2506.09944, section 3; princeton-pli/QRHead"
    says: ClassVar[str] = "a question makes it look at the document that answers it"
    chance: ClassVar[str] = "as much as under a question that asks nothing"
    task: ClassVar[str] = "retrieval"
    options: ClassVar[Mapping[str, Any]] = {"length": 128}

    document: str = "needle"
    query: str = "query"
    null_query: str = " N/A"
    code: str = "paper"

    def __post_init__(self) -> None:
        self.check_choice("code", VARIANTS)

    @property
    def variant(self) -> str:
        return self.code

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which ones are parameters here
        return (self.document, self.query)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        parts, layers = [], sorted({head.layer for head in heads})
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            null, null_rows = self._null(model, batch)
            asked = _attention(model, batch, _rows(batch, self.query), layers)
            unasked = _attention(model, null, null_rows, layers)
            document = _rows(batch, self.document)
            width = min(batch.input_ids.shape[1], null.input_ids.shape[1])
            found = {
                layer: query_scores(
                    asked[layer][..., :width], unasked[layer][..., :width], document[:, :width], self.code
                )
                for layer in layers
            }
            parts.append(torch.stack([found[head.layer][:, head.head] for head in heads]).cpu())
        values = torch.cat(parts, 1)
        return Scores(values.numpy(), torch.zeros_like(values).numpy())

    def _null(self, model: HookedModel, batch: Batch) -> tuple[Batch, Bool[Tensor, "batch pos"]]:
        """The prompts with the question that asks nothing, and which of their rows are that question."""
        words = model.tokenizer(self.null_query, add_special_tokens=False)["input_ids"]
        starts = [min(span) for span in batch.spans[self.query]]
        firsts = batch.first.tolist()
        ids = [
            row[first:start].tolist() + words for row, first, start in zip(batch.input_ids, firsts, starts, strict=True)
        ]
        null = pad([[0] * first + one for first, one in zip(firsts, ids, strict=True)], pad_id(model.tokenizer))
        assert null.mask is not None
        mask = null.mask.clone()
        for row, first in enumerate(firsts):
            mask[row, :first] = False
        place = torch.arange(mask.shape[1])
        asks = mask & (place >= torch.tensor(starts)[:, None])
        inputs: dict[str, Any] = {**null.inputs, "attention_mask": mask.long()}
        if "position_ids" in batch.inputs:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        return replace(null, inputs=inputs, mask=mask).to(model.device), asks.to(model.device)


def query_scores(
    asked: Float[Tensor, "batch head key_pos"],
    unasked: Float[Tensor, "batch head key_pos"],
    document: Bool[Tensor, "batch key_pos"],
    variant: str = "paper",
) -> Float[Tensor, "batch head"]:
    """Sum over a document of what a question makes a head look at: `c = asked - unasked`, without the document's tokens
    at or below mean - 2 std of c.

    In a document of one token the published code's std is NaN and the score 0; 'paper' keeps the token.

    Args:
        asked: mean over the question's rows of the attention to each key.
        unasked: the same of a question that asks nothing.
        document: its tokens.
    """
    inside = document[:, None].to(asked.dtype)
    change, count = (asked - unasked) * inside, inside.sum(-1)
    mean = change.sum(-1) / count
    spread = (((change - mean[..., None]) * inside).square().sum(-1) / (count - 1)).sqrt()
    if variant == "paper":
        spread = torch.where(count > 1, spread, torch.inf)
    return torch.where(change > (mean - 2 * spread)[..., None], change, 0).sum(-1)


def _rows(batch: Batch, role: str) -> Bool[Tensor, "batch pos"]:
    """Where a role is."""
    found = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    for row, span in enumerate(batch.spans[role]):
        found[row, list(span)] = True
    return found


def _attention(
    model: HookedModel, batch: Batch, rows: Bool[Tensor, "batch pos"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "batch head key_pos"]]:
    """Mean attention from some rows to each key, layer by layer."""
    weights = (rows / rows.sum(-1, keepdim=True)).double()[:, None]
    measuring = {layer: Measuring(model.heads[""][layer], {"to": Received(weights)}, "auto") for layer in layers}
    model.run_with_hooks(batch, {point_name(OPERATOR, layer): one for layer, one in measuring.items()})
    return {layer: one.found["to"].double() for layer, one in measuring.items()}
