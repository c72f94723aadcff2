"""Statistics of linear-time operators: what is a sum over keys comes along with the values, the rest is refused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.base import Asked
from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.pieces import Piece, inside
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Reader, blank_padding
from interp.kernels.statistics.masses import Mass
from interp.kernels.variants.linear import Linear, divided


class EntryWanted(Exception):
    """A statistic wants single entries of the pattern, or scores."""


class LinearNeeds(Needs):
    """Notes of what statistics need where there is no request to a fused kernel."""

    def __init__(self) -> None:
        self.entropy = self.largest = self.squares = False
        self.functionals, self.bands, self.columns = [], [], []

    def __getattr__(self, name: str) -> Request:
        if name != "request":
            raise AttributeError(name)
        raise EntryWanted


@dataclass(frozen=True)
class KeySums:
    """What is summed over keys beside the values: ones (for the mass of rows), then numbers a key."""

    problem: Problem
    ones: bool
    functionals: tuple[Float[Tensor, "#batch #head key_pos"], ...]
    readers: dict[str, Reader | None]

    def beside(
        self, values: Float[Tensor, "batch head key d_value"], piece: Piece, keys: slice
    ) -> Float[Tensor, "batch head key column"]:
        """The values of some keys, with what else is summed as further channels."""
        if not self.ones:
            return values
        columns = [torch.ones_like(values[..., 0])]
        for given in self.functionals:
            whole = given.expand(self.problem.batch, self.problem.heads, -1)
            columns.append(whole[piece.batch, :, inside(piece.keys, keys)].to(values))
        return torch.cat([values, torch.stack(columns, dim=-1)], dim=-1)

    def read(self, sums: Float[Tensor, "batch head query_pos column"], divides: bool) -> dict[str, Tensor]:
        """Statistics from the sums beyond the values: the mass of rows and the sums of functionals."""
        if not self.readers:
            return {}
        mass = sums[..., :1]
        answer = Primitives(None, mass[..., 0].clamp(min=0).log(), functionals=divided(sums[..., 1:], mass))
        spent = (mass != 0).to(mass) if divides else mass
        return {
            label: blank_padding(spent[..., 0], self.problem) if read is None else read(answer)
            for label, read in self.readers.items()
        }


def key_sums(problem: Problem, variant: Linear, asked: Asked) -> KeySums | str:
    """What to sum so that every statistic can be read; or why one of them can't be."""
    needs = LinearNeeds()
    readers: dict[str, Reader | None] = {}
    for label, statistic in asked.items():
        if isinstance(statistic, Mass):
            readers[label] = None
            continue
        if not variant.non_negative:
            return f"weights of {variant.name} have either sign: {statistic.name} is no sum over keys"
        refusal = f"{statistic.name} is no sum over keys"
        try:
            reader = statistic.ask(needs, problem, variant)
        except EntryWanted:
            return refusal
        if reader is None or needs.entropy or needs.largest or needs.squares or needs.bands or needs.columns:
            return refusal
        readers[label] = reader
    return KeySums(problem, variant.divides or bool(asked), tuple(needs.functionals), readers)
