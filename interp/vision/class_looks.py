"""What the vision tower's class token looks at, as weights of the image tokens in the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError, suggest
from interp.vision.geometry import Geometry, geometry

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

VARIANTS = ("paper", "official-code")


def class_looks(
    model: HookedModel, batch: Batch, layer: int, variant: str = "paper", batch_size: int = 64
) -> Float[Tensor, "batch image_token"]:
    """Attention of the class token to the patches, in the order of the prompt's image tokens.

    Args:
        layer: of the tower; negative numbers count from the end.
        variant: 'paper', mean over the tower's heads; 'official-code', that of DAMRO (coder-gx/DAMRO): queries and keys are
            not split into heads, one wide head with scale `width^-1/2`.

    Raises:
        InterpError: E201 another variant; E205 a tower without a class token; what `geometry` raises.
    """
    if variant not in VARIANTS:
        raise InterpError("E201", f"variant is {variant!r}", fix=suggest(variant, VARIANTS))
    found = geometry(model, batch)
    if "cls" not in found.special or found.text is None:
        fix = "use a model whose tower has a class token"
        raise InterpError("E205", f"{model.name} has no class token whose looks reach a text", fix=fix)
    at = layer % len(model.heads[found.tower])
    parts = [_looks(model, batch.rows(*span), found, at, variant) for span in batches(batch.size, batch_size)]
    return torch.cat(parts)


def _looks(
    model: HookedModel, batch: Batch, found: Geometry, layer: int, variant: str
) -> Float[Tensor, "batch image_token"]:
    cls = found.special["cls"][0]
    if variant == "paper":
        name = point_name("attn.hook_pattern", layer, found.tower)
        looks = model.run_with_cache(batch, name)[1][name][:, :, cls].mean(1)
    else:
        names = [point_name(f"attn.hook_{part}", layer, found.tower) for part in ("q", "k")]
        _, cache = model.run_with_cache(batch, names)
        q, k = (rearrange(cache[name], "batch pos head d_head -> batch pos (head d_head)") for name in names)
        looks = (torch.einsum("bd,bpd->bp", q[:, cls], k) * q.shape[-1] ** -0.5).softmax(-1)
    assert found.text is not None
    high, wide = found.cell
    cells = reduce(found.on_grid(looks), "batch (row high) (col wide) -> batch row col", "sum", high=high, wide=wide)
    order = torch.as_tensor(found.text.ravel()).argsort()
    return cells.flatten(1)[:, order].cpu()
