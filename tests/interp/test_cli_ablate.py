"""`interp ablate`, `report` and `validate` from files to exit codes, on the bundled model and on folders."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from interp.ablation.result import AblationResult

FAST = ("--heads", "L0H0,L1H1", "--controls", "1", "--no-progress")
PAIR = {
    "id": "one",
    "clean": "When Mary and John went to the store, John gave a book to",
    "corrupt": "When Mary and John went to the store, Mary gave a book to",
    "answer": " Mary",
    "distractor": " John",
}
OTHER = {
    "id": "two",
    "clean": "Then, Tom and Kate met at the park, and Tom handed a letter to",
    "corrupt": "Then, Tom and Kate met at the park, and Kate handed a letter to",
    "answer": " Kate",
    "distractor": " Tom",
}


def test_ablate_says_what_it_found_and_writes_a_run(cli) -> None:
    said = cli("ablate", "-M", "mini", "-t", "ioi", "--n", "8", *FAST, "-o", "runs/x")
    assert said.code == 0 and said.err == ""
    result = AblationResult.load("runs/x")
    assert said.out.startswith(result.headline())
    assert all(head in said.out for head in ("L0H0", "L1H1"))
    assert "prompts: 8 kept" in said.out and said.out.endswith("report: interp report runs/x\n")


def test_json_holds_every_head_and_the_whole_record(cli) -> None:
    said = cli("ablate", "-M", "mini", "-t", "ioi", "--n", "8", *FAST, "-o", "runs/x", "--json")
    data = said.data
    assert said.code == data["exit_code"] == 0
    assert [row["label"] for row in data["heads"]] == list(AblationResult.load("runs/x").heads)
    assert data["kept"] == 8 and data["run"]["certificate"] and data["run"]["canary"]
    assert data["headline"] in said.err


def test_the_recorded_command_repeats_the_run(cli) -> None:
    arguments = ("ablate", "-M", "mini", "-t", "ioi", "--task-args", "corruption=s2", "--n", "6", *FAST, "--seed", "3")
    assert cli(*arguments, "--operator", "resample", "-o", "runs/x").code == 0
    first = AblationResult.load("runs/x")
    command = shlex.split(first.run.command)
    assert command[:2] == ["interp", "ablate"] and "corruption=s2" in command
    assert cli(*command[1:], "--no-progress", "--overwrite").code == 0
    again = AblationResult.load("runs/x")
    assert again.run_id == first.run_id and again.run.seeds == first.run.seeds == {"task": 3, "evidence": 3}
    assert (again.values == first.values).all()


def test_seed_changes_the_prompts(cli) -> None:
    common = ("ablate", "-M", "mini", "-t", "ioi", "--n", "4", *FAST)
    assert cli(*common, "--seed", "1", "-o", "a").code == cli(*common, "--seed", "2", "-o", "b").code == 0
    assert AblationResult.load("a").prompts != AblationResult.load("b").prompts


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_file_on_a_folder_of_save_pretrained(cli, prompts, model_folder, name) -> None:
    ask = " [MASK]" if name == "bert" else ""
    path = prompts(*({**row, "clean": row["clean"] + ask, "corrupt": row["corrupt"] + ask} for row in (PAIR, OTHER)))
    said = cli("ablate", "-M", model_folder(name), "--prompts", path, "--operator", "resample", *FAST, "-o", "x")
    assert said.code == 0, said.err
    assert len(AblationResult.load("x").prompts) == 2
    done = cli("report", "x")
    assert done.code == 0, done.err
    assert Path("x/report.html").stat().st_size > 1000 and "x/report.html" in done.out


def test_default_folder_is_a_safe_name(cli, model_folder) -> None:
    folder = model_folder("llama")
    said = cli("ablate", "-M", folder, "-t", "induction", "--n", "4", *FAST)
    assert said.code == 0, said.err
    (made,) = Path("runs").iterdir()
    assert made.name.endswith("-induction-mean") and (made / "manifest.json").is_file()


def test_a_run_is_never_replaced_without_being_told(cli) -> None:
    common = ("ablate", "-M", "mini", "-t", "ioi", *FAST, "-o", "x")
    assert cli(*common, "--n", "4").code == 0
    before = Path("x/manifest.json").read_bytes()
    said = cli(*common, "--n", "5")
    assert said.code == 2 and "INTERP-E204" in said.err and "--overwrite" in said.err
    assert Path("x/manifest.json").read_bytes() == before
    assert cli(*common, "--n", "5", "--overwrite").code == 0
    assert len(AblationResult.load("x").prompts) == 5


def test_other_files_are_never_overwritten(cli) -> None:
    Path("x").mkdir()
    Path("x/thesis.tex").write_text("years of work")
    said = cli("ablate", "-M", "mini", "-t", "ioi", "--n", "4", *FAST, "-o", "x", "--overwrite")
    assert said.code == 2 and "INTERP-E204" in said.err
    assert [path.name for path in Path("x").iterdir()] == ["thesis.tex"]


def test_limit_takes_the_first_prompts(cli, prompts) -> None:
    assert cli("ablate", "-M", "mini", "--prompts", prompts(PAIR, OTHER), "--limit", "1", *FAST, "-o", "x").code == 0
    assert [prompt.id for prompt in AblationResult.load("x").prompts] == ["one"]


@pytest.mark.parametrize("arguments", [(), ("-t", "ioi", "--prompts", "my.jsonl")])
def test_task_or_prompts(cli, prompts, arguments) -> None:
    prompts(PAIR)
    said = cli("ablate", "-M", "mini", *arguments)
    assert said.code == 2 and "INTERP-E205" in said.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-t", "ioi", "--task-args", "nonsense=1"), "E201"),
        (("-t", "ioi", "--task-args", "corruption"), "E205"),
        (("-t", "ioi", "--task-args", "corruption=abd"), "E201"),
        (("-t", "induction", "--task-args", "length=long"), "E205"),
        (("-t", "ioi", "--skip-bad-lines"), "E205"),
        (("--prompts", "my.jsonl", "--n", "3"), "E205"),
        (("-t", "ioi", "--operator", "meen"), "E201"),
        (("-t", "ioi", "--metric", "logitdiff"), "E201"),
        (("-t", "ioi", "--dtype", "float31"), "E201"),
    ],
)
def test_wrong_options_exit_with_2(cli, prompts, arguments, code) -> None:
    prompts(PAIR)
    said = cli("ablate", "-M", "mini", *arguments)
    assert said.code == 2 and f"INTERP-{code}" in said.err


def test_task_args_are_numbers_where_the_task_wants_numbers(cli) -> None:
    assert (
        cli(
            "ablate", "-M", "mini", "-t", "induction", "--task-args", "length=6, repeat=2", "--n", "4", *FAST, "-o", "x"
        ).code
        == 0
    )
    assert AblationResult.load("x").run.task["options"] == {"length": 6, "repeat": 2}


def test_report_of_several_runs_needs_a_name(cli) -> None:
    for name in ("a", "b"):
        assert cli("ablate", "-M", "mini", "-t", "ioi", "--n", "4", *FAST, "-o", name).code == 0
    said = cli("report", "a", "b")
    assert said.code == 2 and "INTERP-E205" in said.err
    assert cli("report", "a", "b", "--out", "both.html").code == 0 and Path("both.html").is_file()


def test_report_of_what_is_no_run(cli) -> None:
    Path("empty").mkdir()
    said = cli("report", "empty")
    assert said.code == 2 and "INTERP-E204" in said.err


def test_report_of_a_damaged_run(cli) -> None:
    assert cli("ablate", "-M", "mini", "-t", "ioi", "--n", "4", *FAST, "-o", "x").code == 0
    rows = Path("x/rows.parquet")
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    said = cli("report", "x")
    assert said.code == 7 and "INTERP-E701" in said.err and "rows.parquet" in said.err


def test_validate_reads_no_weights(cli, prompts, model_folder) -> None:
    import shutil

    folder = Path("without")
    shutil.copytree(model_folder("llama"), folder)
    (folder / "model.safetensors").unlink()
    data = cli("validate", "-M", folder, "--prompts", prompts(PAIR, OTHER, OTHER), "--json").data
    assert data["ready"] == 2 and data["corrupt"] is True and data["metric"] == "logit_diff"
    assert data["dropped"] == {"INTERP-E315": 1}


def test_validate_shows_all_mistakes_at_once(cli, prompts) -> None:
    path = prompts(
        PAIR, {**PAIR, "id": "b", "clean": " "}, {**OTHER, "answer": " Tom"}, {**PAIR, "id": "c", "answer": 5.5}
    )
    said = cli("validate", "-M", "mini", "--prompts", path)
    assert said.code == 3
    assert all(f"my.jsonl:{line}" in said.err for line in (2, 3, 4))


def test_validate_a_task(cli) -> None:
    said = cli("validate", "-M", "mini", "-t", "ioi", "--n", "5")
    assert said.code == 0 and said.out.startswith("5 prompts are ready") and "resample: possible" in said.out
