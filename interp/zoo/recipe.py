"""`Recipe`: how one bundled model is made. One file a model in `recipes/`, which ends with its `RECIPES`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from interp.zoo.truth import Truth

KINDS = ("trained", "planted", "compiled", "trained to order")


@dataclass(frozen=True)
class Recipe(ABC):
    """A bundled model and everything that went into it; the fields are the recipe's numbers.

    Attributes:
        name: of the bundled model.
        kind: one of `KINDS`.
        data: one or two sentences on what it was made from.
        note: what a reader of the card should know besides.
        seed: of everything random.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    data: ClassVar[str]
    note: ClassVar[str] = ""

    seed: int = 0

    @abstractmethod
    def build(self) -> Any:
        """The transformers model: finished where weights are written, fresh where they are trained."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write the model, its tokenizer or processor and its prompts; the card is written by the caller."""

    @abstractmethod
    def measure(self, folder: Path) -> dict[str, Any]:
        """The card's figures, from the saved files alone, JSON-ready and the same at every call."""

    def truth(self) -> Truth | None:
        """The known answer, where there is one."""
        return None

    @property
    def numbers(self) -> dict[str, Any]:
        """The fields, for the card."""
        return asdict(self)


@dataclass(frozen=True)
class Training(Recipe):
    """A model that is trained, step by step.

    Attributes:
        steps: of the optimisers.
        learning_rate: at its highest.
        warmup: steps in which it rises from 0.
        clip: largest norm of the gradient.
        weight_decay: of matrices.
    """

    kind: ClassVar[str] = "trained"

    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 50
    clip: float = 1.0
    weight_decay: float = 0.05

    @abstractmethod
    def backward(self, model: Any, step: int) -> dict[str, float]:
        """Compute the losses of step `step`, call `backward()` on them and return them by name.

        Data depends on `seed` and `step` alone, so that a resumed training reads what it would have read.
        """

    @abstractmethod
    def progress(self, model: Any) -> dict[str, float]:
        """Held-out figures that are printed at each checkpoint."""

    def optimisers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """What moves the weights; AdamW unless a recipe says otherwise."""
        return [adamw(model.parameters(), self.learning_rate, self.weight_decay)]

    def rate(self, step: int) -> float:
        """Share of the full learning rate at a step: linear warm-up, then a cosine down to nothing at the last step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW without weight decay on vectors (norms, biases)."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, 0.98))


def muon_and_adamw(
    model: nn.Module, muon_rate: float, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, output layer and vectors (Jordan et al. 2024)."""
    inside = {id(p) for child in model.modules() if isinstance(child, nn.ModuleList) for p in child.parameters()}
    matrices = [p for p in model.parameters() if id(p) in inside and p.ndim == 2]
    others = [p for p in model.parameters() if not (id(p) in inside and p.ndim == 2)]
    muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(others, learning_rate, weight_decay)]
