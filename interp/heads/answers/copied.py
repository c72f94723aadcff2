"""Which tokens a head would raise if it looked at one place alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.readout import Readout, main_tower
from interp.heads.answers.places import Spots
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@torch.no_grad()
def raised(
    model: HookedModel,
    readout: Readout,
    head: HeadId,
    values: Float[Tensor, "place d_head"],
    tokens: Int[Tensor, "place option"],
    k: int,
    sign: int,
) -> Bool[Tensor, " place"]:
    """Whether one of a place's tokens is among the k highest of the head's output for this value, read out alone.

    Args:
        values: what the head would move, one for each place.
        tokens: -1 where a place has fewer than others.
        sign: -1 asks for the tokens that are lowered most.
    """
    block = main_tower(model).blocks[head.layer]
    written: Any = sign * values @ model.w_out(head.layer)[head.head].to(values)
    written = written if block.attn_write is block.out else block.attn_write(written)
    normed = written if readout.norm_module is None else readout.norm_module(written)
    highest = (readout.head(normed) * readout.factor).topk(k, dim=-1).indices
    found = (highest[:, :, None] == tokens[:, None, :].to(highest.device)).any(-1).any(-1)
    return found.cpu()


def copied_share(
    model: HookedModel, pairs: Pairs, spots: Spots, heads: Sequence[HeadId], batch_size: int, *, k: int, sign: int
) -> Float[Tensor, "head prompt"]:
    """Of the places of each prompt, the share whose values alone raise the answer to the k highest; nan without places."""
    readout, parts = Readout.of(model), []
    names = {layer: point_name("attn.hook_v", layer) for layer in sorted({head.layer for head in heads})}
    assert pairs.answer is not None
    answers = pairs.answer[:, None] if pairs.answer.ndim == 1 else pairs.answer
    for start, stop in batches(len(pairs), batch_size):
        _, cache = model.run_with_cache(pairs.clean.rows(start, stop), list(names.values()))
        cells = [(row, spot) for row, found in enumerate(spots[start:stop]) for spot in found]
        rows, places = torch.tensor(cells, dtype=torch.long).reshape(-1, 2).T
        found = []
        for head in heads:
            values = cache[names[head.layer]][rows, places, model.kv_head(head)]
            hits = raised(model, readout, head, values, answers[start:stop][rows], k, sign)
            found.append(share_by_row(hits, rows, stop - start))
        parts.append(torch.stack(found))
    return torch.cat(parts, 1)


def share_by_row(hits: Bool[Tensor, " place"], rows: Int[Tensor, " place"], n: int) -> Float[Tensor, " row"]:
    """Share of hits among the places of each row; nan for rows without places."""
    count = torch.zeros(n, dtype=torch.float64).index_add(0, rows, torch.ones(len(rows), dtype=torch.float64))
    total = torch.zeros(n, dtype=torch.float64).index_add(0, rows, hits.double())
    return total / count.masked_fill(count == 0, torch.nan)
