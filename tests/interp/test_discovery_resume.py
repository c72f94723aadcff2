"""A circuit run in a folder: whatever ends the process, it is finished later with the same bytes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.circuits.edges.methods import Settings
from interp.circuits.runfolder import MANIFEST, PLAN
from interp.discovery.asked import Asked, as_data
from interp.discovery.discovery import Discovery
from interp.discovery.result import Circuit
from interp.discovery.resume import resume
from interp.discovery.run import NOT_ASKED
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.sweeps import ledger as ledgers
from interp.sweeps.entries import Entry, decode, encode
from interp.sweeps.ledger import Head, Ledger
from interp.sweeps.lock import locked
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify
from interp.tasks.file import file_task
from interp.zoo.registry import ROOT

CHAIN = ROOT / "planted-chain" / "examples.jsonl"
ASKED: dict[str, Any] = {"method": "eap", "n_random": 3, "n_curve": 1, "beside": ("zero",), "size": 12}
KEPT = 5
"""Answers of the run that was ended."""


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("planted-chain")


def task(n: int = 16) -> Any:
    return replace(file_task(CHAIN), n=n)


def found(model: HookedModel, out: Path | None, **options: Any) -> Circuit:
    """8 prompts choose, 8 judge."""
    return interp.circuit(model, task(), out=out, **{**ASKED, **options})


def content(path: Path) -> dict[str, Any]:
    """All files of a finished run, the manifest without what tells runs apart."""
    assert verify(path).is_whole
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    for name in ("started", "seconds", "command"):
        manifest["run"].pop(name)
    files = {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}
    return {**files, MANIFEST: {**manifest, "digest": ""}}


@pytest.fixture(scope="module")
def undisturbed(model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    found(model, path)
    return content(path)


class Ended(Exception):
    """What ends a run in these tests."""


def raised() -> None:
    raise Ended


def end_after(monkeypatch: pytest.MonkeyPatch, n: int, end: Callable[[], None] = raised) -> None:
    """The n-th answer from now on is the last one that is kept."""
    left = n

    def write(*arguments: Any) -> Path:
        nonlocal left
        written = before(*arguments)
        left -= 1
        if not left:
            end()
        return written

    before = ledgers.write_inside
    monkeypatch.setattr(ledgers, "write_inside", write)


def ended(model: HookedModel, path: Path, n: int, **options: Any) -> Path:
    """Folder of a run that was ended when it had kept n answers."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Ended):
        end_after(patch, n)
        found(model, path, **options)
    assert verify(path).kept == n and not verify(path).finished
    return path


@pytest.fixture(scope="module")
def half(model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ended(model, tmp_path_factory.mktemp("half") / "run", KEPT)


@pytest.fixture
def unfinished(half: Path, tmp_path: Path) -> Path:
    """Folder of a run that was ended when it had kept some answers."""
    return Path(shutil.copytree(half, tmp_path / "unfinished"))


def test_a_run_in_a_folder_gives_the_bytes_of_one_in_memory(model, undisturbed, tmp_path) -> None:
    found(model, None).save(tmp_path / "run")
    assert content(tmp_path / "run") == undisturbed


def test_a_run_that_is_ended_again_and_again_makes_each_answer_once(model, tmp_path, monkeypatch) -> None:
    """Every process of the run keeps three answers more; the prompts are scored in two batches."""
    path, made, kept = tmp_path / "run", list[Any](), Ledger.kept

    def counted(self: Ledger, asked: Any, make: Callable[[], Entry]) -> Entry:
        def noted() -> Entry:
            made.append(asked)
            return make()

        return kept(self, asked, noted)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "kept", counted)
        processes = 0
        while not (path / MANIFEST).is_file():
            with pytest.MonkeyPatch.context() as inner, suppress(Ended):
                end_after(inner, 3)
                found(model, path, resume=processes > 0, batch_size=4)
            processes += 1
    ends = 2 * processes  # of both sides: every process computes them, to see that the model is the same one
    assert processes >= 4 and 0 <= len(made) - ends - 3 * (processes - 1) < 3
    assert [one["prompts"] for one in made if one["what"] == "scores"] == [[0, 4], [4, 8]]
    found(model, None, batch_size=4).save(tmp_path / "memory")
    assert content(path) == content(tmp_path / "memory")


