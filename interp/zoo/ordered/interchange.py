"""Strict interchange-intervention training: a transformer is made to compute what a program computes, where it is told to.

Each variable of the program is aligned with nodes of the model (heads `L0H1`, MLPs `M0`). The model learns to answer as
the program does; with the nodes of some variables taken over from another prompt, to answer as the program does with
those variables taken over; and with any other nodes taken over, to answer as if nothing had happened (Gupta et al. 2024,
arXiv 2407.14494; Geiger et al. 2022, arXiv 2112.00826).

That leaves paths open that no program has: a node may listen to another one, as long as a third makes up for it. So
nodes are also taken over from runs that were themselves interchanged. There, one variable's nodes come from another
prompt and what follows from them is new, so this tries the influence of one node on the next alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

UNASKED = -100
"""Answer where the program gives none."""

Variables = dict[str, Tensor]
Activations = dict[str, Float[Tensor, "batch pos width"]]
Rows = Bool[Tensor, " batch"]
Settle = Callable[[str, Tensor], Tensor]
"""Takes the name of a variable or node and what was found for it, and returns what to go on with."""

Alignment = Mapping[str, Sequence[str]]
"""Variable of a program -> nodes of the model that carry it together."""


@dataclass(frozen=True)
class Swap:
    """What comes into a node or a variable, in the prompts where `rows` is true."""

    values: Shaped[Tensor, "batch pos *width"]
    rows: Rows

    def into(self, found: Tensor) -> Tensor:
        """What was found, with these values instead where they are to come in."""
        return torch.where(self.rows.view(-1, *[1] * (found.ndim - 1)), self.values, found)


class Program(ABC):
    """What the model is to compute, on token ids; BOS is 0.

    Attributes:
        words: the vocabulary without BOS and the unknown word.
        length: of every prompt, with BOS.
    """

    words: tuple[str, ...]
    length: int

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int) -> Int[Tensor, "n pos"]:
        """Prompts."""

    @abstractmethod
    def compute(self, ids: Int[Tensor, "n pos"], settle: Settle) -> Int[Tensor, "n pos"]:
        """The answer at each position, a token id or `UNASKED`; every variable goes through `settle` before it is used."""

    def run(self, ids: Int[Tensor, "n pos"], swaps: Mapping[str, Swap] | None = None) -> Variables:
        """All variables and the `answer`, after swaps."""
        swaps, variables = swaps or {}, {}

        def settle(name: str, found: Tensor) -> Tensor:
            variables[name] = swaps[name].into(found) if name in swaps else found
            return variables[name]

        answer = self.compute(ids, settle)
        return variables | {"answer": answer}


@dataclass(frozen=True)
class Run:
    """Logits, and what each node put out: z of a head, the output of an MLP; after swaps."""

    logits: Float[Tensor, "batch pos d_vocab"]
    outputs: Activations


def node_names(config: Any) -> tuple[str, ...]:
    """All heads and MLPs of a `PlainTransformer`, in order of computation."""
    mlp = bool(config.intermediate_size)
    layers = range(config.num_hidden_layers)
    heads = range(config.num_attention_heads)
    return tuple(name for layer in layers for name in (*(f"L{layer}H{h}" for h in heads), *([f"M{layer}"] * mlp)))


def run(model: Any, ids: Int[Tensor, "batch pos"], swaps: Mapping[str, Swap] | None = None) -> Run:
    """One forward of a `PlainTransformer`, with the outputs of some nodes replaced; gradients flow through both.

    Raises:
        KeyError: a swap names a node that the model does not have.
    """
    swaps = swaps or {}
    if unknown := swaps.keys() - set(node_names(model.config)):
        raise KeyError(f"no such node: {', '.join(sorted(unknown))}")
    outputs: Activations = {}

    def settle(name: str, found: Tensor) -> Tensor:
        outputs[name] = swaps[name].into(found) if name in swaps else found
        return outputs[name]

    with ExitStack() as stack:
        for index, layer in enumerate(model.model.layers):
            stack.callback(_tap_heads(layer.self_attn, index, settle))
            if hasattr(layer, "mlp"):
                stack.callback(_tap_mlp(layer.mlp, index, settle))
        logits = model(ids).logits
    return Run(logits, outputs)


def _tap_heads(attn: Any, index: int, settle: Settle) -> Callable[[], None]:
    def edit(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        heads = rearrange(inputs[0], "batch pos (head width) -> head batch pos width", head=attn.num_heads)
        settled = [settle(f"L{index}H{head}", z) for head, z in enumerate(heads)]
        return (rearrange(torch.stack(settled), "head batch pos width -> batch pos (head width)"),)

    return attn.o_proj.register_forward_pre_hook(edit).remove


def _tap_mlp(mlp: nn.Module, index: int, settle: Settle) -> Callable[[], None]:
    return mlp.register_forward_hook(lambda _, __, output: settle(f"M{index}", output)).remove


@dataclass(frozen=True)
class Lesson:
    """A model and the program it is to compute, run alike on the same prompts."""

    model: Any
    program: Program
    alignment: Alignment
    ids: Int[Tensor, "batch pos"]

    def exchange(self, taken: Mapping[str, Rows], source: Outcome, order: Int[Tensor, " batch"]) -> Outcome:
        """Run both, with variables, or nodes that carry none, taken over from other runs.

        `taken` and `order` may be on another device than the model.

        Args:
            taken: name of a variable or node -> prompts in which it is taken over.
            source: runs that values come from.
            order: for each prompt, the one of `source` that it takes from.
        """
        order = order.to(self.ids.device)
        taken = {name: rows.to(self.ids.device) for name, rows in taken.items()}
        names = [name for name in taken if name in self.alignment]
        nodes = {node: taken[name] for name in taken for node in self.alignment.get(name, (name,))}
        variables = {name: Swap(source.variables[name][order], taken[name]) for name in names}
        outputs = {node: Swap(source.run.outputs[node][order], rows) for node, rows in nodes.items()}
        return Outcome(run(self.model, self.ids, outputs), self.program.run(self.ids, variables))

    def plain(self) -> Outcome:
        """Run both on the prompts as they are."""
        return Outcome(run(self.model, self.ids), self.program.run(self.ids))


@dataclass(frozen=True)
class Outcome:
    """What model and program did."""

    run: Run
    variables: Variables

    @property
    def answer(self) -> Int[Tensor, "batch pos"]:
        """Of the program."""
        return self.variables["answer"]

    @property
    def said(self) -> Int[Tensor, "batch pos"]:
        """Best token of the model."""
        return self.run.logits.argmax(-1)

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean cross-entropy over the positions where an answer is asked, nats."""
        flat, answer = self.run.logits.flatten(0, 1), self.answer.flatten()
        return nn.functional.cross_entropy(flat, answer, ignore_index=UNASKED)


