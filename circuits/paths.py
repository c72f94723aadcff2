"""Path patching: what a head does to a later part of a model through the residual stream alone.

Wang et al. 2022 (arXiv 2211.00593, appendix B) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969). In a base run

1. z of the sender is replaced by what it is in another run;
2. all other heads are held at their base values, and so are all MLPs unless paths may lead through them, so that the
   change reaches a receiver through the stream (and MLPs) alone;
3. what the receiver then reads is put into an otherwise normal base run, whose output is measured.

Nothing is linearised. Attention is held, so nothing moves between positions before step 3: a sender patched at some
positions changes what receivers read at these positions and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.receivers import LOGITS, MLP, Receiver
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions
from interp.hooks.interventions import Intervention, Patch
from interp.hooks.names import HeadId, point_name
from interp.hooks.reference import Reference
from interp.hooks.rerun.change import apply, edits
from interp.hooks.rerun.engine import BUDGET, Rerun
from interp.hooks.rerun.layers import LayerRuns, repeated
from interp.hooks.rerun.proof import distrust
from interp.hooks.rerun.record import record
from interp.hooks.rerun.restart import Reached
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Z, WRITE = "attn.hook_z", "hook_mlp_out"

TOKENS = 8192
"""Tokens of one forward of step 2, where one sender does not have more."""


@dataclass(frozen=True)
class Sender:
    """Where a path begins: heads that are patched together, and at which positions."""

    heads: tuple[HeadId, ...]
    positions: Positions = None

    @property
    def layer(self) -> int:
        """The first that changes."""
        return min(head.layer for head in self.heads)


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths from senders to receivers in one batch.

    Attributes:
        base: prompts of the run that is measured, on the model's device.
        source: prompts of the run that senders take their z from, row by row those of `base`.
        read_at: position that the metric reads for each prompt; -1 for pooled outputs.
        receivers: patched together; the logits stand alone.
        through_mlps: whether MLPs on the way are computed anew instead of being held.
        columns: vocabulary entries that the metric reads; None for all.
        budget: bytes that runs of step 3 may hold.
    """

    model: HookedModel
    base: Batch
    source: Batch
    read_at: Int[Tensor, " batch"]
    receivers: tuple[Receiver, ...]
    through_mlps: bool = False
    columns: Int[Tensor, " column"] | None = None
    budget: int = BUDGET

    def __post_init__(self) -> None:
        check_paths(self.model, self.through_mlps)

    @property
    def to_logits(self) -> bool:
        return self.receivers[0].part == LOGITS

    @property
    def last_layer(self) -> int:
        """The last layer whose heads or MLP matter before step 3."""
        return self.model.n_layers - 1 if self.to_logits else max(one.layer for one in self.receivers)

    @torch.no_grad()
    def outputs(
        self, senders: Sequence[Sender]
    ) -> Iterator[tuple[Sequence[int], Float[Tensor, "sender batch d_out"], Float[Tensor, "batch d_out"]]]:
        """What the metric sees with the paths of each sender patched, on the CPU; some senders at a time, by number.

        Beside them stands what it sees of the base run, computed as they are.
        """
        for numbers in self._groups(senders):
            group = [senders[number] for number in numbers]
            variants = [self._direct(one) for one in group] if self.to_logits else self._received(group)
            engine = Rerun(self.model, self.base, variants, self.read_at, columns=self.columns)
            for chunk in engine.plan(budget=self.budget).chunks:
                yield [numbers[index] for index in chunk.variants], engine.run(chunk), engine.clean

    def _groups(self, senders: Sequence[Sender]) -> list[Sequence[int]]:
        """Numbers of the senders that run step 2 together; earlier layers first, because a forward begins at one."""
        order = sorted(range(len(senders)), key=lambda number: senders[number].layer)
        if self.to_logits:
            return [order]
        most = max(1, TOKENS // (self.base.size * self._base[self.names(Z)[0]].shape[1]))
        return [order[start : start + most] for start in range(0, len(order), most)]

    def names(self, kind: str, first: int = 0) -> list[str]:
        """Hook points of one kind, from a layer to the last one that matters; layers without an MLP have none of it."""
        names = (point_name(kind, layer) for layer in range(first, self.last_layer + 1))
        return [name for name in names if name in self.model.adapter.available]

    @cached_property
    def _base(self) -> Reference:
        inputs = [] if self.to_logits else [one.point for one in self.receivers]
        names = [*self.names(Z), *([] if self.through_mlps else self.names(WRITE)), *inputs]
        _, cache = self.model.run_with_cache(self.base, list(dict.fromkeys(names)))
        return Reference(dict(cache), "the base run", paired=True)

    @cached_property
    def _source(self) -> Reference:
        _, cache = self.model.run_with_cache(self.source, self.names(Z))
        return Reference(dict(cache), "the other run", paired=True)

    def _direct(self, sender: Sender) -> Sequence[Intervention]:
        """To the logits, steps 2 and 3 are one run."""
        held: list[Intervention] = []
        others = [
            HeadId("", layer, head)
            for layer in range(sender.layer + 1, self.model.n_layers)
            for head in range(self.model.heads[""][layer])
            if HeadId("", layer, head) not in sender.heads
        ]
        if others:
            held.append(Patch("z", self._base, heads=tuple(others)))
        mlps = [
            layer for layer in range(sender.layer, self.model.n_layers) if point_name(WRITE, layer) in self._base.values
        ]
        if mlps:
            held.append(Patch("mlp_out", self._base, layers=mlps))
        return [Patch("z", self._source, heads=sender.heads, positions=self._reading(sender)), *held]

    def _reading(self, sender: Sender) -> Positions:
        """What is written elsewhere than where the logits are read cannot reach them, and need not be run."""
        if sender.positions is not None or self.base.mask is None:
            return sender.positions
        return "end" if torch.equal(self.read_at.cpu(), self.base.end.cpu()) else None

    def _received(self, senders: Sequence[Sender]) -> list[Sequence[Intervention]]:
        """Step 3: what the receivers read, put into the base run."""
        found = self._inputs(senders)
        variants: list[Sequence[Intervention]] = []
        for index in range(len(senders)):
            source = Reference({name: value[index] for name, value in found.items()}, "what was received", paired=True)
            variants.append([_received_patch(one, source) for one in self.receivers])
        return variants

    def _inputs(self, senders: Sequence[Sender]) -> dict[str, Float[Tensor, "sender batch pos ..."]]:
        """Step 2: what each hook point of the receivers holds with each sender patched.

        Where no sender's z changes, these are exactly the base values, which a larger batch may round otherwise.
        """
        n, first = len(senders), min(one.layer for one in senders)
        wanted = dict.fromkeys(one.point for one in self.receivers if one.layer >= first)
        seen: dict[str, Tensor] = {}
        hooks: dict[str, list[HookFn]] = {name: [partial(_keep, seen, len(wanted))] for name in wanted}
        changed = torch.zeros(())
        for name in self.names(Z, first):
            z = self._sent(name, senders)
            hooks.setdefault(name, []).append(partial(_hold, z.flatten(0, 1)))
            changed = changed.to(z.device) + (z != self._base[name]).flatten(3).any(-1)
        if not self.through_mlps:
            for name in self.names(WRITE, first):
                hooks.setdefault(name, []).append(partial(_hold, self._base[name].repeat(n, 1, 1)))
        if wanted:
            self._forward(first, n, hooks)
        found = {one.point: torch.stack([self._base[one.point]] * n) for one in self.receivers}
        for name, value in seen.items():
            found[name] = torch.where(_over(changed > 0, found[name]), value.unflatten(0, (n, -1)), found[name])
        return found

    def _sent(self, name: str, senders: Sequence[Sender]) -> Float[Tensor, "sender batch pos head d_head"]:
        """z of one layer: of the other run for the senders that are there, and of the base run elsewhere."""
        point, base = self.model.adapter.available[name], self._base[name]
        rows = []
        for sender in senders:
            heads = tuple(head for head in sender.heads if head.layer == point.layer)
            patch = Patch("z", self._source, heads=heads, positions=sender.positions) if heads else None
            hooks = edits(self.model, self.base, patch)[point] if patch else []
            rows.append(apply(hooks, base, point, self.base))
        return torch.stack(rows)

    def _forward(self, first: int, n: int, hooks: dict[str, list[HookFn]]) -> None:
        """A forward of all senders' prompts, from the first layer that changes to the last receiver."""
        adapter, batch = self.model.adapter, repeated(self.base, n)
        with ExitStack() as stack:
            if first and self._recorded is not None:
                self._recorded.enter(stack, first, n)
            stack.enter_context(adapter.attached(hooks, batch))
            try:
                adapter.forward(batch.inputs)
            except Reached:
                return
        raise AssertionError("a receiver did not run")

    @cached_property
    def _recorded(self) -> LayerRuns | None:
        """Forwards that begin inside the base run; None where this model must run from its first layer."""
        adapter = self.model.adapter
        if not isinstance(adapter, HuggingFaceAdapter) or "layers" in distrust(self.model):
            return None
        return LayerRuns(adapter, record(adapter, self.base, [], []))


def check_paths(model: HookedModel, through_mlps: bool) -> None:
    """Raise E403 unless everything between senders and receivers can be held."""
    if missing := [layer for layer, n in enumerate(model.heads[""]) if not n]:
        raise InterpError(
            "E403",
            f"layer {missing[0]} has no attention that we know, so what it moves between positions cannot be held",
            where=model.name,
            fix="measure effects instead: interp.patch",
        )
    for layer in range(model.n_layers):
        model.check_point(point_name(Z, layer))
        is_sum = point_name("hook_attn_out", layer) in model.adapter.available  # without an MLP, of attention alone
        if not through_mlps and not is_sum:
            model.check_point(point_name(WRITE, layer))


def _received_patch(receiver: Receiver, source: Reference) -> Patch:
    if receiver.part == MLP:
        return Patch("mlp_out", source, layers=(receiver.layer,))
    head = (HeadId("", receiver.layer, receiver.head),)
    if receiver.part == "q":
        return Patch("q", source, heads=head)
    return Patch(receiver.part, source, kv_heads=head)


def _keep(seen: dict[str, Tensor], n: int, value: Tensor, context: HookContext) -> None:
    """Keep what is there before it is held, and end the forward where nothing is left to see."""
    seen[context.name] = value
    if len(seen) == n:
        raise Reached


def _over(mask: Bool[Tensor, "sender batch pos"], value: Float[Tensor, "sender batch pos ..."]) -> Tensor:
    """A mask of tokens that broadcasts over what they hold."""
    return mask.reshape(*mask.shape, *[1] * (value.ndim - mask.ndim))


def _hold(value: Tensor, _: Tensor, __: HookContext) -> Tensor:
    return value
