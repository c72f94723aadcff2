"""What a run costs, told from the shapes of weights alone: multiply-adds of a full forward and of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.rerun.restart import layers, output_layer

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class LayerCost:
    """Multiply-adds of one layer.

    Attributes:
        into, out, mlp: a token: projections into attention, the one out of it, and all else.
        query: the part of `into` that is left out where only keys and values are needed; 0 where all three are one.
        pair: a query and a key it is compared with.
    """

    into: int
    out: int
    mlp: int
    query: int
    pair: int

    @property
    def token(self) -> int:
        return self.into + self.out + self.mlp


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a model's main tower.

    Attributes:
        layers: of each layer.
        entry: vocabulary entry of the output, a token.
        entries: how many there are.
    """

    layers: tuple[LayerCost, ...]
    entry: int
    entries: int

    @classmethod
    def of(cls, adapter: HuggingFaceAdapter) -> Cost:
        """Read off the weights; of experts, the share that a token meets."""
        share = _expert_share(adapter.model.config)
        costs = []
        for index, module in enumerate(layers(adapter)):
            block = adapter.towers[""].blocks.get(index)
            total = _weights(module, share)
            if block is None:
                costs.append(LayerCost(0, 0, total, 0, 0))
                continue
            out = _weights(block.out, 1.0)
            inside = _weights(block.attn, 1.0) - (out if any(part is block.out for part in block.attn.modules()) else 0)
            projection = separate_query(adapter, index)
            query = 0 if projection is None else _weights(projection, 1.0)
            costs.append(LayerCost(inside, out, total - inside - out, query, 2 * block.n_heads * block.d_head))
        head = output_layer(adapter)
        shape = (0, 0) if head is None else tuple(head.weight.shape)
        return cls(tuple(costs), shape[1], shape[0])

    @property
    def widest(self) -> int:
        """Numbers of a token's widest activation: inside an MLP of two matrices, of the widest layer."""
        return max(layer.mlp for layer in self.layers) // max(1, 2 * self.entry)

    def bound(self, keys: int, d_model: int, heads: int) -> int:
        """Numbers that a layer surely does not exceed for a token: streams, projections, MLP, scores, with copies."""
        return 16 * d_model + 4 * max(layer.token for layer in self.layers) // d_model + 8 * heads * keys

    def forward(self, rows: int, length: int, first: int = 0) -> int:
        """A forward of whole prompts from a layer on, all logits included."""
        below = sum(length * layer.token + length * length * layer.pair for layer in self.layers[first:])
        return rows * (below + length * self.entry * self.entries)


def separate_query(adapter: HuggingFaceAdapter, layer: int) -> nn.Module | None:
    """The query projection of a layer, where it is a module of its own."""
    projection = adapter.projections.get(("", layer), {}).get("q")
    return projection.module if projection is not None and projection.layout == "separate" else None


def _weights(module: nn.Module, share: float) -> int:
    """Numbers in matrices; three axes mean one matrix an expert."""
    sizes: Sequence[Tensor] = [parameter for parameter in module.parameters() if parameter.ndim in (2, 3)]
    return int(sum(size.numel() * (share if size.ndim == 3 else 1) for size in sizes))


def _expert_share(config: object) -> float:
    chosen = getattr(config, "num_experts_per_tok", None)
    number = next((value for name in EXPERTS if isinstance(value := getattr(config, name, None), int)), None)
    return chosen / number if chosen and number else 1.0
