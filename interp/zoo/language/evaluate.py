"""What a bundled language model can do, on questions it was not trained on.

Plain forwards and forward pre-hooks, independent of the toolkit's own model layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.examples import Example
from interp.tasks.base import Task, Tokenizer, token_ids
from interp.tasks.retrieval import Retrieval

SEED = 1_000_003
BATCH = 64
Options = tuple[tuple[int, ...], ...]
Batch = tuple[Int[Tensor, "_ _"], Options, Options]  # prompts, answers, distractors


def option_ids(options: str | int | tuple[str | int, ...] | None, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of the answers, each of which is one token in every held-out task."""
    assert options is not None
    several = options if isinstance(options, tuple) else (options,)
    ids = [(option,) if isinstance(option, int) else token_ids(tokenizer, option) for option in several]
    assert all(len(option) == 1 for option in ids), options
    return tuple(option[0] for option in ids)


def encode(example: Example, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Prompt with the special tokens that the tokenizer adds to text, answers and distractors."""
    prompt = tuple(tokenizer(example.clean)["input_ids"]) if isinstance(example.clean, str) else example.clean
    return prompt, option_ids(example.answer, tokenizer), option_ids(example.distractor, tokenizer)


def batches(task: Task, tokenizer: Tokenizer) -> list[Batch]:
    """Prompts, answers and distractors of a task; prompts of one length together, so that none is padded."""
    by_length: dict[int, list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
    for example in task.examples(tokenizer).examples:
        row = encode(example, tokenizer)
        by_length[len(row[0])].append(row)
    chunks = [rows[i : i + BATCH] for _, rows in sorted(by_length.items()) for i in range(0, len(rows), BATCH)]
    columns = [tuple(zip(*rows, strict=True)) for rows in chunks]
    return [(torch.tensor(prompt), answer, other) for prompt, answer, other in columns]


@torch.no_grad()
def over(model: Any, data: list[Batch], measure: Callable[..., Tensor]) -> float:
    """Mean over all prompts of `measure(logits at the last position, answers, distractors)`."""
    values = [
        measure(model(prompts.to(model.device), logits_to_keep=1).logits[:, -1].cpu(), answers, distractors)
        for prompts, answers, distractors in data
    ]
    return float(torch.cat(values).double().mean())


def is_right(logits: Float[Tensor, "batch d_vocab"], answers: Options, distractors: Options) -> Tensor:
    """Whether one of the answers has the largest logit of the whole vocabulary."""
    return torch.tensor([int(top) in answer for top, answer in zip(logits.argmax(-1), answers, strict=True)])


def difference(logits: Float[Tensor, "batch d_vocab"], answers: Options, distractors: Options) -> Tensor:
    """Largest logit of an answer minus largest logit of a distractor."""
    return torch.stack(
        [row[list(a)].max() - row[list(b)].max() for row, a, b in zip(logits, answers, distractors, strict=True)]
    )


def accuracies(model: Any, tokenizer: Tokenizer, tasks: tuple[Task, ...], n: int | None = None) -> dict[str, float]:
    """Share of right answers per task, on `n` questions of each where it is given."""
    asked = [task if n is None else replace(task, n=n) for task in tasks]
    return {label(task): over(model, batches(task, tokenizer), is_right) for task in asked}


def label(task: Task) -> str:
    """Name of a task, and which retrieval it is: its card has several lengths and forms."""
    if not isinstance(task, Retrieval):
        return task.name
    return f"retrieval {task.form} {task.length}"


@contextmanager
def replaced_input(module: torch.nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a module see `edit(its input)`."""

    def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit(inputs[0]), *inputs[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def mean_input(model: Any, module: torch.nn.Module, data: list[Batch]) -> Float[Tensor, " feature"]:
    """Mean of a module's input over all prompts and positions."""
    seen: list[Tensor] = []

    def keep(z: Tensor) -> Tensor:
        seen.append(z.flatten(0, 1))
        return z

    with replaced_input(module, keep):
        over(model, data, difference)
    return torch.cat(seen).mean(0)


def head_shares(model: Any, tokenizer: Tokenizer, task: Task) -> dict[str, float]:
    """Share of the mean logit difference that is lost when one head's z is replaced by its mean."""
    data, shares = batches(task, tokenizer), {}
    clean = over(model, data, difference)
    for layer, block in enumerate(model.model.layers):
        projection = block.self_attn.o_proj
        mean = mean_input(model, projection, data)
        for head, part in enumerate(
            torch.arange(len(mean), device=mean.device).chunk(model.config.num_attention_heads)
        ):

            def ablate(z: Tensor, part: Tensor = part, mean: Tensor = mean) -> Tensor:
                return z.index_copy(-1, part, mean[part].expand(*z.shape[:-1], -1))

            with replaced_input(projection, ablate):
                shares[f"L{layer}H{head}"] = 1 - over(model, data, difference) / clean
    return shares


def measure(folder: Path, tasks: tuple[Task, ...], n_ablated: int) -> dict[str, Any]:
    """The figures of a language model's card: held-out accuracy, and the heads that mean ablation finds to matter most.

    Args:
        tasks: what is asked, all of them equally often.
        n_ablated: questions of each that heads are ablated on.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    (n,) = {task.n for task in tasks}
    figures: dict[str, Any] = {"prompts": n, "seed": SEED, "accuracy": accuracies(model, tokenizer, tasks)}
    figures["logit_diff_lost"] = {"prompts": n_ablated, "heads": {}}
    for task in tasks:
        shares = head_shares(model, tokenizer, replace(task, n=n_ablated))
        top = sorted(shares, key=lambda head: -shares[head])[:5]
        figures["logit_diff_lost"]["heads"][label(task)] = {head: round(shares[head], 3) for head in top}
    return figures
