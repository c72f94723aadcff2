"""Labels of parts: what results claim, and each way in which they contradict each other."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import interp
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.results import RunInfo
from interp.heads.labels import CAUSAL, DIRECT, LOOKS, WEIGHTS, Label, PartLabels, basis_of, part_labels
from interp.heads.result import HeadScores
from interp.heads.run import score
from interp.kernels.errors import InterpError

BACKUP = "planted-backup"


@cache
def results() -> tuple[Any, ...]:
    """Scores, ablations and paths of a model whose head L1H2 stands in for L0H1."""
    model, task = interp.load(BACKUP), interp.task("bundled", model=BACKUP)
    scores = [score(model, name, task) for name in ("name-mover", "backup-name-mover", "direct-logit-attribution")]
    ablations = [interp.ablate(model, task, operator=operator) for operator in ("zero", "resample")]
    return (*scores, *ablations, interp.paths(model, task), score(model, "copying"))


def made(scorer: str, means: tuple[float, ...], task: str = "made") -> HeadScores:
    """Scores of four heads that are the same in all of 40 prompts, but for a little noise."""
    rng = np.random.default_rng(0)
    values = np.array(means)[:, None] + rng.normal(size=(4, 40)) * 0.01
    method = {"scorer": scorer, "says": "", "chance": "", "ceiling": 1.0, "kernel": "", "operator": "", "variant": ""}
    run = RunInfo({"name": "made"}, {"name": task}, method, {"evidence": 0})
    heads = tuple(f"L0H{head}" for head in range(4))
    prompts = tuple(PromptRecord(str(row), ()) for row in range(40))
    return HeadScores(run, heads, prompts, values, np.zeros_like(values))


def label(name: str, basis: str, value: float, *, claimed: bool = True, q: float = 0.01) -> Label:
    return Label(name, basis, "ioi", float(value), 0.0, q if claimed else 0.9, claimed, "id")


def test_a_planted_model_is_labelled_by_what_its_results_claim() -> None:
    found = part_labels(results())
    assert {"name-mover", "direct-logit-attribution", "ablation resample", "paths to logits", "copying"} <= set(
        found["L0H1"].names
    )
    assert {"backup-name-mover", "copying"} <= set(found["L1H2"].names)
    for part in ("L0H0", "L0H2", "L0H3"):
        assert not found[part].names
    for result in results():
        claimed = [part for part, yes in zip(result.labels, result.evidence.claimed, strict=True) if yes]
        behind = [
            part for part, one in found.items() if any(e.run_id == result.run_id and e.claimed for e in one.evidence)
        ]
        assert sorted(claimed) == sorted(behind)


def test_evidence_holds_the_numbers_of_its_result() -> None:
    mover, ablated = results()[0], results()[4]
    found = {one.name: one for one in part_labels([mover, ablated])["L0H1"].evidence}
    index = mover.heads.index("L0H1")
    assert found["name-mover"].value == mover.mean[index] and found["name-mover"].basis == CAUSAL
    assert found["name-mover"].chance == pytest.approx(float(mover.null[index].mean()))
    index = ablated.labels.index("L0H1")
    assert found["ablation resample"].value == ablated.evidence.mean[index]
    assert found["ablation resample"].q == ablated.evidence.q[index] and found["ablation resample"].task == "bundled"


def test_labels_are_plain_data_claimed_ones_first() -> None:
    for part, one in part_labels(results()).items():
        data = json.loads(json.dumps(one.to_dict()))
        assert data["part"] == part and data["names"] == list(one.names) and len(data["evidence"]) == len(one.evidence)
        claimed = [evidence.claimed for evidence in one.evidence]
        assert claimed == sorted(claimed, reverse=True)


def test_a_score_without_a_causal_effect_is_flagged() -> None:
    """A head looks like a kind, and is worth nothing; its neighbour is worth something, and looks like nothing."""
    seen, worth = made("previous-token", (0.9, 0.0, 0.0, 0.0)), made("name-mover", (0.0, 0.9, 0.0, 0.0))
    found = part_labels([seen, worth])
    assert found["L0H0"].names == ("previous-token",) and found["L0H1"].names == ("name-mover",)
    assert found["L0H0"].flags == (
        "previous-token (made) without a causal effect that can be claimed (name-mover (made)).",
    )
    assert "no score of attention or weights explains" in found["L0H1"].flags[0]
    assert not found["L0H2"].flags and not part_labels([seen])["L0H0"].flags


@pytest.mark.parametrize(
    "labels, said",
    [
        ([label("direct", DIRECT, 1), label("ablation mean", CAUSAL, 0, claimed=False)], "taking it away costs nothing"),
        ([label("direct", DIRECT, 0, claimed=False), label("ablation mean", CAUSAL, 1)], "later parts carry it"),
        ([label("paths to logits", CAUSAL, 1), label("ablation mean", CAUSAL, -1)], "and hurts by ablation mean"),
        ([label("ablation mean", CAUSAL, 1), label("ablation zero", CAUSAL, 0, claimed=False)], "on the same prompts is not"),
        ([label("induction", LOOKS, 1), label("ablation mean", CAUSAL, 1)], ""),
        ([label("copying", WEIGHTS, 1), label("direct", DIRECT, 1), label("ablation mean", CAUSAL, 1)], ""),
        ([label("paths to logits", CAUSAL, 1), label("ablation mean", CAUSAL, 1)], ""),
        ([label("ablation mean", CAUSAL, 1), replace(label("ablation zero", CAUSAL, 0, claimed=False), q=0.2)], ""),
        ([label("ablation mean", CAUSAL, 1), replace(label("ablation zero", CAUSAL, 0, claimed=False), task="x")], ""),
    ],
)  # fmt: skip
def test_every_contradiction_is_told_and_agreement_is_not(labels: list[Label], said: str) -> None:
    from interp.heads.labels import _of_part

    flags = _of_part("L0H0", labels).flags
    assert isinstance(_of_part("L0H0", labels), PartLabels)
    assert (any(said in flag for flag in flags)) if said else not flags


def test_what_a_scorer_rests_on() -> None:
    known = {
        "induction": LOOKS, "entropy": LOOKS, "retrieval": LOOKS, "copying": WEIGHTS, "k-composition": WEIGHTS,
        "ioi-copy": WEIGHTS, "direct-logit-attribution": DIRECT, "gradient-attribution": DIRECT, "name-mover": CAUSAL,
        "arithmetic": CAUSAL, "no such scorer": "other",
    }  # fmt: skip
    assert {name: basis_of(name) for name in known} == known


def test_results_of_several_models_or_of_another_kind_are_refused() -> None:
    other = replace(made("induction", (0.0,) * 4), run=replace(made("induction", (0.0,) * 4).run, model={"name": "b"}))
    group = interp.sinks(interp.load("planted-sink"), interp.task("bundled", model="planted-sink", n=8))
    for wrong in ([made("induction", (0.0,) * 4), other], [group]):
        with pytest.raises(InterpError) as caught:
            part_labels(wrong)
        assert caught.value.code == "E205"
