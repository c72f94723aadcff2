"""Two runs compared: paired over shared prompts, corrected over heads, and refused where it would mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interp.ablation.result import AblationResult
from interp.circuits.diff import compare
from interp.circuits.evidence import benjamini_hochberg, bootstrap_interval, sign_flip_p
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.results import RunInfo
from interp.kernels.errors import InterpError, InterpErrors

HEADS = tuple(f"L{layer}H{head}" for layer in range(2) for head in range(4))


def run(seed: int = 0, shift: dict[int, float] | None = None, n: int = 30, **changes: Any) -> AblationResult:
    """Eight heads without effect, but for those of `shift`; noise is the same in all runs of a seed."""
    rng = np.random.default_rng(seed)
    baseline = 3 + np.random.default_rng(9).normal(size=n)
    effects = 0.1 * rng.normal(size=(8, n))
    for head, size in (shift or {}).items():
        effects[head] += size
    prompts = tuple(PromptRecord(f"p{index}", ("a", "b", str(index)), " x", " y") for index in range(n))
    info = RunInfo(
        model={"name": f"model-{seed}", "tokenizer_sha256": "a" * 64, **changes.get("model", {})},
        task={"name": "ioi", "metric": "logit_diff", "options": {}, **changes.get("task", {})},
        method={"operator": "mean", "positions": None, **changes.get("method", {})},
        seeds={"task": 0, "evidence": 0},
    )
    return AblationResult(info, HEADS, prompts, baseline, baseline - effects, ((),) * 8)


def test_a_head_that_changed_is_named_with_its_interval() -> None:
    found = compare(run(0, {5: 1.0}), run(1, {5: 2.0, 2: -0.5}))
    changed = {row.label for row in found.heads if row.changed}
    assert changed == {"L1H1", "L0H2"}
    row = found.heads[5]
    assert row.first == pytest.approx(1.0, abs=0.1) and row.second == pytest.approx(2.0, abs=0.1)
    assert row.change == pytest.approx(row.second - row.first) and row.ci_low < row.change < row.ci_high
    assert found.headline().startswith("2 heads changed between model-0 (mean) and model-1 (mean) on ioi (5 % false")
    assert "L1H1 +1.0" in found.headline() and "[0.9" in found.headline()
    assert found.top(2)[0].label == "L1H1"


def test_numbers_are_those_of_the_evidence_module() -> None:
    first, second = run(0, {5: 1.0}), run(1)
    found, change = compare(first, second, seed=4), second.effects - first.effects
    low, high = bootstrap_interval(change, seed=4)
    p = sign_flip_p(change, seed=4)
    columns = np.array([[row.change, row.ci_low, row.ci_high, row.p, row.q] for row in found.heads])
    np.testing.assert_array_equal(columns, np.stack([change.mean(1), low, high, p, benjamini_hochberg(p)], axis=1))


def test_runs_that_do_not_differ_claim_nothing() -> None:
    claims = [
        len([row for row in compare(run(2 * seed), run(2 * seed + 1)).heads if row.changed]) for seed in range(40)
    ]
    assert sum(claim > 0 for claim in claims) <= 6  # 5 % expected; more than 6 of 40 has a chance below 1 %
    same = compare(run(0, {5: 1.0}), run(0, {5: 1.0}))
    assert same.headline().startswith("No head's effect differs") and not any(row.changed for row in same.heads)


def test_only_shared_prompts_and_heads_count() -> None:
    first, second = run(0, {5: 1.0}), run(1, {5: 1.0})
    other = replace(second.prompts[0], tokens=("other", "tokens"))
    second = replace(second, prompts=(other, *second.prompts[1:]))
    second = replace(second, heads=(*HEADS[:7], "L9H9"))
    found = compare(first, second)
    assert len(found.prompts) == 29 and "p0" not in found.prompts
    assert [row.label for row in found.heads] == list(HEADS[:7])
    expected = (second.effects - first.effects)[5, 1:].mean()
    assert found.heads[5].change == pytest.approx(expected)
    assert any("2 heads are in one run only" in note for note in found.notes)
    assert any("2 prompts are in one run only" in note for note in found.notes)


def test_prompts_are_paired_by_id_and_not_by_place() -> None:
    first, second = run(0, {5: 1.0}), run(1, {5: 2.0})
    order = np.random.default_rng(0).permutation(30)
    mixed = replace(
        second,
        prompts=tuple(second.prompts[place] for place in order),
        baseline=second.baseline[order],
        values=second.values[:, order],
    )
    assert compare(first, mixed).heads == compare(first, second).heads


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"model": {"tokenizer_sha256": "b" * 64}}, "E312", "tokenizers differ"),
        ({"task": {"name": "induction"}}, "E205", "tasks differ: ioi and induction"),
        ({"task": {"metric": "log_prob"}}, "E205", "metrics differ"),
        ({"task": {"options": {"k": 2}}}, "E205", "task options differ"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(changes, code, word) -> None:
    with pytest.raises(InterpError, match=word) as caught:
        compare(run(), run(1, **changes))
    assert caught.value.code == code


def test_all_reasons_come_at_once() -> None:
    changes = {"model": {"tokenizer_sha256": "b" * 64}, "task": {"name": "induction", "metric": "kl"}}
    with pytest.raises(InterpErrors) as caught:
        compare(run(), run(1, **changes))
    assert [error.code for error in caught.value.errors] == ["E312", "E205", "E205"]


def test_runs_without_a_shared_prompt_are_refused() -> None:
    first = run()
    prompts = tuple(replace(prompt, id=f"other-{prompt.id}") for prompt in first.prompts)
    with pytest.raises(InterpError, match="share no prompt"):
        compare(first, replace(first, prompts=prompts))


def test_other_operators_are_compared_with_a_note() -> None:
    found = compare(run(), run(1, method={"operator": "zero", "positions": [1, 2]}))
    assert any("operators differ: mean and zero" in note for note in found.notes)
    assert any("positions differ: all and 1 2" in note for note in found.notes)
    unnamed = compare(run(), run(1, model={"tokenizer_sha256": None}))
    assert any("does not name its tokenizer" in note for note in unnamed.notes)


def test_too_few_prompts_make_no_claim() -> None:
    found = compare(run(0, n=4), run(1, {5: 2.0}, n=4))
    assert found.headline().startswith("Too few shared prompts") and not any(row.changed for row in found.heads)


def test_a_change_never_stands_without_its_interval() -> None:
    first, second = run(0, {5: 1.0}), run(1, {5: 2.0})
    values = second.values.copy()
    values[3] = np.nan
    found = compare(first, replace(second, values=values))
    row = found.heads[3]
    assert np.isnan(row.change) and not row.changed
    for text in (repr(found), found._repr_html_()):
        assert "interval" in text and "nan" not in text
    frame = found.to_frame()
    assert list(frame.columns[3:6]) == ["change", "ci_low", "ci_high"] and len(frame) == 8


def test_any_results_with_rows_for_prompts_compare() -> None:
    """Scores of one scorer, here against a run of themselves with one head raised."""
    import interp

    scores = interp.score(interp.load("planted-induction"), "previous-token", n=16)
    values = scores.values.copy()
    values[0] += np.random.default_rng(0).normal(0.3, 0.01, size=values.shape[1])
    found = compare(scores, replace(scores, values=values))
    assert [row.label for row in found.heads if row.changed] == [scores.heads[0]]
    assert found.notes == ()
    assert found.heads[0].change == pytest.approx((values - scores.values)[0].mean())
    other = replace(scores, run=replace(scores.run, method={**scores.run.method, "scorer": "induction"}))
    with pytest.raises(InterpError, match="scorer of the method differs: previous-token and induction"):
        compare(scores, other)
    with pytest.raises(InterpError, match="one run holds scores, the other ablation"):
        compare(scores, run())
