"""Aligned attention: where heads look, counted from the patch that looks.

The attention maps of all patches are shifted so that the looking patch is in the middle, and averaged (Walmer et al.
2023, "Teaching Matters", arXiv 2212.03862). A head that attends to the patch on the right shows one bright
spot beside the middle. Rows hold attention among patches alone, each summing to 1; rows without any hold 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Map = Float[Tensor, "*head up_down left_right"]


def among_patches(pattern: Float[Tensor, "*head query key"]) -> Float[Tensor, "*head query key"]:
    """Rows that sum to 1 again after other keys were taken away; rows with nothing left stay 0."""
    total = pattern.sum(-1, keepdim=True)
    return torch.where(total > 0, pattern / torch.where(total > 0, total, 1), 0)


def offset_index(queries: Int[Tensor, " query"], shape: tuple[int, int]) -> Int[Tensor, "query key"]:
    """Cell of the flattened aligned map in which each key falls, for queries numbered row by row."""
    rows, cols = shape
    keys = torch.arange(rows * cols, device=queries.device)
    down = keys // cols - queries[:, None] // cols + rows - 1
    across = keys % cols - queries[:, None] % cols + cols - 1
    return down * (2 * cols - 1) + across


def aligned_sums(
    attention: Float[Tensor, "*head query key"], queries: Int[Tensor, " query"], shape: tuple[int, int]
) -> Map:
    """Sum over queries of their maps, each shifted so that the query is in the middle."""
    rows, cols = shape
    size = (2 * rows - 1) * (2 * cols - 1)
    index = offset_index(queries, shape).flatten()
    flat = attention.flatten(-2)
    total = flat.new_zeros(*flat.shape[:-1], size)
    total.scatter_add_(-1, index.expand(flat.shape), flat)
    return total.unflatten(-1, (2 * rows - 1, 2 * cols - 1))


def aligned_map(pattern: Float[Tensor, "*head query key"], shape: tuple[int, int]) -> Map:
    """Mean over patches of the aligned maps of attention among patches.

    Divided by the number of patches everywhere, so that offsets which few patches have look dark, as in the paper.
    """
    queries = torch.arange(pattern.shape[-2], device=pattern.device)
    return aligned_sums(among_patches(pattern), queries, shape) / len(queries)


def pairs_at(shape: tuple[int, int]) -> Float[Tensor, "up_down left_right"]:
    """How many patches have a patch at each offset."""
    rows, cols = shape
    down = rows - torch.arange(1 - rows, rows).abs()
    across = cols - torch.arange(1 - cols, cols).abs()
    return (down[:, None] * across).double()


def axes(found: Map) -> tuple[Float[Tensor, "up_down 1"], Float[Tensor, " left_right"]]:
    """Coordinates of the map's cells, from -1 to 1 down and across."""
    high, wide = found.shape[-2:]
    down = (
        torch.linspace(-1, 1, high, dtype=found.dtype, device=found.device)[:, None]
        if high > 1
        else found.new_zeros(1, 1)
    )
    across = torch.linspace(-1, 1, wide, dtype=found.dtype, device=found.device) if wide > 1 else found.new_zeros(1)
    return down, across


def centre_of_mass(found: Map) -> Float[Tensor, "*head down_across"]:
    """Centre of mass of aligned maps, on axes from -1 to 1; maps without any mass have theirs in the middle.

    One step to the neighbouring patch is 1 / (K - 1) on a grid of K x K. The published code calls the length of this
    vector the average attention offset; it normalises maps in place and so changes what it was given.
    """
    down, across = axes(found)
    total = found.sum((-2, -1))
    share = found / torch.where(total > 0, total, 1)[..., None, None]
    return torch.stack([(share * down).sum((-2, -1)), (share * across).sum((-2, -1))], -1)


def spread(found: Map) -> Float[Tensor, " *head"]:
    """Root mean square distance of a map's mass from its centre, on axes from -1 to 1."""
    down, across = axes(found)
    centre = centre_of_mass(found)
    total = found.sum((-2, -1))
    share = found / torch.where(total > 0, total, 1)[..., None, None]
    apart = (down - centre[..., 0, None, None]).square() + (across - centre[..., 1, None, None]).square()
    return (share * apart).sum((-2, -1)).sqrt()


def compactness(found: Map, shape: tuple[int, int]) -> Float[Tensor, " *head"]:
    """1 for all attention at one offset, 0 for attention that is as spread out as even attention, below 0 for more."""
    even = pairs_at(shape).to(found)
    return 1 - spread(found) / spread(even)


def at_offsets(found: Map, shape: tuple[int, int]) -> Map:
    """Aligned maps with each offset averaged over the patches that have a patch there: 1 where all of them look there.

    Args:
        found: as `aligned_map` gives it.
    """
    return found * (shape[0] * shape[1]) / pairs_at(shape).to(found)


def best_offset(
    found: Map, shape: tuple[int, int], reach: int
) -> tuple[Float[Tensor, " *head"], Int[Tensor, "*head down_across"]]:
    """What the most attended neighbour gets, over the patches that have it, and which one it is.

    Args:
        reach: the farthest neighbour that counts, in patches down or across; the patch itself is none.
    """
    mean, (rows, cols) = at_offsets(found, shape), shape
    down, across = torch.meshgrid(torch.arange(1 - rows, rows), torch.arange(1 - cols, cols), indexing="ij")
    steps = torch.maximum(down.abs(), across.abs()).to(found.device)
    near = (steps > 0) & (steps <= reach)
    value, place = mean.masked_fill(~near, -1).flatten(-2).max(-1)
    offset = torch.stack([place // (2 * cols - 1) - rows + 1, place % (2 * cols - 1) - cols + 1], -1)
    return value, offset
