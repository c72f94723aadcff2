"""Bad input as a user meets it: exit code, code in the message, the place, and nothing lost."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from interp.ablation.result import AblationResult

FAST = ("--heads", "L0H0,L1H1", "--controls", "1", "--no-progress")
CLEAN = "When Mary and John went to the store, John gave a book to"
ROW = {
    "id": "one",
    "clean": CLEAN,
    "corrupt": CLEAN.replace(", John", ", Mary"),
    "answer": " Mary",
    "distractor": " John",
}
GOOD = {
    **ROW,
    "id": "good",
    "clean": CLEAN.replace("store", "park"),
    "corrupt": ROW["corrupt"].replace("store", "park"),
}


@pytest.fixture
def refused(cli):
    """`refused(arguments, exit code, error code)`: what was said; nothing was written."""

    def run(arguments, exit_code: int, error_code: str) -> str:
        said = cli(*arguments)
        assert said.code == exit_code, said.out + said.err
        assert f"INTERP-{error_code}" in said.err and "Traceback" not in said.err
        assert not Path("runs").exists()
        return said.err

    return run


def on_file(path: Path, *more: str) -> tuple[str, ...]:
    return ("ablate", "-M", "mini", "--prompts", str(path), *FAST, *more)


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"clean": "  "}, "E304", "empty"),
        ({"clean": CLEAN + " the"}, "E305", "clean:"),
        ({"answer": " Mary and John"}, "E306", "tokens"),
        ({"answer": " John"}, "E307", "John"),
        ({"clean": 7}, "E303", "clean"),
    ],
    ids=["empty prompt", "unequal lengths", "answer of several tokens", "answer is distractor", "wrong type"],
)
def test_bad_row(refused, prompts, change, code, word) -> None:
    said = refused(on_file(prompts(GOOD, {**ROW, **change})), 3, code)
    assert "my.jsonl:2" in said and word in said


def test_unequal_lengths_show_both_tokenisations(refused, prompts) -> None:
    said = refused(on_file(prompts({**ROW, "clean": CLEAN + " the"})), 3, "E305")
    assert "|Mary|" in said.replace("| ", "|") and "first differ at token" in said


def test_first_token_of_a_long_answer(cli, prompts) -> None:
    path = prompts({**ROW, "answer": " Mary and John"}, GOOD)
    assert cli(*on_file(path, "--first-token", "-o", "x")).code == 0


@pytest.mark.parametrize("heads", ["L0H99", "L99H0", "L0H0,L4H0", "L-1H0", "-1.0", "0.-1"])
def test_head_out_of_range_or_negative(refused, heads) -> None:
    refused(("ablate", "-M", "mini", "-t", "ioi", f"--heads={heads}"), 2, "E203")


def test_head_that_is_no_label(refused) -> None:
    refused(("ablate", "-M", "mini", "-t", "ioi", "--heads", "all heads"), 2, "E202")


def test_role_that_the_task_does_not_have(cli) -> None:
    said = cli("ablate", "-M", "mini", "-t", "ioi", "--positions", "indirekt", *FAST, "-o", "x")
    assert said.code in (2, 3) and "indirekt" in said.err and not Path("x").exists()


def test_logits_of_an_encoder_without_a_trained_head(refused, model_folder) -> None:
    from transformers import BertModel

    folder = model_folder("bert")
    BertModel.from_pretrained(folder).save_pretrained(folder)
    refused(("ablate", "-M", str(folder), "-t", "ioi", "--metric", "logit_diff", *FAST), 4, "E402")


def test_model_without_attention(refused, model_folder, tmp_path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    folder = model_folder("llama")
    config = MambaConfig(
        vocab_size=2048, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=0, bos_token_id=1
    )
    MambaForCausalLM(config).save_pretrained(folder)
    refused(("ablate", "-M", str(folder), "-t", "ioi", *FAST), 4, "E401")


def test_prompt_longer_than_the_model(refused, cli, prompts) -> None:
    path = prompts({"id": "long", "clean": "the park " * 400, "answer": " Mary", "distractor": " John"}, GOOD)
    refused(on_file(path), 3, "E309")
    said = cli(*on_file(path, "--truncate", "-o", "x"))
    assert said.code == 0 and "were cut to 512 tokens" in said.out
    assert max(len(prompt.tokens) for prompt in AblationResult.load("x").prompts) == 512


def test_special_tokens_inside_text_stay_text(cli, prompts) -> None:
    said = cli(*on_file(prompts({**ROW, "clean": f"<|bos|>{CLEAN}", "corrupt": f"<|bos|>{ROW['corrupt']}"}), "-o", "x"))
    assert said.code == 0 and "note: special token '<|bos|>' inside a prompt was read as plain text" in said.out


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (json.dumps(ROW).encode().replace(b"store", b"st\xff\xfere"), "E302"),
        (json.dumps(ROW).encode()[:-5], "E301"),
        (b'["a", "list"]', "E301"),
    ],
    ids=["not UTF-8", "cut line", "not an object"],
)
def test_bad_line_is_named_and_can_be_skipped(refused, cli, prompts, bad, code) -> None:
    path = prompts(GOOD, bad)
    assert "my.jsonl:2" in refused(on_file(path), 3, code)
    said = cli(*on_file(path, "--skip-bad-lines", "-o", "x"))
    assert said.code == 0 and f"1 dropped, INTERP-{code}" in said.out
    assert Path(f"{path}.bad").read_bytes() == bad + b"\n"


def test_byte_order_mark_and_windows_line_ends_are_read(cli, prompts) -> None:
    path = prompts(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", json.dumps(ROW).encode() + b"\r")
    assert cli(*on_file(path, "-o", "x")).code == 0
    assert [prompt.id for prompt in AblationResult.load("x").prompts] == ["good", "one"]


def test_one_id_with_two_contents(refused, prompts) -> None:
    refused(on_file(prompts(GOOD, {**ROW, "id": "good"})), 3, "E308")


def test_exact_duplicates_are_dropped_and_counted(cli, prompts) -> None:
    said = cli(*on_file(prompts(GOOD, ROW, GOOD), "-o", "x"))
    assert said.code == 0 and "2 kept" in said.out and "1 dropped, INTERP-E315" in said.out


def test_numbers_that_are_not_finite_make_a_partial_run(cli, prompts, model_folder) -> None:
    """One token's embedding is NaN: prompts with it are kept, flagged and left out of every mean."""
    from interp.loading import load_reader

    (token,) = load_reader("mini").tokenizer(" park", add_special_tokens=False)["input_ids"]

    def spoil(model) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[token] = float("nan")

    folder = model_folder("llama", change=spoil)
    said = cli(
        "ablate", "-M", folder, "--prompts", prompts(ROW, GOOD), "--operator", "zero", *FAST, "-o", "x", "--json"
    )
    assert said.code == 5 and "INTERP-E501" in said.err and "not finite" in said.err
    assert said.data["exit_code"] == 5
    result = AblationResult.load("x")
    assert len(result.prompts) == 2 and 0 < result.n_not_finite < result.values.size


