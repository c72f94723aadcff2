"""All numbers of a run over maps, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float

from interp.circuits.question import Question
from interp.hooks.naive import Progress, batches
from interp.maps.chance import RANDOM, drawn
from interp.maps.curves import CURVES, curves
from interp.maps.deception import Deceit, deceive
from interp.maps.look import Look
from interp.maps.method import Method
from interp.maps.removal import leave_one_out
from interp.maps.settings import Settings

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

TIES = 1 << 20
"""Number of the draw that orders equal numbers; no random map has it."""

MOVES = ("true", "decoy", "distance", "change", "true_before", "true_after", "decoy_before", "decoy_after")
"""What is kept of moved patterns, prompt by prompt."""


@dataclass
class Collected:
    """Numbers of all prompts; nan at padding and where nothing was measured.

    Attributes:
        tokens: that may be taken away: all but the one at which the answer is read.
        values: maps.
        moved_values: maps of the run with moved patterns.
        effects: by way, what the metric loses without each token.
        moved_effects: the same in the run with moved patterns, by the first way.
        curves: by way, the metric along both curves; the random map's are means over draws.
        moves: `MOVES` of each prompt.
    """

    baseline: Float[np.ndarray, " prompt"]
    tokens: Bool[np.ndarray, "prompt pos"]
    values: Float[np.ndarray, "method prompt pos"]
    moved_values: Float[np.ndarray, "method prompt pos"]
    effects: dict[str, Float[np.ndarray, "prompt pos"]]
    moved_effects: Float[np.ndarray, "prompt pos"]
    curves: dict[str, Float[np.ndarray, "curve method step prompt"]]
    moves: Float[np.ndarray, "move prompt"]

    @classmethod
    def empty(cls, n: int, width: int, n_methods: int, settings: Settings) -> Collected:
        """Room for so many prompts, tokens and methods."""

        def room(*shape: int) -> np.ndarray:
            return np.full(shape, np.nan)

        points = (len(CURVES), n_methods, settings.steps + 1, n)
        return cls(
            baseline=room(n),
            tokens=np.zeros((n, width), dtype=bool),
            values=room(n_methods, n, width),
            moved_values=room(n_methods, n, width),
            effects={way: room(n, width) for way in settings.ways},
            moved_effects=room(n, width),
            curves={way: room(*points) for way in settings.ways},
            moves=room(len(MOVES), n),
        )


def collect(
    model: HookedModel,
    question: Question,
    methods: Sequence[Method],
    settings: Settings,
    neutral: int | None,
    progress: Progress | None,
) -> Collected:
    """Maps, curves, and the deceptive control."""
    n = question.batch.size
    found = Collected.empty(n, question.batch.input_ids.shape[1], len(methods), settings)
    for start, stop in batches(n, settings.batch_size):
        _clean(Look(model, question, start, stop, neutral, settings.seed), methods, settings, found)
        if start < settings.deceive:
            part = Look(model, question, start, min(stop, settings.deceive), neutral, settings.seed)
            _moved(part, methods, settings, found)
        if progress is not None:
            progress(stop, n)
    return found


def _clean(look: Look, methods: Sequence[Method], settings: Settings, found: Collected) -> None:
    """Everything about the run as it is."""
    rows = slice(look.start, look.stop)
    tokens = removable(look).cpu()
    found.baseline[rows], found.tokens[rows] = look.baseline.numpy(), tokens.numpy()
    for index, method in enumerate(methods):
        found.values[index, rows] = _map(method, look)
    width = tokens.shape[1]
    ties = np.stack([drawn(look.seed, prompt, TIES, width) for prompt in range(look.start, look.stop)])
    names = [method.name for method in methods]
    for way in settings.ways:
        found.effects[way][rows] = leave_one_out(look, tokens.to(look.real.device), way).numpy()
        maps, owner = found.values[:, rows], list(range(len(methods)))
        for draw in range(1, settings.draws):
            extra = np.stack([drawn(look.seed, prompt, draw, width) for prompt in range(look.start, look.stop)])
            maps, owner = np.concatenate([maps, extra[None]]), [*owner, names.index(RANDOM)]
        each = curves(look, maps, tokens.numpy(), ties, way, settings.steps)
        for index in range(len(methods)):
            found.curves[way][:, index, :, rows] = each[:, np.array(owner) == index].mean(1)


def _moved(look: Look, methods: Sequence[Method], settings: Settings, found: Collected) -> None:
    """Maps and leave-one-out of the same prompts with moved patterns."""
    rows, way = slice(look.start, look.stop), settings.ways[0]
    tokens = removable(look)
    deceit = deceive(look, torch.from_numpy(found.effects[way][rows]), tokens, settings.moves)
    if deceit is None:
        return
    found.moves[:, rows] = _told(deceit)
    with look.model.edit(deceit.edit):
        after = Look(look.model, look.question, look.start, look.stop, look.neutral, look.seed)
        for index, method in enumerate(methods):
            if method.bears_edits:
                found.moved_values[index, rows] = _map(method, after)
        found.moved_effects[rows] = leave_one_out(after, tokens, way).numpy()


def _map(method: Method, look: Look) -> Float[np.ndarray, "batch pos"]:
    values = method.measure(look).detach().double().cpu()
    return values.masked_fill(~look.real.cpu(), torch.nan).numpy()


def _told(deceit: Deceit) -> Float[np.ndarray, "move batch"]:
    columns = [deceit.true, deceit.decoy, deceit.distance, deceit.change, *deceit.mass.unbind(1)]
    return np.stack([column.double().cpu().numpy() for column in columns])


def removable(look: Look) -> Bool[torch.Tensor, "batch pos"]:
    """Tokens that may be taken away: not the one at which the answer is read, which is always there to be read."""
    at = look.read_at.to(look.real.device)
    return look.real & (torch.arange(look.real.shape[1], device=look.real.device) != at[:, None])
