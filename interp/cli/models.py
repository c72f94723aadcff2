"""`interp models`: what is bundled."""

from __future__ import annotations

from typing import Any

from interp.cli.terminal import Terminal


def models(terminal: Terminal) -> None:
    """List the bundled models."""
    from interp.zoo.registry import list_models

    cards = list_models()
    rows = [
        (
            name,
            card["architecture"],
            f"{card['layers']} x {card['heads']}",
            f"{card['parameters']:,}",
            measured(card),
        )
        for name, card in cards.items()
    ]
    terminal.table(("model", "architecture", "layers x heads", "parameters", "held-out accuracy"), rows)
    terminal.emit({"exit_code": 0, "models": cards})


def measured(card: dict[str, Any]) -> str:
    """Held-out accuracy on each task, short."""
    return ", ".join(f"{task} {accuracy:.1%}" for task, accuracy in card["measured"]["accuracy"].items())
