"""Which maps a model fools that was trained to: the toy `deceptive-attention` beside its honest twin, method by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from interp.maps import method as method_of
from interp.maps import methods as known_methods
from interp.maps.method import Method
from interp.maps.suppression.occlusion import LeaveOneOut
from interp.maps.toy import ToyLook
from interp.zoo.toys.base import seeded
from interp.zoo.toys.deceptive_attention import DeceptiveAttention

N = 128


@dataclass(frozen=True)
class Found:
    """Of one method, the share of other tokens below the one that alone tells the class; 0.5 by chance, ties count half.

    Attributes:
        honest: in the model that was trained on the task alone.
        deceptive: in the model that was trained to hide that token from its pattern, too.
    """

    honest: float
    deceptive: float

    @property
    def is_fooled(self) -> bool:
        """It puts the token above most others in the honest model, and not above half of them in the other one."""
        return self.honest > 0.75 and self.deceptive < 0.5


def fooled_by_construction(methods: Sequence[str | Method] | None = None, *, seed: int = 0) -> dict[str, Found]:
    """Every method on two models of equal accuracy, one of which hides what it decides by (Pruthi et al. 2020,
    arXiv 1909.07913). Both are trained anew, which takes seconds.

    Args:
        methods: names or records; None takes every one, and leaving tokens out in both ways.

    Raises:
        InterpError: E201, unknown method.
    """
    toy, shares = DeceptiveAttention(), []
    every: tuple[str | Method, ...] = (*known_methods(), LeaveOneOut("neutral"))
    asked = [method_of(one) for one in (every if methods is None else methods)]
    for penalty in (0.0, toy.penalty):
        with seeded(seed):
            model = toy.train(penalty).requires_grad_(False)
            tokens, label, place = toy.draw(N)
        look = ToyLook(None, None, 0, N, seed=seed, toy=model, tokens=tokens, label=label)  # type: ignore[arg-type]
        shares.append([_found(one, look, place) for one in asked])
    return {one.label: Found(*pair) for one, pair in zip(asked, zip(*shares, strict=True), strict=True)}


def _found(method: Method, look: ToyLook, place: Bool[Tensor, "batch pos"]) -> float:
    """Mean share of other tokens below the planted one."""
    values = method.measure(look)[:, :-1].detach().double()
    own = values[place][:, None]
    below = (values < own).double() + (values == own).double() / 2
    return float(((below.sum(1) - 0.5) / (values.shape[1] - 1)).mean())