KILLS = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import interp
from interp.tasks.file import file_task

folder, kills, draw = Path(sys.argv[1]), int(sys.argv[3]), random.Random(0)
model, task = interp.load("planted-chain"), replace(file_task(sys.argv[2]), n=16)
asked = dict(method="eap", n_random=3, n_curve=1, beside=("zero",), size=12)

def go(out):
    '''The run in a process of its own, started or resumed.'''
    pid = os.fork()
    if not pid:
        try:
            interp.circuit(model, task, out=out, resume=(out / "plan.jsonl").is_file(), **asked)
            os._exit(0)
        finally:
            os._exit(1)
    return pid

killed = rounds = 0
while killed < kills:
    out = folder / f"run-{rounds}"
    wanted = len(list(out.glob("parts/*.safetensors"))) + draw.randint(0, 4)
    pid = go(out)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if len(list(out.glob("parts/*.safetensors"))) >= wanted:
            break
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.05))
    if os.waitpid(pid, os.WNOHANG) == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed += 1
    else:
        rounds += 1
if not (out / "manifest.json").is_file() or (out / "plan.jsonl").is_file():
    assert os.waitpid(go(out), 0)[1] == 0
print(rounds + 1)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_sigkills_lose_nothing(undisturbed, tmp_path, kills) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(CHAIN), str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number in range(int(done.stdout)):
        assert content(tmp_path / f"run-{number}") == undisturbed


ASK = (
    "-M",
    "planted-chain",
    "--prompts",
    str(CHAIN),
    "-L",
    "16",
    "--method",
    "eap",
    "--size",
    "12",
    "--random",
    "3",
    "-o",
    "x",
)


@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_says_how_to_go_on(cli, monkeypatch, stop) -> None:
    def sent() -> None:
        os.kill(os.getpid(), stop)
        time.sleep(5)  # the handler runs before that

    with monkeypatch.context() as patch:
        end_after(patch, 3, sent)
        said = cli("circuit", *ASK, "--export", "out.json", "--no-progress")
    assert said.code == 130 and "interp resume x" in said.err and "Traceback" not in said.err
    assert not Path("x/.lock").exists() and not Path("out.json").exists()
    said = cli("verify", "x")
    assert said.code == 5 and "INTERP-E502" in said.err and "unfinished: 3 answers are kept" in said.err
    assert "interp resume x" in cli("circuit", *ASK).err
    said = cli("resume", "x", "--executor", "process")
    assert said.code == 2 and "INTERP-E205" in said.err and "--executor" in said.err
    said = cli("resume", "x", "--no-progress")
    assert said.code == 0 and said.out.startswith(Circuit.load("x").headline()) and Path("out.json").is_file()
    assert Circuit.load("x").run.command.startswith("interp circuit --model planted-chain")
    assert cli("verify", "x").code == 0 and not Path("x", PLAN).exists() and not Path("x/parts").exists()


