"""How often is a head claimed where no head should be, and are known heads found? Prints the table.

    python scripts/calibration.py                       # everything; about half an hour on two cores
    python scripts/calibration.py --runs 20 --only synthetic
    python scripts/calibration.py --out scripts/calibration.md

A null run has no head to find: answers are exchanged between prompts, weights are random, or effects are drawn from a
distribution in which all heads are alike. The share of null runs that claim any head must stay at the level.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

import interp  # noqa: E402
from interp.circuits.evidence import Evidence, judge  # noqa: E402
from interp.tasks.base import Task, TaskExamples, Tokenizer  # noqa: E402
from interp.zoo.planted.writing import word_tokenizer  # noqa: E402
from interp.zoo.recipes.planted_induction import PlantedInduction  # noqa: E402

LEVEL = 0.05
BAR = 0.07
RunOnce = Callable[[int], Evidence]


@dataclass(frozen=True)
class NullClaims:
    """How many null runs claimed a head.

    Attributes:
        name: kind of null.
        runs: number of runs.
        claims: runs that claimed at least one head.
        ungated: runs that would have, had the model not been asked to do the task first.
        does_task: runs in which the model passed for one that does the task.
        low: lower end of the exact 95 % binomial interval of the share (Clopper and Pearson 1934).
        high: upper end.
    """

    name: str
    runs: int
    claims: int
    ungated: int
    does_task: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Share of runs with a claim."""
        return self.claims / self.runs


def null_claims(name: str, run_once: RunOnce, n_runs: int) -> NullClaims:
    """Run a null `n_runs` times, with seeds 0 to n_runs - 1, and count the claims."""
    found = [run_once(seed) for seed in range(n_runs)]
    claims = sum(bool(evidence.claimed.any()) for evidence in found)
    ungated = sum(bool((evidence.q <= evidence.level).any()) for evidence in found)
    return NullClaims(
        name, n_runs, claims, ungated, sum(e.does_task for e in found), *binomial_interval(claims, n_runs)
    )


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def together(rows: Iterable[NullClaims], name: str = "all of these") -> NullClaims:
    """Several kinds of null as one."""
    rows = list(rows)
    runs, claims = sum(row.runs for row in rows), sum(row.claims for row in rows)
    ungated, does_task = sum(row.ungated for row in rows), sum(row.does_task for row in rows)
    return NullClaims(name, runs, claims, ungated, does_task, *binomial_interval(claims, runs))


N_HEADS, PER_LAYER, N_CONTROLS, N_PROMPTS = 32, 8, 4, 32


def controls_of(n_heads: int) -> list[tuple[int, ...]]:
    """The next heads of the same layer, for each head."""
    starts = [head - head % PER_LAYER for head in range(n_heads)]
    return [
        tuple(start + (head + step) % PER_LAYER for step in range(1, N_CONTROLS + 1))
        for head, start in enumerate(starts)
    ]


def correlated(rng: np.random.Generator) -> np.ndarray:
    """No head has an effect; all see the same hard and easy prompts."""
    return rng.normal(size=(N_HEADS, N_PROMPTS)) + rng.normal(size=N_PROMPTS)


def alike(rng: np.random.Generator) -> np.ndarray:
    """All heads have the same effect, so none stands out."""
    return rng.normal(size=(N_HEADS, N_PROMPTS)) + 1.0


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    """No head has an effect; a few prompts have very large ones (t with 3 degrees of freedom)."""
    return rng.standard_t(3, size=(N_HEADS, N_PROMPTS))


def skewed(rng: np.random.Generator) -> np.ndarray:
    """No head has an effect on average, but all are one-sided: many small losses, few large gains (exponential)."""
    return rng.exponential(size=(N_HEADS, N_PROMPTS)) - 1.0


SYNTHETIC = (correlated, alike, heavy_tailed, skewed)


def synthetic(draw: Callable[[np.random.Generator], np.ndarray]) -> RunOnce:
    """Null runs on drawn effects; the model does its task, so that only the heads are on trial."""

    def run_once(seed: int) -> Evidence:
        rng = np.random.default_rng([20, seed])
        return judge(draw(rng), 2 + rng.normal(size=N_PROMPTS), controls_of(N_HEADS), level=LEVEL, n_boot=20, seed=seed)

    return run_once


