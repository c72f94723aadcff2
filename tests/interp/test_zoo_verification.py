"""Cards are held against what is measured now; a card that lies is found out."""

import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from interp.cli.main import app
from interp.zoo import registry, verification
from interp.zoo.verification import figures, same, verify_model

MODEL = "planted-or"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A copy of one bundled model, so that its card can be changed."""
    shutil.copytree(registry.ROOT / MODEL, tmp_path / MODEL)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr(verification, "ROOT", tmp_path)
    return tmp_path / MODEL


def rewrite(card, change):
    data = json.loads(card.read_text("utf-8"))
    change(data)
    card.write_text(json.dumps(data), "utf-8")


def test_a_true_card_agrees():
    verdict = verify_model(MODEL)
    assert verdict.agrees and verdict.figures > 3


def test_a_card_that_states_another_figure_is_found(zoo):
    rewrite(zoo / "card.json", lambda card: card["measured"].update(accuracy=0.5))
    verdict = verify_model(MODEL)
    assert not verdict.agrees and verdict.differences[0][:2] == ("accuracy", 0.5)
    found = CliRunner().invoke(app, ["zoo", "verify", MODEL])
    assert found.exit_code == 7 and "DIFFER" in found.output and "the card says 0.5" in found.output


def test_a_figure_that_is_missing_or_new_is_found(zoo):
    rewrite(zoo / "card.json", lambda card: card["measured"].update(made_up=1.0))
    assert verify_model(MODEL).differences == (("made_up", 1.0, None),)


def test_a_damaged_file_stops_it(zoo):
    (zoo / "config.json").write_text("{}")
    found = CliRunner().invoke(app, ["zoo", "verify", MODEL])
    assert found.exit_code == 7 and "config.json has SHA-256" in found.output


def test_figures_are_the_leaves():
    assert dict(figures({"a": {"b": 1, "c": [2, "x"]}, "d": None})) == {"a/b": 1, "a/c/0": 2, "a/c/1": "x", "d": None}


@pytest.mark.parametrize(
    ("stated", "found", "expected"),
    [(1.0, 1.001, True), (1.0, 1.01, False), (300, 300.5, True), (300, 301, False), ("a", "a", True), (1, "1", False),
     (True, 1.0, False), (None, 0.0, False), (0.5, None, False)],
)  # fmt: skip
def test_same_allows_rounding_alone(stated, found, expected):
    assert same(stated, found) is expected


def test_mini_opens_fast():
    import interp
    from interp.hooks import loading  # noqa: F401 - the bar counts from after the imports

    interp.load("mini")
    start = time.perf_counter()
    interp.load("mini")
    assert time.perf_counter() - start < 4  # the bar is 2 s on an idle machine


def test_the_cli_lists_every_model_and_experiment():
    listed = CliRunner().invoke(app, ["models"], terminal_width=400)
    assert listed.exit_code == 0 and all(name in listed.output for name in registry.list_models())
    toys = CliRunner().invoke(app, ["zoo", "check"])
    assert toys.exit_code == 0 and "mqar: " in toys.output
    wrong = CliRunner().invoke(app, ["zoo", "check", "mqrr"])
    assert wrong.exit_code == 2 and "did you mean 'mqar'" in wrong.output


def test_the_cli_makes_a_model(tmp_path):
    made = CliRunner().invoke(app, ["zoo", "train", MODEL, "--out", str(tmp_path)])
    assert made.exit_code == 0, made.output
    for name, stated in registry.list_models()[MODEL]["sha256"].items():
        assert registry.digest(tmp_path / MODEL / name) == stated, name
