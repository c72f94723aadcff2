"""Train a bundled model from its recipe: `python -m interp.zoo.train mini --out DIR [--steps N] [--resume]`.

Every step's data depends on seed and step alone and a checkpoint holds weights and optimiser state, so an interrupted
training that is resumed gives the weights of an undisturbed one, bit for bit on the same machine and thread count.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from interp.kernels.errors import InterpError, suggest
from interp.zoo import evaluate
from interp.zoo.card import write_card
from interp.zoo.recipes import mini

RECIPES = {"mini": mini.Mini}
CHECKPOINT = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(recipe: mini.Mini, step: int) -> float:
    """Linear warm-up, then a cosine down to nothing at the last step."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_optimiser(recipe: mini.Mini, model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW without weight decay on the norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def save_checkpoint(folder: Path, step: int, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write weights and optimiser moments after `step` steps, all or nothing."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors.update({f"{moment}/{name}": optimiser.state[parameter][moment] for moment in MOMENTS})
    unfinished = folder / f"{CHECKPOINT}.part"
    save_file(tensors, unfinished, metadata={"step": str(step)})
    os.replace(unfinished, folder / CHECKPOINT)


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read a checkpoint into model and optimiser; returns how many steps it has behind it."""
    with safe_open(folder / CHECKPOINT, "pt") as file:
        step = int(file.metadata()["step"])
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"weight/{name}"))
            moments = {moment: file.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step


def train_step(
    recipe: mini.Mini, step: int, model: Any, tokenizer: Any, optimiser: torch.optim.Optimizer
) -> list[float]:
    """One optimiser step; returns the loss of each of its batches in nats per token."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, step)
    losses = []
    for ids, labels in mini.batches(recipe, tokenizer, step):
        loss = model(torch.from_numpy(ids).to(model.device), labels=torch.from_numpy(labels).to(model.device)).loss
        loss.backward()
        losses.append(loss.item())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return losses


def train(
    recipe: mini.Mini, out: Path, *, checkpoint_every: int = 250, resume: bool = False, device: str = "cpu"
) -> Path:
    """Train; checkpoints go to `out`, the finished model and its card to `out/<name>`, which is returned.

    Raises:
        InterpError: E204, `out` already holds a training and `resume` is false, or the other way round.
    """
    claim(out, resume)
    torch.manual_seed(recipe.seed)
    tokenizer: Any = mini.build_tokenizer(recipe)
    model: Any = mini.build_model(recipe, tokenizer)
    model.to(device).train()
    optimiser = build_optimiser(recipe, model)
    first = load_checkpoint(out, model, optimiser) if resume else 0
    start = time.monotonic()
    for step in range(first, recipe.steps):
        losses = train_step(recipe, step, model, tokenizer, optimiser)
        if (step + 1) % checkpoint_every == 0:
            save_checkpoint(out, step + 1, model, optimiser)
            found = evaluate.accuracies(model.eval(), tokenizer, evaluate.HELD_OUT)
            report(step + 1, losses, found, time.monotonic() - start)
            model.train()
    folder = out / recipe.name
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, recipe.name, model, recipe, evaluate.measure(model, tokenizer, evaluate.HELD_OUT))
    return folder


def claim(out: Path, resume: bool) -> None:
    """Make the folder; refuse to overwrite a training, or to resume none."""
    out.mkdir(parents=True, exist_ok=True)
    is_there = (out / CHECKPOINT).exists()
    if resume and not is_there:
        raise InterpError("E204", "no checkpoint to resume", where=str(out), fix="leave out --resume")
    if is_there and not resume:
        fix = "add --resume, or choose another folder"
        raise InterpError("E204", "a training is already here", where=str(out), fix=fix)


def report(step: int, losses: list[float], found: dict[str, float], seconds: float) -> None:
    """One line of progress on the standard error stream."""
    shares = " ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(
        f"step {step} loss {' '.join(f'{loss:.3f}' for loss in losses)} {shares} {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=250)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.model not in RECIPES:
        raise InterpError("E201", f"no recipe {given.model!r}", fix=suggest(given.model, RECIPES))
    recipe = RECIPES[given.model](seed=given.seed)
    if given.steps is not None:
        recipe = replace(recipe, steps=given.steps)
    train(recipe, given.out, checkpoint_every=given.checkpoint_every, resume=given.resume, device=given.device)


if __name__ == "__main__":
    main()
