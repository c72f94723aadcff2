"""A small version of scripts/calibration.py: null runs claim no head more often than the level, planted heads are found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

import interp
from interp.circuits.evidence import Evidence, judge

SCRIPT = Path(__file__).parents[2] / "scripts" / "calibration.py"


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def most_claims(runs: int) -> float:
    """More than this happens to a calibrated method in one of a thousand tests."""
    return float(stats.binom.ppf(0.999, runs, 0.05))


@pytest.mark.parametrize("name", ["correlated", "alike", "heavy_tailed"])
def test_synthetic_nulls(calibration: ModuleType, name: str) -> None:
    row = calibration.null_claims(name, calibration.synthetic(getattr(calibration, name)), 40)
    assert row.claims <= most_claims(40)
    assert row.does_task == 40  # the gate held nothing back
    assert row.low <= row.share <= row.high


def test_counting_sees_claims_and_gates(calibration: ModuleType) -> None:
    def run_once(seed: int) -> Evidence:
        rng = np.random.default_rng(seed)
        effects = 0.1 * rng.normal(size=(4, 20))
        effects[0] += seed % 2  # every second run has a head to find
        clean = rng.normal(size=20) + (3 if seed < 10 else -3)  # later ones fail the gate
        return judge(effects, clean, [(1, 2, 3), (2, 3), (1, 3), (1, 2)], n_boot=10)

    row = calibration.null_claims("none", run_once, 20)
    assert (row.runs, row.claims, row.ungated, row.does_task) == (20, 5, 10, 10)
    twice = calibration.together([row, row])
    assert (twice.runs, twice.claims, twice.share) == (40, 10, 0.25)
    assert twice.high - twice.low < row.high - row.low
    assert "| none | 20 | 25.0% |" in calibration.table([row])


def test_shuffled_answers_belong_to_other_prompts(calibration: ModuleType) -> None:
    tokenizer = interp.load("mini").tokenizer
    for source in ("ioi", "induction"):
        plain = interp.task(source, n=20, seed=3).examples(tokenizer).examples
        shuffled = calibration.Shuffled(n=20, seed=3, source=source).examples(tokenizer).examples
        pairs = [(example.answer, example.distractor) for example in plain]
        assert [example.clean for example in shuffled] == [example.clean for example in plain]
        assert sorted(map(str, pairs)) == sorted(str((example.answer, example.distractor)) for example in shuffled)
        assert sum(new.answer == old.answer for new, old in zip(shuffled, plain, strict=True)) < 5


@pytest.mark.parametrize("kind", ["shuffled_answers", "random_weights"])
def test_null_runs_of_the_bundled_model(calibration: ModuleType, kind: str) -> None:
    model = interp.load("mini")
    row = calibration.null_claims(kind, getattr(calibration, kind)(model, "ioi", 16), 6)
    assert row.claims <= 2


def test_planted_heads_are_found_and_nothing_else(calibration: ModuleType) -> None:
    planted = calibration.planted_claims(2, 24)
    assert planted.found == 1
    assert planted.false <= 0.25


@pytest.mark.slow
def test_two_hundred_null_runs_claim_at_most_seven_percent(calibration: ModuleType) -> None:
    rows = calibration.model_rows(50, 32)
    assert rows[-1].runs == 200
    assert rows[-1].share <= calibration.BAR
