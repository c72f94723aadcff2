"""The notebook on the IOI circuit runs, and what it says is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parents[2] / "notebooks" / "09_ioi_circuit.py"


def test_a_tenth_of_the_edges_keeps_the_task_on_other_wordings() -> None:
    names = runpy.run_path(str(SOURCE))
    circuit, colours, named = names["circuit"], names["colours"], names["named"]
    assert circuit.share <= 0.15 and circuit.faithfulness.value >= 0.8 and circuit.beaten_by == 0
    assert circuit.curves.beside["magnitude"][0, -2] < 0.5, "how much edges carry says nothing"
    assert np.median(circuit.curves.beside["permuted heads"], 0)[-3] < circuit.curve().f[-3] / 2
    kept = {row.replacement: row.f for row in circuit.ablations}
    assert kept["zero"] < kept["resample"] / 2 and kept["mean"] < kept["resample"] / 2
    assert colours.n_edges < circuit.n_edges and colours.beaten_by == 0
    assert set(named.roles.names) <= set(circuit.heads) and named.roles.names
