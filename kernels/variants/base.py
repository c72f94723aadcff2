"""What every attention operator is: a rule that gives the effective weights of any rows, and flags that say what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.problem import Problem, View


class Weights(NamedTuple):
    """Effective weights of some rows: `output_i = sum_j values_ij v_j`; and the log of the sum of exponentials, where
    the operator has one. `side` is what the output has beside that, from no key of the problem."""

    values: Float[Tensor, "batch head row key_pos"]
    lse: Float[Tensor, "batch head row"] | None = None
    side: Float[Tensor, "batch head row d_value"] | None = None


@dataclass(frozen=True, eq=False)
class Variant(ABC):
    """An attention operator with its parameters.

    Flags tell tools what they may ask: whether rows sum to 1 (`normalised`), are never negative (`non_negative`),
    whether cost grows linearly with length (`linear_time`), whether it needs row or column sums before weights
    (`two_pass`), whether queries stand among the keys (`aligned`; where not, no padding key makes a query padding), and
    whether it has scores that a bias can be added to (`takes_bias`). `causal` is a parameter, since most operators have both forms;
    operators that look ahead whatever it says override `looks_ahead`.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    normalised: ClassVar[bool] = True
    non_negative: ClassVar[bool] = True
    linear_time: ClassVar[bool] = False
    two_pass: ClassVar[bool] = False
    aligned: ClassVar[bool] = True
    takes_bias: ClassVar[bool] = False

    causal: bool = True

    def describe(self) -> dict[str, Any]:
        """Name and parameters as plain data; tensors by their shape and a digest."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"variant": self.name, **{name: _plain(value) for name, value in given.items()}}

    @property
    def looks_ahead(self) -> str:
        """How later tokens reach earlier outputs; empty where they can't."""
        return "" if self.causal else "every query sees every key"

    @abstractmethod
    def weights(self, view: View) -> Weights:
        """Effective weights of the rows in view, signed; zero where nothing may be seen."""

    def check(self, problem: Problem) -> str | None:
        """Why this problem cannot be put to this operator; None where it can."""
        return None

    def request(self, problem: Problem) -> Request | str:
        """The problem as fused kernels understand it, or why they can't."""
        return f"{self.name} is not an attention over intervals of keys"

    def factor(
        self, problem: Problem, lse: Float[Tensor, "batch head query_pos"]
    ) -> Float[Tensor, "batch head query_pos"] | None:
        """What the rows of a fused kernel's output are multiplied with to be this operator's; None for nothing."""
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return value.describe()
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        return {"shape": list(value.shape), "sha256": sha256(raw).hexdigest()}
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return list(value) if isinstance(value, tuple) else value


def pattern_of(
    weights: Float[Tensor, "batch head row key_pos"],
) -> Float[Tensor, "batch head row key_pos"]:
    """Rows that sum to 1, from weights of any sign and mass: `|W_ij| / sum_j |W_ij|`; rows without weight stay 0."""
    absolute = weights.abs()
    return absolute / absolute.sum(-1, keepdim=True).clamp(min=torch.finfo(absolute.dtype).tiny)
