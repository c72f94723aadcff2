"""AblationResult: what it says, what it tabulates, and that it comes back from disk as it was."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.ablation.result import AblationResult
from interp.circuits.prompt_results import CHANCE_IS_ZERO, PromptRecord
from interp.circuits.results import RunInfo
from interp.hooks.examples import Drop
from interp.hooks.metrics import METRICS
from interp.kernels.errors import InterpError

HEADS = tuple(f"L{layer}H{head}" for layer in range(2) for head in range(4))
CONTROLS = tuple(tuple(other for other in HEADS if other[:2] == label[:2] and other != label) for label in HEADS)
NASTY = "</script><script>alert(1)</script>"


def run_info(**task: Any) -> RunInfo:
    return RunInfo(
        model={"name": "tiny", "device": "cpu", "heads": {"": [4, 4]}, "kv_heads": {"": [2, 1]}, "sha256": "ab"},
        task={"name": "ioi", "metric": "logit_diff", **task},
        method={"kind": "ablation", "operator": "mean", "positions": None, "heads": ("L0H0",)},
        seeds={"task": 0, "evidence": 3},
        certificate={"max_abs": 1e-7, "kl": None},
        warnings=("one", "two"),
    )


def result(effect: dict[int, float] | None = None, *, n: int = 30, clean: float = 3.0, **task: Any) -> AblationResult:
    """Eight heads; `effect` gives the mean effect of some of them, the others have none."""
    rng = np.random.default_rng(0)
    baseline = clean + rng.normal(size=n)
    effects = 0.1 * rng.normal(size=(8, n))
    for head, size in (effect or {}).items():
        effects[head] += size
    prompts = tuple(PromptRecord(f"p{i}", ("<s>", "a", "b")[: 2 + i % 2], " x", " y") for i in range(n))
    patterns = {prompts[0].id: rng.random((8, 2, 2)), prompts[1].id: rng.random((8, 3, 3))} if n > 1 else {}
    drops = (Drop("q", "E305", "7 tokens clean, 8 corrupt"),)
    values = baseline - effects
    return AblationResult(run_info(**task), HEADS, prompts, baseline, values, CONTROLS, drops, patterns)


def with_values(values: np.ndarray, source: AblationResult) -> AblationResult:
    return replace(source, values=values)


def test_headline_names_claimed_heads_with_sign_operator_and_level() -> None:
    found = result({5: 1.0, 2: -0.5})
    assert found.evidence.claimed.nonzero()[0].tolist() == [2, 5]
    means = found.evidence.mean
    expected = f"L1H1 {means[5]:+.3g}, L0H2 {means[2]:+.3g}."
    assert found.headline() == f"2 of 8 heads matter for ioi under mean ablation (5 % false discoveries): {expected}"
    assert result({5: 1.0}).headline().startswith("1 of 8 heads matters for ioi under mean ablation")


def test_headline_says_when_nothing_was_found_and_why() -> None:
    assert (
        result().headline()
        == "No head is distinguishable from random heads on ioi under mean ablation (8 heads, 30 prompts)."
    )
    hopeless = result({5: 1.0}, clean=0.0)
    p, mean = hopeless.evidence.p_behaviour, hopeless.baseline.mean()
    assert p > 0.05
    assert (
        hopeless.headline()
        == f"The model does not do this task (mean logit_diff {mean:.3g}, p = {p:.3g}): no claim about heads."
    )
    few = result({5: 1.0}, n=6)
    assert (
        few.headline() == "Too few prompts for a claim about any head on ioi (8 heads, 6 prompts: no p below 0.0312)."
    )
    same = replace(result({5: 1.0}), baseline=np.full(30, 2.5))
    assert (
        same.headline() == "Every prompt has the same logit_diff (2.5), so nothing can be tested: no claim about heads."
    )
    alone = replace(result({5: 1.0}), controls=((),) * 8)
    assert alone.headline() == "No head has a control to be compared with: no claim about heads on ioi."


def test_the_gate_is_only_for_metrics_whose_chance_level_is_zero() -> None:
    assert {name for name, metric in METRICS.items() if "distractor" in metric.needs} == CHANCE_IS_ZERO
    assert not result({5: 1.0}, clean=-4.0).evidence.does_task
    assert result({5: 1.0}, clean=-4.0, metric="log_prob").evidence.claimed[5]


def test_evidence_is_computed_once_from_the_rows_and_the_recorded_seed() -> None:
    found = result({5: 1.0})
    assert found.evidence is found.evidence
    other = replace(found, run=replace(found.run, seeds={"task": 0, "evidence": 4}))
    assert (other.evidence.ci_low != found.evidence.ci_low).any()
    np.testing.assert_array_equal(other.evidence.mean, found.evidence.mean)


def test_top_puts_claimed_heads_first_then_size() -> None:
    found = result({5: 1.0, 2: -0.5})
    top = found.top(8)
    assert [row.label for row in top[:2]] == ["L1H1", "L0H2"]
    assert [row.claimed for row in top] == [True, True] + [False] * 6
    sizes = [abs(row.mean) for row in top[2:]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.top()) == 5


def test_text_shows_interval_controls_and_q_beside_every_head() -> None:
    found = result({5: 1.0})
    lines = repr(found).splitlines()
    assert lines[0].startswith("AblationResult(tiny, ioi, logit_diff; 8 heads x 30 prompts): 1 of 8 heads matters")
    assert lines[1].split() == ["head", "effect", "interval", "controls", "q", "claimed", "note"]
    assert len(lines) == 7
    row, evidence = lines[2], found.evidence
    for part in (
        "L1H1",
        f"[{evidence.ci_low[5]:.3g}, {evidence.ci_high[5]:.3g}]",
        f"{evidence.control_mean[5]:+.3g}",
        f"{evidence.q[5]:.3g}",
        "yes",
    ):
        assert part in row


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_escapes_names() -> None:
    page = Tags()
    page.feed(result({5: 1.0}, name=NASTY)._repr_html_())
    assert page.tags == {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert NASTY in page.text


def test_frame_has_one_row_a_head_and_prompt() -> None:
    found = result({5: 1.0})
    frame = found.to_frame()
    assert list(frame.columns) == [
        "run_id", "model", "task", "prompt_id", "layer", "head", "kv_head", "label", "kind", "position_spec", "metric",
        "value", "baseline", "delta", "n_tokens", "finite",
    ]  # fmt: skip
    assert len(frame) == 8 * 30
    for head, label in enumerate(HEADS):
        for prompt in (0, 7):
            row = frame[(frame.label == label) & (frame.prompt_id == f"p{prompt}")].iloc[0]
            assert (row.layer, row["head"], row.n_tokens) == (head // 4, head % 4, 2 + prompt % 2)
            assert (row.value, row.baseline) == (found.values[head, prompt], found.baseline[prompt])
            assert row.delta == found.effects[head, prompt] == row.baseline - row.value
    assert frame.groupby("label").kv_head.first().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert set(frame.position_spec) == {"all"}
    assert set(frame.run_id) == {found.run_id}


def test_kv_head_is_missing_where_the_record_does_not_say() -> None:
    found = result()
    bare = replace(found, run=replace(found.run, model={"name": "tiny"}))
    assert bare.to_frame().kv_head.isna().all()
    assert str(bare.to_frame().kv_head.dtype) == "Int64"


@pytest.mark.parametrize(("positions", "text"), [(None, "all"), ("end", "end"), ([3, 4], "3 4")])
def test_position_spec_is_text(positions: Any, text: str) -> None:
    found = result()
    moved = replace(found, run=replace(found.run, method={**found.run.method, "positions": positions}))
    assert set(moved.to_frame().position_spec) == {text}


def test_summary_has_one_row_a_head() -> None:
    found = result({5: 1.0})
    summary = found.summary_frame().set_index("label")
    assert summary.loc["L1H1", "controls"] == "L1H0 L1H2 L1H3"
    assert summary.loc["L1H1", "mean"] == pytest.approx(found.effects[5].mean())
    assert summary.claimed.tolist() == found.evidence.claimed.tolist()
    assert summary.n.tolist() == [30] * 8


def test_values_that_are_not_finite_are_kept_counted_and_left_out() -> None:
    found = result({5: 1.0})
    values = found.values.copy()
    values[5, 3], values[0, 4] = np.nan, np.inf
    broken = with_values(values, found)
    assert broken.n_not_finite == 2
    assert broken.to_frame().finite.sum() == 8 * 30 - 2
    assert broken.evidence.n.tolist() == [29, 30, 30, 30, 30, 29, 30, 30]
    assert broken.evidence.mean[5] == pytest.approx(np.delete(found.effects[5], 3).mean())
    assert "2 rows not finite" in repr(broken)
    assert broken.evidence.notes[5] == "1 of 30 prompts not finite, left out"
    lost = replace(found, baseline=np.where(np.arange(30) == 2, np.inf, found.baseline))
    assert lost.n_not_finite == 8


@pytest.mark.parametrize("n", [1, 2])
def test_hardly_any_prompt(n: int, tmp_path: Path) -> None:
    found = result({5: 1.0}, n=n)
    assert "nan" not in repr(found)
    assert not found.evidence.claimed.any()
    assert AblationResult.load(found.save(tmp_path / "run")) == found


def test_save_and_load_give_the_same_result(tmp_path: Path) -> None:
    found = result({5: 1.0})
    values = found.values.copy()
    values[1, 1] = np.nan
    found = with_values(values, found)
    back = AblationResult.load(found.save(tmp_path / "run"))
    assert back == found
    assert repr(back) == repr(found)
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame())
    assert back.patterns["p0"].dtype == np.float16
    files = {"manifest.json", "rows.parquet", "prompts.jsonl", "drops.jsonl", "patterns.safetensors"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files


def test_saving_twice_and_saving_what_was_loaded_give_the_same_bytes(tmp_path: Path) -> None:
    found = result({5: 1.0})
    for name in ("one", "two"):
        found.save(tmp_path / name)
    AblationResult.load(tmp_path / "one").save(tmp_path / "three")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes(), path.name


def test_without_patterns_there_is_no_such_file(tmp_path: Path) -> None:
    found = replace(result(), patterns={})
    found.save(tmp_path / "run")
    assert not (tmp_path / "run" / "patterns.safetensors").exists()
    assert AblationResult.load(tmp_path / "run") == found


def test_save_refuses_to_replace_a_run_unless_asked(tmp_path: Path) -> None:
    result().save(tmp_path / "run")
    with pytest.raises(InterpError) as caught:
        result({5: 1.0}).save(tmp_path / "run")
    assert caught.value.code == "E204"
    result({5: 1.0}).save(tmp_path / "run", overwrite=True)
    assert AblationResult.load(tmp_path / "run") == result({5: 1.0})


def test_a_flipped_byte_is_found_at_load(tmp_path: Path) -> None:
    result().save(tmp_path / "run")
    path = tmp_path / "run" / "patterns.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InterpError, match=r"patterns\.safetensors") as caught:
        AblationResult.load(tmp_path / "run")
    assert caught.value.code == "E701"


def test_equality_is_by_value() -> None:
    found = result({5: 1.0})
    assert found == result({5: 1.0})
    assert found != result({5: 1.1})
    assert found != replace(found, drops=())
    assert found != replace(found, patterns={})
    assert found != replace(found, run=replace(found.run, seeds={"task": 0, "evidence": 4}))
    assert found != "something else"


def test_run_id_is_of_the_question() -> None:
    found = result()
    elsewhere = replace(found, run=replace(found.run, model={**found.run.model, "device": "cuda"}, seconds=9.0))
    assert elsewhere.run_id == found.run_id
    assert replace(found, run=replace(found.run, seeds={"task": 1, "evidence": 3})).run_id != found.run_id
    assert replace(found, run=replace(found.run, model={**found.run.model, "sha256": "cd"})).run_id != found.run_id


def test_csv_cells_do_not_start_formulas(tmp_path: Path) -> None:
    found = result()
    ids = ["=1+1", "+1", "-1", "@x", "\t=1", "\uff1dA1", '=HYPERLINK("http://x","y")', "plain", "a=1"]
    prompts = tuple(replace(prompt, id=ids[i]) if i < len(ids) else prompt for i, prompt in enumerate(found.prompts))
    found.__class__(found.run, HEADS, prompts, found.baseline, found.values, CONTROLS).to_csv(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8 * 30
    shown = [row["prompt_id"] for row in table[: len(ids)]]
    assert shown == [*("'" + text for text in ids[:7]), "plain", "a=1"]
    for row, value in zip(table, found.effects.ravel(), strict=True):
        assert float(row["delta"]) == value
