"""The notebook on the benchmark of circuit discovery runs, and what it says is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cases.notebooks import run_smaller

SOURCE = Path(__file__).parents[2] / "notebooks" / "10_circuit_benchmark.py"
SMALLER = {
    '"compiled-frac-prevs", "compiled-sort", "planted-copy", "planted-or")': '"planted-copy",)',
    '"eap-ig 32 steps", "codes", "magnitude", "random")': '"magnitude")',
}


def test_gradients_miss_what_is_flat_and_single_edges_miss_a_gate(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_smaller(SOURCE, SMALLER)
    assert names["apart"].max().max() < 0.02, "what is measured again is what is stored"
    frac, sort = (names["scores"][name] for name in ("compiled-frac-prevs", "compiled-sort"))
    assert not frac["EAP"].any() and frac["EAP-IG, 5 steps"].any(), "0 by construction"
    true = names["flat"]["compiled-sort"].edges
    assert (sort["EAP"][true] < 1e-6 * sort["EAP"].max()).sum() > true.sum() / 2
    assert (sort["EAP-IG, 32 steps"][true] > 0.05 * sort["EAP-IG, 32 steps"].max()).sum() == true.sum() - 1
    scored, graph, lost = names["induction"]["EAP-IG, 32 steps"], names["contrast"].flow.graph, names["lost"]
    switch, louder = (graph.edge(edge) for edge in ("L0H0->L1H2.k", "embed->logits"))
    assert scored[louder] > 10 * scored[switch], "the false edge is before the true one"
    assert lost["L0H0->L1H2.k"][8] < 0.1 < 10 < lost["L0H0->L1H2.k"][12], "a switch"
    assert abs(lost["embed->logits"][-1]) < 0.05 < 0.3 < -lost["embed->logits"].min(), "there and back"
    assert [set(pair.labels) for pair in names["pairs"].redundant] == [{"L0H1", "L0H3"}]
    for method, small in (("exact", True), ("EAP", True), ("EAP-IG, 5 steps", False)):
        arms = [names["gate"][method][names["graph"].edge(arm)] for arm in names["arms"]]
        assert (max(arms) < 0.1) if small else (min(arms) > 5), method
    assert names["easy"].to_numpy().sum() > 0 and names["areas"] > 0.9 > 0.7 > names["precision"]
    perfect = names["full"][names["controls"]] >= names["PERFECT"]
    assert [*perfect.index[perfect["magnitude"]]] == ["planted-or, resample"] and perfect.to_numpy().sum() == 1
    assert np.nanmax(list(names["beaten"].values())) < 1, "even exact loses to chance on one truth"
    assert "eap-ig adaptive" in capsys.readouterr().out
