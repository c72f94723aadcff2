"""Numbers of one head that are replaced by their projection on few directions, and the directions that vary most."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.receivers import parse_receivers, sharing
from interp.circuits.understanding.directions import Basis, Rows, spanned
from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions, positions_mask, replace_heads
from interp.hooks.interventions import Hook, Intervention
from interp.hooks.naive import batches
from interp.hooks.names import check_head, parse_head, point_name
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BASIS, MEAN = "basis", "mean"


class Place(NamedTuple):
    """Where numbers of a head stand: hook point, and its number there; `notes` say who else reads them."""

    point: str
    number: int
    notes: tuple[str, ...] = ()


def placed(model: HookedModel, head: str, kind: str) -> Place:
    """The place of a head's q, k, v or z.

    Raises:
        InterpError: E201 to E203 no such head; E403 a point that is not open on this model.
    """
    if kind == "z":
        found = parse_head(head)
        check_head(found, model.heads)
        name = point_name("attn.hook_z", found.layer, found.tower)
        model.check_point(name)
        return Place(name, found.head)
    receivers = parse_receivers(f"{parse_head(head).label}.{kind}", model)
    return Place(receivers[0].point, receivers[0].head, sharing(receivers, model))


@dataclass(frozen=True)
class Projection(Intervention):
    """Numbers x of one head become `mean + P (x - mean)`.

    Attributes:
        space: 'basis' [d_head rank] of P, and 'mean' [d_head].
    """

    place: Place
    space: Reference
    positions: Positions = None

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        return [(self.place.point, replace_heads(batch, [self.place.number], self.positions, self._new))]

    def _new(self, x: Tensor, _: HookContext) -> Tensor:
        basis, mean = (self.space[name].to(x.device, x.dtype) for name in (BASIS, MEAN))
        return mean + (x - mean) @ basis @ basis.T


@dataclass(frozen=True, eq=False)
class Standing:
    """What stands at a place on some prompts, in float64: one row for each position that counts, and its prompt."""

    rows: Rows
    prompts: Int[Tensor, " row"]

    @property
    def mean(self) -> Float[Tensor, " d_head"]:
        return self.rows.mean(0)

    def class_means(self, classes: Sequence[Hashable]) -> Float[Tensor, "class d_head"]:
        """Mean over all rows of each class of prompts.

        Raises:
            InterpError: E205 one class, or another number of labels than of prompts.
        """
        known = list(dict.fromkeys(classes))
        if len(classes) != int(self.prompts.max()) + 1 or len(known) < 2:
            what = f"{len(classes)} labels of {len(known)} classes for {int(self.prompts.max()) + 1} prompts"
            raise InterpError("E205", what, fix="give each prompt its class, two classes at least")
        numbers = torch.tensor([known.index(one) for one in classes])[self.prompts]
        return torch.stack([self.rows[numbers == number].mean(0) for number in range(len(known))])


@torch.no_grad()
def standing(model: HookedModel, place: Place, positions: Positions, batch: Batch, batch_size: int) -> Standing:
    """What stands at a place, at real tokens of some positions."""
    rows: list[Tensor] = []
    prompts: list[Tensor] = []
    for start, stop in batches(batch.size, batch_size):
        part = batch.rows(start, stop)

        def see(x: Tensor, context: HookContext, part: Batch = part, start: int = start) -> None:
            chosen = positions_mask(part, positions, context, x.shape[0], x.shape[1])
            chosen = part.mask if chosen is None else chosen
            assert chosen is not None, "heads of a text"
            rows.append(x[:, :, place.number][chosen.to(x.device)].double().cpu())
            prompts.append(chosen.nonzero()[:, 0].cpu() + start)

        model.run_with_hooks(part, {place.point: see})
    return Standing(torch.cat(rows), torch.cat(prompts))


def directions(centred: Rows) -> Basis:
    """Principal directions of rows, largest first.

    Raises:
        InterpError: E205 rows that are all the same.
    """
    if not centred.any():
        raise InterpError("E205", "what stands there is the same in all prompts", fix="ask about other positions")
    return spanned(centred)
