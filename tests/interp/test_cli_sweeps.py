"""`interp plan`, `resume`, `verify`, `diff` and the executors of `ablate`, from words to exit codes and files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from interp.ablation.result import AblationResult
from interp.circuits.runfolder import MANIFEST, PLAN, UNFINISHED
from interp.sweeps.text import duration, size

WORDS = ("-M", "planted-induction", "-t", "induction", "--n", "16", "-b", "2", "-H", "L0H0,L1H2", "--controls", "1")
QUIET = ("--no-progress",)


@pytest.fixture
def run(cli) -> Path:
    """A finished run of four shards."""
    said = cli("ablate", *WORDS, "--shards", "4", "-o", "run", *QUIET)
    assert said.code == 0, said.err
    return Path("run")


def interrupted(run: Path) -> Path:
    """The run without its last part and what comes after it."""
    lines = (run / PLAN).read_text().splitlines()
    (run / "parts" / f"{json.loads(lines[-1])['key']}.parquet").unlink()
    for name in (MANIFEST, "rows.parquet"):
        (run / name).unlink()
    (run / UNFINISHED).touch()
    return run


def damaged(run: Path) -> Path:
    """A part with one bit flipped."""
    part = sorted((run / "parts").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    return part


def test_plan_says_what_it_costs_and_writes_nothing(cli) -> None:
    said = cli("plan", *WORDS, "--shards", "4")
    assert said.code == 0, said.err
    for word in ("shards:      4, of 16 units", "edits:       32", "FLOP", "peak memory:", "disk:", "time:"):
        assert word in said.out
    assert not list(Path().iterdir())


def test_the_plan_is_the_one_that_is_run(cli, run) -> None:
    data = cli("plan", *WORDS, "--shards", "4", "--json").data
    lines = [json.loads(line) for line in (run / PLAN).read_text().splitlines()]
    assert data["shards"] == [line["key"] for line in lines[1:]]
    result = AblationResult.load(run)
    assert data["plan"] == result.sweep["plan"]
    for name in ("edits", "units", "shards", "flops"):
        assert data["expected"][name] == result.sweep["expected"][name]
    assert result.sweep["actual"]["edits"] == data["expected"]["edits"]


def test_the_estimate_is_of_the_right_size(run) -> None:
    """Operations by hand: two per weight and token, with the embedding table used once, as the unembedding."""
    sweep = AblationResult.load(run).sweep
    expected, actual = sweep["expected"], sweep["actual"]
    assert 0.3 < expected["disk_bytes"] / actual["disk_bytes"] < 3
    assert 0.1 < expected["cpu_seconds"] / actual["cpu_seconds"] < 10
    import interp

    model = interp.load("planted-induction").adapter.model
    weights = sum(value.numel() for name, value in model.named_parameters() if value.ndim == 2 and "wpe" not in name)
    tokens = len(AblationResult.load(run).prompts[0].tokens)
    by_hand = 2 * weights * tokens * 16 * 4
    assert 0.8 < expected["flops"] / by_hand < 2


def test_verify_resume_verify(cli, run) -> None:
    rows = (run / "rows.parquet").read_bytes()
    assert cli("verify", run).code == 0
    interrupted(run)
    said = cli("verify", run)
    assert (
        said.code == 5 and "INTERP-E502" in said.err and "3 of 4 shards" in said.err and "interp resume run" in said.err
    )
    said = cli("report", run)
    assert said.code == 2 and "interp resume run" in said.err
    said = cli("resume", run, *QUIET)
    assert said.code == 0 and "4 shards, 3 of them resumed" in said.out, said.err
    assert (run / "rows.parquet").read_bytes() == rows and cli("verify", run).code == 0
    assert cli("resume", run, "--json", *QUIET).data["sweep"]["actual"]["resumed"] == 3


def test_damage_is_named_and_mended(cli, run) -> None:
    rows = (run / "rows.parquet").read_bytes()
    part = damaged(run)
    said = cli("verify", run)
    assert said.code == 7 and f"parts/{part.name}" in said.err and "interp resume run" in said.err
    data = cli("verify", run, "--json").data
    assert data["exit_code"] == 7 and part.name in data["errors"][0]["what"]
    said = cli("resume", run, *QUIET)
    assert said.code == 0 and "3 of them resumed" in said.out
    assert (run / "rows.parquet").read_bytes() == rows


def test_all_damage_is_named_at_once(cli, run) -> None:
    part = damaged(run)
    (run / "prompts.jsonl").unlink()
    said = cli("verify", run)
    assert said.code == 7 and part.name in said.err and "prompts.jsonl is missing" in said.err


def test_an_interrupted_run_is_not_started_over_by_accident(cli, run) -> None:
    interrupted(run)
    said = cli("ablate", *WORDS, "-o", run)
    assert said.code == 2 and "INTERP-E204" in said.err and "interp resume run" in said.err
    assert cli("ablate", *WORDS, "-o", run, "--overwrite", "--shards", "2", *QUIET).code == 0
    assert AblationResult.load(run).sweep["shards"] == 2


def test_resume_refuses_a_changed_file_of_prompts_and_new_run_starts_over(cli, prompts) -> None:
    row = {"clean": "the the the", "answer": " the", "distractor": " a"}
    path = prompts(*({**row, "id": str(number)} for number in range(4))).relative_to(Path.cwd())
    words = ("-M", "mini", "--prompts", path, "-b", "2", "-H", "L0H0", "--controls", "1")
    assert cli("ablate", *words, "--shards", "2", "-o", "run", *QUIET).code == 0
    rows = (Path("run") / "rows.parquet").read_bytes()
    interrupted(Path("run"))
    assert cli("resume", "run", *QUIET).code == 0 and (Path("run") / "rows.parquet").read_bytes() == rows
    interrupted(Path("run"))
    path.write_text(path.read_text().replace("the the the", "the the a"))
    said = cli("resume", "run", *QUIET)
    assert said.code == 7 and "INTERP-E703" in said.err and "prompts.sha256" in said.err and "task.sha256" in said.err
    said = cli("resume", "run", "--new-run", "fresh", *QUIET)
    assert said.code == 0 and AblationResult.load("fresh").run.task["sha256"]
    assert not (Path("run") / MANIFEST).exists()


@pytest.mark.parametrize("verb", ["resume", "verify"])
def test_what_is_no_run_is_refused(cli, verb) -> None:
    Path("empty").mkdir()
    for folder in ("empty", "absent"):
        said = cli(verb, folder)
        assert said.code == 2 and "INTERP-E204" in said.err
    assert not Path("absent").exists()


def test_a_run_saved_from_memory_is_verified_too(cli, run) -> None:
    AblationResult.load(run).save("copy")
    assert cli("verify", "copy").code == 0
    (Path("copy") / "rows.parquet").write_bytes(b"x")
    said = cli("verify", "copy")
    assert said.code == 7 and "rows.parquet" in said.err and "resume" not in said.err


def test_diff_of_two_runs(cli, run) -> None:
    assert cli("ablate", *WORDS, "--operator", "zero", "-o", "zero", *QUIET).code == 0
    said = cli("diff", run, "zero")
    assert said.code == 0 and "note: The operators differ: mean and zero" in said.out
    data = cli("diff", run, "zero", "--json").data
    assert data["prompts"] == 16 and {row["label"] for row in data["heads"]} >= {"L0H0", "L1H2"}
    assert all({"change", "ci_low", "ci_high", "q"} <= row.keys() for row in data["heads"])
    same = cli("diff", run, run)
    assert same.code == 0 and same.out.startswith("No head's effect differs")


def test_diff_refuses_other_tasks_and_tokenizers(cli, run) -> None:
    assert cli("ablate", "-M", "mini", "-t", "ioi", "--n", "4", "-H", "L0H0", "-o", "other", *QUIET).code == 0
    said = cli("diff", run, "other")
    assert said.code == 3 and "INTERP-E312" in said.err and "tasks differ: induction and ioi" in said.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--executor", "slurm"), "E201"),
        (("--workers", "2"), "E205"),
        (("--address", "auto"), "E205"),
        (("--shards", "99"), "E205"),
    ],
)
def test_settings_of_a_sweep_that_do_not_fit(cli, words, code) -> None:
    said = cli("ablate", *WORDS, *words, "-o", "run")
    assert said.code == 2 and f"INTERP-{code}" in said.err and not Path("run").exists()


@pytest.mark.parametrize("name", ["../../x", "a b", "x" * 300, "\u202e", "CON"])
def test_names_of_models_and_files_cannot_lead_out_of_the_runs(cli, name) -> None:
    from interp.cli.folders import RUNS, default_folder

    folder = default_folder(name, "task", "mean")
    assert folder.parent == RUNS and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", folder.name)


def test_the_report_shows_plan_against_cost_and_what_was_resumed(cli, run) -> None:
    interrupted(run)
    assert cli("resume", run, *QUIET).code == 0
    assert cli("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "Sweep: the plan and what happened" in page and "<b>Resumed:</b> 3 of them" in page
    table = re.search(r'<table class="sweep">.*?</table>', page, re.DOTALL)
    assert table is not None
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table[0])
    sweep = AblationResult.load(run).sweep
    place = cells.index("edits of a batch")
    assert cells[place : place + 3] == ["edits of a batch", "32", "32"]
    assert size(sweep["actual"]["peak_bytes"]) in cells and duration(sweep["expected"]["cpu_seconds"]) in cells
    assert "Canary" in page and "Certificate" in page
    before = page
    assert cli("report", run).code == 0 and (run / "report.html").read_text() == before


def test_a_run_in_memory_has_no_sweep_in_its_report(cli, run) -> None:
    from dataclasses import replace

    from interp.report.page import render

    result = AblationResult.load(run)
    assert 'class="sweep"' in render([result]) and 'class="sweep"' not in render([replace(result, sweep={})])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.04 s"), (12.4, "12 s"), (200, "3 min 20 s"), (18120, "5 h 2 min")]
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(999, "999 B"), (1234, "1.23 kB"), (5.1e8, "510 MB"), (2e15, "2e+03 TB")])
def test_sizes(n, text) -> None:
    assert size(n) == text
