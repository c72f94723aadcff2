"""Interventions while a model writes: positions that are numbers become columns, and what would mean two things is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from interp.hooks.generation.texts import Texts
from interp.hooks.interventions.base import POSITION_FIELDS, Hook, Intervention
from interp.hooks.names import SQUARE, PointId
from interp.hooks.reference import Reference
from interp.hooks.swap import Swapped
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def placed(model: HookedModel, edits: Sequence[Intervention], texts: Texts, longest: int) -> tuple[Intervention, ...]:
    """The interventions as they act on these texts: numbers are places in the text as it was given.

    Args:
        longest: columns that the texts can have in the end.

    Raises:
        InterpError: E205 what cannot mean the same for a token alone and in a whole text; E313 a position outside.
    """
    prompts, places, found = texts.batch(0), dict(texts.places), list[Intervention]()
    for edit in edits:
        hooks = edit.hooks(model, prompts)
        _check(model, edit, hooks)
        towers = {model.adapter.available[name].tower for name, _ in hooks}
        found.append(_placed(edit, places, longest - min(texts.shifts)) if _is_about_text(edit, towers) else edit)
    texts.places = places
    return tuple(found)


def _numbers(edit: Intervention) -> dict[str, tuple[int, ...]]:
    """Its positions that are numbers."""
    return {name: value for name in POSITION_FIELDS if isinstance(value := getattr(edit, name, None), tuple)}


def _is_about_text(edit: Intervention, towers: set[str]) -> bool:
    """Whether its positions are numbers of tokens; heads of other towers stand in pictures."""
    if _numbers(edit) and len(towers) > 1:
        names = ", ".join(sorted(tower or "(main)" for tower in towers))
        raise InterpError("E205", f"one list of positions for several towers: {names}", fix="an intervention for each")
    return towers <= {""}


def _placed(edit: Intervention, places: dict[str, tuple[int, ...]], limit: int) -> Intervention:
    """The intervention with roles for numbers, which `places` then knows."""
    numbers = _numbers(edit)
    for name, value in numbers.items():
        if outside := [place for place in value if not 0 <= place < limit]:
            raise InterpError(
                "E313",
                f"position {outside[0]} is outside texts of {limit} tokens",
                where=f"{type(edit).__name__}.{name}",
                fix="positions count from 0, padding included; the last token that is written is read by nobody",
            )
        places[_role(value)] = value
    return replace(edit, **{name: _role(value) for name, value in numbers.items()})  # type: ignore[arg-type]


def _role(places: tuple[int, ...]) -> str:
    return f"positions {', '.join(map(str, places))}"


def _check(model: HookedModel, edit: Intervention, hooks: Sequence[Hook]) -> None:
    """Raise where an edit of one token alone would be another edit than that of the whole text."""
    for name, function in hooks:
        model.check_point(name)
        point = model.adapter.available[name]
        if point.tower:
            continue
        if isinstance(function, Swapped) and function.variant.looks_ahead:
            raise InterpError(
                "E205",
                f"{function.variant.name} changes earlier tokens when a text grows: {function.variant.looks_ahead}",
                where=type(edit).__name__,
                fix="use an operator that looks back alone; for calibrated sinks, the intervention Calibrate",
            )
        for reference in _references(edit):
            _check_shape(reference, point)


def _check_shape(reference: Reference, point: PointId) -> None:
    """Raise where the values at a point stand at positions."""
    axes = 0 if point.kind in SQUARE else len(point.axes.split()) - 2
    if point.name not in reference.values or reference.values[point.name].ndim <= axes:
        return
    shape = tuple(reference.values[point.name].shape)
    raise InterpError(
        "E205",
        f"reference values of shape {shape} stand at the positions of one text, and the text that is written grows",
        where=point.name,
        fix=f"one value for all positions ({axes} axes), such as a mean" if axes else "Blend, Knockout or Redistribute",
    )


def _references(edit: Intervention) -> list[Reference]:
    return [value for field in fields(edit) if isinstance(value := getattr(edit, field.name), Reference)]
