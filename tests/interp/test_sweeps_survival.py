"""Real ablations that are killed, resumed, sharded and spread over processes: the tables must come out byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import interp
from interp.ablation.request import Request
from interp.ablation.result import AblationResult
from interp.ablation.resume import resume
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.sweeps.compute import Outcome
from interp.sweeps.executors.base import Execution
from interp.sweeps.executors.process import Processes
from interp.sweeps.opening import Opening
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify

ROOT = Path(__file__).resolve().parents[2]
HEADS = ["L0H0", "L1H2"]
SHARDS = 60
ASKED: dict[str, Any] = {"heads": HEADS, "n_controls": 0, "batch_size": 1, "operator": "resample"}
TABLES = ("rows.parquet", "prompts.jsonl", "drops.jsonl", "patterns.safetensors")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("planted-induction")


def ablate(model: HookedModel, out: Path | None, **options: Any) -> AblationResult:
    """30 prompts under 2 heads of 2 layers, one prompt a unit: 60 units."""
    return interp.ablate(model, interp.task("induction", n=30), out=out, **{**ASKED, **options})


def tables(path: Path) -> dict[str, bytes]:
    assert verify(path).is_whole, verify(path)
    return {name: (path / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def undisturbed(model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tables of a run in one shard, which nothing disturbed."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    ablate(model, path, shards=1)
    return tables(path)


@pytest.fixture(scope="module")
def small(model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`small(shards=4)`: folder of a run of 8 units."""

    def make(**options: Any) -> Path:
        path = tmp_path_factory.mktemp("small") / "run"
        interp.ablate(model, interp.task("induction", n=8), out=path, **{**ASKED, "batch_size": 2, **options})
        return path

    return make


def test_seventeen_shards_give_the_bytes_of_one(model, undisturbed, tmp_path) -> None:
    found = ablate(model, tmp_path / "run", shards=17)
    assert tables(tmp_path / "run") == undisturbed
    assert found.sweep["shards"] == 17 and found.sweep["actual"]["resumed"] == 0
    in_memory = ablate(model, None)
    assert (in_memory.values == found.values).all() and in_memory.run_id == found.run_id and not in_memory.sweep


def test_the_default_is_one_shard_for_a_run_of_seconds(small) -> None:
    assert AblationResult.load(small()).sweep["shards"] == 1


class Killer:
    """Kills workers of an executor at random, while it maps; `killed` says how many died by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, pause: tuple[float, float]) -> None:
        self.times, self.pause, self.killed, self.random = times, pause, 0, random.Random(0)
        before = Processes.map
        killer = self

        def map(self: Processes, shards: Any) -> Iterator[Outcome]:
            threading.Thread(target=killer.haunt, args=(self,), daemon=True).start()
            return before(self, shards)

        monkeypatch.setattr(Processes, "map", map)

    def haunt(self, executor: Processes) -> None:
        while self.killed < self.times and not executor._closing:
            time.sleep(self.random.uniform(*self.pause))
            pids = executor.pids()
            if pids:
                os.kill(self.random.choice(pids), signal.SIGKILL)
                self.killed += 1


def test_workers_that_are_killed_are_replaced(model, undisturbed, tmp_path, monkeypatch) -> None:
    killer = Killer(monkeypatch, 2, (1.0, 4.0))
    slow_down(monkeypatch, 0.1)
    found = ablate(model, tmp_path / "run", shards=SHARDS, executor="process", workers=2)
    assert tables(tmp_path / "run") == undisturbed
    assert found.sweep["workers"] == 2 and found.sweep["actual"]["attempts"] >= SHARDS
    assert killer.killed >= 1 and not verify(tmp_path / "run").failed


@pytest.mark.slow
def test_twenty_workers_that_are_killed_are_replaced(model, tmp_path, monkeypatch) -> None:
    killer = Killer(monkeypatch, 20, (2.0, 12.0))
    slow_down(monkeypatch, 1.2)
    task = interp.task("induction", n=100)
    for name, who in (("one", {"shards": 1}), ("many", {"shards": 200, "executor": "process", "workers": 2})):
        interp.ablate(model, task, out=tmp_path / name, **ASKED, **who)
    assert killer.killed == 20 and tables(tmp_path / "one") == tables(tmp_path / "many")


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Outcomes come slowly, so that a run lasts long enough to be killed twenty times."""
    before = SweepFolder.record

    def record(self: SweepFolder, outcome: Outcome) -> None:
        time.sleep(seconds)
        before(self, outcome)

    monkeypatch.setattr(SweepFolder, "record", record)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import interp
from interp.sweeps.verify import verify

model, task = interp.load("planted-induction"), interp.task("induction", n=100)
folder, shards, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))

