"""What all verbs share: help, streams, errors and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import interp
from interp.cli.terminal import Terminal, lines
from interp.cli.verb import COMMON, verb
from interp.kernels.errors import InterpError, InterpErrors

VERBS = (
    "ablate",
    "patch",
    "paths",
    "circuit",
    "dla",
    "score",
    "head",
    "sinks",
    "safety",
    "map",
    "swap",
    "plan",
    "resume",
    "verify",
    "diff",
    "report",
    "validate",
    "models",
    "tasks",
    "env",
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real program, in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "interp", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_help_names_every_verb_and_exit_code(cli) -> None:
    said = cli("--help")
    assert said.code == 0
    assert all(re.search(rf"^  {name} ", said.out, re.MULTILINE) for name in VERBS)
    assert all(f"{code} " in said.out for code in (0, 2, 3, 4, 5, 6, 7, 130))


def test_help_is_fast(shell) -> None:
    """Half a second on an idle machine; the best of several runs, because the machine may be busy."""

    def seconds() -> float:
        started = time.perf_counter()
        assert shell("--help").returncode == 0
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_the_common_options(cli, name) -> None:
    said = cli(name, "--help")
    assert said.code == 0
    assert all(f"--{option.replace('_', '-')}" in said.out for option in COMMON)


def test_version(cli) -> None:
    assert cli("--version").out == f"interp {interp.__version__}\n"


@pytest.mark.parametrize("arguments", [("nonsense",), ("ablate", "--nonsense"), ("ablate",), ("tasks", "--seed", "-1")])
def test_usage_mistakes_exit_with_2(cli, arguments) -> None:
    said = cli(*arguments)
    assert said.code == 2 and said.out == "" and "Usage: interp" in said.err


def test_exit_code_and_streams_of_the_real_program(shell) -> None:
    done = shell("ablate", "--model", "mini", "--task", "ioy", "--json")
    assert done.returncode == 2
    assert "did you mean 'ioi'?" in done.stderr and "Traceback" not in done.stderr
    assert '"INTERP-E201"' in done.stdout


def test_json_alone_on_stdout_and_nothing_else_when_quiet(shell) -> None:
    done = shell("tasks", "--json", "--quiet")
    assert done.returncode == 0 and '"induction"' in done.stdout and done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to the process")
def test_interrupt_exits_with_130_and_leaves_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "interp", "ablate", "-M", "mini", "-t", "ioi", "--n", "512", "-o", "runs/x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs may ignore it
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert first.startswith("edits: ")
    assert process.returncode == 130
    assert "interrupted; to go on: interp resume runs/x" in rest and "Traceback" not in rest
    assert not list(tmp_path.rglob("manifest.json"))


def failing(error: BaseException, **options: bool):
    """The exit code of a verb that raises."""

    def broken(terminal: Terminal) -> None:
        raise error

    import typer

    given = {name: options.get(name, default) for name, (_, default) in COMMON.items()}
    with pytest.raises(typer.Exit) as left:
        verb(broken)(**given)
    return left.value.exit_code


@pytest.mark.parametrize("code", ["E201", "E304", "E401", "E501", "E602", "E701"])
def test_exit_code_is_the_first_digit(capsys, code) -> None:
    assert failing(InterpError(code, "what", where="there", fix="do this")) == int(code[1])
    assert capsys.readouterr().err == f"INTERP-{code}: what\n  where: there\n  fix:   do this\n"


def test_many_errors_are_shown_together(capsys) -> None:
    errors = [InterpError("E304", "empty prompt", where=f"my.jsonl:{line}") for line in range(1, 31)]
    assert failing(InterpErrors(errors), json=True) == 3
    said = capsys.readouterr()
    assert said.err.count("E304") == 20 and "and 10 more" in said.err
    assert said.out.count('"INTERP-E304"') == 30


def test_unexpected_errors_exit_with_1_and_ask_for_the_traceback(capsys) -> None:
    assert failing(ZeroDivisionError("division by zero")) == 1
    said = capsys.readouterr()
    assert said.err.startswith("unexpected ZeroDivisionError: division by zero")
    assert "--debug" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("error", [ValueError("no"), InterpError("E304", "no")])
def test_debug_shows_the_traceback(capsys, error) -> None:
    failing(error, debug=True)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_quiet_silences_text_but_not_errors(capsys) -> None:
    terminal = Terminal(quiet=True)
    terminal.say("nobody reads this")
    terminal.complain("but this")
    assert capsys.readouterr() == ("", "but this\n")


def test_json_moves_text_to_stderr(capsys) -> None:
    terminal = Terminal(json=True)
    terminal.say("for people")
    terminal.emit({"share": float("nan")})
    said = capsys.readouterr()
    assert said.err == "for people\n"
    assert '"share": null' in said.out and '"not_finite"' in said.out


def test_text_cannot_steer_the_terminal(capsys) -> None:
    hostile = "\x1b[2J\x07 \u202egnp.exe \u2028 [bold]kept[/bold]"
    Terminal().say(hostile)
    Terminal().table(("prompt",), [(hostile + "\n",)])
    said = capsys.readouterr().out
    assert not re.search("[\x1b\x07\u202e\u2028]", said)
    assert said.count("\n") == 3 and said.count("[bold]kept[/bold]") == 2


def test_progress_is_a_line_for_each_tenth(capsys) -> None:
    report = lines("forwards")
    for done in range(1, 145):
        report(done, 144)
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 10
    assert re.fullmatch(r"forwards: 144 of 144, \S+ a second, 0 s left", said.err.splitlines()[-1])


def test_nobody_is_told_about_progress_who_does_not_want_it() -> None:
    for terminal in (Terminal(quiet=True), Terminal(progress=False)):
        with terminal.following("forwards") as progress:
            assert progress is None


def test_tasks_and_models_list_what_the_library_has(cli) -> None:
    from interp.tasks.registry import list_tasks
    from interp.zoo.registry import list_models

    assert set(cli("tasks", "--json").data["tasks"]) == set(list_tasks())
    assert cli("models", "--json").data["models"] == list_models()
    assert "mini" in cli("models").out and "ioi" in cli("tasks").out


def test_env_tells_versions_and_whether_it_is_offline(cli, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("BROWSER_PATH", "/somewhere/chromium")
    about = cli("env", "--json").data
    assert about["interp"] == interp.__version__ and about["offline"] is False
    assert about["browser"] == "/somewhere/chromium" and about["torch"]
    assert cli("env", "--json", "--offline").data["offline"] is True
