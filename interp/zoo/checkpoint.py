"""Where a training stands, on disk: weights, the state of its optimisers and its recipe, written all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.kernels.errors import InterpError
from interp.zoo.differences import differences
from interp.zoo.recipe import Training

FILE = "checkpoint.safetensors"


def save(
    folder: Path, step: int, recipe: Training, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    """Write what stands after `step` steps of a recipe."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight/{name}": parameter.detach().contiguous() for parameter, name in names.items()}
    for parameter, state in _states(optimisers):
        tensors.update({f"{key}/{names[parameter]}": value.contiguous() for key, value in state.items()})
    unfinished = folder / f"{FILE}.part"
    save_file(tensors, unfinished, metadata={"step": str(step), "recipe": json.dumps(_stated(recipe))})
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


def check(folder: Path, recipe: Training) -> None:
    """Refuse a checkpoint of another recipe: data and learning rates would change on the way.

    Raises:
        InterpError: E204, with every field that differs, what it was there and what it is here.
    """
    path = folder / FILE
    with safe_open(path, "pt") as file:
        kept = file.metadata().get("recipe")
    if kept is None:
        what = "the checkpoint does not say which recipe it was made by"
        raise InterpError("E204", what, where=str(path), fix="begin anew in another folder")
    if found := differences(json.loads(kept), _stated(recipe)):
        listed = "; ".join(f"{field}: there {there!r}, here {here!r}" for field, there, here in found)
        what = f"the checkpoint was made by another recipe: {listed}"
        raise InterpError("E204", what, where=str(path), fix="give the same numbers, or begin anew in another folder")


def _stated(recipe: Training) -> dict[str, Any]:
    return {"recipe": recipe.name, **recipe.numbers}


def _states(optimisers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            assert all(isinstance(value, Tensor) for value in state.values()), "a number would not be kept"
            yield parameter, dict(state)
