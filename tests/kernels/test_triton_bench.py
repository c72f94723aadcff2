"""The GPU benchmark: its floors, its ratios, and, where there is a GPU, a small run of it."""

from __future__ import annotations

import pytest
import torch

from interp.bench import kernels_gpu as bench
from interp.kernels.backends.triton.launch import unusable
from interp.kernels.errors import InterpError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_floors_are_those_worked_out_by_hand() -> None:
    """32 heads: matrix products at T 8k and D 128; at D 64 and T 32k; exponentials where only scores are needed."""
    assert bench.floor(bench.Setting(8192, 128), bench.FORWARD) == pytest.approx(0.70, abs=0.01)
    assert bench.floor(bench.Setting(32768, 128), bench.FORWARD) == pytest.approx(11.1, abs=0.1)
    assert bench.floor(bench.Setting(131072, 64), bench.FORWARD) == pytest.approx(89, abs=1)
    assert bench.floor(bench.Setting(131072, 64), bench.ALONE) == pytest.approx(70.5, abs=0.5)
    assert bench.floor(bench.Setting(8192, 128), bench.COLUMNS) == pytest.approx(1.04, abs=0.01)


def test_ratios_are_medians_of_ratios_within_a_round() -> None:
    times = {bench.FORWARD: [1.0, 2.0, 4.0], bench.ROWS: [1.1, 2.4, 4.4], bench.TORCH: [1.0, 1.0, 4.0]}
    found = bench.row(bench.Setting(8192, 128), bench.ROWS, times, 0.01)
    assert found.to_forward == pytest.approx(1.1) and found.to_torch == pytest.approx(1.1)
    assert found.ms == 2.4 and found.met and found.bar == 1.15
    slow = {**times, bench.ROWS: [1.3, 2.6, 5.0]}
    assert not bench.row(bench.Setting(8192, 128), bench.ROWS, slow, 0.01).met
    beside_torch = {**times, bench.TORCH: [0.5, 0.5, 0.5]}
    assert not bench.row(bench.Setting(8192, 128), bench.ROWS, beside_torch, 0.01).met


@pytest.mark.skipif(unusable(DEVICE) is not None, reason=str(unusable(DEVICE)))
def test_all_ways_compute_the_same_attention() -> None:
    asked = bench.request(bench.Setting(40, 16, heads=2), DEVICE, torch.float32)
    answers = {name: way() for name, way in bench.ways_of(asked).items()}
    wanted = answers.pop(bench.TORCH)
    assert answers[bench.ALONE].output is None and answers[bench.FORWARD].entropy is None
    for name in (bench.FORWARD, bench.ROWS, bench.COLUMNS):
        torch.testing.assert_close(answers[name].output, wanted, atol=1e-5, rtol=0)
    for name in (bench.ROWS, bench.ALONE, bench.COLUMNS):
        torch.testing.assert_close(answers[name].lse, answers[bench.FORWARD].lse)
        assert answers[name].entropy is not None and answers[name].band is not None
    assert answers[bench.ROWS].columns is None and answers[bench.COLUMNS].columns is not None


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(InterpError, match="CUDA"):
        bench.rows()


@pytest.mark.skipif(DEVICE.type != "cuda", reason="times a GPU")
def test_a_small_run_on_the_gpu() -> None:
    found = bench.rows(lengths=(1024,), widths=(64,), heads=4, rounds=2)
    assert [row["way"] for row in found] == [bench.FORWARD, bench.ROWS, bench.ALONE, bench.COLUMNS, bench.TORCH]
    assert all(float(str(row["ms"])) > float(str(row["floor"])) for row in found)
