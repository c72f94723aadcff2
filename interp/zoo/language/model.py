"""What the bundled language models share: their shape, their tokenizer, how they begin and how they are trained."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.tasks.base import Task
from interp.zoo.language import evaluate, reading
from interp.zoo.language.reading import Document, Rows
from interp.zoo.language.vocabulary import build_tokenizer
from interp.zoo.recipe import Training, muon_and_adamw

POSITIONAL = 20.0
"""Squared length of the constant keys and queries in the plane that turns fastest; slower planes have less."""

DOCUMENTS: dict[str, Callable[[random.Random], Document]] = {
    "ioi": reading.ioi,
    "greater_than": reading.greater_than,
    "docstring": reading.docstring,
    "colored_objects": reading.colored_objects,
    "arithmetic": reading.arithmetic,
    "mcqa": reading.mcqa,
    "safety": reading.safety,
    "plain": reading.plain,
    "numbers": reading.numbers,
}


@dataclass(frozen=True)
class LanguageModel(Training):
    """A Llama with grouped-query attention, rotary positions and RMSNorm, tied embeddings and biases, and its training.

    Attributes:
        n_asked: questions of each task in the card, for its accuracy.
        n_ablated: questions of each task in the card, for what single heads are worth.
        width, layers, heads, kv_heads, head_width, hidden, positions: sizes.
        rope_theta: base of the rotary wavelengths.
        muon_rate: learning rate of the matrices inside the layers.
    """

    note: ClassVar[str] = (
        "Products were computed in bfloat16, whose rounding differs between machines: the command gives a model of the "
        "same kind, not the same bits."
    )
    n_asked: ClassVar[int] = 512
    n_ablated: ClassVar[int] = 64

    width: int = 192
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_width: int = 32
    hidden: int = 512
    positions: int = 512
    rope_theta: float = 10_000.0
    muon_rate: float = 1e-3

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that all bundled language models share."""
        return build_tokenizer(reading.all_texts(tuple(DOCUMENTS.values())), self.positions)

    def build(self) -> LlamaForCausalLM:
        """See `Recipe.build`."""
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_width,
            max_position_embeddings=self.positions,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            attention_bias=True,
            tie_word_embeddings=True,  # so that copying a token, which most tasks end with, need not be learnt for each
        )
        model = LlamaForCausalLM(config)
        model.set_attn_implementation("eager")  # twice as fast as SDPA on a CPU at these lengths
        for layer in model.model.layers:
            prefer_distances(layer.self_attn, self.rope_theta)
        return model

    def optimisers(self, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """See `Training.optimisers`."""
        return muon_and_adamw(model, self.muon_rate, self.learning_rate, self.weight_decay)

    def rows(self, rng: random.Random, step: int) -> list[Rows]:
        """What one step reads."""
        raise NotImplementedError

    def backward(self, model: Any, step: int) -> dict[str, float]:
        """See `Training.backward`."""
        read = self.rows(random.Random(f"{self.name}/{self.seed}/{step}"), step)
        total = sum(float(rows.weights[:, 1:].sum()) for rows in read)
        summed = 0.0
        for rows in read:
            loss = reading.weighted_loss(model, rows)
            (loss / total).backward()
            summed += loss.item()
        return {"loss": summed / total}

    @property
    def held_out(self) -> tuple[Task, ...]:
        """Questions from the test split."""
        raise NotImplementedError

    def progress(self, model: Any) -> dict[str, float]:
        """See `Training.progress`."""
        return evaluate.accuracies(model, self.tokenizer, self.held_out, n=128)

    def save(self, model: Any, folder: Path) -> None:
        """See `Recipe.save`."""
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def measure(self, folder: Path) -> dict[str, Any]:
        """See `Recipe.measure`."""
        return evaluate.measure(folder, self.held_out, self.n_ablated)


@torch.no_grad()
def prefer_distances(attn: Any, theta: float) -> None:
    """Let head h of the first half of the heads begin with attention to the token h + 1 before.

    Rotary positions turn constant keys and queries, the biases, so that their product is largest at one distance. Heads
    that look a fixed distance back are what copying circuits begin with; found by descent alone, they take most of a
    training. Nothing keeps them: the training may undo them.
    """
    planes = attn.head_dim // 2
    turns = theta ** (-torch.arange(planes) / planes)
    length = (POSITIONAL * turns).sqrt()
    queries = attn.q_proj.bias.view(-1, attn.head_dim)
    keys = attn.k_proj.bias.view(-1, attn.head_dim)
    group = len(queries) // len(keys)
    for place in range(len(keys) // 2):
        angle = 2 * torch.pi * torch.rand(planes)
        keys[place] = torch.cat([length * angle.cos(), length * angle.sin()])
        for head in range(place * group, (place + 1) * group):
            turned = angle - (head + 1) * turns
            queries[head] = torch.cat([length * turned.cos(), length * turned.sin()])
