"""The card of a bundled model: what it is, how it was made, what it can do, and the hashes of its files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interp.zoo.registry import CARD, digest

PACKAGES = ("torch", "transformers", "tokenizers")


def write_card(folder: Path, name: str, model: Any, recipe: Any, measured: Mapping[str, Any]) -> None:
    """Write `card.json` into a folder that `save_pretrained` has filled.

    Args:
        folder: the model's folder.
        name: name of the bundled model.
        model: the trained model.
        recipe: the dataclass that it was trained from.
        measured: what `interp.zoo.evaluate` found.
    """
    config = model.config
    card = {
        "name": name,
        "architecture": type(model).__name__,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "positions": config.max_position_embeddings,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": recipe.data,
        "recipe": asdict(recipe),
        "command": f"python -m interp.zoo.train {name} --seed {recipe.seed} --steps {recipe.steps} --out DIR",
        "measured": dict(measured),
        "measured_by": f"python -m interp.zoo.evaluate {name}",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "sha256": {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != CARD},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