@dataclass(frozen=True)
class Shuffled(Task):
    """The prompts of a task, each with answer and distractor of another prompt.

    Attributes:
        source: name of the task.
    """

    name: ClassVar[str] = "shuffled"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Prompts of a task with answers that belong to other prompts."

    source: str = "ioi"

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`; no prompt keeps its own answer."""
        found = interp.task(self.source, n=self.n, seed=self.seed).examples(tokenizer)
        order = list(found.examples)
        random.Random(f"shuffled/{self.seed}").shuffle(order)
        given = {taker.id: giver for taker, giver in zip(order, order[1:] + order[:1], strict=True)}
        shuffled = [replace(e, answer=given[e.id].answer, distractor=given[e.id].distractor) for e in found.examples]
        return TaskExamples(tuple(shuffled), found.drops, found.notes)


def shuffled_answers(model: Any, source: str, n: int) -> RunOnce:
    """Null runs of a model that can do the task, asked for answers that do not belong to the prompts."""

    def run_once(seed: int) -> Evidence:
        task = Shuffled(n=n, seed=seed, source=source)
        return interp.ablate(model, task, heads="all", operator="mean", shown_prompts=0, seed=seed).evidence

    return run_once


def random_weights(model: Any, source: str, n: int) -> RunOnce:
    """Null runs of models of the same architecture that never saw data; every second one with ten times larger weights."""

    def run_once(seed: int) -> Evidence:
        untrained = interp.HookedModel.from_hf(
            untrained_copy(model.adapter.model, seed), model.tokenizer, name="untrained"
        )
        task = interp.task(source, n=n, seed=seed)
        return interp.ablate(untrained, task, heads="all", operator="mean", shown_prompts=0, seed=seed).evidence

    return run_once


def untrained_copy(hf_model: Any, seed: int) -> Any:
    """A model of the same configuration with freshly drawn weights."""
    import torch

    config = type(hf_model.config)(**{**hf_model.config.to_dict(), "initializer_range": (0.02, 0.2)[seed % 2]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(hf_model)(config).eval()


@dataclass(frozen=True)
class PlantedClaims:
    """What was claimed in models whose true heads are known.

    Attributes:
        runs: models.
        found: true heads claimed, of all true heads in all runs.
        false: other heads claimed, of all claims in all runs.
    """

    runs: int
    found: float
    false: float


def planted_claims(n_runs: int, n: int) -> PlantedClaims:
    """Run planted induction models with other noise each and compare the claims with the truth."""
    recipe = PlantedInduction()
    tokenizer, truth, right, wrong = word_tokenizer(recipe.words, recipe.positions), set(recipe.truth().heads), 0, 0
    for seed in range(n_runs):
        model = interp.HookedModel.from_hf(replace(recipe, seed=seed).build(), tokenizer, name="planted")
        task = interp.task("induction", n=n, seed=seed)
        rows = interp.ablate(model, task, heads="all", operator="mean", shown_prompts=0, seed=seed)
        claimed = {label for label, yes in zip(rows.heads, rows.evidence.claimed, strict=True) if yes}
        right, wrong = right + len(claimed & truth), wrong + len(claimed - truth)
    return PlantedClaims(n_runs, right / (n_runs * len(truth)), wrong / max(1, right + wrong))


def table(rows: Iterable[NullClaims]) -> str:
    """Markdown table of null runs."""
    lines = [
        "| null | runs | runs that claim a head | 95 % interval | without the gate | gate passed |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = f"{row.share:.1%} | {row.low:.1%} to {row.high:.1%} | {row.ungated / row.runs:.1%} | {row.does_task / row.runs:.1%}"
        lines.append(f"| {row.name} | {row.runs} | {shares} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs",
        type=int,
        default=60,
        help="runs of each kind of null that runs a model; five times as many of the others",
    )
    parser.add_argument("--prompts", type=int, default=32, help="prompts a run")
    parser.add_argument("--only", choices=("synthetic", "models"), help="one half of the table")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    parts = [f"`{' '.join(['python', 'scripts/calibration.py', *sys.argv[1:]])}`, {versions()}"]
    failed = False
    if options.only != "models":
        parts.append(table([null_claims(draw.__name__, synthetic(draw), 5 * options.runs) for draw in SYNTHETIC]))
        print(parts[-1], flush=True)
    if options.only != "synthetic":
        rows = model_rows(options.runs, options.prompts)
        planted = planted_claims(max(1, options.runs // 6), options.prompts)
        parts.append(table(rows))
        parts.append(
            f"Planted heads found in {planted.runs} models: {planted.found:.0%}; false claims: {planted.false:.1%} of all claims."
        )
        print(parts[-2], parts[-1], sep="\n\n", flush=True)
        failed = rows[-1].share > BAR
    if options.out:
        options.out.write_text("# Calibration of claims\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
    return int(failed)


def model_rows(n_runs: int, n_prompts: int) -> list[NullClaims]:
    """All null runs of the bundled model, and their sum."""
    model = interp.load("mini")
    rows = []
    for kind in (shuffled_answers, random_weights):
        for source in ("ioi", "induction"):
            name = f"{kind.__name__.replace('_', ' ')}, {source}"
            rows.append(null_claims(name, kind(model, source, n_prompts), n_runs))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return [*rows, together(rows)]


def versions() -> str:
    """Versions that the numbers depend on."""
    import torch
    import transformers

    found = f"numpy {np.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"interp {interp.__version__}, {found}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