def losses(lesson: Lesson, rng: np.random.Generator) -> dict[str, Float[Tensor, ""]]:
    """The four losses on one batch, whose prompts are sources for each other.

    `behaviour`: nothing is taken over. `strict`: each node that carries no variable with probability 1/2.
    `interchange`: one variable, each other with probability 1/4 and, in half of the prompts, the nodes that carry none
    as well; otherwise what a variable's nodes should bring might come by all others together. `paths`: variables and
    nodes with probability 1/2, taken from the interchanged runs of the same prompt or another one.
    """
    batch = len(lesson.ids)
    names = list(lesson.alignment)
    plain = lesson.plain()
    idle = outside(lesson.alignment, plain.run.outputs)
    order = torch.from_numpy(rng.permutation(batch))
    one = rng.integers(len(names), size=batch)
    some = {name: torch.from_numpy((one == index) | (rng.random(batch) < 0.25)) for index, name in enumerate(names)}
    also = dict.fromkeys(idle, torch.from_numpy(rng.random(batch) < 0.5))
    mixed = lesson.exchange(some | also, plain, order)
    strict = lesson.exchange(coins(idle, batch, rng), plain, order)
    same_or_other = np.where(rng.random(batch) < 0.5, np.arange(batch), rng.permutation(batch))
    paths = lesson.exchange(coins([*names, *idle], batch, rng), mixed, torch.from_numpy(same_or_other))
    return {"behaviour": plain.loss, "interchange": mixed.loss, "strict": strict.loss, "paths": paths.loss}


def coins(names: Sequence[str], batch: int, rng: np.random.Generator) -> dict[str, Rows]:
    """Each name in half of the prompts."""
    return {name: torch.from_numpy(rng.random(batch) < 0.5) for name in names}


def everywhere(names: Sequence[str], batch: int) -> dict[str, Rows]:
    """Each name in every prompt."""
    return dict.fromkeys(names, torch.ones(batch, dtype=torch.bool))


def outside(alignment: Alignment, nodes: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Nodes that carry no variable."""
    aligned = {node for carriers in alignment.values() for node in carriers}
    return [node for node in nodes if node not in aligned]
