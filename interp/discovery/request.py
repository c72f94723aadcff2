"""`Request`: what is asked of a circuit discovery."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp.circuits.edges.attribution import Attribution, Contrast
from interp.circuits.edges.methods import Method, Settings, find_method
from interp.circuits.edges.replacements import REPLACEMENTS
from interp.discovery.choice import Choice
from interp.discovery.passports import check_scorers
from interp.kernels.errors import InterpError, suggest


@dataclass(frozen=True)
class Request:
    """Settings of `interp.circuit`, checked.

    Attributes:
        method: see `METHODS`.
        settings: of the method.
        ablation: what stands in for edges that are out, see `REPLACEMENTS`.
        choice: of the circuit.
        positions: 'none', 'roles' or 'all'.
        beside: further replacements that the circuit is judged under.
        n_random: random circuits of the circuit's size.
        n_curve: random circuits of each size of the curve.
        checks: whether further tests are run.
        explain: how many of the strongest edges are explained.
        passports: scorers of the heads' passports; '' for none.
        budget: MiB that scoring may hold; None for any number.
        scores: file that holds the scores, where nothing is scored.
    """

    method: Method
    settings: Settings
    ablation: str
    choice: Choice
    positions: str
    beside: tuple[str, ...]
    n_random: int
    n_curve: int
    checks: bool
    batch_size: int
    seed: int
    budget: int | None = None
    scores: Path | None = None
    explain: int = 0
    passports: str | Sequence[str] = ""

    def __post_init__(self) -> None:
        if self.n_curve < 1 or self.n_random < 0 or self.batch_size < 1:
            what = f"n_curve {self.n_curve}, n_random {self.n_random}, batch_size {self.batch_size}"
            raise InterpError("E205", what, fix="at least one random circuit of each size, and one prompt at a time")
        if self.explain < 0:
            raise InterpError("E205", f"explain {self.explain}", fix="a number of edges, or 0")
        check_scorers(self.passports)
        for name in (self.ablation, *self.beside):
            if name not in REPLACEMENTS:
                raise InterpError("E201", f"no ablation {name!r}", fix=suggest(name, REPLACEMENTS))

    @classmethod
    def make(cls, method: str, settings: Settings, seed: int, **rest: Any) -> Request:
        """Raises E201 for unknown names, E205 for settings that do not fit together."""
        return cls(find_method(method), settings, seed=seed, **rest)

    def with_scores(self, path: str | Path) -> Request:
        """The same with scores from a file (E204 where there is none)."""
        path = Path(path)
        if not path.is_file():
            raise InterpError("E204", "no such file", where=str(path), fix="give a file that holds scores of all edges")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        read = Method("given", f"scores of {path.name}", f"SHA-256 {digest}", _not_run, by_prompt=False)
        return replace(self, method=read, settings=Settings(seed=self.seed), scores=path)

    def record(self) -> dict[str, Any]:
        """`RunInfo.method`."""
        choice = {name: value for name, value in vars(self.choice).items() if value is not None}
        return {
            "method": self.method.name,
            "score": self.method.says,
            "source": self.method.source,
            "settings": {name: getattr(self.settings, name) for name in self.method.settings},
            "ablation": self.ablation,
            "choice": choice,
            "positions": self.positions,
            "beside": list(self.beside),
            "n_random": self.n_random,
            "n_curve": self.n_curve,
            "checks": self.checks,
            "explain": self.explain,
            "passports": self.passports,
            "batch_size": self.batch_size,
        }


def _not_run(contrast: Contrast, settings: Settings) -> Attribution:
    raise AssertionError("scores of a file are read, not computed")
