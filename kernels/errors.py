"""The one error type of the toolkit: what went wrong, where, and how to mend it.

A code names the mistake for good (`INTERP-E301`); its first digit is the exit code of the command line, so a script
can tell bad data (3) from a model that cannot do the job (4) without reading text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_CODES = {
    2: "usage: a wrong argument",
    3: "bad input data",
    4: "the model cannot do this",
    5: "partial: some rows or shards are missing",
    6: "environment: disk, memory, a missing browser or package",
    7: "integrity: a hash or schema does not match",
    130: "interrupted",
}

CODES = {
    "E201": "unknown or ambiguous name",
    "E202": "head label not understood",
    "E203": "head or layer index out of range",
    "E204": "unsafe or unusable name or path",
    "E205": "arguments that contradict each other",
    "E206": "shape or dtype does not fit",
    "E207": "not a number",
    "E301": "not valid JSON, CSV or XML",
    "E302": "file is not UTF-8 text",
    "E303": "field missing or of the wrong type",
    "E304": "empty prompt",
    "E305": "clean and corrupt prompts differ in token length",
    "E306": "answer is not a single token",
    "E307": "answer equals distractor",
    "E308": "one id, two contents",
    "E309": "prompt longer than the model's positions",
    "E310": "pickle refused",
    "E311": "no prompt left",
    "E312": "tokenizers differ",
    "E313": "role or span not found",
    "E314": "image missing or unreadable",
    "E315": "the prompt is there already, in another row or on the side that chooses",
    "E401": "model has no attention heads",
    "E402": "logits come from a head that was never trained",
    "E403": "hook point not available on this model",
    "E404": "edit had no effect or did not fire",
    "E405": "model could not be loaded",
    "E406": "hooked model differs from the plain model",
    "E407": "metric not defined for this model",
    "E501": "too many rows are not finite",
    "E502": "a run is not finished: some of its parts have no values",
    "E503": "a self-check of computed numbers failed",
    "E601": "package or program missing",
    "E602": "disk full or not writable",
    "E603": "out of memory, or a worker that died again and again",
    "E604": "run folder in use by another process",
    "E605": "no cluster at this address",
    "E701": "file damaged: hash does not match",
    "E702": "schema not known to this version",
    "E703": "something changed since the run was planned",
}


class InterpError(Exception):
    """An error a user can act on.

    Args:
        code: a key of `CODES`.
        what: one line, what is wrong.
        where: file and line, layer and head, prompt id; empty where there is no place to name.
        fix: one line, what to type or change.
    """

    def __init__(self, code: str, what: str, *, where: str = "", fix: str = "") -> None:
        assert code in CODES, f"error code {code} is not in kernels/errors.py"
        super().__init__(what)
        self.code, self.what, self.where, self.fix = code, what, where, fix

    @property
    def exit_code(self) -> int:
        """Exit code of the command line: the first digit of the code."""
        return int(self.code[1])

    def __str__(self) -> str:
        lines = [f"INTERP-{self.code}: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


def suggest(name: str, known: Iterable[str]) -> str:
    """A 'did you mean' clause for a wrong name, or the list of known names when none is near."""
    options = sorted(known)
    near = get_close_matches(name, options, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(options) or '(none)'}"


class InterpErrors(InterpError):
    """Several mistakes found in one pass; prints the first twenty. The first one's code decides the exit code."""

    SHOWN = 20

    def __init__(self, errors: list[InterpError]) -> None:
        assert errors, "InterpErrors needs at least one error"
        first = errors[0]
        super().__init__(first.code, first.what, where=first.where, fix=first.fix)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        lines = [str(error) for error in self.errors[: self.SHOWN]]
        if len(self.errors) > self.SHOWN:
            lines.append(f"... and {len(self.errors) - self.SHOWN} more")
        return "\n".join(lines)
