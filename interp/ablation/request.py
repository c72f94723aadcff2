"""`Request`: a whole ablation as plain data, so that another process can ask for it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from interp.ablation.settings import Settings
from interp.circuits.files import plain
from interp.kernels.errors import InterpError
from interp.sweeps.executors.base import Execution
from interp.sweeps.opening import Opening
from interp.tasks.base import Task
from interp.tasks.registry import list_tasks
from interp.tasks.registry import task as make_task

if TYPE_CHECKING:
    from interp.ablation.study import Study


@dataclass(frozen=True)
class Request:
    """What `interp.ablate` was asked.

    Attributes:
        opening: of the model.
        task: name, n, seed and options.
        command: as it was typed.
    """

    opening: Opening
    task: Mapping[str, Any]
    settings: Settings
    execution: Execution
    command: str = ""

    @classmethod
    def of(cls, study: Study, execution: Execution) -> Request | None:
        """None where model or task exist in this process alone."""
        opening, task = Opening.of(study.model), task_data(study.task)
        if opening is None or task is None:
            return None
        return cls(opening, task, study.settings, execution, study.command)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None, where: str) -> Request:
        """What `to_dict` gave.

        Raises:
            InterpError: E205 the run was started from Python with a model or task that cannot be made again.
        """
        if data is None:
            raise InterpError(
                "E205",
                "this run was started with a model or task that was made in memory",
                where=where,
                fix="make both again in Python, then interp.ablate(..., out=FOLDER, resume=True)",
            )
        return cls(
            Opening(**data["opening"]),
            data["task"],
            Settings.from_dict(data["settings"]),
            Execution(**data["execution"]),
            data["command"],
        )

    def make_task(self) -> Task:
        """The task, made again."""
        return remade(self.task)


def task_data(task: Task) -> dict[str, Any] | None:
    """A task as plain data; None where that would not give the same task again."""
    data = {"name": task.name, "n": task.n, "seed": task.seed, "options": dict(task.options)}
    if type(task) is not list_tasks().get(task.name) or plain(data) != data:
        return None
    return data


def remade(data: Mapping[str, Any]) -> Task:
    """The task that `task_data` described."""
    return make_task(data["name"], n=data["n"], seed=data["seed"], **data["options"])
