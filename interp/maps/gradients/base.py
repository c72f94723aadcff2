"""What methods that read gradients share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from interp.kernels.errors import InterpError
from interp.maps.method import Method

if TYPE_CHECKING:
    from interp.circuits.question import Question
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class GradientMap(Method):
    """A map of gradients of the metric.

    Raises:
        InterpError: E407, a metric that compares with the untouched run, where its gradient is 0; or one without slopes.
    """

    reads: ClassVar[str] = "gradients"

    def check(self, model: HookedModel, question: Question) -> None:
        metric = question.metric
        if "reference" in metric.needs or metric.name == "top1":
            what = f"{metric.name} has no slope at the untouched run"
            raise InterpError("E407", what, where=f"method {self.name}", fix="choose logit_diff or log_prob")