def go(out):
    '''The run in a process of its own, started or resumed.'''
    pid = os.fork()
    if not pid:
        try:
            interp.ablate(model, task, heads=["L0H0", "L1H2"], n_controls=0, batch_size=1, operator="resample", out=out,
                          shards=shards, resume=(out / "plan.jsonl").is_file())
            os._exit(0)
        finally:
            os._exit(1)
    return pid

interp.ablate(model, task, heads=["L0H0", "L1H2"], n_controls=0, batch_size=1, operator="resample", shards=1,
              out=folder / "undisturbed")
kills = rounds = on_the_way = 0
while kills < 20:
    out = folder / f"run-{rounds}"
    pid = go(out)
    time.sleep(draw.uniform(0.1, 1.4))
    if os.waitpid(pid, os.WNOHANG) == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        on_the_way += 0 < len(list(out.glob("parts/*.parquet"))) < shards
    else:
        assert verify(out).is_whole
        rounds += 1
if not (out / "manifest.json").is_file():
    assert os.waitpid(go(out), 0)[1] == 0
print(rounds + 1, on_the_way)
"""


def killed_twenty_times(tmp_path: Path, shards: int, seed: int) -> tuple[list[Path], int]:
    """Runs that were killed 20 times in all and resumed after each; and how many kills met a half-finished run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(shards), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rounds, on_the_way = map(int, done.stdout.split())
    return [tmp_path / f"run-{index}" for index in range(rounds)], on_the_way


def test_twenty_sigkills_of_a_run_of_two_hundred_shards_lose_nothing(tmp_path) -> None:
    runs, on_the_way = killed_twenty_times(tmp_path, 200, 0)
    assert on_the_way >= 5
    for path in runs:
        assert tables(path) == tables(tmp_path / "undisturbed")
        assert len(list((path / "parts").iterdir())) == 200


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 17])
def test_twenty_sigkills_with_other_shards(tmp_path, shards) -> None:
    runs, _ = killed_twenty_times(tmp_path, shards, shards)
    assert all(tables(path) == tables(tmp_path / "undisturbed") for path in runs)


def program(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "interp", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs may ignore it
    )


ARGUMENTS = tuple("-M planted-induction -t induction --n 30 -b 1 -H L0H0,L1H2 --controls 0 --operator resample".split())


