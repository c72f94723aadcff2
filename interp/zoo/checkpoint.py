"""Where a training stands, on disk: weights and the state of its optimisers, written all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FILE = "checkpoint.safetensors"


def save(folder: Path, step: int, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Write what stands after `step` steps."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight/{name}": parameter.detach().contiguous() for parameter, name in names.items()}
    for parameter, state in _states(optimisers):
        tensors.update({f"{key}/{names[parameter]}": value.contiguous() for key, value in state.items()})
    unfinished = folder / f"{FILE}.part"
    save_file(tensors, unfinished, metadata={"step": str(step)})
    os.replace(unfinished, folder / FILE)


def load(folder: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Read a checkpoint into model and optimisers; returns how many steps it has behind it."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    owner = {p: opt for opt in optimisers for group in opt.param_groups for p in group["params"]}
    with safe_open(folder / FILE, "pt") as file:
        keys = set(file.keys())
        for parameter, name in names.items():
            parameter.data.copy_(file.get_tensor(f"weight/{name}"))
            states = {key.split("/", 1)[0] for key in keys if key.split("/", 1)[1] == name} - {"weight"}
            found: dict[str, Any] = {key: file.get_tensor(f"{key}/{name}") for key in states}
            if found:
                owner[parameter].state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
                }
        return int(file.metadata()["step"])


def _states(optimisers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            assert all(isinstance(value, Tensor) for value in state.values()), "a number would not be kept"
            yield parameter, dict(state)
