"""Queries and keys as the projections make them, before rotary positions: separate or fused, found and then proven."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from interp.hooks.adapters.structure import Block

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
FUSED = ("qkv_proj", "query_key_value", "c_attn", "qkv", "Wqkv")
LAYOUTS = ("concatenated", "grouped", "in four parts")


@dataclass(frozen=True, eq=False)
class Projection:
    """Where one of q, k, v comes out of a linear layer.

    Attributes:
        module: the layer whose output holds it.
        which: 'q', 'k' or 'v'.
        n_heads, n_kv_heads, d_head: sizes of the block.
        layout: 'separate'; 'concatenated' (all q, all k, all v); 'grouped' (for each key/value head in turn the queries
            that read it, its key and its value); 'in four parts' (q, v and k of a quarter of the heads, CodeGen).
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

    @property
    def width(self) -> int:
        """Of the layer's output."""
        heads = self.count if self.layout == "separate" else self.n_heads + 2 * self.n_kv_heads
        return heads * self.d_head

    def view(self, output: Tensor) -> Tensor:
        """[batch pos head d_head] of the layer's output [batch pos width]; use `put` to change it."""
        return self._slots(output).flatten(-3, -2)

    def put(self, output: Tensor, value: Tensor) -> None:
        """Write [batch pos head d_head] into the layer's output."""
        slots = self._slots(output)
        slots.copy_(value.unflatten(-2, slots.shape[-3:-1]))

    def _slots(self, output: Tensor) -> Tensor:
        """The same numbers as a view into the output, [batch pos group head_of_group d_head]."""
        order = self.which if self.layout == "separate" else "qvk" if self.layout == "in four parts" else "qkv"
        sizes = [(self.n_heads if part == "q" else self.n_kv_heads) // self.groups for part in order]
        at = order.index(self.which)
        start = sum(sizes[:at])
        slots = output.unflatten(-1, (self.groups, sum(sizes), self.d_head))
        return slots[..., start : start + sizes[at], :]

    @property
    def groups(self) -> int:
        """How often q, k and v follow each other."""
        return {"grouped": self.n_kv_heads, "in four parts": 4}.get(self.layout, 1)

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
            fused = [{which: Projection(module, which, *sizes, layout) for which in "qkv"} for layout in LAYOUTS]
            found += [reading for reading in fused if block.n_kv_heads % reading["q"].groups == 0]
    return found
