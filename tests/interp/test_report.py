"""The report on disk: what it says, what it never contains, its size, and that the same result gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.ablation.result import AblationResult
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.results import RunInfo
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError
from interp.report.data import HEAD_BYTES, LEVELS, MAX_TOKENS, MISSING, PAGE_BYTES, quantised, shown_positions
from interp.report.figures import effect_heatmap, pattern_figure, prompt_effects, top_heads
from interp.report.page import FOLDER, render, report, script_json
from interp.report.palette import DARK, DIVERGING, SEQUENTIAL
from interp.report.text import PROMPT, prompt_text, token_label, visible

ALLOWED_TAGS = set(
    "html head meta title style body header nav p a span noscript main section aside h1 h2 h3 ul li div dl dt dd b bdi "
    "table thead tbody tr th td button label select option details summary pre code script".split()
)


def made(
    layers: int = 2,
    heads: int = 4,
    prompts: int = 20,
    tokens: int = 6,
    shown: int = 2,
    effect: dict[int, float] | None = None,
    clean: float = 3.0,
    **run: Any,
) -> AblationResult:
    """A result whose heads do nothing, but for those in `effect`: index -> mean effect."""
    rng = np.random.default_rng(0)
    effects = 0.05 * rng.normal(size=(layers * heads, prompts))
    for head, size in (effect or {}).items():
        effects[head] += size + 0.1 * rng.normal(size=prompts)
    baseline = clean + rng.normal(size=prompts)
    labels = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    controls = tuple(tuple(o for o in labels if o != label and o[:-1] == label[:-1])[:3] for label in labels)
    words = tuple(f" w{i}" for i in range(tokens))
    records = tuple(PromptRecord(f"p{i}", words, " yes", " no") for i in range(prompts))
    patterns = {f"p{i}": rng.dirichlet(np.ones(tokens), (layers * heads, tokens)) for i in range(shown)}
    info = RunInfo(
        model={"name": "tiny", "heads": {"": [heads] * layers}, "kv_heads": {"": [heads] * layers}},
        task={"name": "ioi", "metric": "logit_diff"},
        method={"kind": "ablation", "operator": "mean", "positions": None},
        seeds={"evidence": 0},
        certificate={
            "max_abs": 2e-6, "mean_abs": 1e-7, "kl": None, "top1": 1.0, "tolerance": 1e-4, "dtype": "float32", "n_points": 9
        },
        canary={"point": "z", "rows": [{"point": "z", "layer": "L0", "identity": 0.0, "large": 3.25}]},
        command="interp ablate --model tiny",
    )  # fmt: skip
    return AblationResult(
        replace(info, **run), tuple(labels), records, baseline, baseline - effects, controls, (), patterns
    )


class Parsed(HTMLParser):
    """Tags, attributes, the text a reader sees, and the content of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self.cdata_elem is None:
            self.text += " ".join(data.split()) + "\n"

    def data(self) -> dict[str, Any]:
        return next(json.loads(text) for attributes, text in self.scripts if attributes.get("id") == "data")


def test_same_result_same_bytes_also_from_its_folder_and_in_another_process(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    result = made(effect={5: 1.0})
    first = report(result, tmp_path / "a.html").read_bytes()
    folder = result.save(tmp_path / "run")
    assert report(folder, tmp_path / "b.html").read_bytes() == first
    assert report([str(folder)], tmp_path / "a.html").read_bytes() == first
    python(f"import interp; interp.report({str(folder)!r}, {str(tmp_path / 'c.html')!r})")
    assert (tmp_path / "c.html").read_bytes() == first


def test_size_of_a_twelve_by_twelve_report() -> None:
    page = render([made(12, 12, prompts=64, tokens=32, shown=4)])
    assert 4.8e6 < len(page.encode()) < 8e6


def test_large_runs_stay_small_and_say_what_is_missing() -> None:
    page = render([made(12, 12, prompts=4, tokens=200, shown=4)])
    assert len(page.encode()) < 8e6
    section = Parsed(page).data()["sections"][0]
    kept = len(section["patternHeads"])
    assert kept == (PAGE_BYTES - 144 * (4 * 4 + HEAD_BYTES)) // (4 * MAX_TOKENS**2) < 144
    assert section["patternNote"].startswith(f"To keep the page small, attention is shown for the {kept} heads")
    assert section["patterns"][0]["note"].startswith(f"Cropped: token 0 and the last {MAX_TOKENS - 1} of 200 tokens")
    assert len(base64.b64decode(section["patterns"][0]["bytes"])) == kept * MAX_TOKENS**2


def test_a_model_of_a_thousand_heads_fits() -> None:
    page = render([made(32, 32, prompts=40, tokens=32, shown=4)])
    assert len(page.encode()) < 8e6
    assert len(Parsed(page).data()["sections"][0]["patternHeads"]) > 50


def test_shown_positions_keep_the_first_token_and_the_last_ones() -> None:
    assert shown_positions(MAX_TOKENS) == list(range(MAX_TOKENS))
    assert shown_positions(MAX_TOKENS + 5) == [0, *range(6, MAX_TOKENS + 5)]


def test_numbers_in_the_page_are_those_of_the_result() -> None:
    result = made(effect={5: 1.0})
    section = Parsed(render([result])).data()["sections"][0]
    effects = np.frombuffer(base64.b64decode(section["effects"]), "<f4").reshape(8, 20)
    np.testing.assert_allclose(effects, result.effects, rtol=1e-6)
    order = [int(head) for head, _ in sorted(section["patternHeads"].items(), key=lambda item: item[1])]
    assert order[0] == section["first"] == 5
    steps = np.frombuffer(base64.b64decode(section["patterns"][1]["bytes"]), np.uint8).reshape(8, 6, 6)
    np.testing.assert_allclose(steps / LEVELS, result.patterns["p1"][order], atol=0.5 / LEVELS + 1e-3)
    assert section["controls"][5] == [4, 6, 7]


def test_quantised_marks_what_is_not_finite() -> None:
    pattern = np.array([[[0.0, 1.0], [np.nan, 0.5]]], dtype=np.float16)
    assert quantised(pattern).tolist() == [[[0, LEVELS], [MISSING, 127]]]


def test_policy_allows_exactly_our_scripts() -> None:
    parsed = Parsed(render([made()]))
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    run = [text for attributes, text in parsed.scripts if "type" not in attributes]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run}
    assert len(hashes) == 2
    assert set(rules.pop("script-src").split()) == hashes
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_loaded_or_linked() -> None:
    parsed = Parsed(render([made(), made(effect={1: 2.0})]))
    assert {tag for tag, _ in parsed.tags} <= ALLOWED_TAGS
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links == ["#run-0", "#run-1"]
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style


