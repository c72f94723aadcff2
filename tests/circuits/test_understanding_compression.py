"""Heads compressed to few directions: against plain forwards, and where it is known what the directions can hold."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.circuits.question import Question
from interp.circuits.understanding.compressing import Compressing
from interp.circuits.understanding.compression import compress
from interp.circuits.understanding.directions import random_bases
from interp.circuits.understanding.measured import measured
from interp.circuits.understanding.projection import Place, Projection, directions, placed, standing
from interp.hooks.examples import Example
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.naive import sweep
from interp.hooks.pairs import tokenise
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from tests.cases.edges import asked, opened, prompts

QUERY = Compressing("L1H2", "q", n_random=10)


@cache
def model() -> HookedModel:
    return interp.load("planted-induction")


def repeated(words: range, n: int, seed: int) -> Question:
    """Prompts in which one of these words comes twice, the second time at the end; asked for what followed it."""
    draw, examples = np.random.default_rng(seed), []
    for index in range(n):
        word = words[index % len(words)]
        rest = draw.permutation([one for one in range(13, 33) if one not in words])[:9].tolist()
        place = int(draw.integers(1, 7))
        text = [*rest[:place], word, *rest[place:], word]
        written = " ".join(f"w{one}" for one in text)
        examples.append(Example(str(index), written, f" w{text[place + 1]}", f" w{text[place - 1]}"))
    return Question.of(tokenise(model().tokenizer, examples), metric("logit_diff"))


def test_a_space_of_some_words_explains_them_and_not_others() -> None:
    """The query says which word is looked for. Four words lie in three directions; two are enough, as attention is sharp and
    the four are told apart there; they say nothing of other words."""
    source, base, shifted = repeated(range(1, 5), 16, 0), repeated(range(1, 5), 16, 1), repeated(range(5, 9), 16, 2)
    found = compress(model(), QUERY, source, base, shifted)
    assert (found.rank, found.verdict) == (2, "explains base, not the shift")
    rows = standing(model(), placed(model(), "L1H2", "q"), "end", source.batch, 8).rows
    sizes = torch.linalg.svdvals(rows - rows.mean(0))
    assert sizes[2] > 20 * sizes[3], "the rest is noise"
    shares = {where: {one.rank: one.share for one in said.curve} for where, said in found.on.items()}
    assert shares["base"][0] == shares["shift"][0] == 0
    assert shares["base"][4] > 0.99
    assert abs(shares["shift"][4]) < 0.05
    assert found.on["base"].beaten_by == 0
    assert "explains base, not the shift" in str(found)
    assert "kept on the shift" in found._repr_html_()


def test_the_same_space_explains_a_shift_of_what_does_not_matter() -> None:
    source, base, shifted = repeated(range(1, 5), 16, 0), repeated(range(1, 5), 16, 1), repeated(range(1, 5), 16, 7)
    found = compress(model(), QUERY, source, base, shifted, classes=[index % 4 for index in range(16)])
    assert (found.rank, found.verdict) == (2, "explains base and shift")
    assert all(one.holds for one in found.findings.found)


def test_a_head_that_does_nothing_explains_nothing() -> None:
    some = [repeated(range(1, 5), 12, seed) for seed in range(3)]
    found = compress(model(), Compressing("L1H0", "q", n_random=3), *some)
    assert found.verdict == "nothing to explain"


def test_too_few_directions_do_not_explain() -> None:
    some = [repeated(range(1, 5), 16, seed) for seed in range(3)]
    found = compress(model(), Compressing("L1H2", "q", ranks=(1,), n_random=5), *some)
    assert (found.rank, found.verdict) == (1, "does not explain base")
    assert any("no rank tried" in note for note in found.notes)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("kind", ["q", "k", "v", "z"])
def test_projections_equal_plain_forwards_and_all_directions_change_nothing(architecture: str, kind: str) -> None:
    tiny = opened(architecture)
    batch = prompts(tiny, (9, 7, 8), 0)
    question, place = asked(batch), placed(tiny, "L1H3", kind)
    mean = torch.randn(width := standing(tiny, place, None, batch, 2).rows.shape[1])
    bases = [random_bases(torch.eye(width), 2, 1, 0)[0], torch.eye(width), torch.zeros(width, 0)]
    variants = [
        Projection(place, Reference({"basis": one, "mean": mean}), where) for one in bases for where in (None, "end")
    ]
    values, clean = measured(tiny, question, variants, 2)
    expected = sweep(
        tiny, batch, variants, question.read_at, lambda out, a, b: question.measure(out, a, b, None), batch_size=3
    )
    assert np.abs(values - expected.numpy()).max() < 1e-5
    assert np.abs(values[2:4] - clean).max() < 1e-4
    assert np.abs(values[0] - clean).max() > 1e-3
    if kind in "qz":
        assert np.abs(values[1] - clean).max() > 1e-3


def test_rows_are_those_of_real_tokens_and_shared_keys_are_said() -> None:
    tiny = opened("llama")
    batch = prompts(tiny, (9, 7), 0)
    place = placed(tiny, "L1H3", "k")
    group = tiny.heads[""][1] // tiny.kv_heads[""][1]
    assert place.number == 3 // group
    assert "L1H3" in place.notes[0]
    found = standing(tiny, place, None, batch, 1)
    assert found.prompts.tolist() == [0] * 9 + [1] * 7
    _, cache = tiny.run_with_cache(batch, "blocks.1.attn.hook_k")
    assert (found.rows[9:] - cache["k", 1][1, :7, place.number]).abs().max() < 1e-6
    last = standing(tiny, place, "end", batch, 2)
    assert (last.rows - found.rows[[8, 15]]).abs().max() < 1e-6
    means = found.class_means(["a", "b"])
    assert (means[1] - found.rows[9:].mean(0)).abs().max() < 1e-12
    assert placed(tiny, "L1H3", "z") == Place("blocks.1.attn.hook_z", 3)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(InterpError, match="E201"):
        Compressing("L0H0", "pattern")
    for wrong in ({"share": 1.0}, {"ranks": (0,)}, {"ranks": ()}, {"n_random": -1}):
        with pytest.raises(InterpError, match="E205"):
            Compressing("L0H0", **wrong)  # type: ignore[arg-type]
    some = [repeated(range(1, 5), 8, seed) for seed in range(3)]
    with pytest.raises(InterpError, match="E203"):
        compress(model(), Compressing("L7H0"), *some)
    with pytest.raises(InterpError, match="E205.*labels"):
        compress(model(), QUERY, *some, classes=["a"] * 8)
    with pytest.raises(InterpError, match="E205.*labels"):
        compress(model(), QUERY, *some, classes=["a", "b"])
    with pytest.raises(InterpError, match="E205.*same"):
        directions(torch.zeros(3, 4))
