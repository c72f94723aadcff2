"""Canary of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.hooks.batch import Batch
from interp.hooks.names import HeadId
from interp.hooks.probe import CanaryRow, canary
from interp.patching.cells import Unit

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def prove(model: HookedModel, points: Sequence[str], units: Sequence[Unit], batch: Batch) -> tuple[CanaryRow, ...]:
    """Prove that edits at these points change nothing by themselves, and reach the output.

    Raises:
        InterpError: E404 where they do not; E403 where a point is refused on this model.
    """
    heads = [head for unit in units for head in (unit.heads or (HeadId("", unit.layer or 0, 0),))]
    return tuple(row for point in points for row in canary(model, point, heads, batch))
