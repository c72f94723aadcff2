"""What a verb says: text for people, one JSON document for machines, and progress. Never mixed on one stream."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from interp.report.text import visible

PROGRESS_LINES = 10

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Terminal:
    """Where a verb's output goes.

    Attributes:
        json: one JSON document on stdout, and all text on stderr.
        quiet: no text, only errors.
        progress: show how far a long run is.
        debug: a traceback with every error.
        seed: of everything that is drawn.
        command: what to type to run the verb again with the same arguments.
    """

    json: bool = False
    quiet: bool = False
    progress: bool = True
    debug: bool = False
    seed: int = 0
    command: str = ""

    def say(self, text: str = "") -> None:
        """Print for people, with control characters made visible."""
        if not self.quiet:
            print(visible(text), file=sys.stderr if self.json else sys.stdout)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns."""
        cells = [[visible(cell).replace("\n", "\\n") for cell in row] for row in (header, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            self.say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def emit(self, data: Mapping[str, Any]) -> None:
        """Print for machines; numbers that are not finite become null, and `not_finite` says where."""
        if self.json:
            from interp.circuits.files import encode_json

            print(encode_json(data).decode("utf-8", "replace"), end="", file=sys.stdout)

    def complain(self, text: str) -> None:
        """Print an error, which --quiet does not silence."""
        print(visible(text), file=sys.stderr)

    @contextmanager
    def following(self, what: str) -> Iterator[Report | None]:
        """Progress of `what` on stderr: a bar on a terminal, else a few plain lines; None where nobody wants it."""
        if self.quiet or not self.progress:
            yield None
        elif sys.stderr.isatty():
            with bar(what) as report:
                yield report
        else:
            yield lines(what)


@contextmanager
def bar(what: str) -> Iterator[Report]:
    """A bar on stderr, with the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task(what, total=None, rate="")
        yield lambda done, total: progress.update(row, completed=done, total=total, rate=speed(done, start))


def lines(what: str) -> Report:
    """A line on stderr for each tenth of the work, with the rate and the time left."""
    shown, start = 0, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        step = done * PROGRESS_LINES // max(total, 1)
        if step > shown:
            shown = step
            left = (time.monotonic() - start) * (total - done) / done
            print(f"{what}: {done} of {total}, {speed(done, start)}, {left:.0f} s left", file=sys.stderr, flush=True)

    return report


def speed(done: int, start: float) -> str:
    """How many a second so far."""
    return f"{done / max(time.monotonic() - start, 1e-9):.3g} a second"
