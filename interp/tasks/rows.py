"""One row of a prompt file as an example, or its first mistake."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from interp.hooks.examples import Example, Option, Prompt, Span
from interp.kernels.errors import InterpError
from interp.tasks.reading import BadLine, Line, place

FIELDS = ("id", "prompt", "clean", "corrupt", "answer", "distractor", "roles", "corrupt_roles", "meta")
UNREAD = {
    "messages": "render the messages with the model's chat template and write the text as 'prompt'",
    "image": "run image inputs from Python; a prompt file holds text",
}


def parse(path: Path, line: Line) -> Example | BadLine:
    """One row as an example, or its first mistake."""
    try:
        return to_example(line, place(path, line.number))
    except InterpError as error:
        return BadLine(line.number, line.raw, error)


def to_example(line: Line, where: str) -> Example:
    """One row as an example.

    Raises:
        InterpError: E302, E303, E304, E307 or E313, the first mistake of the row.
    """
    fields = {name: value for name, value in line.fields.items() if value is not None}
    check_names(fields, where)
    if len({"prompt", "clean"} & set(fields)) != 1:
        raise InterpError("E303", "needs one of 'prompt' and 'clean'", where=where, fix='write {"prompt": "..."}')
    clean = read_prompt(fields, "prompt" if "prompt" in fields else "clean", where)
    corrupt = read_prompt(fields, "corrupt", where) if "corrupt" in fields else None
    if corrupt is not None and type(corrupt) is not type(clean):
        raise InterpError(
            "E303",
            "one of clean and corrupt is text, the other token ids",
            where=where,
            fix="write both as text, or both as ids",
        )
    if corrupt is None and "corrupt_roles" in fields:
        raise InterpError(
            "E303",
            "'corrupt_roles' without 'corrupt'",
            where=where,
            fix="add the corrupt prompt, or leave the roles out",
        )
    answer, distractor = read_answer(fields, "answer", where), read_answer(fields, "distractor", where)
    if both := set(options(answer)) & set(options(distractor)):
        what = f"answer and distractor are both {next(iter(both))!r}"
        raise InterpError("E307", what, where=where, fix="name a wrong answer as distractor")
    spans = read_roles(fields, "roles", clean, where)
    corrupt_spans = read_roles(fields, "corrupt_roles", corrupt, where) if corrupt is not None else {}
    return Example(read_id(fields, line.number, where), clean, answer, distractor, corrupt, spans, corrupt_spans, where)


def check_names(fields: Mapping[str, Any], where: str) -> None:
    """Refuse fields that look like a misspelt one, or that ask for something a prompt file cannot do."""
    for name in fields:
        if name in UNREAD:
            raise InterpError("E303", f"field {name!r} is not supported in prompt files", where=where, fix=UNREAD[name])
        if name in FIELDS or len(name) <= 3:
            continue
        if near := get_close_matches(name, FIELDS, n=1, cutoff=0.8):
            raise InterpError("E303", f"unknown field {name!r}", where=where, fix=f"did you mean {near[0]!r}?")


def read_text(value: Any, name: str, where: str) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InterpError(
            "E303", f"field {name!r} holds {type(value).__name__}, not text", where=where, fix=f'write "{name}": "..."'
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"field {name!r} holds half a surrogate pair at character {error.start}"
        raise InterpError("E302", what, where=where) from error
    return value


def is_token(value: Any) -> bool:
    """Whether a JSON value is a token id: a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_prompt(fields: Mapping[str, Any], name: str, where: str) -> Prompt:
    """A prompt as text or as token ids, not empty."""
    value = fields[name]
    is_ids = isinstance(value, list) and all(map(is_token, value))
    prompt: Prompt = tuple(value) if is_ids else read_text(value, name, where)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        what = f"{name} is empty" if not prompt else f"{name} is only white space"
        raise InterpError("E304", what, where=where, fix="delete the line, or fill it in")
    return prompt


def read_answer(fields: Mapping[str, Any], name: str, where: str) -> Option | tuple[Option, ...] | None:
    """An answer as text or as a token id, or a list of them; None where the row has none."""
    if name not in fields:
        return None
    value = fields[name]
    if value == []:
        raise InterpError("E303", f"{name} is empty", where=where, fix="leave the field out where there is none")
    return (
        tuple(read_option(one, name, where) for one in value)
        if isinstance(value, list)
        else read_option(value, name, where)
    )


def read_option(value: Any, name: str, where: str) -> Option:
    """One answer."""
    if is_token(value):
        return int(value)
    if not (text := read_text(value, name, where)):
        raise InterpError("E303", f"{name} is empty", where=where, fix="leave the field out where there is none")
    return text


def options(answer: Option | tuple[Option, ...] | None) -> tuple[Option, ...]:
    """Every answer of one field."""
    return answer if isinstance(answer, tuple) else () if answer is None else (answer,)


def read_roles(fields: Mapping[str, Any], name: str, prompt: Prompt, where: str) -> dict[str, Span]:
    """Role -> (start, end), inside the prompt."""
    roles = fields.get(name, {})
    if not isinstance(roles, dict):
        what = f"{name} is a {type(roles).__name__}, not an object"
        raise InterpError("E303", what, where=where, fix='write {"subject": [5, 9]}')
    for role, span in roles.items():
        if not (isinstance(span, list) and len(span) == 2 and all(map(is_token, span))):
            fix = "write [start, end], counted from 0, the end not included"
            raise InterpError("E303", f"{name}: {role!r} is {span!r}", where=where, fix=fix)
        if not span[0] < span[1] <= len(prompt):
            what = f"{name}: {role!r} is {span}, in a prompt of length {len(prompt)}"
            raise InterpError("E313", what, where=where, fix="start < end <= length")
    return {role: (span[0], span[1]) for role, span in roles.items()}


def read_id(fields: Mapping[str, Any], number: int, where: str) -> str:
    """The row's id, or `line-N` where it has none."""
    value = fields.get("id", f"line-{number}")
    if not (is_token(value) or (isinstance(value, str) and value.strip())):
        raise InterpError("E303", f"id is {value!r}", where=where, fix="text or a whole number, or leave it out")
    return read_text(str(value), "id", where)
