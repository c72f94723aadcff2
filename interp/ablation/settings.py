"""What a head ablation is asked to do, apart from model and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from interp.hooks.interventions import PATTERN_OPERATORS
from interp.kernels.errors import InterpError, suggest
from interp.sweeps.job import ENGINES, MEMORY

OPERATORS = {
    "zero": "z of the head set to zero",
    "mean": "z set to its mean over all tokens of the task's clean prompts",
    "positional-mean": "z set to its mean over the task's clean prompts at the same position",
    "resample": "z set to what it is on the paired corrupt prompt",
    **{name: f"attention pattern replaced by the {name} one" for name in PATTERN_OPERATORS},
}
SHOWN_PROMPTS = 4


@dataclass(frozen=True)
class Settings:
    """Settings of `interp.ablate`, where they are explained; heads and metric by name.

    Raises:
        InterpError: E201 unknown operator or engine.
    """

    heads: tuple[str, ...]
    operator: str = "mean"
    metric: str | None = None
    positions: None | str | tuple[int, ...] = None
    n_controls: int = 4
    batch_size: int = 32
    seed: int = 0
    truncate: bool = False
    first_token: bool = False
    shown_prompts: int = SHOWN_PROMPTS
    engine: str = "rerun"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise InterpError("E201", f"no operator {self.operator!r}", fix=suggest(self.operator, OPERATORS))
        if self.engine not in ENGINES:
            raise InterpError("E201", f"no engine {self.engine!r}", fix=suggest(self.engine, ENGINES))

    @property
    def point(self) -> str:
        """Hook point that the operator works on."""
        return "pattern" if self.operator in PATTERN_OPERATORS else "z"

    @property
    def bare_operator(self) -> str:
        """Operator of the intervention: the two kinds of mean differ in their reference values alone."""
        return "mean" if self.operator == "positional-mean" else self.operator

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """What `to_dict` gave, also after a way through JSON, which knows no tuples."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**given)
