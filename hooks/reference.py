"""Reference values: what an ablated or patched activation is set to, and how it is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.names import SQUARE
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Reference:
    """Values to put in place of activations, by hook name; equal where their digest is.

    Attributes:
        values: hook name -> tensor that broadcasts to the activation: [head d_head] (one mean for all positions),
            [pos head d_head] (a mean per position) or [batch pos head d_head] (another run, row by row).
        origin: where they come from, in words.
        paired: the first axis of every tensor is the prompt.
    """

    values: Mapping[str, Tensor]
    origin: str = ""
    paired: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and bytes."""
        sha = hashlib.sha256()
        for name in sorted(self.values):
            value = self.values[name].detach().cpu().contiguous()
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.values:
            raise InterpError("E201", f"the reference has no {name!r}", fix=suggest(name, self.values))
        return self.values[name]

    def rows(self, start: int, stop: int) -> Reference:
        """Values for prompts start to stop."""
        return (
            replace(self, values={name: value[start:stop] for name, value in self.values.items()})
            if self.paired
            else self
        )

    def save(self, path: str | Path) -> Path:
        from safetensors.torch import save_file

        save_file(
            {name: value.contiguous() for name, value in self.values.items()},
            path,
            metadata={"origin": self.origin, "paired": str(self.paired)},
        )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            return cls(
                {name: file.get_tensor(name) for name in file.keys()},
                about.get("origin", ""),
                about.get("paired") == "True",
            )


def fit(value: Tensor, x: Tensor, context: HookContext) -> Tensor:
    """Reference values in the shape of the activation `x`.

    Leading axes may be missing (one value for all prompts, or for all positions); an axis that is there must have the
    size of the activation. A mean per position alone may be longer than the prompts at hand.

    Raises:
        InterpError: E206 where the shapes do not fit.
    """
    shape = [*x.shape]
    for axis in _pos_axes(context):
        shape[axis] = context.length or shape[axis]
    if value.ndim == x.ndim - 1 and context.point.kind not in SQUARE:
        value = value[: shape[1]]
    least = len(shape) - (1 if context.point.kind in SQUARE else 2)
    if not least <= value.ndim <= len(shape) or [*value.shape] != shape[len(shape) - value.ndim :]:
        raise InterpError(
            "E206",
            f"reference of shape {tuple(value.shape)} for an activation of {tuple(shape)} ({context.point.axes})",
            where=context.name,
            fix="a reference per position needs prompts of the same length, one per prompt as many prompts",
        )
    return window(value, x, context).to(x.device, x.dtype).expand_as(x)


def window(value: Tensor, x: Tensor, context: HookContext) -> Tensor:
    """The part of a whole layer's value that the tensor `x` of one window shows; missing axes are leading ones."""
    for axis in _pos_axes(context):
        if axis >= x.ndim - value.ndim:
            value = value.narrow(axis - x.ndim + value.ndim, context.start, x.shape[axis])
    return value


def _pos_axes(context: HookContext) -> tuple[int, ...]:
    return (2, 3) if context.point.kind in SQUARE else (1,)


def mean_reference(
    model: HookedModel,
    batches: Iterable[Batch],
    names: str | Sequence[str] = "blocks.*.attn.hook_z",
    *,
    per_position: bool = False,
) -> Reference:
    """Mean activation over the real tokens of some prompts.

    Args:
        batches: the data the mean is taken over.
        names: hook points whose first axes are the prompt and the position.
        per_position: one mean for each position (prompts aligned at their first token) instead of one for all.

    Returns:
        values [head d_head], or [pos head d_head] with `per_position`. Positions are summed in float64; those with
        values that are not finite are left out.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for batch in batches:
        _, cache = model.run_with_cache(batch, names)
        for name, value in cache.items():
            is_text = batch.mask is not None and not model.adapter.available[name].tower
            mask = batch.mask if is_text else torch.ones(value.shape[:2], dtype=torch.bool)
            finite = value.isfinite().flatten(2).all(-1)  # one bad prompt must not spoil the mean of all
            weight = (mask.to(value.device) & finite).double()  # type: ignore[union-attr]
            value = value.masked_fill(~finite.reshape(*finite.shape, *[1] * (value.ndim - 2)), 0.0)
            total = torch.einsum("bp,bp...->p...", weight, value.double())
            sums[name] = total if name not in sums else _add(sums[name], total)
            counts[name] = weight.sum(0) if name not in counts else _add(counts[name], weight.sum(0))
    assert counts, "mean_reference needs at least one batch"
    values = {name: _mean(total, counts[name], per_position).to(model.dtype) for name, total in sums.items()}
    return Reference(values, "mean per position" if per_position else "mean over prompts and positions")


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Sum along positions of two batches of different width."""
    short, long = sorted((a, b), key=len)
    total = long.clone()
    total[: len(short)] += short
    return total


def _mean(total: Tensor, counts: Tensor, per_position: bool) -> Tensor:
    if not per_position:
        return total.sum(0) / counts.sum()
    return total / counts.clamp(min=1).reshape(-1, *[1] * (total.ndim - 1))


def paired_reference(
    model: HookedModel,
    batches: Iterable[Batch],
    names: str | Sequence[str] = "blocks.*.attn.hook_z",
    origin: str = "paired prompts",
) -> Reference:
    """Activations of other prompts, row by row: values [prompt pos head d_head]. All batches have one width."""
    parts = [model.run_with_cache(batch, names)[1] for batch in batches]
    return Reference({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, origin, paired=True)
