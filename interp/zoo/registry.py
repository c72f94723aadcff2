"""Bundled models and their recipes, found by looking into `models/` and `recipes/`."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.zoo.recipe import Recipe

ROOT = Path(__file__).parent / "models"
CARD = "card.json"


def list_models() -> dict[str, dict[str, Any]]:
    """Cards of the bundled models by name, in alphabetical order."""
    return {card.parent.name: json.loads(card.read_text("utf-8")) for card in sorted(ROOT.glob(f"*/{CARD}"))}


@cache
def list_recipes() -> dict[str, Recipe]:
    """Recipes by the name of the model they make, in alphabetical order."""
    folder = Path(__file__).parent / "recipes"
    modules = [import_module(f"interp.zoo.recipes.{found.name}") for found in iter_modules([str(folder)])]
    recipes = [recipe for module in modules for recipe in getattr(module, "RECIPES", ())]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def recipe_of(name: str) -> Recipe:
    """The recipe of a bundled model.

    Raises:
        InterpError: E201, no recipe has this name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise InterpError("E201", f"no recipe {name!r}", fix=suggest(name, recipes))
    return recipes[name]


def find(name: str) -> Path | None:
    """Folder of a bundled model, None where no bundled model has this name."""
    return ROOT / name if name in list_models() else None


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
