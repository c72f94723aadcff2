"""`interp models`: what is bundled."""

from __future__ import annotations

from typing import Any

from interp.cli.terminal import Terminal


def models(terminal: Terminal) -> None:
    """List the bundled models: how each came about, its shape, what it was measured to do, and the hash of its weights."""
    from interp.zoo.registry import list_models

    cards = list_models()
    rows = [
        (
            name,
            card["kind"],
            card["architecture"],
            f"{card['layers']} x {card['heads']}",
            f"{card['parameters']:,}",
            card["sha256"]["model.safetensors"][:12],
            measured(card),
        )
        for name, card in cards.items()
    ]
    header = ("model", "kind", "architecture", "layers x heads", "parameters", "weights", "measured accuracy")
    terminal.table(header, rows)
    terminal.emit({"exit_code": 0, "models": cards})


def measured(card: dict[str, Any]) -> str:
    """Accuracy on each task, short; where it was measured by kind of question, that on all of them."""
    accuracy = card["measured"].get("accuracy", {})
    named = accuracy if isinstance(accuracy, dict) else {"": accuracy}
    overall = {task: value["all"] if isinstance(value, dict) else value for task, value in named.items()}
    return ", ".join(f"{task} {value:.1%}".strip() for task, value in overall.items())
