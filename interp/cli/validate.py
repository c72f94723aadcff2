"""`interp validate`: are these prompts fit for this model? No forward pass, no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.cli.questions import Questions, count_drops
from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.hooks.examples import Drop
    from interp.hooks.pairs import Pairs
    from interp.tasks.base import Task


def validate(terminal: Terminal, questions: Questions) -> None:
    """Check prompts against a model's tokenizer: lengths, pairs, answers, roles, duplicates."""
    asked = questions.make_task(terminal.seed)

    from interp.hooks.pairs import tokenise
    from interp.loading import load_reader
    from interp.tasks.file import FileTask

    reader = load_reader(questions.model)
    found = asked.examples(reader.tokenizer)
    pairs = tokenise(
        reader.tokenizer,
        found.examples,
        processor=reader.processor,
        at_mask=reader.at_mask,
        limit=reader.limit,
        truncate=questions.truncate,
        first_token=questions.first_token,
        strict=isinstance(asked, FileTask),
    )
    drops, notes = (*found.drops, *pairs.drops), (*found.notes, *pairs.warnings)
    show(terminal, asked, pairs, drops, notes)
    terminal.emit({"exit_code": 0, **as_data(asked, pairs, drops, notes)})


def show(terminal: Terminal, asked: Task, pairs: Pairs, drops: tuple[Drop, ...], notes: tuple[str, ...]) -> None:
    """How many prompts are ready, how long they are, what can be asked of them, and the first one."""
    about = as_data(asked, pairs, drops, notes)
    shortest, longest = about["tokens"]
    terminal.say(f"{about['ready']} prompts are ready, {shortest} to {longest} tokens; metric {asked.metric}")
    terminal.say(f"resample: {'possible' if about['corrupt'] else 'not possible, some prompt has no corrupt twin'}")
    for drop in drops:
        terminal.say(f"dropped {drop.id}: INTERP-{drop.code} {drop.reason} {drop.where}".rstrip())
    for note in notes:
        terminal.say(f"note: {note}")
    terminal.say(f"first prompt: {'|'.join(pairs.tokens[0])}")


def as_data(asked: Task, pairs: Pairs, drops: tuple[Drop, ...], notes: tuple[str, ...]) -> dict[str, Any]:
    """The same for machines."""
    lengths = [len(tokens) for tokens in pairs.tokens]
    return {
        "ready": len(pairs),
        "tokens": [min(lengths), max(lengths)],
        "metric": asked.metric,
        "answer": pairs.answer is not None,
        "distractor": pairs.distractor is not None,
        "corrupt": pairs.corrupt is not None,
        "dropped": count_drops(drops),
        "notes": list(notes),
    }
