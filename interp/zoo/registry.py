"""Bundled models: every folder beside this file that has a card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from interp.kernels.errors import InterpError, suggest

ROOT = Path(__file__).parent
CARD = "card.json"


def list_models() -> dict[str, dict[str, Any]]:
    """Cards of the bundled models by name, in alphabetical order."""
    return {card.parent.name: json.loads(card.read_text("utf-8")) for card in sorted(ROOT.glob(f"*/{CARD}"))}


def find(name: str) -> Path | None:
    """Folder of a bundled model, None where no bundled model has this name."""
    return ROOT / name if name in list_models() else None


def near(name: str) -> str:
    """What to say to a wrong name: the bundled names like it, or all of them."""
    return suggest(name, list_models())


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> dict[str, Any]:
    """The model's card, once every file it lists has the hash it states.

    Raises:
        InterpError: E701, naming the first file that is missing or differs.
    """
    card = json.loads((folder / CARD).read_text("utf-8"))
    for name, stated in card["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise InterpError("E701", f"{name} is missing", where=str(path), fix="install the package again")
        if (found := digest(path)) != stated:
            raise InterpError(
                "E701",
                f"{name} has SHA-256 {found}, the card says {stated}",
                where=str(path),
                fix="install the package again",
            )
    return card
