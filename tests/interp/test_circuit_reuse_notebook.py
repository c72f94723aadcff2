"""The notebook on circuit reuse runs, and what it says is so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cases.notebooks import run_smaller

SOURCE = Path(__file__).parents[2] / "notebooks" / "11_circuit_reuse.py"
FEWER = {"CHOICES = 16, 10, 48, 48": "CHOICES = 6, 2, 24, 48"}
ON_CIRCUITS = (
    "Two circuits",
    "What they share, and by what chance",
    "What scorers call the heads in both",
    "Does the circuit of one task do the other?",
)
FETCHERS = "L1H4", "L1H5"


def test_two_heads_repair_the_answers_and_three_directions_do_not_survive_other_letters() -> None:
    names = run_smaller(
        SOURCE, FEWER, skipped=ON_CIRCUITS, given={"common": SimpleNamespace(shared_heads=(*FETCHERS, "L3H0"))}
    )
    check_where_they_look(names)
    assert set(names["found"].group) == set(FETCHERS), "out of all heads"
    for wording, each in names["repairs"].items():
        right = {one.name: one.accuracy.mean for one in each.scores}
        assert right["repaired"] > 0.95 and each.is_repaired
        if wording != "as trained":
            assert right["untouched"] < 0.8 and right["random heads"] < 0.8 and right["uniform"] < 0.5
    few, many = names["few"], names["many"]
    assert few.rank == 3 and few.verdict == "explains base, not the shift"
    assert few.on["base"].curve[-1].share > 0.9 > 0.5 > few.on["shift"].curve[-1].share
    assert many.rank > 4 and many.verdict == "explains base and shift"


@pytest.mark.slow
def test_heads_are_reused_and_circuits_do_less_of_the_other_task() -> None:
    names = run_smaller(SOURCE, {**FEWER, "judge=replace(task, n=4": "judge=replace(task, n=2"})
    assert set(FETCHERS) <= set(names["common"].shared_heads)
    check_where_they_look(names)
    for task, other in (("ioi", "colored_objects"), ("colored_objects", "ioi")):
        found = names["kept"][task]
        controls = [f.value for circuit, f in found.items() if circuit.startswith("random")]
        assert len(controls) == 4 and found[task].low > max(*controls, found[other].high, found["shared edges"].high)


def check_where_they_look(names: dict[str, Any]) -> None:
    """Behind the word, and behind the right one alone where colours are asked for."""
    for head in FETCHERS:
        people, colours = (names["attention"][task, head] for task in ("ioi", "colored_objects"))
        assert colours["behind the answer"] > 0.7 > 0.2 > colours["behind the distractor"], "they choose"
        assert min(people["behind the answer"], people["behind the distractor"]) > 0.3, "they do not"
        assert max(people["answer"], colours["answer"]) < 0.1, "no name movers"
    assert names["attention"]["ioi", "L3H0"]["behind the answer"] < 0.1, "not every head"
