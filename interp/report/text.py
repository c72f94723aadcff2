"""Text of others made fit to print: nothing invisible, nothing that turns the line round, nothing without end."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from html import escape

LIMIT = 4000
LABEL = 16
PROMPT = 240
LINE = 64

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that show as nothing, change the direction of text, or cannot be written as UTF-8."""

WHITESPACE = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})


def visible(text: str, limit: int = LIMIT) -> str:
    """The text with control characters spelled out, and cut with a note where it is longer than `limit`.

    Newlines and tabs stay; a right-to-left override becomes `\\u202e`.
    """
    spelled = "".join(char if char in "\n\t" or not _is_hidden(char) else _spell(char) for char in text[:limit])
    return spelled if len(text) <= limit else f"{spelled}… ({len(text):,} characters)"


def escaped(text: str) -> str:
    """Text for labels in a figure: Plotly reads tags there; it knows `&lt;` but would print `&quot;` as it stands."""
    return escape(text, quote=False)


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in HIDDEN


def _spell(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def token_label(token: str) -> str:
    """A token as an axis label: short, on one line, with whitespace made visible; `''` where it is empty."""
    marked = visible(token[:LABEL].translate(WHITESPACE))
    return (marked if len(token) <= LABEL else f"{marked}…") or "''"


def prompt_text(tokens: Sequence[str]) -> str:
    """A prompt as one line: its tokens joined, and cut in the middle where it is long (both ends tell most)."""
    pieces = [token if len(token) <= PROMPT else f"{token[:PROMPT]}…" for token in tokens]
    has_spaces = any(char.isspace() for piece in pieces for char in piece)
    text = ("" if has_spaces else " ").join(pieces)
    shown = text if len(text) <= PROMPT else f"{text[: PROMPT // 2]} … {text[-PROMPT // 2 :]}"
    return visible(shown.replace("\n", "↵").replace("\t", "⇥"))


def wrapped(text: str) -> list[str]:
    """The text in lines; words may be cut, because a text need not have spaces."""
    return [text[start : start + LINE] for start in range(0, len(text), LINE)]
