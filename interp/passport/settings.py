"""Ways of drawing prompts: the seeds and templates over which verdicts must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples, Tokenizer
from interp.tasks.file import FileTask

Templates = Sequence[Mapping[str, Any]]
N_TEMPLATES = 3


@dataclass(frozen=True, eq=False)
class Setting:
    """One way of drawing prompts.

    Attributes:
        name: `seed 0`, `template=2`, `part 1 of 3`.
        task: that gives the prompts.
        seed: of scorers that read prompts of a task of their own.
        redraws: whether these are drawn anew too.
    """

    name: str
    task: Task
    seed: int
    redraws: bool = True


@dataclass(frozen=True)
class Part(Task):
    """Every n-th prompt of another task: what stability is asked over where nothing is drawn.

    Attributes:
        of: the task.
        part, parts: which one, of how many, from 0.
    """

    name: ClassVar[str] = "part"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Some prompts of another task."

    of: Task | None = None
    part: int = 0
    parts: int = 1

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`."""
        assert self.of is not None
        found = self.of.examples(tokenizer)
        return replace(found, examples=found.examples[self.part :: self.parts], drops=())


def part_of(task: Task, part: int, parts: int) -> Part:
    """A part with the metric of the whole."""
    made = Part(n=max(1, task.n // parts), of=task, part=part, parts=parts)
    object.__setattr__(made, "metric", task.metric)
    return made


def settings_of(task: Task, seeds: Sequence[int], templates: Templates | None) -> tuple[Setting, ...]:
    """The main way first, the other seeds, then templates under the first seed.

    Args:
        seeds: a file of prompts, where nothing is drawn, is cut into as many parts.
        templates: options of the task, one mapping each; None takes the first templates of a task that has numbered
            ones, or its splits.

    Raises:
        InterpError: E205, no seed, or one twice; E201, options that the task does not have.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InterpError("E205", f"seeds {list(seeds)}", where="passport", fix="one seed or more, each once")
    if isinstance(task, FileTask):
        drawn = [Setting("all prompts", task, seeds[0])]
        parts = range(len(seeds)) if len(seeds) > 1 else ()
        drawn += [
            Setting(f"part {index + 1} of {len(seeds)}", part_of(task, index, len(seeds)), seeds[index], index > 0)
            for index in parts
        ]
    else:
        drawn = [Setting(f"seed {seed}", replace(task, seed=seed), seed) for seed in seeds]
    given = _own(task) if templates is None else templates
    first = drawn[0].task
    return (*drawn, *(Setting(_name(one), _with(first, one), seeds[0], redraws=False) for one in given))


def _own(task: Task) -> Templates:
    """Variations that a task itself has."""
    options = {} if isinstance(task, FileTask) else task.options
    if options.get("template", 0) is None:
        return [{"template": index} for index in range(N_TEMPLATES)]
    if options.get("split") == "all":
        return [{"split": "train"}, {"split": "test"}]
    return []


def _name(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _with(task: Task, options: Mapping[str, Any]) -> Task:
    """The task with other options (E201)."""
    unknown = [key for key in options if key not in task.option_names()]
    if unknown or not options:
        what = f"task {task.name} has no option {unknown[0]!r}" if unknown else "a template without options"
        fix = f"options: {', '.join(task.option_names()) or '(none)'}"
        raise InterpError("E201", what, where="passport", fix=fix)
    return replace(task, **options)
