"""Queries and keys as the projections make them, before rotary positions: separate or fused, found and then proven."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from interp.hooks.adapters.structure import Block

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
FUSED = ("qkv_proj", "query_key_value", "c_attn", "qkv", "Wqkv")
LAYOUTS = ("concatenated", "interleaved")


@dataclass(frozen=True, eq=False)
class Projection:
    """Where one of q, k, v comes out of a linear layer.

    Attributes:
        module: the layer whose output holds it.
        which: 'q', 'k' or 'v'.
        n_heads, n_kv_heads, d_head: sizes of the block.
        layout: 'separate'; 'concatenated' (all q, all k, all v); 'interleaved' (q, k, v of each head in turn).
    """

    module: nn.Module
    which: str
    n_heads: int
    n_kv_heads: int
    d_head: int
    layout: str

    @property
    def count(self) -> int:
        return self.n_heads if self.which == "q" else self.n_kv_heads

    def view(self, output: Tensor) -> Tensor:
        """[batch pos head d_head] as a view into the layer's output [batch pos width]."""
        if self.layout == "interleaved":
            return output.unflatten(-1, (self.n_heads, 3, self.d_head))[..., "qkv".index(self.which), :]
        starts = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads}
        start = 0 if self.layout == "separate" else starts[self.which] * self.d_head
        return output[..., start : start + self.count * self.d_head].unflatten(-1, (self.count, self.d_head))

    def other(self, which: str) -> Projection:
        """The projection of another of q, k, v in the same fused layer."""
        return replace(self, which=which)


def candidates(block: Block) -> list[dict[str, Projection]]:
    """Every reading of the block's projections that its sizes allow; `proof` keeps the one whose values are right."""
    sizes = (block.n_heads, block.n_kv_heads, block.d_head)
    found = []
    for names in SEPARATE:
        modules = [module for name in names if isinstance(module := getattr(block.attn, name, None), nn.Module)]
        if len(modules) == len(names):
            found.append(
                {
                    which: Projection(module, which, *sizes, "separate")
                    for which, module in zip("qkv", modules, strict=True)
                }
            )
    for name in FUSED:
        module = getattr(block.attn, name, None)
        if isinstance(module, nn.Module):
            layouts = LAYOUTS if block.n_heads == block.n_kv_heads else LAYOUTS[:1]
            found += [{which: Projection(module, which, *sizes, layout) for which in "qkv"} for layout in layouts]
    return found
