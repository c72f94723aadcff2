"""The executor of processes, with workers that start at once because they open no model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.kernels.errors import InterpError
from interp.sweeps.compute import ATTEMPTS, Outcome
from interp.sweeps.executors import process
from interp.sweeps.executors.base import worker_device
from interp.sweeps.executors.process import STARTS, Processes
from interp.sweeps.opening import Opening
from interp.sweeps.plan import Plan, Shard
from interp.sweeps.run import run
from interp.sweeps.store import SweepFolder
from interp.sweeps.units import cut

ROOT = Path(__file__).resolve().parents[2]
N = 200
PLAN = Plan.make({"what": "test"}, cut(N, 1, [0, 0]), N, ("L0H0", "L0H1"), tuple(map(str, range(N))))
OPENING = Opening("nothing", None, "float32", "cpu", None)

WORKER = """
import os, struct, sys, time
from interp.sweeps.frames import read_frame, write_frame
answers = os.fdopen(os.dup(1), "wb")
try:
    header, job = read_frame(sys.stdin.buffer)
    write_frame(answers, %(opened)s)
    while True:
        units = read_frame(sys.stdin.buffer)[0]["units"]
        %(before)s
        numbers = [1000.0 * row + column + 0.1 for first, last, low, high, _ in units
                   for row in range(low, high) for column in range(first, last)]
        header = {"seconds": 0.001, "peak_bytes": 1, "halvings": 0, "failure": None}
        write_frame(answers, header, struct.pack(f"<{len(numbers)}d", *numbers))
except (EOFError, BrokenPipeError):
    pass