def test_ids_are_unique_and_references_to_them_hold() -> None:
    parsed = Parsed(render([made(), made()]))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = ("aria-labelledby", "aria-describedby", "aria-controls", "for")
    assert {a[name] for _, a in parsed.tags for name in names if name in a} <= set(ids)


def test_claims_gate_and_proofs_are_in_words() -> None:
    text = Parsed(render([made(effect={5: 1.0})])).text
    for expected in (
        "1 of 8 heads matters for ioi under mean ablation",
        "Yes.",
        "above 0 on 20 of 20 prompts",
        "2e-06 (allowed 0.0001)",
        "3.25",
        "interp ablate --model tiny",
        "not distinguishable from random heads",
    ):
        assert expected in text
    assert text.count("not distinguishable from random heads") == 7


def test_nothing_claimed_is_said() -> None:
    assert "No head is distinguishable from random heads on ioi" in Parsed(render([made()])).text
    page = Parsed(render([made(clean=0.0, effect={5: 1.0})]))
    assert "The model does not do this task" in page.text
    assert page.text.count("no claim: the model does not do the task") == 8
    assert "●" not in {mark for row in page.data()["sections"][0]["figures"]["heat"]["data"][0]["text"] for mark in row}


def test_metric_without_chance_level_is_said_to_be_untested() -> None:
    text = Parsed(render([made(task={"name": "mine", "metric": "cosine"})])).text
    assert "Not tested, because what cosine is by chance is not known." in text


def test_warnings_drops_and_missing_patterns_are_shown() -> None:
    result = replace(
        made(shown=0, warnings=("No attention patterns: a reason.",)), drops=(Drop("q7", "E305", "7 tokens, 8", "x:3"),)
    )
    text = Parsed(render([result])).text
    for expected in (
        "1 note on this run",
        "No attention patterns: a reason.",
        "1 prompt dropped",
        "q7",
        "E305",
        "7 tokens, 8",
    ):
        assert expected in text
    assert "This run holds no attention patterns" in text


def test_many_drops_are_counted_and_cut() -> None:
    page = Parsed(render([replace(made(), drops=tuple(Drop(f"q{i}", "E305", "why") for i in range(250)))]))
    assert "The first 200 of 250; the run folder lists all." in page.text
    assert page.text.count("E305") == 200


def test_numbers_that_are_not_finite_reach_neither_page_nor_script() -> None:
    result = made(shown=1)
    values = result.values.copy()
    values[0], values[1, 0] = np.nan, np.inf
    page = Parsed(render([replace(result, values=values)]))
    assert "1 of 20 prompts not finite, left out" in page.text
    heads = page.data()["sections"][0]["heads"]
    assert heads[0]["mean"] is None and heads[0]["text"]["interval"] == "none"
    assert page.data()["sections"][0]["figures"]["heat"]["data"][0]["z"][0][0] is None


