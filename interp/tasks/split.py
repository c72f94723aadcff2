"""Train and test questions: a fixed fifth of all facts is `test`, by a hash of the words that make the fact.

Bundled models are trained on `train` facts alone, so that a `test` question asks what they have never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from interp.kernels.errors import InterpError

Fact = TypeVar("Fact")
SPLITS = ("all", "train", "test")
TEST_SHARE = 0.2
TRIES = 10_000


@cache
def in_test(*words: str) -> bool:
    """Whether a fact belongs to the test split."""
    digest = hashlib.sha256("/".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32


def belongs(split: str, *words: str) -> bool:
    """Whether a fact belongs to a split; `all` takes every fact."""
    return split == "all" or in_test(*words) == (split == "test")


def draw_until(draw: Callable[[], Fact], fits: Callable[[Fact], bool]) -> Fact:
    """The first fact drawn that fits, so that all fitting facts are equally likely.

    Raises:
        InterpError: E311, none of many did: the tokenizer has too few of the words as single tokens.
    """
    for _ in range(TRIES):
        if fits(fact := draw()):
            return fact
    raise InterpError("E311", "the words that this tokenizer has as single tokens make no fact of this split")
