"""Cards are held against what is measured now; a card that lies is found out."""

import json
import shutil
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from interp.cli.main import app
from interp.cli.verb import COMMON
from interp.zoo import registry, train, verification
from interp.zoo.differences import differences, leaves
from interp.zoo.recipes.ordered_induction import OrderedInduction
from interp.zoo.verification import same, verify_model

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


def test_leaves_have_their_paths():
    assert dict(leaves({"a": {"b": 1, "c": [2, "x"]}, "d": None})) == {"a/b": 1, "a/c/0": 2, "a/c/1": "x", "d": None}


def test_differences_name_each_leaf_that_differs_or_is_on_one_side_alone():
    first, second = {"a": [1, 2], "b": None, "c": {"d": "x"}}, {"a": [1, 3], "c": {"d": "x", "e": 0.5}}
    assert differences(first, second) == (("a/1", 2, 3), ("b", None, None), ("c/e", None, 0.5))
    assert differences(first, first) == () and differences(1, 2, lambda one, other: True) == ()


@pytest.mark.parametrize(
    ("stated", "found", "expected"),
    [(1.0, 1.001, True), (1.0, 1.01, False), (0.0, -0.001, True), (300.0, 300.5, True), (300.0, 301.0, False),
     (300, 301, False), (1000, 1001, False), (300, 300, True), (300, 300.0, False), (1.0, 1, False), (0, False, False),
     (True, 1.0, False), (True, True, True), ("a", "a", True), (1, "1", False), (None, 0.0, False), (0.5, None, False),
     (0.5, float("nan"), False)],
)  # fmt: skip
def test_same_allows_rounding_of_floats_alone(stated, found, expected):
    assert same(stated, found) is expected


def test_cards_keep_counts_and_shares_apart(zoo):
    rewrite(zoo / "card.json", lambda card: card["measured"]["accuracy"].update(clean=1))
    assert verify_model(MODEL).differences == (("accuracy/clean", 1, 1.0),)


def test_mini_opens_fast():
    import interp
    from interp.hooks import loading  # noqa: F401 - the bar counts from after the imports

    interp.load("mini")
    start = time.perf_counter()
    interp.load("mini")
    assert time.perf_counter() - start < 2


def test_the_cli_lists_every_model_and_experiment():
    listed = CliRunner().invoke(app, ["models"], terminal_width=400)
    assert listed.exit_code == 0 and all(name in listed.output for name in registry.list_models())
    toys = CliRunner().invoke(app, ["zoo", "check"])
    assert toys.exit_code == 0 and "mqar: " in toys.output
    wrong = CliRunner().invoke(app, ["zoo", "check", "mqrr"])
    assert wrong.exit_code == 2 and "did you mean 'mqar'" in wrong.output


def make_anew(*arguments):
    return CliRunner().invoke(app, ["zoo", "train", *map(str, arguments)], terminal_width=400)


def test_the_cli_makes_a_model(tmp_path):
    made = make_anew(MODEL, "--out", tmp_path, "--seed", 0)
    assert made.exit_code == 0, made.output
    for name, stated in registry.list_models()[MODEL]["sha256"].items():
        assert registry.digest(tmp_path / MODEL / name) == stated, name


def test_the_seed_reaches_models_that_are_not_trained(tmp_path):
    made = make_anew(MODEL, "--out", tmp_path, "--seed", 3)
    assert made.exit_code == 0, made.output
    card, shipped = registry.verify(tmp_path / MODEL), registry.list_models()[MODEL]
    assert card["recipe"] == {**shipped["recipe"], "seed": 3}
    assert all(card["sha256"][name] != shipped["sha256"][name] for name in ("model.safetensors", "examples.jsonl"))


def test_no_recipe_has_a_seed_that_the_default_of_the_command_line_would_replace():
    assert {recipe.seed for recipe in registry.list_recipes().values()} == {COMMON["seed"][1]}


@pytest.mark.parametrize(
    "options",
    [("--steps", 5), ("--checkpoint-every", 250), ("--resume",), ("--device", "cpu"), ("--resume", "--device", "cuda")],
    ids=str,
)
def test_options_of_a_training_are_refused_where_nothing_is_trained(options, tmp_path):
    out = tmp_path / "out"
    found = make_anew(MODEL, "--out", out, *options)
    assert found.exit_code == 2 and "E205" in found.output and "is not trained" in found.output and not out.exists()
    named = [option for option in options if str(option).startswith("--")]
    assert f"where: {', '.join(named)}" in found.output


def test_options_and_seed_reach_a_training(tmp_path, monkeypatch):
    seen = []

    def make(recipe, out, **given):
        seen.append((recipe, given))
        return out

    monkeypatch.setattr(train, "make", make)
    trained = ("ordered-induction", "--out", tmp_path)
    options = ("--steps", 5, "--checkpoint-every", 7, "--resume", "--device", "cuda", "--seed", 4)
    assert make_anew(*trained, *options).exit_code == make_anew(*trained).exit_code == 0
    own = OrderedInduction()
    assert seen[0] == (replace(own, seed=4, steps=5), {"checkpoint_every": 7, "resume": True, "device": "cuda"})
    assert seen[1] == (own, {"checkpoint_every": None, "resume": False, "device": None})
    assert f"{train.EVERY} where not given" in " ".join(make_anew("--help").output.split())
