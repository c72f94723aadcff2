"""How long something takes on a GPU."""

from __future__ import annotations

from collections.abc import Callable


def milliseconds(run: Callable[[], object]) -> float:
    """Median over repetitions between events on the device, each with a cold cache; compiled and tuned beforehand."""
    from triton.testing import do_bench

    run()
    return do_bench(run, warmup=25, rep=100, return_mode="median")