def test_json_has_null_where_there_is_no_number(cli, prompts) -> None:
    data = cli(*on_file(prompts(ROW), "-o", "x", "--json")).data
    assert data["heads"][0]["ci_low"] is None and data["not_finite"]


def test_one_prompt_has_no_interval_and_no_claim(cli, prompts) -> None:
    said = cli(*on_file(prompts(ROW), "-o", "x"))
    assert said.code == 0 and "none" in said.out and "yes" not in said.out


def test_hostile_text_cannot_steer_the_terminal(cli, prompts) -> None:
    hostile = {**ROW, "id": "\x1b[2Jone\u202e", "clean": CLEAN + " the"}
    said = cli(*on_file(prompts(hostile)))
    assert said.code == 3 and "\x1b" not in said.err and "\u202e" not in said.err


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "ioi\0", "x" * 300, "CON"])
def test_names_do_not_become_paths(refused, cli, name) -> None:
    refused(("ablate", "-M", "mini", "-t", name), 2, "E201")
    refused(("ablate", "-M", name, "-t", "ioi"), 4, "E405")


@pytest.mark.parametrize("name", ["../../x", "/abs/olute", "CON", "a\0b", ".", "", "-rf", "x" * 300, "ünï"])
def test_default_folders_stay_in_runs(name, tmp_path, monkeypatch) -> None:
    from interp.cli.folders import RUNS, default_folder

    monkeypatch.chdir(tmp_path)
    folder = default_folder(name, "ioi", "mean")
    assert folder.parent == RUNS and folder.resolve().parent == tmp_path / "runs"
    assert folder.name.isascii() and folder.name[0] not in ".-" and len(folder.name) <= 100


def test_pickled_prompts(refused, tmp_path) -> None:
    path = tmp_path / "prompts.pkl"
    path.write_bytes(pickle.dumps([ROW]))
    refused(on_file(path), 3, "E310")


def test_pickled_weights(refused, cli, model_folder) -> None:
    from safetensors.torch import load_file

    folder = model_folder("llama")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    arguments = ("ablate", "-M", str(folder), "-t", "ioi", "--n", "4", *FAST)
    assert "--allow-pickle" in refused(arguments, 3, "E310")
    assert cli(*arguments, "--allow-pickle", "-o", "x").code == 0


def test_hub_id_without_network(refused) -> None:
    said = refused(("ablate", "-M", "nobody/no-such-model", "-t", "ioi", "--offline"), 4, "E405")
    assert "HF_HUB_OFFLINE" in said and "safetensors" in said


def test_missing_file(refused) -> None:
    refused(on_file(Path("nowhere.jsonl")), 2, "E204")
