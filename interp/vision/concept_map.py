"""Where in a picture a concept is: maps in the space of attention outputs, beside those of attention itself.

ConceptAttention (Helbling et al. 2025, arXiv 2502.04320) compares what attention wrote at the token of a concept with what
it wrote at each patch, <o_c, o_p>, and finds that sharper than where the concept's token looks. The paper's models attend
both ways between text and picture; in a language model that reads the picture first, patches do not see the concept, and
the map says which patches hold what the concept's token has gathered. For CLIP, whose texts and pictures never meet in
one sequence, `ImageParts.on_picture` gives the map in the space of embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError
from interp.vision.geometry import Box, Geometry, geometry

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

OUT, SCORES = "hook_attn_out", "attn.hook_attn_scores"

Maps = Float[Tensor, "image row col"]


@dataclass(frozen=True, eq=False)
class ConceptMaps:
    """Maps of one concept on each picture.

    Attributes:
        output: <o_c, o_p>, mean over layers.
        attention: the baseline, q_c k_p / sqrt(d_head), mean over heads and layers.
        layers: which ones.
        where: which token shows which patch; one cell of a map is one image token of the text.
    """

    output: Maps
    attention: Maps
    layers: tuple[int, ...]
    where: Geometry


class _Reading:
    """Hooks that add up the maps layer by layer; nothing of the size of an attention map is kept."""

    def __init__(self, rows: Int[Tensor, " image"], patches: Int[Tensor, "image patch"], *, unit: bool) -> None:
        self.rows, self.patches, self.unit = rows, patches, unit
        self.output, self.attention = (torch.zeros(patches.shape, dtype=torch.float64) for _ in range(2))

    def outputs(self, value: Tensor, _: HookContext) -> None:
        images = torch.arange(len(value))
        written = value.detach().double().cpu()
        concept, patches = written[images, self.rows], written[images[:, None], self.patches]
        if self.unit:
            concept, patches = (one / one.norm(dim=-1, keepdim=True) for one in (concept, patches))
        self.output += torch.einsum("bm,bpm->bp", concept, patches)

    def scores(self, value: Tensor, _: HookContext) -> None:
        images = torch.arange(len(value), device=value.device)
        mean = value.detach()[images, :, self.rows.to(value.device)].double().mean(1).cpu()
        self.attention += mean.gather(1, self.patches)


@torch.no_grad()
def concept_maps(
    model: HookedModel,
    batch: Batch,
    concept: str | Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    unit: bool = False,
) -> ConceptMaps:
    """Maps of a concept that the text names behind the picture.

    Args:
        concept: a role of the prompts, of which the last token counts, or its position in each prompt.
        layers: of the model that reads the text; by default all.
        unit: vectors of length 1, so that long ones do not win.

    Raises:
        InterpError: E313 no such role; E205 a model in which text and picture do not meet, or a concept before its
            picture; E403 a model that does not show its scores.
    """
    where = geometry(model, batch)
    if where.text is None:
        fix = "for CLIP: decompose(model, batch, tokens=True).on_picture(text_embeddings(model, texts))"
        raise InterpError("E205", f"text and picture do not meet in {model.name}", where=model.name, fix=fix)
    rows = torch.tensor(_positions(batch, concept))
    cells = torch.tensor(where.text_positions(batch, model.adapter.config))  # type: ignore[attr-defined]
    patches = cells.flatten(1)
    if bool((rows <= patches.amax(1)).any()):
        raise InterpError("E205", "the concept stands before its picture", fix="write the picture first")
    chosen = tuple(layers) if layers is not None else tuple(i for i, n in enumerate(model.heads[""]) if n)
    reading = _Reading(rows, patches, unit=unit)
    hooks = {point_name(OUT, layer): reading.outputs for layer in chosen}
    hooks |= {point_name(SCORES, layer): reading.scores for layer in chosen}
    model.run_with_hooks(batch, hooks)
    shape = cells.shape
    output, attention = (total.reshape(shape) / len(chosen) for total in (reading.output, reading.attention))
    return ConceptMaps(output, attention, chosen, where)


def _positions(batch: Batch, concept: str | Sequence[int]) -> list[int]:
    """The concept's last token in each prompt."""
    if not isinstance(concept, str):
        return list(concept)
    if concept not in batch.spans:
        known = ", ".join(batch.spans) or "(none)"
        raise InterpError("E313", f"no role {concept!r} in these prompts", fix=f"roles: {known}")
    return [span[-1] for span in batch.spans[concept]]


def cells_inside(where: Geometry, boxes: Sequence[Box], least: float = 0.5) -> Bool[np.ndarray, "row col"]:
    """Cells of a map of which at least this share lies in one of the boxes (pixels of the processed picture)."""
    rows, cols = where.shape if where.text is None else where.text.shape
    size = [n * p for n, p in zip(where.shape, where.patch, strict=True)]
    covered = np.zeros(size, dtype=bool)
    for top, left, bottom, right in boxes:
        covered[max(0, top) : bottom, max(0, left) : right] = True
    share = covered.reshape(rows, size[0] // rows, cols, size[1] // cols).mean((1, 3))
    return np.asarray(share >= least)


def faithfulness(maps: Maps, inside: Bool[np.ndarray, "image row col"]) -> Float[np.ndarray, " image"]:
    """How well each map finds the cells of its object: the share of (inside, outside) pairs in the right order (AUROC).

    0.5 is chance, 1 a map whose every cell of the object is above every other; NaN for pictures without an object, or
    nothing else.
    """
    found = np.full(len(maps), np.nan)
    for index, (values, mask) in enumerate(zip(maps.double().cpu().numpy(), inside, strict=True)):
        yes, no = values[mask], values[~mask]
        if len(yes) and len(no):
            above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
            found[index] = above
    return found
