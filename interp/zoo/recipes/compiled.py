"""The compiled programs. See `interp.zoo.compiled.base`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from interp.zoo.compiled.base import LENGTH, VALUE, CompiledProgram, Reads

LETTERS = ("a", "b", "c")
COUNTS = tuple(str(number) for number in range(LENGTH + 1))


@dataclass(frozen=True)
class Reverse(CompiledProgram):
    """The prompt backwards. What `embed` gives M1 counts at other positions than the last one, which is asked about."""

    name: ClassVar[str] = "compiled-reverse"
    data: ClassVar[str] = "Compiled by tracr from RASP: the prompt backwards. No data."
    symbols: ClassVar[tuple[Any, ...]] = LETTERS
    says: ClassVar[tuple[str, ...]] = LETTERS
    heads: ClassVar[dict[str, str]] = {"L0H0": "length of the prompt", "L3H0": "fetches the opposite symbol"}
    program_edges: ClassVar[Reads] = {
        "L0H0.q": "embed", "L0H0.k": "embed", "L0H0.v": "embed", "M0": "embed L0H0", "M1": "embed pos_embed M0",
        "M2": "M1", "L3H0.q": "embed M2", "L3H0.k": "embed pos_embed", "L3H0.v": "embed", "logits": "L3H0",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {"L3H0.v": "embed", "logits": "L3H0"}
    zero_edges: ClassVar[Reads] = {
        "M0": "embed", "M1": "pos_embed M0", "M2": "M1", "L3H0.q": "M2", "L3H0.k": "pos_embed",
        "L3H0.v": "embed", "logits": "L3H0",
    }  # fmt: skip

    def program(self, lib: Any, rasp: Any) -> Any:
        return lib.make_reverse(rasp.tokens)

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        return list(reversed(symbols))


@dataclass(frozen=True)
class FracPrevs(CompiledProgram):
    """The share of x among the symbols so far."""

    name: ClassVar[str] = "compiled-frac-prevs"
    data: ClassVar[str] = "Compiled by tracr from RASP: the share of x among the symbols so far. No data."
    symbols: ClassVar[tuple[Any, ...]] = ("w", "x", "y", "z")
    says: ClassVar[tuple[str, ...]] = (VALUE,)
    heads: ClassVar[dict[str, str]] = {"L1H0": "mean over the symbols so far"}
    program_edges: ClassVar[Reads] = {
        "M0": "embed", "L1H0.q": "embed pos_embed", "L1H0.k": "embed pos_embed", "L1H0.v": "M0", "logits": "L1H0",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {"M0": "embed", "L1H0.v": "M0", "logits": "L1H0"}
    zero_edges: ClassVar[Reads] = {
        "M0": "embed", "L1H0.q": "pos_embed", "L1H0.k": "pos_embed", "L1H0.v": "M0", "logits": "L1H0",
    }  # fmt: skip

    def program(self, lib: Any, rasp: Any) -> Any:
        return lib.make_frac_prevs(rasp.tokens == "x")

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        return [symbols[:end].count("x") / end for end in range(1, len(symbols) + 1)]


@dataclass(frozen=True)
class Hist(CompiledProgram):
    """How often each symbol is in the prompt."""

    name: ClassVar[str] = "compiled-hist"
    data: ClassVar[str] = "Compiled by tracr from RASP: how often each symbol is in the prompt. No data."
    symbols: ClassVar[tuple[Any, ...]] = LETTERS
    says: ClassVar[tuple[str, ...]] = COUNTS
    heads: ClassVar[dict[str, str]] = {"L0H0": "same symbol, and BOS"}
    program_edges: ClassVar[Reads] = {
        "L0H0.q": "embed", "L0H0.k": "embed", "L0H0.v": "embed", "M0": "embed L0H0", "logits": "M0",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {"L0H0.q": "embed", "L0H0.k": "embed", "M0": "L0H0", "logits": "M0"}
    zero_edges: ClassVar[Reads] = program_edges

    def program(self, lib: Any, rasp: Any) -> Any:
        return lib.make_hist()

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        return [list(symbols).count(symbol) for symbol in symbols]


@dataclass(frozen=True)
class Sort(CompiledProgram):
    """The numbers of the prompt in order."""

    name: ClassVar[str] = "compiled-sort"
    data: ClassVar[str] = "Compiled by tracr from RASP: the numbers of the prompt in order. No data."
    symbols: ClassVar[tuple[Any, ...]] = (1, 2, 3, 4, 5)
    says: ClassVar[tuple[str, ...]] = ("1", "2", "3", "4", "5")
    heads: ClassVar[dict[str, str]] = {"L1H0": "counts smaller numbers", "L2H0": "fetches the number of this rank"}
    program_edges: ClassVar[Reads] = {
        "M0": "embed pos_embed", "L1H0.q": "embed M0", "L1H0.k": "embed M0", "L1H0.v": "embed", "M1": "embed L1H0",
        "L2H0.q": "embed pos_embed", "L2H0.k": "embed M1", "L2H0.v": "embed", "logits": "L2H0",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {
        "M0": "embed", "L1H0.q": "M0", "L1H0.k": "M0", "M1": "L1H0", "L2H0.k": "M1", "L2H0.v": "embed", "logits": "L2H0",
    }  # fmt: skip
    zero_edges: ClassVar[Reads] = {**program_edges, "L2H0.q": "pos_embed", "L2H0.k": "M1"}

    def program(self, lib: Any, rasp: Any) -> Any:
        return lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=LENGTH, min_key=1)

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        return sorted(symbols)


@dataclass(frozen=True)
class SortFreq(CompiledProgram):
    """The symbols of the prompt, the most frequent first."""

    name: ClassVar[str] = "compiled-sort-freq"
    data: ClassVar[str] = "Compiled by tracr from RASP: the symbols of the prompt, the most frequent first. No data."
    symbols: ClassVar[tuple[Any, ...]] = LETTERS
    says: ClassVar[tuple[str, ...]] = LETTERS
    heads: ClassVar[dict[str, str]] = {
        "L0H0": "same symbol, and BOS", "L3H0": "counts smaller keys", "L4H0": "fetches the symbol of this rank",
    }  # fmt: skip
    program_edges: ClassVar[Reads] = {
        "L0H0.q": "embed", "L0H0.k": "embed", "L0H0.v": "embed", "M0": "embed L0H0", "M1": "M0",
        "M2": "embed pos_embed M1", "L3H0.q": "embed M2", "L3H0.k": "embed M2", "L3H0.v": "embed", "M3": "embed L3H0",
        "L4H0.q": "embed pos_embed", "L4H0.k": "embed M3", "L4H0.v": "embed", "logits": "L4H0",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {
        "L0H0.q": "embed", "L0H0.k": "embed", "M0": "L0H0", "M1": "M0", "M2": "M1", "L3H0.q": "M2", "L3H0.k": "M2",
        "M3": "L3H0", "L4H0.k": "M3", "L4H0.v": "embed", "logits": "L4H0",
    }  # fmt: skip
    zero_edges: ClassVar[Reads] = program_edges

    def program(self, lib: Any, rasp: Any) -> Any:
        return lib.make_sort_freq(LENGTH)

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        counts = {symbol: list(symbols).count(symbol) for symbol in symbols}
        return sorted(symbols, key=lambda symbol: -counts[symbol])


@dataclass(frozen=True)
class Majority(CompiledProgram):
    """Which of a and b is more frequent: two heads side by side, and an MLP that joins their counts."""

    name: ClassVar[str] = "compiled-majority"
    data: ClassVar[str] = (
        "Compiled by tracr from our own RASP: which of a and b is more frequent in the prompt. No data."
    )
    symbols: ClassVar[tuple[Any, ...]] = LETTERS
    says: ClassVar[tuple[str, ...]] = ("a", "b", "tie")
    heads: ClassVar[dict[str, str]] = {"L0H0": "a, and BOS", "L0H1": "b, and BOS"}
    program_edges: ClassVar[Reads] = {
        "L0H0.q": "embed", "L0H0.k": "embed", "L0H0.v": "embed", "L0H1.q": "embed", "L0H1.k": "embed",
        "L0H1.v": "embed", "M0": "embed L0H0 L0H1", "M1": "embed M0", "logits": "M1",
    }  # fmt: skip
    resample_edges: ClassVar[Reads] = {
        "L0H0.k": "embed", "L0H1.k": "embed", "M0": "L0H0 L0H1", "M1": "M0", "logits": "M1",
    }  # fmt: skip
    zero_edges: ClassVar[Reads] = program_edges

    def program(self, lib: Any, rasp: Any) -> Any:
        counts = (lib.make_count(rasp.tokens, symbol) for symbol in ("a", "b"))
        return rasp.SequenceMap(more_frequent, *counts).named("majority")

    def right(self, symbols: Sequence[Any]) -> list[Any]:
        counts = (list(symbols).count(symbol) for symbol in ("a", "b"))
        return [more_frequent(*counts)] * len(symbols)


def more_frequent(a: int, b: int) -> str:
    """The symbol with the larger count."""
    return "tie" if a == b else "a" if a > b else "b"


RECIPES = (Reverse(), FracPrevs(), Hist(), Sort(), SortFreq(), Majority())
