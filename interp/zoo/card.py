"""The card of a bundled model: what it is, how it was made, what it can do, and the hashes of its files."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interp.zoo.recipe import Recipe
from interp.zoo.registry import CARD, digest

PACKAGES = ("torch", "transformers", "tokenizers")


def write_card(folder: Path, recipe: Recipe, model: Any) -> None:
    """Measure a model that its recipe has saved into a folder, and write `card.json` beside it."""
    config = model.config.get_text_config()
    truth = recipe.truth()
    card = {
        "name": recipe.name,
        "kind": recipe.kind,
        "architecture": type(model).__name__,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "positions": config.max_position_embeddings,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": recipe.data,
        **({"note": recipe.note} if recipe.note else {}),
        "recipe": recipe.numbers,
        "command": f"interp zoo train {recipe.name} --out DIR",
        "measured": recipe.measure(folder),
        "measured_by": f"interp zoo verify {recipe.name}",
        **({} if truth is None else {"truth": truth.to_dict()}),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "sha256": {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != CARD},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
