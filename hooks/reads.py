"""What the heads of a layer make their queries, keys and values of: the norm and the weights that stand before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Reads:
    """Made by `Reads.of`.

    Attributes:
        norm: None where the projections read the stream as it is.
        weights: 'q', 'k', 'v' -> W_Q, W_K, W_V, one for each query head, or key/value head.
        biases: their biases [head d_head]; None without one.
        modules: that hold all of it.
    """

    norm: nn.Module | None
    weights: Mapping[str, Float[Tensor, "head d_model d_head"]]
    biases: Mapping[str, Float[Tensor, "head d_head"] | None]
    modules: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: HookedModel, layer: int, tower: str = "") -> Reads:
        """How the heads of a layer read the stream.

        Raises:
            InterpError: E403 where that is not known.
        """
        inlets = getattr(model.adapter, "inlets", {}).get((tower, layer))
        if inlets is None or not inlets.projections:
            raise InterpError(
                "E403",
                f"what the heads of layer {layer} make their queries, keys and values of was not recognised",
                where=f"{model.name} ({model.adapter.describe()['architecture']})",
                fix="open the transformers model itself; README names the architectures that are proven",
            )
        weights = {part: inlets.weight(part) for part in "qkv"}
        projections = dict.fromkeys(one.module for one in inlets.projections.values())
        modules = (*projections, *([] if inlets.attn_norm is None else [inlets.attn_norm]))
        return cls(inlets.attn_norm, weights, {part: inlets.bias(part) for part in "qkv"}, modules)

    def normed(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the norm makes of the stream, without any hook."""
        return stream if self.norm is None else self.norm.forward(stream)
