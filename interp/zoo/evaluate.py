"""What a bundled model can do, on questions it was not trained on: `python -m interp.zoo.evaluate mini`.

Plain forwards and forward pre-hooks, independent of the toolkit's own model layer.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.pairs import Example
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, Tokenizer
from interp.tasks.induction import Induction
from interp.tasks.ioi import Ioi
from interp.zoo.registry import find, near

N, SEED = 512, 1_000_003
HELD_OUT: tuple[Task, ...] = (Ioi(n=N, seed=SEED, split="test"), Induction(n=N, seed=SEED))
Batch = tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"], Int[Tensor, " batch"]]


def encode(example: Example, tokenizer: Tokenizer) -> tuple[tuple[int, ...], int, int]:
    """Prompt with the special tokens the tokenizer adds, answer and distractor as token ids."""
    prompt = tuple(tokenizer(example.clean)["input_ids"]) if isinstance(example.clean, str) else example.clean
    options = []
    for option in (example.answer, example.distractor):
        (token,) = tokenizer(option, add_special_tokens=False)["input_ids"] if isinstance(option, str) else (option,)
        options.append(int(token))
    return prompt, options[0], options[1]


def batches(task: Task, tokenizer: Tokenizer) -> list[Batch]:
    """Prompts, answers and distractors of a task; prompts of one length together, so that none is padded."""
    by_length: dict[int, list[tuple[tuple[int, ...], int, int]]] = defaultdict(list)
    for example in task.examples(tokenizer).examples:
        row = encode(example, tokenizer)
        by_length[len(row[0])].append(row)
    return [tuple(torch.tensor(column) for column in zip(*rows, strict=True)) for _, rows in sorted(by_length.items())]


@torch.no_grad()
def over(model: Any, data: list[Batch], measure: Callable[..., Tensor]) -> float:
    """Mean over all prompts of `measure(logits at the last position, answer, distractor)`."""
    values = [measure(model(prompts.to(model.device)).logits[:, -1].cpu(), answer, distractor) for prompts, answer, distractor in data]
    return float(torch.cat(values).double().mean())


def is_right(logits: Float[Tensor, "batch d_vocab"], answer: Tensor, distractor: Tensor) -> Tensor:
    """Whether the answer has the largest logit of the whole vocabulary."""
    return logits.argmax(-1) == answer


def difference(logits: Float[Tensor, "batch d_vocab"], answer: Tensor, distractor: Tensor) -> Tensor:
    """Logit of the answer minus logit of the distractor."""
    rows = torch.arange(len(answer))
    return logits[rows, answer] - logits[rows, distractor]


def accuracies(model: Any, tokenizer: Tokenizer, tasks: tuple[Task, ...] = HELD_OUT) -> dict[str, float]:
    """Share of right answers per task."""
    return {task.name: over(model, batches(task, tokenizer), is_right) for task in tasks}


@contextmanager
def input_hook(module: torch.nn.Module, edit: Callable[[Tensor], Tensor | None]) -> Any:
    """Let `edit` see a module's input, and replace it unless it returns None."""
    handle = module.register_forward_pre_hook(lambda _, inputs: None if (out := edit(inputs[0])) is None else (out, *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def head_shares(model: Any, tokenizer: Tokenizer, task: Task) -> dict[str, float]:
    """Share of the mean logit difference that is lost when one head's z is replaced by its mean over all prompts and positions."""
    data, heads = batches(task, tokenizer), model.config.num_attention_heads
    clean, shares = over(model, data, difference), {}
    for layer, block in enumerate(model.model.layers):
        seen: list[Tensor] = []
        with input_hook(block.self_attn.o_proj, lambda z, seen=seen: seen.append(z.flatten(0, 1))):
            over(model, data, difference)
        mean = torch.cat(seen).mean(0)
        for head, part in enumerate(torch.arange(len(mean), device=mean.device).chunk(heads)):

            def edit(z: Tensor, mean: Tensor = mean, part: Tensor = part) -> Tensor:
                return z.index_copy(-1, part, mean[part].expand(*z.shape[:-1], -1))

            with input_hook(block.self_attn.o_proj, edit):
                shares[f"L{layer}H{head}"] = 1 - over(model, data, difference) / clean
    return shares


def measure(model: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """The figures of a card: held-out accuracy, and the heads that mean ablation finds to matter most."""
    figures: dict[str, Any] = {"prompts": N, "seed": SEED, "accuracy": accuracies(model, tokenizer), "logit_diff_lost": {}}
    for task in HELD_OUT:
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
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    print(json.dumps(measure(model.eval(), tokenizer), indent=1))


if __name__ == "__main__":
    main()