def test_damaged_answers_are_noticed_and_made_again(unfinished, undisturbed) -> None:
    first, second, third, fourth, fifth = sorted((unfinished / "parts").iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    whole = second.read_bytes()
    second.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    third.write_bytes(b"")
    fourth.write_bytes(fifth.read_bytes())
    check = verify(unfinished)
    assert [one.file for one in check.problems] == [f"parts/{one.name}" for one in (first, second, third, fourth)]
    assert check.problems[3].what == "holds another answer" and check.kept == 1
    resume(unfinished)
    assert content(unfinished) == undisturbed


def test_entries_come_back_as_they_were() -> None:
    arrays = {"a": np.array([[1.5, np.nan], [-np.inf, -0.0]]), "b": np.zeros((0, 3), np.float32), "c": np.array(7)}
    entry = Entry(arrays, {"x": float("nan"), "y": [1, "é"], "z": {"f": 0.1}})
    again = decode("k", encode("k", entry), "parts/k")
    for name, value in arrays.items():
        assert again.arrays[name].dtype == value.dtype and again.arrays[name].tobytes() == value.tobytes()
    assert encode("k", again) == encode("k", entry) != encode("other", entry)


def refused(call: Callable[[], object]) -> InterpError:
    with pytest.raises(InterpError) as caught:
        call()
    return caught.value


def test_a_second_process_is_told_who_works_on_the_run(model, unfinished) -> None:
    with locked(unfinished):
        error = refused(lambda: resume(unfinished))
        assert error.code == "E604" and f"process {os.getpid()}" in error.what
        assert refused(lambda: found(model, unfinished, overwrite=True)).code == "E604"
    assert verify(unfinished).kept == KEPT


def test_another_question_is_refused_field_by_field(model, unfinished) -> None:
    asked: dict[str, Any] = {"method": "eap-ig", "settings": Settings(steps=2), "n_random": 4}
    other = refused(lambda: found(model, unfinished, resume=True, **asked))
    assert (other.code, other.exit_code) == ("E703", 7) and "--new-run" in other.fix
    for text in ('asked.method: planned "eap", now "eap-ig"', "asked.n_random: planned 3, now 4", "asked.settings"):
        assert text in other.what
    prompts = refused(lambda: interp.circuit(model, task(12), out=unfinished, resume=True, **ASKED))
    assert prompts.code == "E703" and "prompts.chooses.sha256" in prompts.what and "prompts.judges.kept" in prompts.what
    assert verify(unfinished).kept == KEPT


def test_other_code_and_other_weights_are_refused(unfinished, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("interp.discovery.storage.code_version", lambda _: {"sources_sha256": "0" * 64})
        error = refused(lambda: resume(unfinished))
        assert error.code == "E703" and "code.sources_sha256" in error.what
    changed = interp.load("planted-chain")
    changed.adapter.model.lm_head.weight.data *= 1.5
    error = refused(lambda: found(changed, unfinished, resume=True))
    assert error.code == "E703" and "1 settings differ" in error.what and "ends_sha256" in error.what
    assert verify(unfinished).kept == KEPT


def test_a_plan_that_was_changed_is_refused(unfinished, cli) -> None:
    line = json.loads((unfinished / PLAN).read_bytes())
    line["request"]["options"]["seed"] = 1
    (unfinished / PLAN).write_text(json.dumps(line), "utf-8")
    for verb in ("verify", "resume"):
        said = cli(verb, unfinished)
        assert said.code == 7 and "INTERP-E701" in said.err and PLAN in said.err and "--overwrite" in said.err


def test_kinds_of_runs_are_told_apart(model, unfinished, tmp_path) -> None:
    assert refused(lambda: SweepFolder.open(unfinished)).code == "E204"
    options: dict[str, Any] = {"heads": ["L0H0"], "n_controls": 0, "operator": "zero"}
    interp.ablate(model, task(4), out=tmp_path / "sweep", **options)
    for name in ("sweep", "nothing"):
        assert refused(lambda name=name: found(model, tmp_path / name, resume=True)).code == "E204"
    assert refused(lambda: found(model, tmp_path / "sweep")).code == "E204"


def test_what_is_refused_at_once_begins_no_folder(model, tmp_path) -> None:
    for options in ({"method": "guess"}, {"threshold": 1.0}, {"roles": ("guess",)}):
        refused(lambda options=options: found(model, tmp_path / "run", **options))
    changed = interp.load("planted-chain")
    changed.adapter.model.lm_head.weight.data *= 0
    assert refused(lambda: found(changed, tmp_path / "run")).code == "E407"
    assert not (tmp_path / "run").exists()
    for name in ("resume", "overwrite"):
        error = refused(lambda name=name: found(model, None, **{name: True}))
        assert error.code == "E205" and "no folder" in error.what


def test_a_new_run_starts_over(unfinished, undisturbed, tmp_path) -> None:
    resume(unfinished, new_run=tmp_path / "new")
    assert content(tmp_path / "new") == undisturbed and verify(unfinished).kept == KEPT
    assert refused(lambda: resume(tmp_path / "new", new_run=tmp_path / "again")).code == "E204"


def test_a_run_that_was_ended_before_its_ledger_went(unfinished, undisturbed, tmp_path, monkeypatch) -> None:
    """It is taken as it is where it is sound, without any work, and mended from the ledger where it is not."""
    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(Ledger, "end", lambda _: raised())
        resume(unfinished)
    assert (unfinished / PLAN).is_file() and verify(unfinished).is_whole
    damaged = Path(shutil.copytree(unfinished, tmp_path / "damaged"))
    with monkeypatch.context() as patch:
        patch.setattr("interp.discovery.resume.circuit", lambda *_, **__: pytest.fail("something was computed"))
        assert resume(unfinished) == resume(unfinished)
    assert content(unfinished) == undisturbed
    numbers = damaged / "numbers.safetensors"
    numbers.write_bytes(numbers.read_bytes()[:-1])
    resume(damaged)
    assert content(damaged) == undisturbed
    numbers.write_bytes(b"")
    assert refused(lambda: resume(damaged)).code == "E701"


def test_a_search_is_one_answer_and_is_kept(model, tmp_path, monkeypatch) -> None:
    path = ended(model, tmp_path / "run", 1, method="acdc", batch_size=4)
    monkeypatch.setattr(Discovery, "_batch_scores", lambda *_: pytest.fail("the search was run again"))
    resume(path)
    assert Circuit.load(path).run.method["method"] == "acdc"


def test_what_scorers_say_is_kept(model, tmp_path, monkeypatch) -> None:
    asked: dict[str, Any] = {"roles": ("previous-token", "direct-logit-attribution"), "n_random": 1}
    path = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr("interp.discovery.storage.RunWriter", lambda _: raised())
        found(model, path, **asked)
    monkeypatch.setattr("interp.discovery.discovery.score_roles", lambda *_: pytest.fail("scorers were asked again"))
    roles = resume(path).roles
    assert roles is not None and [one.scorer for one in roles.shares] == ["direct-logit-attribution", "previous-token"]
    assert "32 needed" in roles.shares[1].note


def test_a_request_comes_back_from_the_plan(half) -> None:
    asked = Asked.from_dict(Head.read(half).request, "x")
    names = set(inspect.signature(interp.circuit).parameters) - set(NOT_ASKED)
    assert set(asked.options) == names, "every argument of interp.circuit is stored with a run"
    assert asked.make_task() == task() and asked.opening.name == "planted-chain" and asked.arguments()["judge"] is None
    options = {**asked.options, "settings": Settings(taus=(0.1, 1.0)), "metric": metric("kl"), "scores": Path("x.pt")}
    again = Asked.from_dict(json.loads(json.dumps(replace(asked, options=as_data(options)).to_dict())), "x").arguments()
    assert again["settings"] == Settings(taus=(0.1, 1.0)) and again["metric"] == "kl" and again["scores"] == "x.pt"
    assert again["beside"] == ("zero",)


def test_a_model_in_memory_is_resumed_from_python_alone(model, undisturbed, tmp_path) -> None:
    made = HookedModel.from_hf(model.adapter.model, model.tokenizer)
    path = ended(made, tmp_path / "run", 2)
    error = refused(lambda: resume(path))
    assert error.code == "E205" and "made in memory" in error.what and "resume=True" in error.fix
    found(made, path, resume=True)
    assert content(path)["numbers.safetensors"] == undisturbed["numbers.safetensors"]
