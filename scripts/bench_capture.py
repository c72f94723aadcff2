"""What reading every head's z costs: `python scripts/bench_capture.py`.

Times the plain forward and the forward that captures z of all layers in interleaved pairs, in one process, and prints
the median ratio of the pairs. Random weights of the stated shape: the arithmetic does not depend on their values.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from interp.hooks.batch import Batch, pad  # noqa: E402
from interp.hooks.model import HookedModel  # noqa: E402

SHAPES = {
    "GPT-2 small, batch 4 x 128": (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()), (4, 128), 15, 1.05),
    "tiny Llama, batch 1 x 8": (
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=256,
                hidden_size=64,
                intermediate_size=172,
                num_hidden_layers=8,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ),
        (1, 8),
        300,
        1.20,
    ),
}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(model: HookedModel, batch: Batch, pairs: int) -> tuple[float, float, float]:
    """Median seconds of the plain forward and of the capture, and the median of the pairwise ratios."""

    def plain() -> object:
        return model.run_plain(batch)

    def capture() -> object:
        return model.run_with_cache(batch, "blocks.*.attn.hook_z")

    for call in (plain, capture, plain, capture):
        call()
    times = [
        (seconds(plain), seconds(capture)) if index % 2 else (seconds(capture), seconds(plain))[::-1]
        for index in range(pairs)
    ]
    return (
        statistics.median(p for p, _ in times),
        statistics.median(c for _, c in times),
        statistics.median(c / p for p, c in times),
    )


def main() -> int:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    failed = False
    for name, (build, (rows, width), pairs, bar) in SHAPES.items():
        model = HookedModel.from_hf(build().eval())
        batch = pad(torch.randint(3, 250, (rows, width)).tolist(), 0)
        plain, capture, ratio = measure(model, batch, pairs)
        failed |= ratio > bar
        print(
            f"{name:28} plain {plain * 1e3:8.2f} ms  capture of all z {capture * 1e3:8.2f} ms  ratio {ratio:.3f} (bar {bar:.2f}, {pairs} pairs)"
        )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
