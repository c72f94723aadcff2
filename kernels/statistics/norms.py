"""What attention moves: the pattern weighted by how long the moved vectors are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import (
    Needs,
    Part,
    Reader,
    RowStatistic,
    blank_padding,
    check_each,
    of_heads,
    there,
    unfit,
)
from interp.kernels.statistics.keysets import KeySet, check_keys, members, unfit_keys
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class NormMass(RowStatistic):
    """The pattern weighted by a length of each key.

    Args:
        keys: of a set of keys (a count from each document's start, or a bool mask [batch, key_pos]) the share of the
            row's whole; None gives the whole.

    Raises:
        InterpError: E205, a count under 1; E206, a mask that is not bool.
    """

    keys: KeySet | None = None

    def __post_init__(self) -> None:
        if self.keys is not None:
            check_keys(self.keys)

    @abstractmethod
    def lengths(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        """The length of each key's vector."""

    def check(self, problem: Problem, variant: Variant) -> str | None:
        return None if self.keys is None else unfit_keys(self.keys, problem)

    def lengths_once(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.once(("lengths", self), self.lengths)

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        problem = part.view.problem
        lengths = self.lengths_once(problem)[:, part.view.heads]
        whole = torch.einsum("bhqk,bhk->bhq", part.pattern, lengths)
        if self.keys is None:
            return whole
        return _share(torch.einsum("bhqk,bhk->bhq", part.pattern, lengths * members(self.keys, problem)), whole)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        lengths = self.lengths_once(problem)
        whole = needs.functional(lengths)
        inside = None if self.keys is None else needs.functional(lengths * members(self.keys, problem))

        def read(answer: Primitives) -> Tensor:
            found = there(answer.functionals)
            if inside is None:
                return blank_padding(found[..., whole], problem)
            return blank_padding(_share(found[..., inside], found[..., whole]), problem)

        return read


@dataclass(frozen=True, eq=False)
class ValueNormMass(NormMass):
    """The pattern weighted by the norms of the values: what is moved, before the output projection."""

    name: ClassVar[str] = "value-norm-mass"
    formula: ClassVar[str] = "sum_j p_ij ||v_j||, or the share of a set of keys in it"

    def lengths(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.v.to(problem.wide).norm(dim=-1)[:, problem.kv_index]


@dataclass(frozen=True, eq=False)
class OutputNormMass(NormMass):
    """The pattern weighted by the norms of what each key would write into the residual stream.

    Kobayashi et al. 2020, arXiv 2004.10102, eq. 4.

    Args:
        w_o: the output projection, [head, d_value, d_model], of all heads of the model.
        norms: `||v_j W_O||` of all heads, where it is known already: [batch, head, key_pos].

    Raises:
        InterpError: E205, neither of the two or both.
    """

    name: ClassVar[str] = "output-norm-mass"
    formula: ClassVar[str] = "sum_j p_ij ||v_j W_O||, or the share of a set of keys in it"

    w_o: Float[Tensor, "head d_value d_model"] | None = None
    norms: Float[Tensor, "batch head key_pos"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.w_o is None) == (self.norms is None):
            raise InterpError("E205", "norms of outputs need one of w_o and norms", fix="w_o=[head, d_value, d_model]")

    def check(self, problem: Problem, variant: Variant) -> str | None:
        wrong = super().check(problem, variant)
        if self.norms is not None:
            return check_each(wrong, unfit("norms", self.norms, (problem.batch, problem.n_heads, problem.n_keys)))
        assert self.w_o is not None
        if self.w_o.ndim != 3 or self.w_o.shape[:2] != (problem.n_heads, problem.v.shape[3]):
            wrong = f"w_o is {list(self.w_o.shape)}, not [{problem.n_heads}, {problem.v.shape[3]}, d_model]"
        return wrong

    def lengths(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        """With W_O^T = Q R, `||v W_O|| = ||R v||`: nothing of length d_model is held for each key."""
        if self.norms is not None:
            return of_heads(self.norms.to(problem.wide), problem).expand(problem.batch, problem.heads, -1)
        assert self.w_o is not None
        w_o = self.w_o.to(problem.q.device, problem.wide)[list(problem.head_index)]
        values = problem.v.to(problem.wide)[:, problem.kv_index]
        root = torch.linalg.qr(w_o.transpose(1, 2)).R
        return einsum(values, root, "batch head key value, head row value -> batch head key row").norm(dim=-1)


def _share(inside: Tensor, whole: Tensor) -> Tensor:
    """0 in rows without any weight."""
    return torch.where(whole > 0, inside / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0)
