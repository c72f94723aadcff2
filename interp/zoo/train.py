"""Make a bundled model from its recipe: train it, or write its weights.

Every step's data depends on seed and step alone and a checkpoint holds weights and optimiser state, so an interrupted
training that is resumed gives the weights of an undisturbed one, bit for bit on the same machine and thread count.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from interp.hooks.loading import quiet
from interp.kernels.errors import InterpError
from interp.zoo import checkpoint
from interp.zoo.card import write_card
from interp.zoo.recipe import Recipe, Training

EVERY = 250
"""Steps between checkpoints where nobody says otherwise."""


def make(
    recipe: Recipe, out: Path, *, checkpoint_every: int | None = None, resume: bool = False, device: str | None = None
) -> Path:
    """Make the model and its card in `out/<name>`, which is returned; checkpoints of a training go to `out`.

    Args:
        checkpoint_every, resume, device: of a training; models whose weights are written have no use for them.

    Raises:
        InterpError: E204, `out` already holds a training and `resume` is false, or the other way round, or the training
            there is that of another recipe or has other numbers.
    """
    if isinstance(recipe, Training):
        claim(recipe, out, resume)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = recipe.build()
    if isinstance(recipe, Training):
        train(recipe, model.to(device or "cpu"), out, checkpoint_every=checkpoint_every or EVERY, resume=resume)
    folder = out / recipe.name
    with quiet():
        recipe.save(model.to("cpu").eval(), folder)
        write_card(folder, recipe, model)
    return folder


def train(recipe: Training, model: Any, out: Path, *, checkpoint_every: int, resume: bool) -> None:
    """Run the steps that are left; the model is changed in place."""
    optimisers = recipe.optimisers(model)
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    first = checkpoint.load(out, model, optimisers) if resume else 0
    start = time.monotonic()
    model.train()
    for step in range(first, recipe.steps):
        for group, rate in zip((g for opt in optimisers for g in opt.param_groups), rates, strict=True):
            group["lr"] = rate * recipe.rate(step)
        losses = recipe.backward(model, step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            checkpoint.save(out, step + 1, recipe, model, optimisers)
            report(step + 1, losses, recipe.progress(model.eval()), time.monotonic() - start)
            model.train()


def claim(recipe: Training, out: Path, resume: bool) -> None:
    """Refuse to overwrite a training, or to resume none or another one."""
    is_there = (out / checkpoint.FILE).exists()
    if resume and not is_there:
        raise InterpError("E204", "no checkpoint to resume", where=str(out), fix="leave out --resume")
    if is_there and not resume:
        fix = "add --resume, or choose another folder"
        raise InterpError("E204", "a training is already here", where=str(out), fix=fix)
    if resume:
        checkpoint.check(out, recipe)


def report(step: int, losses: dict[str, float], found: dict[str, float], seconds: float) -> None:
    """One line of progress on the standard error stream."""
    pairs = [f"{name} {value:.3f}" for name, value in {**losses, **found}.items()]
    print(f"step {step}: {', '.join(pairs)}; {seconds:.0f} s", file=sys.stderr, flush=True)
