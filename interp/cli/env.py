"""`interp env`: what a bug report needs."""

from __future__ import annotations

import os
from shutil import which
from typing import Any

import interp
from interp.cli.terminal import Terminal

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def env(terminal: Terminal) -> None:
    """Show versions, devices and what is installed."""
    about = environment()
    for name, value in about.items():
        terminal.say(f"{name}: {value if value is not None else 'not found'}")
    terminal.emit({"exit_code": 0, **about})


def environment() -> dict[str, Any]:
    """Versions and devices of this machine."""
    import torch

    from interp.circuits.results import environment as versions

    return {
        **versions(),
        "interp": interp.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"),
        "browser": find_browser(),
    }


def find_browser() -> str | None:
    """Path of a Chromium, named by BROWSER_PATH or found on the path."""
    return os.environ.get("BROWSER_PATH") or next((path for name in BROWSERS if (path := which(name))), None)
