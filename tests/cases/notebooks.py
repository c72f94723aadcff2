"""Notebooks as tests run them: from top to bottom, with fewer prompts or without some sections where that is said."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def run_smaller(
    source: Path,
    instead: Mapping[str, str],
    *,
    skipped: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a notebook's names are after it ran.

    Args:
        instead: pieces of its text, each of which stands there once, and what to run in their place.
        skipped: titles of sections that are left out.
        given: names that skipped sections would have made.
    """
    text = source.read_text("utf-8")
    for piece, other in instead.items():
        assert text.count(piece) == 1, f"{source.name} has {piece!r} {text.count(piece)} times"
        text = text.replace(piece, other)
    start, *parts = re.split(r"^# ## (.*)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(skipped) <= set(sections), f"{source.name} has sections {', '.join(sections)}"
    kept = [start, *("" if title in skipped else body for title, body in sections.items())]
    module = ModuleType(f"notebook_{source.stem}")
    module.__dict__.update(given or {})
    sys.modules[module.__name__] = module  # dataclasses look up their module
    try:
        exec(compile("".join(kept), str(source), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return dict(module.__dict__)
