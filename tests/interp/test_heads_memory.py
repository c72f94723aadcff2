"""Scores of long texts: memory that grows with the length, and not with its square."""

from __future__ import annotations

import json

import pytest

SCORERS = (
    "previous-token", "current-token", "first-token", "duplicate-token", "induction", "prefix-matching", "entropy",
    "attention-distance", "sink-share", "waad",
)  # fmt: skip

CODE = """
import json, resource, time, torch
from interp.heads import scorer
from interp.heads.together import measure_together
from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.pairs import tokenise
from interp.hooks.tiny import tiny_model
n = {n}
model = HookedModel.from_hf(tiny_model("llama", max_position_embeddings=n))
ids = torch.randint(0, 60, (n,), generator=torch.Generator().manual_seed(0)).tolist()
scorers = [scorer(name) for name in {names}]
heads = parse_heads("all", model.heads)
measure_together(scorers, model, tokenise(None, [Example("short", tuple(ids[:64]))]), heads, 1)
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
found = measure_together(scorers, model, tokenise(None, [Example("long", tuple(ids))]), heads, 1)
assert all(one.values.shape == (8, 1) for one in found)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps([grown, time.perf_counter() - started]))
"""


def measured(python, n: int) -> tuple[float, float]:
    """MiB beyond a short text, and seconds, of ten scorers on one text of a tiny Llama with two layers."""
    grown, seconds = json.loads(python(CODE.format(n=n, names=SCORERS)))
    print(f"{n} tokens: {grown:.0f} MiB, {seconds:.1f} s")
    return grown, seconds


def test_memory_at_16k_is_far_from_a_pattern(python) -> None:
    grown, _ = measured(python, 16384)
    assert grown < 2 * 4 * 16384**2 * 4 / 2**20 / 50  # of both layers' patterns


@pytest.mark.slow
def test_memory_to_32k_grows_with_the_length(python) -> None:
    """`pytest -m slow -s tests/interp/test_heads_memory.py` prints the figures."""
    (short, _), (long, _) = (measured(python, n) for n in (8192, 32768))
    assert long < 8 * max(short, 10), "four times the length; sixteen times would be its square"
