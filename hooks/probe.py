"""Proof that hooks change nothing by themselves (certificate) and that edits land (canary)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.names import POINTS, HeadId, point_name
from interp.hooks.prompts import from_inputs
from interp.hooks.reference import window
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference between hooked and plain model, relative to the largest output (at least 1).

In float64 it is what transformers' eager attention leaves, whose softmax is in float32 whatever the model's dtype.
"""

IDENTITY = 1e-5
LARGE = 1e-4


@dataclass(frozen=True)
class Certificate:
    """The model with every hook point read, against the untouched model, on the probe input.

    Attributes:
        max_abs, mean_abs: absolute difference of the outputs.
        kl: KL(plain || hooked) in nats, mean over positions; None where the output is no distribution.
        top1: share of positions whose largest entry is the same.
        tolerance: what `max_abs` was allowed to be.
        n_points: hook points read at the same time.
    """

    max_abs: float
    mean_abs: float
    kl: float | None
    top1: float
    tolerance: float
    dtype: str
    n_points: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def certify(model: HookedModel) -> Certificate:
    """Compare hooked and plain model once, with every available point hooked.

    Raises:
        InterpError: E406 where they differ by more than the rounding of the model's dtype.
    """
    batch = from_inputs(model.adapter.probe_inputs)
    plain = model.run_plain(batch)
    hooked, cache = model.run_with_cache(batch, "*")
    difference = (hooked.double() - plain.double()).abs()
    tolerance = TOLERANCE[model.dtype] * max(1.0, float(plain.abs().max()))
    is_distribution = model.adapter.output_name == "logits"
    p, q = plain.double().log_softmax(-1), hooked.double().log_softmax(-1)
    certificate = Certificate(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        kl=max(0.0, float((p.exp() * (p - q)).sum(-1).mean())) if is_distribution else None,
        top1=float((plain.argmax(-1) == hooked.argmax(-1)).double().mean()),
        tolerance=tolerance,
        dtype=str(model.dtype).removeprefix("torch."),
        n_points=len(cache),
    )
    if not certificate.max_abs <= tolerance:
        raise InterpError(
            "E406",
            f"with hooks the output differs by {certificate.max_abs:.2e} from the plain model (allowed {tolerance:.2e})",
            where=model.name,
            fix="this architecture computes attention in a way we do not reproduce; please report it",
        )
    return certificate


@dataclass(frozen=True)
class CanaryRow:
    """One layer: an identity edit and a large edit at the point that an intervention uses.

    Attributes:
        identity: largest change of the output when every head is set to what it already is.
        large: largest change of the output under a large edit.
    """

    point: str
    layer: str
    identity: float
    large: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def canary(model: HookedModel, point: str, heads: Sequence[HeadId], batch: Batch) -> tuple[CanaryRow, ...]:
    """Prove, on the first, middle and last layer of `heads`, that edits at this point reach the output.

    That a hook fires once a forward and keeps the shape is checked by every forward.

    Args:
        point: the point an intervention works on, without `hook_`: 'z', 'pattern', 'attn_scores', 'resid_pre', ...
        batch: some prompts; one is used.

    Raises:
        InterpError: E404 where an identity edit changes the output or a large edit does not; E403 where the point is
            refused on this model.
    """
    one = batch.rows(0, 1)
    layers = sorted({(head.tower, head.layer) for head in heads})
    chosen = dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1]))
    return tuple(_row(model, point, tower, layer, one) for tower, layer in chosen)


def _row(model: HookedModel, point: str, tower: str, layer: int, batch: Batch) -> CanaryRow:
    kind = f"hook_{point}" if f"hook_{point}" in POINTS else f"attn.hook_{point}"
    name = point_name(kind, layer, tower)
    model.check_point(name)
    clean, cache = model.run_with_cache(batch, name)
    own = cache[name]

    def changed_by(value: Tensor) -> float:
        edited = model.run_with_hooks(batch, {name: lambda x, context: window(value, x, context)})
        return float((edited - clean).abs().max())

    scale = max(1.0, float(clean.abs().max()))
    row = CanaryRow(
        point, HeadId(tower, layer, 0).label.removesuffix("H0"), changed_by(own), changed_by(_disturbed(point, own))
    )
    allowed = max(IDENTITY, TOLERANCE[model.dtype] / 10) * scale
    if row.identity > allowed:
        raise InterpError(
            "E404",
            f"an identity edit at {name} changes the output by {row.identity:.2e} (allowed {allowed:.2e})",
            where=row.layer,
        )
    if row.large <= LARGE:
        raise InterpError(
            "E404",
            f"a large edit at {name} changes the output by only {row.large:.2e}",
            where=row.layer,
            fix="the model does not use this layer's output (then leave it out with heads=), or the edit is lost",
        )
    return row


def _disturbed(point: str, own: Tensor) -> Tensor:
    """Something quite different of the same shape: query i looks at key n - 1 - i alone, or values turned round and shifted."""
    if point not in ("pattern", "attn_scores"):
        return 1 - 3 * own
    mirrored = torch.eye(own.shape[-2], own.shape[-1], dtype=own.dtype, device=own.device).flip(-1).expand_as(own)
    return mirrored if point == "pattern" else (mirrored - 1) * 1e4