@pytest.mark.parametrize(("missing", "code"), [("canary", "E404"), ("certificate", "E406")])
def test_a_run_without_proof_gets_no_report(missing: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(InterpError) as caught:
        report(made(**{missing: {}}), tmp_path / "x.html")
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_refusals_leave_the_old_report_alone(tmp_path: Path) -> None:
    old = tmp_path / "x.html"
    old.write_text("old")
    for given, code in (([], "E206"), ([tmp_path], "E204")):
        with pytest.raises(InterpError) as caught:
            report(given, old)
        assert caught.value.code == code
    with pytest.raises(InterpError) as caught:
        report(made(), tmp_path)
    assert caught.value.code == "E602"
    assert old.read_text() == "old" and sorted(tmp_path.iterdir()) == [old]


def test_script_json_cannot_end_its_element_and_comes_back() -> None:
    data = {"</script>": ["<!--<script>", "&amp;", "\u2028\u2029", "\ud800", "é"]}
    text = script_json(data)
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == data


def test_visible_spells_what_cannot_be_seen_and_cuts() -> None:
    assert visible("a\u202eb\u2028c\x00d\ud800e\u200bf\U000e0041") == r"a\u202eb\u2028c\u0000d\ud800e\u200bf\U000e0041"
    assert visible("naïve 漢字 🙂\tx\n") == "naïve 漢字 🙂\tx\n"
    assert visible("x" * 5000) == "x" * 4000 + "… (5,000 characters)"


def test_token_label_is_short_and_shows_whitespace() -> None:
    assert [token_label(token) for token in (" the", "\n\n", "", "a" * 17)] == ["·the", "↵↵", "''", "a" * 16 + "…"]


def test_prompt_text_joins_pieces_with_and_without_spaces() -> None:
    assert prompt_text(["<s>", "When", " Mary"]) == "<s>When Mary"
    assert prompt_text(["[CLS]", "the", "##se"]) == "[CLS] the ##se"
    long = prompt_text([f" {i}" for i in range(500)])
    assert len(long) == PROMPT + 3 and long.startswith(" 0 1") and long.endswith("499")


def test_repeated_tokens_and_tags_keep_their_own_row_and_column() -> None:
    tokens = ["<s>", "a", "a", "<b>x</b>", "a"]
    figure = pattern_figure(np.eye(5), tokens)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3, 4]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;s&gt;", "a", "a", "&lt;b&gt;x&lt;/b&gt;", "a"]
    assert np.shape(figure.data[0].z) == (5, 5)
    assert figure.data[0].hovertext[3][0] == "&lt;b&gt;x&lt;/b&gt; (3) → &lt;s&gt; (0): 0"


def test_heatmap_is_centred_at_zero_and_marks_claims() -> None:
    result = made(effect={5: -1.0})
    trace = effect_heatmap(result).data[0]
    assert trace.zmin == -trace.zmax == pytest.approx(result.evidence.mean[5])
    assert [[bool(mark) for mark in row] for row in trace.text] == [[False] * 4, [False, True, False, False]]
    np.testing.assert_allclose(np.array(trace.z).ravel(), result.evidence.mean)
    assert result.plot() == effect_heatmap(result)


def test_heatmap_of_noise_is_pale() -> None:
    trace = effect_heatmap(made()).data[0]
    assert np.abs(trace.z).max() < 0.75 * trace.zmax


def test_heatmap_of_some_heads_and_two_towers_has_holes() -> None:
    labels = ("L0H1", "L3H0", "vision.L0H0")
    result = replace(made(1, 3, shown=0), heads=labels, controls=((), (), ()))
    figure = effect_heatmap(result)
    assert list(figure.layout.yaxis.ticktext) == ["L0", "L3", "vision.L0"]
    assert [list(row) for row in figure.data[0].customdata] == [[-1, 0], [1, -1], [2, -1]]


def test_top_heads_stand_beside_each_of_their_controls() -> None:
    result = made(effect={5: 1.0})
    controls, centre, heads = top_heads(result, k=1).data
    assert heads.x[0] == pytest.approx(result.evidence.mean[5])
    low, high = heads.x[0] - heads.error_x.arrayminus[0], heads.x[0] + heads.error_x.array[0]
    assert (low, high) == pytest.approx((result.evidence.ci_low[5], result.evidence.ci_high[5]))
    assert list(controls.x) == pytest.approx([result.evidence.mean[i] for i in (4, 6, 7)])
    assert centre.x[0] == pytest.approx(np.mean(controls.x))


def test_prompt_effects_show_head_and_controls_prompt_by_prompt() -> None:
    result = made(effect={5: 1.0})
    own, controls, _ = prompt_effects(result, "L1H1").data
    np.testing.assert_allclose(own.x, result.effects[5])
    np.testing.assert_allclose(controls.x, result.effects[[4, 6, 7]].mean(axis=0))


def test_palette_pairs_every_colour_once() -> None:
    assert len({*DIVERGING, *SEQUENTIAL}) == len(DIVERGING) + len(SEQUENTIAL)
    assert {*DIVERGING, *SEQUENTIAL} <= DARK.keys()
    assert not DARK.keys() & set(DARK.values())
    colours = re.findall(r'"(#[0-9a-f]{6})"', json.dumps(effect_heatmap(made()).to_plotly_json()["layout"]))
    assert set(colours) <= DARK.keys()
