"""`interp tasks`: what can be asked."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.tasks.base import Task


def tasks(terminal: Terminal) -> None:
    """List the tasks and their options."""
    from interp.tasks.registry import list_tasks

    known = {name: described(task) for name, task in list_tasks().items()}
    for name, about in known.items():
        terminal.say(f"{name} (metric {about['metric']}): {about['description']}")
        for option, default in about["options"].items():
            terminal.say(f"    {option}={default}")
    terminal.emit({"exit_code": 0, "tasks": known})


def described(task: type[Task]) -> dict[str, Any]:
    """Name, metric and options of a task, with their defaults."""
    options = {field.name: field.default for field in fields(task) if field.name in task.option_names()}
    return {"description": task.description, "metric": task.metric, "options": options}