def wait_for_parts(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    while len(list(folder.glob("parts/*.parquet"))) < n:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


STOPS = [
    signal.SIGINT,
    pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_program_is_stopped_and_resumed(undisturbed, tmp_path, stop) -> None:
    started = program("ablate", *ARGUMENTS, "--shards", "60", "-o", "run", cwd=tmp_path)
    wait_for_parts(tmp_path / "run", 5, started)
    started.send_signal(stop)
    said, _ = started.communicate()
    if stop is not signal.SIGKILL:
        assert started.returncode == 130 and "interp resume run" in said and "Traceback" not in said
    before = len(list(tmp_path.glob("run/parts/*.parquet")))
    assert 5 <= before < SHARDS
    found = resume(tmp_path / "run")
    assert tables(tmp_path / "run") == undisturbed
    assert found.sweep["actual"]["resumed"] == before
    assert found.run.command.startswith("interp ablate --model planted-induction")


@pytest.mark.slow
def test_the_program_with_processes_is_killed_twenty_times(model, tmp_path) -> None:
    """200 shards in two processes; every kill meets an unfinished run."""
    interp.ablate(model, interp.task("induction", n=100), out=tmp_path / "undisturbed", shards=1, **ASKED)
    draw = random.Random(3)
    words = [*ARGUMENTS, "--n", "100", "--shards", "200", "--executor", "process", "--workers", "2", "-o", "run"]
    for number in range(20):
        process = program(*(["resume", "run"] if number else ["ablate", *words]), cwd=tmp_path)
        known = len(list(tmp_path.glob("run/parts/*.parquet")))
        wait_for_parts(tmp_path / "run", known + 1, process)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not verify(tmp_path / "run").finished
    ended = program("resume", "run", cwd=tmp_path)
    said, _ = ended.communicate()
    assert ended.returncode == 0, said
    assert tables(tmp_path / "run") == tables(tmp_path / "undisturbed")


def test_resume_refuses_another_question_and_names_the_fields(model, small) -> None:
    path = small(shards=4)
    part = next((path / "parts").iterdir())
    part.unlink()
    other = interp.task("induction", n=8, seed=1)
    with pytest.raises(InterpError) as caught:
        interp.ablate(model, other, out=path, resume=True, **{**ASKED, "batch_size": 2, "operator": "mean"})
    error = caught.value
    assert (error.code, error.exit_code) == ("E703", 7) and "--new-run" in error.fix
    for field in (
        'intervention.operator: planned "resample", now "mean"',
        "task.seed: planned 0, now 1",
        "prompts.sha256",
    ):
        assert field in error.what
    assert not part.exists()


def test_resume_refuses_other_code_and_a_new_run_starts_over(small, monkeypatch, tmp_path) -> None:
    path = small(shards=4)
    next((path / "parts").iterdir()).unlink()
    code = {"interp": "0.1.0", "sources_sha256": "0" * 64}
    monkeypatch.setattr("interp.ablation.study.code_version", lambda: code)
    with pytest.raises(InterpError, match="code.sources_sha256: planned") as caught:
        resume(path)
    assert caught.value.code == "E703"
    fresh = resume(path, new_run=tmp_path / "fresh")
    assert verify(tmp_path / "fresh").is_whole and fresh.sweep["actual"]["resumed"] == 0
    assert not verify(path).is_whole


def test_resume_refuses_a_model_whose_weights_changed(small, tmp_path, model) -> None:
    import copy

    other = HookedModel.from_hf(copy.deepcopy(model.adapter.model), model.tokenizer, name="copy")
    path = tmp_path / "run"
    asked = {**ASKED, "batch_size": 2}
    interp.ablate(other, interp.task("induction", n=8), out=path, shards=2, **asked)
    next((path / "parts").iterdir()).unlink()
    next(other.adapter.model.parameters()).data[0, 0] += 1.0
    with pytest.raises(InterpError, match="model.weights_sha256"):
        interp.ablate(other, interp.task("induction", n=8), out=path, resume=True, **asked)
    with pytest.raises(InterpError, match="made in memory") as caught:
        resume(path)
    assert caught.value.code == "E205" and "resume=True" in caught.value.fix


def test_a_whole_run_is_resumed_without_any_work(small, monkeypatch) -> None:
    path = small(shards=2)
    monkeypatch.setattr(Opening, "open", lambda *_: pytest.fail("the model was opened"))
    assert resume(path) == AblationResult.load(path)


def test_a_model_in_memory_stays_in_this_process(model, tmp_path) -> None:
    made = HookedModel.from_hf(model.adapter.model, model.tokenizer)
    with pytest.raises(InterpError, match="made in memory") as caught:
        interp.ablate(made, interp.task("induction", n=4), out=tmp_path / "run", executor="process")
    assert caught.value.code == "E205" and "inline" in caught.value.fix and not (tmp_path / "run").exists()


def test_a_worker_notices_a_model_that_was_changed_after_it_was_loaded(tmp_path) -> None:
    changed = interp.load("planted-induction")
    changed.adapter.model.lm_head.weight.data *= 1.5
    with pytest.raises(InterpError, match="gives a logit_diff of") as caught:
        interp.ablate(changed, interp.task("induction", n=4), out=tmp_path / "run", **ASKED, executor="process")
    assert caught.value.code == "E703"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"executor": "slurm"}, "E201"),
        ({"workers": 2}, "E205"),
        ({"workers": 0, "executor": "process"}, "E205"),
        ({"address": "auto"}, "E205"),
        ({"threads": 0}, "E205"),
    ],
)
def test_settings_that_do_not_fit_together(given, code) -> None:
    with pytest.raises(InterpError) as caught:
        Execution(**given)
    assert caught.value.code == code


@pytest.mark.parametrize("given", [{"executor": "process"}, {"shards": 2}, {"resume": True}, {"overwrite": True}])
def test_settings_of_stored_runs_need_a_folder(model, given) -> None:
    with pytest.raises(InterpError, match="no folder") as caught:
        interp.ablate(model, interp.task("induction", n=4), **given)
    assert caught.value.code == "E205"


def test_a_request_comes_back_from_the_plan(small) -> None:
    path = small(shards=2, positions=(1, 2), seed=3)
    request = Request.from_dict(SweepFolder.open(path).request, "x")
    assert request.settings.positions == (1, 2) and request.settings.heads == ("L0H0", "L1H2")
    assert request.opening.name == "planted-induction" and request.execution.shards == 2
    assert request.make_task() == interp.task("induction", n=8)
    again = Request.from_dict(request.to_dict(), "x")
    assert replace(again, task=dict(request.task)) == request


def test_progress_counts_what_is_there_already(model, small) -> None:
    path = small(shards=4)
    next((path / "parts").iterdir()).unlink()
    steps: list[tuple[int, int]] = []
    resume(path, progress=lambda *step: steps.append(step))
    assert steps == [(8, 8)]


def test_capacity_is_the_number_of_workers(model) -> None:
    opening = Opening.required(model, "x")
    assert Processes(b"", opening, workers=3, threads=1).capacity() == 3
