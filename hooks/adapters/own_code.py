"""Proof of the projections of attention that a model computes in its own code (Bloom, Falcon, GPT-J), by what edits do.

No attention function is called that would show queries, keys and values, so a reading of the projections is held against
what z must do if it is right. All projections are made to give fixed random numbers, which makes layers independent of
each other. Then

- a query of one head, changed at one position, moves z of this head at this position and nothing else;
- a key of one key/value head, changed at one position, moves z of the heads that read it alone, elsewhere too;
- values that are the same at all positions come out as they are, because the weights of attention sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.hooks.adapters.projections import Projection, candidates
from interp.hooks.adapters.structure import Block

Key = tuple[str, int]
Reading = Mapping[str, Projection]
Z = Float[Tensor, "batch pos head d_head"]

MOVED = 1e-3
"""Share of the largest number of z by which it must change to count as moved."""


@torch.no_grad()
def proven_by_edits(blocks: Mapping[Key, Block], forward: Callable[[], object]) -> dict[Key, dict[str, Projection]]:
    """For each block the reading of its projections that holds; blocks without one are left out.

    Args:
        forward: runs the model on its probe input.
    """
    found: dict[Key, dict[str, Projection]] = {}
    readings = {key: candidates(block) for key, block in blocks.items()}
    for turn in range(max(map(len, readings.values()), default=0)):
        trial = {key: some[turn] for key, some in readings.items() if turn < len(some) and key not in found}
        trials = Trials({key: blocks[key] for key in trial}, trial, forward)
        found |= {key: trial[key] for key in trials.held()}
    return found


@dataclass(eq=False)
class Trials:
    """One reading for each of some blocks."""

    blocks: Mapping[Key, Block]
    readings: Mapping[Key, Reading]
    forward: Callable[[], object]
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def held(self) -> list[Key]:
        """The blocks whose reading does what it must."""
        plain = self._z({})
        usable = [key for key, z in plain.items() if z.shape[1] > 2]
        at = {key: plain[key].shape[1] // 2 for key in usable}
        by_part = {part: self._z({key: (part, at[key]) for key in usable}) for part in "qkv"}
        return [
            key
            for key in usable
            if self._query_is_one(plain[key], by_part["q"][key], at[key])
            and self._key_is_shared(plain[key], by_part["k"][key], at[key], self.blocks[key])
            and self._values_come_out(key, by_part["v"][key])
        ]

    def _z(self, edits: Mapping[Key, tuple[str, int]]) -> dict[Key, Z]:
        """z of every block that runs once, under edits of one part at one position (of values, at all of them)."""
        seen: dict[Key, list[Z]] = {key: [] for key in self.blocks}
        with ExitStack() as stack:
            for key, reading in self.readings.items():
                for module in dict.fromkeys(one.module for one in reading.values()):
                    edit = self._edit(module, reading, edits.get(key))
                    stack.callback(module.register_forward_hook(edit).remove)
                stack.callback(self.blocks[key].out.register_forward_pre_hook(self._keep(key, seen[key])).remove)
            self.forward()
        return {key: values[0] for key, values in seen.items() if len(values) == 1}

    def _keep(self, key: Key, seen: list[Z]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        block = self.blocks[key]

        def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].ndim == 3:
                seen.append(args[0].unflatten(-1, (block.n_heads, block.d_head)).clone())

        return keep

    def _edit(
        self, module: nn.Module, reading: Reading, edit: tuple[str, int] | None
    ) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        """What a projection gives in the place of its own numbers."""

        def give(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            given = self._fixed(module, output).clone()
            if edit is None or reading[edit[0]].module is not module or reading[edit[0]].width != given.shape[-1]:
                return given
            part, at = edit
            value = reading[part].view(given).clone()
            if part == "v":
                value[:] = self._constant(reading[part], value)
            else:
                value[:, at, 0] = 3 - value[:, at, 0]
            reading[part].put(given, value)
            return given

        return give

    def _fixed(self, module: nn.Module, output: Tensor) -> Tensor:
        """Numbers that depend on nothing but the shape, the same in every forward."""
        if id(module) not in self.outputs:
            draw = torch.Generator().manual_seed(len(self.outputs))
            self.outputs[id(module)] = torch.randn(output.shape, generator=draw).to(output.device, output.dtype)
        return self.outputs[id(module)]

    def _constant(self, projection: Projection, like: Tensor) -> Float[Tensor, "kv_head d_head"]:
        draw = torch.Generator().manual_seed(1)
        return torch.randn(projection.n_kv_heads, projection.d_head, generator=draw).to(like.device, like.dtype)

    def _query_is_one(self, plain: Z, edited: Z, at: int) -> bool:
        expected = torch.zeros(plain.shape[1:3], dtype=torch.bool, device=plain.device)
        expected[at, 0] = True
        return torch.equal(moved(plain, edited), expected)

    def _key_is_shared(self, plain: Z, edited: Z, at: int, block: Block) -> bool:
        found, readers = moved(plain, edited), block.n_heads // block.n_kv_heads
        elsewhere = found.clone()
        elsewhere[at] = False
        return bool(elsewhere[:, :readers].any(0).all()) and not bool(found[:, readers:].any())

    def _values_come_out(self, key: Key, edited: Z) -> bool:
        values, block = self.readings[key]["v"], self.blocks[key]
        expected = self._constant(values, edited).repeat_interleave(block.n_heads // block.n_kv_heads, 0)
        return not bool(moved(expected.expand_as(edited), edited).any())


def moved(before: Z, after: Z) -> Bool[Tensor, "pos head"]:
    """Where z changed."""
    allowed = MOVED if before.dtype in (torch.float32, torch.float64) else 5e-2
    return (before - after).abs().amax((0, 3)) > allowed * before.abs().max()
