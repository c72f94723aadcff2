"""Statistics of a model's own attention, layer by layer, without a stored pattern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import AttentionCall, HookContext, HookFn, Operator
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.names import check_tower, point_name
from interp.hooks.prompts import Prompts
from interp.hooks.swap import attended
from interp.kernels.attention import Found
from interp.kernels.errors import InterpError
from interp.kernels.statistics.base import Statistic
from interp.kernels.variants.base import Variant
from interp.kernels.variants.relu import Relu
from interp.kernels.variants.sigmoid import Sigmoid
from interp.kernels.variants.softmax import Softmax

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Wanted = Sequence[str | Statistic] | Mapping[str, str | Statistic]

OWN: Mapping[str, Variant] = {"softmax": Softmax(), "relu": Relu(divide=True), "sigmoid": Sigmoid()}
"""The operators that models run by themselves, by what they call them."""


@dataclass(frozen=True)
class AttentionStatistics(Mapping[int, Found]):
    """What was asked of each layer, by its number: `found[3]["entropy"]`, `found[3].lse`.

    Attributes:
        layers: by number.
        batch: the prompts; row statistics are NaN at their padding.
    """

    layers: Mapping[int, Found]
    batch: Batch

    def __getitem__(self, layer: int) -> Found:
        return self.layers[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def run_with_statistics(
    model: HookedModel,
    prompts: Prompts,
    statistics: Wanted,
    *,
    layers: Sequence[int] | None = None,
    tower: str = "",
    backend: str = "auto",
    **options: object,
) -> tuple[Tensor, AttentionStatistics]:
    """The output of a model, and statistics of its attention in some layers.

    Attention is computed once, by the backend that also gives the statistics; memory grows with the length of the
    prompts and not with its square, where that backend's does.

    Args:
        statistics: of `interp.kernels.statistics`, or their names; a dict gives them other names.
        layers: all that call attention by default.
        options: of `HookedModel.batch`.

    Raises:
        InterpError: E403 a layer that computes attention in its own code; E201 unknown names; what `attention` raises.
    """
    check_tower(tower, model.heads, "statistics")
    batch = model.batch(prompts, **options)  # type: ignore[arg-type]
    chosen = [layer for layer, n in enumerate(model.heads[tower]) if n] if layers is None else list(layers)
    measuring = {layer: Measuring(model.heads[tower][layer], statistics, backend) for layer in chosen}
    hooks: dict[str, HookFn | Sequence[HookFn]] = {
        point_name(OPERATOR, layer, tower): measure for layer, measure in measuring.items()
    }
    output = model.run_with_hooks(batch, hooks)
    return output, AttentionStatistics({layer: one.found for layer, one in measuring.items()}, batch)


class Measuring(Operator):
    """Hook on `attn.hook_operator`: z by the model's own operator, with statistics on the way."""

    def __init__(self, n_heads: int, statistics: Wanted, backend: str) -> None:
        self.heads, self.statistics, self.backend = range(n_heads), statistics, backend
        self._found: Found | None = None

    @property
    def found(self) -> Found:
        assert self._found is not None, "the layer did not run"
        return self._found

    def __call__(self, value: Tensor, context: HookContext) -> Float[Tensor, "batch pos head d_head"]:
        call = context.call
        assert call is not None, f"{context.name} was not told what attention was called with"
        if context.length is not None and context.length != value.shape[1]:
            raise InterpError(
                "E403",
                "this layer attends window by window, and statistics would be those of the last window",
                where=context.name,
                fix="capture the pattern: model.run_with_cache(prompts, '*hook_pattern')",
            )
        found = attended(call, own_operator(call), statistics=self.statistics, backend=self.backend)
        self._found = Found(lse=found.lse, statistics=found.statistics, choices=found.choices, notes=found.notes)
        return found.output.transpose(1, 2)


def own_operator(call: AttentionCall) -> Variant:
    """What a layer runs by itself; its softcap and sink logits are added by `fitted`."""
    return OWN[call.options.get("normaliser") or "softmax"]
