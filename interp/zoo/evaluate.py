"""What a bundled model can do, on questions it was not trained on: `python -m interp.zoo.evaluate mini`.

Plain forwards and forward pre-hooks, independent of the toolkit's own model layer.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.examples import Example
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, Tokenizer, token_ids
from interp.tasks.induction import Induction
from interp.tasks.ioi import Ioi
from interp.zoo.registry import find, near

N, SEED = 512, 1_000_003
HELD_OUT: tuple[Task, ...] = (Ioi(n=N, seed=SEED, split="test"), Induction(n=N, seed=SEED))
Batch = tuple[Int[Tensor, "_ _"], Int[Tensor, "_"], Int[Tensor, "_"]]  # prompts, answers, distractors


def option_id(option: str | int | None, tokenizer: Tokenizer) -> int:
    """Token id of an answer, which is one token in every held-out task."""
    assert option is not None
    if isinstance(option, int):
        return option
    (token,) = token_ids(tokenizer, option)
    return token


def encode(example: Example, tokenizer: Tokenizer) -> tuple[tuple[int, ...], int, int]:
    """Prompt with the special tokens that the tokenizer adds to text, answer and distractor."""
    prompt = tuple(tokenizer(example.clean)["input_ids"]) if isinstance(example.clean, str) else example.clean
    return prompt, option_id(example.answer, tokenizer), option_id(example.distractor, tokenizer)


def batches(task: Task, tokenizer: Tokenizer) -> list[Batch]:
    """Prompts, answers and distractors of a task; prompts of one length together, so that none is padded."""
    by_length: dict[int, list[tuple[tuple[int, ...], int, int]]] = defaultdict(list)
    for example in task.examples(tokenizer).examples:
        row = encode(example, tokenizer)
        by_length[len(row[0])].append(row)
    columns = [tuple(zip(*rows, strict=True)) for _, rows in sorted(by_length.items())]
    return [(torch.tensor(prompt), torch.tensor(answer), torch.tensor(other)) for prompt, answer, other in columns]


@torch.no_grad()
def over(model: Any, data: list[Batch], measure: Callable[..., Tensor]) -> float:
    """Mean over all prompts of `measure(logits at the last position, answer, distractor)`."""
    values = [
        measure(model(prompts.to(model.device)).logits[:, -1].cpu(), answer, distractor)
        for prompts, answer, distractor in data
    ]
    return float(torch.cat(values).double().mean())


def is_right(logits: Float[Tensor, "batch d_vocab"], answer: Tensor, distractor: Tensor) -> Tensor:
    """Whether the answer has the largest logit of the whole vocabulary."""
    return logits.argmax(-1) == answer


def difference(logits: Float[Tensor, "batch d_vocab"], answer: Tensor, distractor: Tensor) -> Tensor:
    """Logit of the answer minus logit of the distractor."""
    rows = torch.arange(len(answer))
    return logits[rows, answer] - logits[rows, distractor]


def accuracies(model: Any, tokenizer: Tokenizer, tasks: tuple[Task, ...]) -> dict[str, float]:
    """Share of right answers per task."""
    return {task.name: over(model, batches(task, tokenizer), is_right) for task in tasks}


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


def measure(model: Any, tokenizer: Tokenizer, tasks: tuple[Task, ...]) -> dict[str, Any]:
    """The figures of a card: held-out accuracy, and the heads that mean ablation finds to matter most."""
    figures: dict[str, Any] = {
        "prompts": N,
        "seed": SEED,
        "accuracy": accuracies(model, tokenizer, tasks),
        "logit_diff_lost": {},
    }
    for task in tasks:
        shares = head_shares(model, tokenizer, task)
        top = sorted(shares, key=lambda label: -shares[label])[:5]
        figures["logit_diff_lost"][task.name] = {label: round(shares[label], 4) for label in top}
    return figures


def main() -> None:
    """Print the figures of a bundled model, or of a model folder, as JSON."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="bundled name or model folder")
    name = parser.parse_args().model
    folder = find(name) or Path(name)
    if not folder.is_dir():
        raise InterpError("E201", f"no bundled model and no folder {name!r}", fix=near(name))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    print(json.dumps(measure(AutoModelForCausalLM.from_pretrained(folder), tokenizer, HELD_OUT), indent=1))


if __name__ == "__main__":
    main()
