"""Notebooks run from top to bottom, and what they say is so."""

import json
import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_source_and_notebook_are_one(source: Path) -> None:
    """Every cell of the .py source stands in the .ipynb, in order; what differs is only the outputs."""
    notebook = json.loads(source.with_suffix(".ipynb").read_text("utf-8"))
    text = source.read_text("utf-8")
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    places = [text.find(cell) for cell in code]
    assert code and -1 not in places and places == sorted(places), f"pair them again: jupytext --sync {source.name}"


def test_the_first_notebook_tells_the_truth() -> None:
    names = runpy.run_path(str(NOTEBOOKS[0]))
    assert names["pattern"].diagonal(offset=-2).mean() > 0.5, "L0H2 looks two tokens back"
    assert names["model"].tokenizer.decode(names["logits"][0, -1].argmax()) == " Mary"
    before, after = (
        logits[0, -1, names["mary"]] - logits[0, -1, names["john"]] for logits in (names["logits"], names["edited"])
    )
    assert after < 0.7 * before


def test_the_second_notebook_meets_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(NOTEBOOKS[1]))
    said = capsys.readouterr().out
    met = {name for name in names["cards"] if f"\n{name}: " in said}
    assert met == set(names["cards"]) - {"mini-vlm"} and isinstance(names["picture"], names["Image"].Image)


def test_the_notebook_on_attention_finds_heads_that_need_all_of_it() -> None:
    names = runpy.run_path(str(next(path for path in NOTEBOOKS if path.stem.startswith("04"))))
    needed = names["verdicts"]["which heads in full"]
    assert needed.claimed and needed.n_controls_hold == 0 and needed.loss <= needed.bound
    assert len(names["result"].full_heads) <= len(names["result"].asked) // 2
    assert names["kept"] == names["whole"] == 1.0 and set(names["found"].full_heads) == {"L1H2", "L1H3"}
