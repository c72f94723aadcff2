"""Which heads need full attention: known answers, what is stored, and each number against a naive one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.hooks.batch import Batch, pad
from interp.hooks.metrics import METRICS
from interp.hooks.names import parse_head
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.streaming import Streaming
from interp.kernels.variants.window import Window
from interp.swapping.classes import Full, Nothing, Operated, Segmented, Sizes, make_classes, read_class
from interp.swapping.closeness import closeness
from interp.swapping.found import judged, split
from interp.swapping.judge import expected_wrong
from interp.swapping.result import SwapResult
from interp.swapping.run import swap
from interp.swapping.segments import SegmentSwap, segments_of

CLASSES = ("nothing", "sink", "window", "sink+recent")


@pytest.fixture(scope="module")
def induction() -> SwapResult:
    model = interp.load("planted-induction")
    return swap(model, interp.task("bundled", model="planted-induction"), sink_tokens=1, recent=2, variants=CLASSES)


@pytest.fixture(scope="module")
def llama() -> Any:
    """Grouped keys and values, weights that attend sharply."""
    from interp.hooks.architectures import sharp_model
    from interp.hooks.model import HookedModel

    return HookedModel.from_hf(sharp_model("llama"), name="llama")


def test_the_induction_head_needs_all_and_the_previous_token_head_a_window(induction: SwapResult) -> None:
    assert induction.full_heads == ("L1H2",)
    assert induction.configuration["L0H0"] == "window" == induction.alone["L0H0"]
    others = {name for head, name in induction.configuration.items() if head not in ("L0H0", "L1H2")}
    assert others == {"nothing"}
    for answer in ("needed", "cheapest"):
        verdict = induction.verdict(answer)
        assert verdict.holds and verdict.claimed and verdict.n == 32 and min(verdict.controls) > 0.5
    assert induction.headline().startswith("1 of 8 heads needs full attention on bundled (L1H2)")
    claimed = {label for label, yes in zip(induction.labels, induction.evidence.claimed, strict=True) if yes}
    assert {"L1H2 nothing", "L1H2 window", "L0H0 nothing", "L0H0 sink"} <= claimed


@pytest.mark.parametrize(("name", "twins"), [("planted-or", {"L0H1", "L0H3"}), ("planted-backup", {"L0H1", "L1H2"})])
def test_of_redundant_heads_one_is_kept_and_none_is_claimed(name: str, twins: set[str]) -> None:
    """Either does the work: a random choice that takes the other one holds too, and that is said."""
    model = interp.load(name)
    task = interp.task("bundled", model=name)
    result = swap(model, task, sink_tokens=1, recent=2, variants=("nothing", "sink+recent"), n_controls=20)
    assert len(result.full_heads) == 1 and set(result.full_heads) <= twins
    verdict = result.verdict("needed")
    assert verdict.holds and verdict.n_controls_hold == 1 and not verdict.claimed
    assert result.headline().startswith("No claim that it is these heads")


def test_rows_are_runs_of_the_model(induction: SwapResult) -> None:
    """Singles from the engine, and configurations, against plain forwards with the edits in force."""
    model = interp.load("planted-induction")
    examples = interp.task("bundled", model="planted-induction").examples(model.tokenizer).examples
    batch = model.batch([example.clean for example in examples])
    words = [
        (model.tokenizer(text)["input_ids"][-1])
        for example in examples
        for text in (example.answer, example.distractor)
    ]
    answer, distractor = torch.tensor(words).unflatten(0, (-1, 2)).T
    rows = torch.arange(batch.size)

    def run(*edits: Any) -> tuple[np.ndarray, np.ndarray]:
        with model.edit(*edits), torch.no_grad():
            output = model(batch)[rows, batch.end]
        right = output.argmax(-1) == answer
        return (output[rows, answer] - output[rows, distractor]).double().numpy(), right.double().numpy()

    for label, edit in (
        ("L1H2 window", Swap("L1H2", Window(size=3))),
        ("L0H0 sink+recent", Swap("L0H0", Streaming(sink_tokens=1, recent=2))),
        ("L0H0 sink", Swap("L0H0", Streaming(sink_tokens=1, recent=1))),
    ):
        value, right = run(edit)
        head, name = label.split()
        stored = induction.values[induction.row_of(head, name)]
        if name == "sink":  # a sink class does not see the query's own token
            assert np.abs(stored - value).max() > 1e-3
            continue
        np.testing.assert_allclose(stored, value, atol=1e-4)
        np.testing.assert_array_equal(induction.correct[induction.row_of(head, name)], right)
    for answer_name in ("needed", "cheapest"):
        value, right = run(*induction.edits(answer_name))
        found = getattr(induction, answer_name)
        np.testing.assert_allclose(found.values[0], value, atol=1e-4)
        np.testing.assert_array_equal(found.correct[0], right)


def test_stored_and_read_again(induction: SwapResult, tmp_path: Path) -> None:
    folder = induction.save(tmp_path / "run")
    again = SwapResult.load(folder)
    assert again == induction and again.run_id == induction.run_id
    assert repr(again) == repr(induction) and "<table>" in again._repr_html_()
    assert [edit.to_dict() for edit in again.edits()] == [edit.to_dict() for edit in induction.edits()]
    frame = again.to_frame()
    assert len(frame) == len(again.labels) * len(again.prompts)
    row = frame[(frame.label == "L1H2 window") & (frame.prompt_id == again.prompts[3].id)].iloc[0]
    assert row.effect == pytest.approx(again.effects[again.row_of("L1H2", "window"), 3])
    assert bool(row.chooses) == bool(again.chooses[3]) and row["class"] == "window" and row.layer == 1
    figure = again.plot()
    assert np.asarray(figure.data[0].z).shape == (8, len(CLASSES))
    assert figure.data[0].z[6][2] == pytest.approx(again.effects[again.row_of("L1H2", "window")].mean())


def test_the_halves_do_not_meet_and_repeat() -> None:
    first, again, other = split(21, 8, 0), split(21, 8, 0), split(21, 8, 1)
    assert first.sum() == 8 and (first == again).all() and (first != other).any()


def batch_with_roles() -> Batch:
    rows = ([5, 17, 9, 33, 21, 8, 40, 3], [7, 30, 12, 9, 25])
    batch = pad(rows, 0, "left")
    spans = {"fact": ((1, 2, 3), (4, 5)), "key": ((2,), (5,)), "question": ((6, 7), (7,))}
    return Batch(batch.inputs, batch.mask, spans=spans)


def test_segments_are_roles_and_the_longer_one_holds() -> None:
    found = segments_of(batch_with_roles(), ("key", "fact", "question"))
    assert found.tolist() == [[0, 2, 2, 2, 0, 0, 3, 3], [0, 0, 0, 0, 2, 2, 0, 3]]
    with pytest.raises(InterpError, match="E313"):
        segments_of(batch_with_roles(), ("fcat",))


@pytest.mark.parametrize("mask", ["sink", "document", "document+sink"])
def test_nearness_and_keys_against_loops(llama: Any, mask: str) -> None:
    """Recall, output error, total variation and keys read of each class, from the model's own pattern and values."""
    batch = llama.batch(batch_with_roles())
    roles = ("fact", "question")
    classes = (
        Segmented("class", mask, 2, roles),  # type: ignore[arg-type]
        Operated("window", Window(size=3)),
        Nothing(taken="zero"),
        Full(),
    )
    heads = [parse_head("L0H1"), parse_head("L1H3")]
    found = closeness(llama, [batch.rows(0, 1), batch.rows(1, 2)], heads, classes)
    _, cache = llama.run_with_cache(batch, ["*pattern", "*hook_v"])
    segments = segments_of(batch, roles).tolist()
    for h, head in enumerate(heads):
        for b in range(2):
            real = [i for i in range(8) if bool(batch.mask[b, i])]  # type: ignore[index]
            pattern = cache["pattern", head.layer][b, head.head].double()
            v = cache["v", head.layer][b, :, llama.kv_head(head)].double()

            def sees(name: str, i: int, j: int, b: int = b, real: list[int] = real) -> bool:
                sink, same = real.index(j) < 2, segments[b][i] == segments[b][j]
                own = {"sink": sink, "document": same, "document+sink": sink or same}[mask]
                return {"class": own, "window": i - j < 3, "full": True}[name] and j <= i and j in real

            for c, name in ((0, "class"), (1, "window"), (3, "full")):
                expected = np.array([near(pattern, v, i, [j for j in real if sees(name, i, j)]) for i in real])
                for value, want in zip(
                    (found.recall, found.output_error, found.variation, found.keys), expected.mean(0), strict=True
                ):
                    assert value[h, c, b] == pytest.approx(want, abs=2e-5)
            assert [x[h, 2, b] for x in (found.recall, found.output_error, found.variation, found.keys)] == [0, 1, 1, 0]


