"""Evaluations of head sets: each set once, within a budget, and on disk after every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.circuits.files import decode_json, encode_json, write_atomic
from interp.circuits.results import SCHEMA, check_schema
from interp.hooks.names import HeadId, parse_head
from interp.kernels.errors import InterpError

HeadSet = frozenset[HeadId]
Objective = Callable[[Sequence[HeadSet]], Float[np.ndarray, "set prompt"]]
"""Many sets at once -> one number a set and prompt; higher is better."""

NONE: HeadSet = frozenset()
KIND = "group-search"


class Evaluations:
    """What an objective says of head sets; a set that was asked before is not asked again.

    A search is a function of these values, so a search that starts again with the values of an interrupted one takes
    the same steps.

    Args:
        objective: what is evaluated.
        name: what the objective is, in words or as a digest; a state of another one is refused.
        state: JSON file that holds the values after every call; read if it is there. None keeps them in memory.

    Raises:
        InterpError: E205 the state is of another objective; E701 it is damaged; E702 another version wrote it; E602 it
            cannot be written.
    """

    def __init__(self, objective: Objective, name: str = "", state: Path | None = None) -> None:
        self.objective, self.name, self.state = objective, name, state
        self.values: dict[HeadSet, Float[np.ndarray, " prompt"]] = {}
        self.asked: set[HeadSet] = set()
        if state is not None and state.exists():
            self._read(state)

    def __len__(self) -> int:
        """Different sets asked for so far; those that a state answered count too, so that a resumed search is equal."""
        return len(self.asked)

    def count_new(self, sets: Sequence[HeadSet]) -> int:
        """How many of these were not asked for yet."""
        return len(set(sets) - self.asked)

    def __call__(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set prompt"]:
        """Value of each set in each prompt; what is not finite is nan.

        Raises:
            InterpError: E206 where the objective does not give one number a set and prompt.
        """
        unknown = [heads for heads in dict.fromkeys(sets) if heads not in self.values]
        if unknown:
            self._evaluate(unknown)
        self.asked.update(sets)
        return np.stack([self.values[heads] for heads in sets])

    def _evaluate(self, sets: list[HeadSet]) -> None:
        found = np.asarray(self.objective(sets), dtype=np.float64)
        n_prompts = len(next(iter(self.values.values()))) if self.values else found.shape[-1] if found.ndim else 0
        if found.shape != (len(sets), n_prompts) or not n_prompts:
            raise InterpError(
                "E206",
                f"the objective gave shape {found.shape} for {len(sets)} sets and {n_prompts} prompts",
                fix="return one row a set and one column a prompt, the same prompts every time",
            )
        self.values |= zip(sets, np.where(np.isfinite(found), found, np.nan), strict=True)
        self._write()

    def _write(self) -> None:
        if self.state is not None:
            values = {label(heads): row.tolist() for heads, row in self.values.items()}
            write_atomic(self.state, encode_json({"schema": SCHEMA, "kind": KIND, "name": self.name, "values": values}))

    def _read(self, state: Path) -> None:
        try:
            data = decode_json(state.read_bytes())
        except ValueError as error:
            raise InterpError(
                "E701", "this is not the state of a search, or it was changed", where=str(state), fix="remove the file"
            ) from error
        check_schema(data, state, KIND)
        if data["name"] != self.name:
            raise InterpError(
                "E205",
                f"the state is of the objective {data['name']!r}, this search has {self.name!r}",
                where=str(state),
                fix="name another file, or remove this one",
            )
        self.values = {
            frozenset(map(parse_head, labels.split())): np.array(row, dtype=np.float64)
            for labels, row in data["values"].items()
        }


def label(heads: HeadSet) -> str:
    """`L0H1 L2H3`, in model order; '' for no head."""
    return " ".join(head.label for head in sorted(heads))
