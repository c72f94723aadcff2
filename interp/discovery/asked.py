"""`Asked`: a whole circuit discovery as plain data, so that another process can ask for it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.ablation.request import remade, task_data
from interp.circuits.edges.methods import Settings
from interp.circuits.files import plain
from interp.hooks.metrics import METRICS, Metric
from interp.kernels.errors import InterpError
from interp.sweeps.opening import Opening
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Asked:
    """What `interp.circuit` was asked.

    Attributes:
        opening: of the model.
        task, judge: name, n, seed and options.
        options: arguments of `interp.circuit` by name.
        threads: of torch.
    """

    opening: Opening
    task: Mapping[str, Any]
    judge: Mapping[str, Any] | None
    options: Mapping[str, Any]
    threads: int

    @classmethod
    def of(
        cls, model: HookedModel, task: Task, judge: Task | None, options: Mapping[str, Any], threads: int
    ) -> Asked | None:
        """None where model, task or metric exist in this process alone."""
        opening, asked = Opening.of(model), task_data(task)
        other = None if judge is None else task_data(judge)
        metric = options.get("metric")
        is_own = isinstance(metric, Metric) and METRICS.get(metric.name) is not metric
        if opening is None or asked is None or is_own or (judge is not None and other is None):
            return None
        return cls(opening, asked, other, as_data(options), threads)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None, where: str) -> Asked:
        """What `to_dict` gave.

        Raises:
            InterpError: E205 the run was started from Python with a model, task or metric that cannot be made again.
        """
        if data is None:
            raise InterpError(
                "E205",
                "this run was started with a model, task or metric that was made in memory",
                where=where,
                fix="make it again in Python, then interp.circuit(..., out=FOLDER, resume=True)",
            )
        return cls(**{**data, "opening": Opening(**data["opening"])})

    def arguments(self) -> dict[str, Any]:
        """Of `interp.circuit`, without model and task."""
        settings = self.options["settings"]
        return {
            **tuples(self.options),
            "judge": None if self.judge is None else remade(self.judge),
            "settings": None if settings is None else Settings(**tuples(settings)),
        }

    def make_task(self) -> Task:
        """The task, made again."""
        return remade(self.task)


def as_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as plain data."""
    found: dict[str, Any] = plain({name: _bare(value) for name, value in options.items()})
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, Metric):
        return value.name
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of plain data as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
