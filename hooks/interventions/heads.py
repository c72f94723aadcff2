"""Heads that are taken away or made stronger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import (
    Positions,
    first_key_pattern,
    identity_pattern,
    replace_heads,
    replace_rows,
    uniform_pattern,
)
from interp.hooks.interventions.base import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, fit
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Z_OPERATORS = ("zero", "mean", "resample")
PATTERN_OPERATORS = {"uniform": uniform_pattern, "identity": identity_pattern, "to-sink": first_key_pattern}
OPERATORS = (*Z_OPERATORS, *PATTERN_OPERATORS)


@dataclass(frozen=True)
class Ablate(Intervention):
    """Take away what heads contribute.

    Args:
        heads: labels; `L3H*` and 'all' work too.
        operator: on z, 'zero', 'mean' (reference: a mean over data, see `mean_reference`) or 'resample' (reference:
            z of other prompts, row by row); on the pattern, 'uniform' (over visible keys), 'identity' (each token sees
            itself) or 'to-sink' (first visible key).
        reference: values for 'mean' and 'resample'.
        positions: None everywhere, 'end', or token positions.

    Raises:
        InterpError: E201 unknown operator; E205 reference missing or not wanted.
    """

    heads: Any
    operator: str = "zero"
    reference: Reference | None = None
    positions: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator not in OPERATORS:
            raise InterpError("E201", f"no operator {self.operator!r}", fix=suggest(self.operator, OPERATORS))
        if (self.operator in ("mean", "resample")) != (self.reference is not None):
            need = "needs" if self.reference is None else "takes no"
            raise InterpError(
                "E205",
                f"operator {self.operator!r} {need} reference values",
                fix="reference=mean_reference(model, prompts) or z of a paired run",
            )

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        found: list[Hook] = []
        for (tower, layer), heads in by_layer(self.heads, model.heads).items():
            if self.operator in PATTERN_OPERATORS:
                name = point_name("attn.hook_pattern", layer, tower)
                found.append((name, replace_rows(batch, heads, self.positions, PATTERN_OPERATORS[self.operator])))
            else:
                name = point_name("attn.hook_z", layer, tower)
                found.append((name, replace_heads(batch, heads, self.positions, self._new)))
        return found

    def _new(self, z: Tensor, context: HookContext) -> Tensor:
        if self.reference is None:
            return torch.zeros_like(z)
        return fit(self.reference[context.name], z, context)


@dataclass(frozen=True)
class Scale(Intervention):
    """Multiply the output z of heads by a factor (0 takes them away, 2 doubles them)."""

    heads: Any
    factor: float
    positions: Positions = None

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        return [
            (
                point_name("attn.hook_z", layer, tower),
                replace_heads(batch, heads, self.positions, lambda z, _: z * self.factor),
            )
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]
