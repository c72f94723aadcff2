"""Reading activations: a recorder that hooks fill, and the cache a user reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.names import POINTS, SQUARE, point_name
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from transformer_lens import ActivationCache


class Recorder:
    """A hook that keeps what it sees; pieces of one layer (windows of a vision model) are joined when read."""

    def __init__(self, *, detach: bool = True) -> None:
        self.detach = detach
        self.pieces: dict[str, list[tuple[HookContext, Tensor]]] = {}

    def __call__(self, value: Tensor, context: HookContext) -> None:
        self.pieces.setdefault(context.name, []).append((context, value.detach().clone() if self.detach else value))

    def tensors(self) -> dict[str, Tensor]:
        return {name: _join(pieces) for name, pieces in self.pieces.items()}


def _join(pieces: list[tuple[HookContext, Tensor]]) -> Tensor:
    """One tensor a layer. Scores and patterns of windows become a block-diagonal map: -inf scores, zero pattern between."""
    values = [value for _, value in pieces]
    if len(values) == 1:
        return values[0]
    kind = pieces[0][0].point.kind
    if kind not in SQUARE:
        return torch.cat(values, dim=1)
    width = sum(value.shape[-1] for value in values)
    fill = float("-inf") if kind == "attn.hook_attn_scores" else 0.0
    whole = values[0].new_full((*values[0].shape[:2], width, width), fill)
    for context, value in pieces:
        cells = slice(context.start, context.start + value.shape[-1])
        whole[:, :, cells, cells] = value
    return whole


class Cache(Mapping[str, Tensor]):
    """Activations by hook name.

    `cache["blocks.0.attn.hook_pattern"]`, or short: `cache["pattern", 0]`, `cache["resid_post", 3, "vision"]`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], batch: Batch | None) -> None:
        self._tensors = dict(tensors)
        self.batch = batch

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        name = key if isinstance(key, str) else self._long_name(*key)
        if name not in self._tensors:
            raise InterpError("E201", f"{name!r} was not captured", fix=suggest(name, self._tensors))
        return self._tensors[name]

    @staticmethod
    def _long_name(short: str, layer: int, tower: str = "") -> str:
        for kind in (short, f"hook_{short}", f"attn.hook_{short}"):
            if kind in POINTS:
                return point_name(kind, layer, tower)
        raise InterpError(
            "E201",
            f"no hook point is called {short!r}",
            fix=suggest(short, (kind.split("hook_")[-1] for kind in POINTS)),
        )

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        size = sum(value.numel() * value.element_size() for value in self._tensors.values()) / 2**20
        return f"Cache({len(self)} activations, {size:.1f} MiB; {', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''})"

    def to(self, device: torch.device | str) -> Cache:
        return Cache({name: value.to(device) for name, value in self.items()}, self.batch)

    def to_transformer_lens(self, bridge: Any) -> ActivationCache:
        """TransformerLens' own cache over these tensors; `bridge` is what `HookedModel.to_transformer_lens` returns."""
        from transformer_lens import ActivationCache

        return ActivationCache(dict(self._tensors), bridge)
