"""What is asked of a model about its sinks."""

from __future__ import annotations

from dataclasses import dataclass

from interp.kernels.errors import InterpError, suggest

RULES = ("robust", "absolute")
TOLERANCE = {"kl": 0.02, "cosine": 0.005}
"""Change of the output, a position, up to which nothing has changed: nats, or 1 - cosine."""


@dataclass(frozen=True)
class Settings:
    """Thresholds of the four criteria, and how much is measured.

    Attributes:
        eps: mean attention received above which a key is a sink by attention.
        min_queries: queries that must be able to see a key before its mean says anything.
        k: median absolute deviations above the median, from which a norm or an entry is an outlier.
        rule: of massive activations: 'robust' (median + k MAD over tokens), or 'absolute' (above 100 and above 1000
            times the median entry).
        drained: length of what a key's value writes, relative to the other keys, under which it is drained.
        rest: share of a query's attention on sinks above which its head rests there.
        tolerance: change of the output up to which a head does nothing; None takes `TOLERANCE`.
        n_controls: heads of the same layer that each resting head is compared with.
        dormancy: whether heads are taken away at all; the fourth criterion costs by far the most.
        batch_size: prompts in one forward.
        seed: of the bootstrap.

    Raises:
        InterpError: E205, a number that makes no sense; E201, unknown rule.
    """

    eps: float = 0.3
    min_queries: int = 8
    k: float = 10.0
    rule: str = "robust"
    drained: float = 0.5
    rest: float = 0.5
    tolerance: float | None = None
    n_controls: int = 2
    dormancy: bool = True
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InterpError("E201", f"no rule {self.rule!r}", fix=suggest(self.rule, RULES))
        bounds = {
            "eps": 0 < self.eps < 1,
            "min_queries": self.min_queries >= 1,
            "k": self.k > 0,
            "drained": self.drained > 0,
            "rest": 0 < self.rest < 1,
            "tolerance": self.tolerance is None or self.tolerance > 0,
            "n_controls": self.n_controls >= 0,
            "batch_size": self.batch_size >= 1,
        }
        for name, holds in bounds.items():
            if not holds:
                raise InterpError("E205", f"{name}={getattr(self, name)}", fix="eps and rest lie between 0 and 1")

    def bound(self, metric: str) -> float:
        """The tolerance for a metric."""
        return TOLERANCE[metric] if self.tolerance is None else self.tolerance
