"""The benchmark of attention with statistics: the masks are what they are called, and all of it runs at small sizes."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from interp.bench.kernels import MASKS, MODES, WIDTH, given_by, measure, multiplication_speed, scene
from interp.bench.kernels_memory import Cost, fresh_cost, growth
from interp.cli.main import app
from interp.kernels.variants.rowwise import Rowwise

BACKENDS = ("blockwise", "lse_algebra")


@pytest.mark.parametrize("mask", MASKS)
def test_the_dense_mask_is_the_operators(mask: str) -> None:
    """Torch is handed the same mask as ours, so that a ratio compares like with like."""
    shown = scene(mask, 700)
    assert isinstance(shown.variant, Rowwise)
    allowed = shown.variant.allowed(shown.problem.view()).expand(1, 1, 700, 700)[0, 0]
    assert torch.equal(allowed, shown.dense)
    assert shown.cells == int(allowed.sum())


def test_rows_hold_ratios_floors_and_small_differences() -> None:
    rows = measure(scene("causal", 96), BACKENDS, rounds=1, eager=True, speed=1e9)
    assert {(row.backend, row.mode) for row in rows} == {(name, mode) for name in BACKENDS for mode in MODES}
    cells = 96 * 97 / 2
    for row in rows:
        assert row.seconds > 0 and row.ratio > 0 and (row.eager is None) == (row.mode != "out+row+column")
        assert row.floor == pytest.approx((2 if row.mode == "row" else 4) * cells * 12 * WIDTH / 1e9)
        assert row.difference is None or row.difference < 1e-5
        assert (row.bar is None) == ((row.backend, row.mode) != ("blockwise", "out+row"))


def test_a_backend_is_asked_for_what_it_gives() -> None:
    shown = scene("causal", 64)
    assert given_by(shown, "blockwise", "out+row") == MODES["out+row"]
    given = given_by(shown, "lse_algebra", "out+row")
    assert given is not None and "entropy" in given and "largest" not in given
    assert given_by(scene("window", 700), "lse_algebra", "out") is None


def test_speed_of_products_is_a_number() -> None:
    assert multiplication_speed() > 1e7


def test_a_fresh_process_tells_seconds_and_memory() -> None:
    cost = fresh_cost("blockwise", "out+row", 512, heads=2, threads=1)
    assert cost.seconds > 0 and (cost.mib is None or 0 < cost.mib < 200)


def test_growth_is_the_exponent() -> None:
    costs = [Cost("b", "m", n, 3.0 * n**2, 0.5 * n) for n in (10, 20, 40)]
    assert growth(costs) == pytest.approx((2.0, 1.0))
    time, memory = growth([Cost("b", "m", n, float(n), None) for n in (10, 20)])
    assert time == pytest.approx(1.0) and memory is None


def run(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["bench", "kernels", "--json", *arguments])
    return json.loads(done.stdout)


def test_the_verb_prints_its_rows() -> None:
    found = run("--lengths", "64,96", "--masks", "causal,streaming", "--rounds", "1", "--no-memory")
    assert {(row["mask"], row["length"]) for row in found["rows"]} == {
        (mask, length) for mask in ("causal", "streaming") for length in (64, 96)
    }


@pytest.mark.parametrize(("arguments", "code"), [(("--masks", "caused"), "E201"), (("--lengths", "1k"), "E205")])
def test_wrong_names_and_lengths_are_refused(arguments: tuple[str, str], code: str) -> None:
    assert code in json.dumps(run(*arguments, "--no-memory"))