"""
EXPECTED = np.array([[1000.0 * row + column + 0.1 for column in range(N)] for row in range(2)])


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Processes]:
    """`workers(2, before="time.sleep(0.01)")`: an executor whose workers do that before each shard."""
    popen = subprocess.Popen

    def make(n: int, before: str = "pass", opened: str = "{}") -> Processes:
        code = WORKER % {"before": before, "opened": opened}
        monkeypatch.setattr(
            process.subprocess, "Popen", lambda command, **rest: popen([command[0], "-c", code], **rest)
        )
        return Processes(b"job", OPENING, workers=n, threads=1)

    return make


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Killed(Processes):
    """Its workers are killed at random: a thread strikes some moments after every few outcomes."""

    def __init__(self, executor: Processes, times: int) -> None:
        self.__dict__ = executor.__dict__
        self.times, self.draw, self.killed = times, random.Random(times), list[int]()

    def map(self, shards: Iterable[Shard]) -> Iterator[Outcome]:
        for number, outcome in enumerate(super().map(shards)):
            yield outcome
            if number % 9 == 0 and len(self.killed) < self.times:
                threading.Timer(self.draw.uniform(0, 0.04), self.strike).start()

    def strike(self) -> None:
        alive = [pid for pid in self.pids() if pid not in self.killed]
        if alive:
            self.killed.append(self.draw.choice(alive))
            os.kill(self.killed[-1], signal.SIGKILL)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_twenty_sigkills_of_workers_lose_and_double_nothing(tmp_path, workers, n_workers) -> None:
    executor = Killed(workers(n_workers, before=f"time.sleep({0.02 * n_workers})"), 20)
    folder = SweepFolder.create(tmp_path / "run", PLAN)
    values, actual = run(folder, executor)
    assert len(executor.killed) == 20
    np.testing.assert_array_equal(values, EXPECTED)
    assert N < actual.attempts <= N + 20
    assert all(gone(pid) for pid in executor.killed) and not executor.pids()


def test_every_shard_has_one_outcome(workers) -> None:
    executor = workers(3)
    outcomes = list(executor.map(PLAN.shards))
    executor.close()
    assert sorted(outcome.shard.key for outcome in outcomes) == sorted(shard.key for shard in PLAN.shards)
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert executor.capacity() == 3


def test_a_shard_that_kills_every_worker_fails_alone(tmp_path, workers) -> None:
    executor = workers(2, before="units[0][0] == 7 and os.kill(os.getpid(), 9)")
    folder = SweepFolder.create(tmp_path / "run", PLAN)
    with pytest.raises(InterpError, match="1 of 200 shards") as caught:
        run(folder, executor)
    assert caught.value.code == "E502" and ", ".join(["SIGKILL"] * ATTEMPTS) in caught.value.what
    (failure,) = folder.failures().values()
    assert failure["key"] == PLAN.shards[7].key and failure["attempts"] == ATTEMPTS and failure["code"] == "E603"


def test_workers_that_die_before_they_are_ready_fail_the_shard(workers) -> None:
    executor = workers(1, opened="os.kill(os.getpid(), 9)")
    (outcome,) = executor.map(PLAN.shards[:1])
    assert outcome.failure.code == "E603" and f"died {STARTS} times" in outcome.failure.what and outcome.attempts == 0


def test_an_error_of_the_data_is_not_tried_again(workers) -> None:
    failure = {"code": "E404", "what": "did not fire", "where": "L1", "fix": "look", "trace": ""}
    header = {"seconds": 0.0, "peak_bytes": 0, "halvings": 0, "failure": failure}
    executor = workers(1, before=f"units[0][0] == 3 and (write_frame(answers, {header}), read_frame(sys.stdin.buffer))")
    outcomes = list(executor.map(PLAN.shards[3:4]))
    executor.close()
    assert [(one.attempts, one.failure.code, one.failure.where) for one in outcomes] == [(1, "E404", "L1")]


def test_a_model_that_cannot_be_opened_ends_the_run(workers) -> None:
    failure = {"code": "E405", "what": "no such model", "where": "", "fix": "", "trace": ""}
    executor = workers(2, opened=str({"failure": failure}))
    with pytest.raises(InterpError, match="no such model") as caught:
        list(executor.map(PLAN.shards))
    executor.close()
    assert caught.value.code == "E405" and not executor.pids()


def test_closing_stops_workers_in_the_middle_of_a_shard(workers) -> None:
    executor = workers(2, before="units[0][0] > 1 and time.sleep(60)")
    outcomes: Iterator[Outcome] = executor.map(PLAN.shards)
    next(outcomes)
    pids = executor.pids()
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 5 and all(gone(pid) for pid in pids)


PARENT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("executors_test", sys.argv[1])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
code, popen = test.WORKER % {"before": "time.sleep(0.3)", "opened": "{}"}, test.subprocess.Popen
test.process.subprocess.Popen = lambda command, **rest: popen([command[0], "-c", code], **rest)
executor = test.Processes(b"job", test.OPENING, workers=2, threads=1)
for outcome in executor.map(test.PLAN.shards):
    print(*executor.pids(), flush=True)
"""


def test_workers_do_not_outlive_a_parent_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, __file__]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and not any(gone(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


def test_workers_go_round_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [worker_device("cuda", slot) for slot in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_device("cuda:1", 0) is None and worker_device("cpu", 1) is None


def test_the_worker_opens_answers_and_leaves(tmp_path: Path) -> None:
    """The real one, as a process: a model that is not there is an answer, not a crash; the end of stdin is the end."""
    from interp.sweeps.code import code_version
    from interp.sweeps.frames import read_frame, write_frame

    environment = {**process.environment(), "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-m", "interp.sweeps.worker"], env=environment, **pipes) as worker:
        header = {"opening": OPENING.to_dict(), "code": code_version(), "threads": 1, "device": None}
        write_frame(worker.stdin, header, small_job())
        opened, body = read_frame(worker.stdout)
        assert opened["failure"]["code"] == "E405" and "nothing" in opened["failure"]["what"] and body == b""
        worker.stdin.close()
        assert worker.wait(timeout=30) == 0


def small_job() -> bytes:
    import torch

    from interp.circuits.question import Question
    from interp.hooks.batch import pad
    from interp.hooks.interventions import Ablate
    from interp.hooks.metrics import metric
    from interp.sweeps.job import Job

    question = Question(pad([[1, 2]], 0), torch.tensor([1]), metric("kl"))
    return Job(question, (Ablate(heads="L0H0"),), 1, torch.zeros(1).double()).to_bytes()
