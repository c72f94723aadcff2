"""What is made of a layer's weights and kept, until they change in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


class Kept(Mapping[int, T]):
    """By layer; made when first asked for, and anew where weights were replaced or written to since.

    Torch counts what is written to a tensor, but not through `weight.data`: after that, open the model again.

    Args:
        modules: layer -> the modules whose weights it is made of.
        make: of a layer.
    """

    def __init__(self, modules: Mapping[int, Sequence[nn.Module]], make: Callable[[int], T]) -> None:
        self._modules, self._make = modules, make
        self._found: dict[int, tuple[Stamp, T]] = {}

    def __getitem__(self, layer: int) -> T:
        stamp = _stamp(self._modules[layer])
        if layer not in self._found or self._found[layer][0] != stamp:
            self._found[layer] = stamp, self._make(layer)
        return self._found[layer][1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _stamp(modules: Sequence[nn.Module]) -> Stamp:
    tensors = (tensor for module in modules for some in (module.parameters(), module.buffers()) for tensor in some)
    return tuple((id(tensor), tensor.data_ptr(), _writes(tensor)) for tensor in tensors)


def _writes(tensor: Tensor) -> int:
    """How often a tensor was written to, as far as torch counts that."""
    return 0 if tensor.is_inference() else tensor._version
