"""Every kind of result by the name in its run folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from interp.circuits.results import Result
from interp.circuits.runfolder import RunFolder
from interp.kernels.errors import InterpError


class Kind(NamedTuple):
    """A kind of result: how the page calls it, and its class."""

    title: str
    home: str
    name: str


KINDS = {
    "ablation": Kind("Head ablation", "interp.ablation.result", "AblationResult"),
    "attribution": Kind("Direct attribution", "interp.attribution.result", "AttributionResult"),
    "circuit": Kind("Circuit", "interp.discovery.result", "Circuit"),
    "group": Kind("Group search", "interp.circuits.group_result", "GroupResult"),
    "passport": Kind("Head passport", "interp.passport.result", "Passport"),
    "patch": Kind("Patching", "interp.patching.result", "PatchResult"),
    "paths": Kind("Path patching", "interp.patching.result", "PathResult"),
    "safety": Kind("Safety heads", "interp.safety.result", "SafetyReport"),
    "scores": Kind("Head scores", "interp.heads.result", "HeadScores"),
    "sink-effects": Kind("What sinks are for", "interp.sinks.effects", "SinkEffects"),
    "sinks": Kind("Attention sinks", "interp.sinks.result", "SinkReport"),
    "swap": Kind("Swapped attention", "interp.swapping.result", "SwapResult"),
    "token-maps": Kind("Attribution maps", "interp.maps.result", "TokenMaps"),
    "vision-study": Kind("Vision-aware heads", "interp.vision.table", "SeeingStudy"),
}


def title_of(result: Result) -> str:
    """What a page calls results of this kind."""
    return KINDS[result.kind].title


def open_result(folder: str | Path) -> Result:
    """Read a run folder, whichever kind of result it holds, and check every file in it.

    Raises:
        InterpError: E204 no complete run; E701 a file is missing or changed; E702 a kind that this version does not read.
    """
    kind = str(RunFolder.unchecked(folder).manifest.get("kind"))
    if kind not in KINDS:
        fix = "open it with the version of interp named under run.versions in manifest.json"
        raise InterpError("E702", f"a {kind!r} result", where=str(folder), fix=fix)
    found: type[Result] = getattr(import_module(KINDS[kind].home), KINDS[kind].name)
    return found.load(folder)