def near(pattern: torch.Tensor, v: torch.Tensor, i: int, kept: list[int]) -> list[float]:
    """Recall, output error, variation and keys of one query."""
    recall = sum(float(pattern[i, j]) for j in kept)
    weights = {j: float(pattern[i, j]) / recall for j in kept}
    own = sum(float(pattern[i, j]) * v[j] for j in range(len(pattern)))
    new = sum(weights[j] * v[j] for j in kept)
    variation = sum(abs(weights.get(j, 0.0) - float(pattern[i, j])) for j in range(len(pattern))) / 2
    return [recall, float((new - own).norm() / own.norm()), variation, float(len(kept))]


def test_a_sink_swap_of_all_keys_is_dense(llama: Any) -> None:
    batch = llama.batch(batch_with_roles())
    own = llama(batch)[batch.mask]
    with llama.edit(SegmentSwap("all", "sink", sink_tokens=64)):
        torch.testing.assert_close(llama(batch)[batch.mask], own, atol=1e-5, rtol=1e-5)
    with llama.edit(SegmentSwap(("L0H0",), "document+sink", 1, ("fact", "question"))):
        assert (llama(batch)[batch.mask] - own).abs().max() > 1e-3


def test_classes_by_word_by_operator_and_by_name() -> None:
    sizes = Sizes(sink_tokens=2, recent=5, roles=("fact",))
    made = make_classes(("nothing", "window", "document", "retention", Streaming(recent=9)), sizes)[:5]
    assert [one.name for one in made] == ["nothing", "window", "document", "retention", "streaming"]
    assert made[1].variant.size == 7  # type: ignore[attr-defined]
    named = make_classes({"near": Window(size=2), "far": Window(size=9)}, sizes)
    assert [one.name for one in named] == ["near", "far", "full"]
    for one in (*made, *named):
        assert read_class(one.to_dict()).to_dict() == one.to_dict()


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (("windw",), "E201", "did you mean 'window'"),
        (("window", Window(size=2)), "E205", "name of its own"),
        ((), "E205", "one or more"),
        (("document",), "E205", "without segments"),
    ],
)
def test_wrong_classes(given: Any, code: str, text: str) -> None:
    with pytest.raises(InterpError, match=text) as caught:
        make_classes(given, Sizes(sink_tokens=1, recent=2))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"loss": 1.5}, "E205"),
        ({"loss_of": "acuracy"}, "E201"),
        ({"n_choose": 64}, "E205"),
        ({"recent": 0}, "E205"),
        ({"taken": "median"}, "E201"),
        ({"restricted": "nothin"}, "E201"),
        ({"heads": "L9H0"}, "E203"),
        ({"metric": "log_prb"}, "E201"),
    ],
)
def test_wrong_settings(options: dict[str, Any], code: str) -> None:
    model = interp.load("planted-induction")
    with pytest.raises(InterpError) as caught:
        swap(model, interp.task("bundled", model="planted-induction"), **options)
    assert caught.value.code == code


def test_verdicts() -> None:
    """A claim needs a loss within the bound, random choices that all break it, and a clear difference."""
    none, some = np.zeros(40), np.tile([0.0, 1.0], 20)
    sure = judged(np.stack([none, some, some[::-1]]), 0.08, 0)
    assert sure.holds and sure.claimed and sure.is_sure and sure.controls == (0.5, 0.5)
    assert sure.ci_high == pytest.approx(1 - 0.05 ** (1 / 40))
    assert not judged(np.stack([none, some, none]), 0.08, 0).claimed
    assert not judged(np.stack([some, np.ones(40)]), 0.08, 0).holds
    assert not judged(none[None], 0.08, 0).claimed
    constant = judged(np.stack([none, np.ones(40)]), 0.02, 0)
    assert constant.p == 0.5**40 and constant.claimed and not constant.is_sure


@pytest.mark.parametrize("seed", range(3))
def test_margins_tell_how_often_other_prompts_go_wrong(seed: int) -> None:
    """Of normal margins, the share below 0 is known; the kernel widens them by its width, and no more."""
    rng = np.random.default_rng(seed)
    for centre in (1.0, 2.0, 3.0):
        margin = rng.normal(centre, 1.0, 4000)
        width = 1.06 * 4000**-0.2
        widened = 0.5 * math.erfc(centre / math.sqrt(2 * (1 + width**2)))
        assert expected_wrong(margin) == pytest.approx(widened, abs=0.01)
    assert expected_wrong(np.array([-1.0, -1.0])) == 1.0 and expected_wrong(np.array([2.0, 2.0])) == 0.0
    assert expected_wrong(np.array([np.nan, 2.0, 2.0, 2.0])) == 0.25


def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("swap", "--model", "planted-induction", "--task", "bundled", "--task-args", "model=planted-induction",
                 "--variants", "nothing,sink+recent", "--sink-tokens", "1", "--recent", "2", "--heads", "L1H*",
                 "--loss", "0.03", "--controls", "3", "--out", tmp_path / "run")  # fmt: skip
    said = cli(*arguments, "--json")
    assert said.code == 0, said.err
    assert said.data["full_heads"] == ["L1H2"] and said.data["verdicts"]["needed"]["claimed"]
    assert said.data["configuration"] == {"L1H0": "nothing", "L1H1": "nothing", "L1H2": "full", "L1H3": "nothing"}
    assert SwapResult.load(tmp_path / "run").full_heads == ("L1H2",)
    assert "1 of 4 heads needs full attention" in said.err and METRICS["logit_diff"].name in said.out
    assert cli(*arguments).code == 2
    wrong = cli("swap", "--model", "planted-induction", "--task", "bundled", "--loss-of", "guess", "--task-args",
                "model=planted-induction", "--out", tmp_path / "other")  # fmt: skip
    assert wrong.code == 2 and "INTERP-E201" in wrong.err
