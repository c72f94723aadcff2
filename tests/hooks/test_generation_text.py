"""What is written: batches against single prompts, padding, pictures, models without a cache, drawing, and endings."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.hooks.batch import pad
from interp.hooks.generation.result import Generation
from interp.hooks.generation.sampling import Sampling
from interp.hooks.interventions import Blend, Calibrate, Intervention, Knockout, Scale
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError

opened = cache(interp.load)
TEXTS = ["When Mary and John went to the store, John gave a book to", "Mary had", "The cat sat on the mat and then"]
EDITS = [Scale("L0H1,L1H0", 0.3), Blend("L1H1", 0.5, queries="end"), Calibrate("L1H2"), Knockout("L0H0", None, 1)]


def same(found: Generation, other: Generation) -> None:
    """The same tokens and logits, however they were computed."""
    assert torch.equal(found.tokens, other.tokens) and found.texts == other.texts
    assert found.logits is not None and other.logits is not None
    torch.testing.assert_close(found.logits, other.logits, atol=1e-4, rtol=0, equal_nan=True)


@torch.no_grad()
def naive(model: HookedModel, ids: list[int], edits: list[Intervention], steps: int, **inputs: Any) -> list[int]:
    """Greedy tokens by whole forwards of one prompt."""
    ids = list(ids)
    for _ in range(steps):
        whole = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        with model.edit(*edits):
            ids.append(int(model({**whole, **inputs})[0, -1].argmax()))
    return ids[-steps:]


@pytest.mark.parametrize("edits", [[], EDITS], ids=["plain", "edited"])
def test_a_batch_is_its_prompts_one_by_one_on_either_side(edits: list[Intervention]) -> None:
    model, options = opened("mini"), dict(max_new_tokens=6, stop=(), logits=True)
    right = model.generate(TEXTS, edits=edits, **options)
    same(right, model.generate(TEXTS, edits=edits, cached=False, **options))
    shifted = edits[:3]  # column 1 of left padding is no token of most
    same(
        model.generate(TEXTS, edits=shifted, padding_side="left", **options),
        model.generate(TEXTS, edits=shifted, **options),
    )
    for row, text in enumerate(TEXTS):
        alone = model.generate(text, edits=edits, **options)
        assert torch.equal(alone.tokens[0], right.tokens[row]) and alone.texts == right.texts[row : row + 1]
        torch.testing.assert_close(alone.logits[0], right.logits[row], atol=1e-4, rtol=0)
    assert right.method == "cached" and "1 prefill, 5 decode" in repr(right)


def test_without_edits_it_is_what_transformers_writes() -> None:
    model = opened("mini")
    batch = model.batch(TEXTS, padding_side="left")
    theirs = model.adapter.model.generate(
        input_ids=batch.input_ids, attention_mask=batch.inputs["attention_mask"], max_new_tokens=8, do_sample=False,
        pad_token_id=0,
    )[:, batch.input_ids.shape[1] :]  # fmt: skip
    ours = model.generate(TEXTS, max_new_tokens=8)
    ended = ours.tokens < 0
    assert torch.equal(ours.tokens[~ended], theirs[:, : ours.tokens.shape[1]][~ended])
    assert set(ours.ended) <= {"stop", "length"} and len(ours) == 3


@pytest.mark.parametrize("architecture", ["bloom", "falcon", "gptj"])
def test_models_with_attention_of_their_own_write_with_edits_of_z(hooked: Any, architecture: str) -> None:
    model, edit = hooked(architecture), Scale("L0H1", -1.0)
    rows = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    found = model.generate(rows, max_new_tokens=3, edits=[edit], stop=())
    assert found.tokens.tolist() == [naive(model, row, [edit], 3) for row in rows]
    assert found.method.startswith("cached")
    left = model.generate(rows, max_new_tokens=3, edits=[Scale("L0H1", -1.0, positions=(1, 4))], padding_side="left")
    alone = model.generate(rows[1:], max_new_tokens=3, edits=[Scale("L0H1", -1.0, positions=1)])
    assert torch.equal(left.tokens[1], alone.tokens[0])  # column 4 is the shorter prompt's token 1, column 1 padding


def test_a_bridge_writes_the_same_from_whole_texts_and_says_so(hooked: Any) -> None:
    ours, bridge = hooked("gpt2"), hooked("gpt2").to_transformer_lens()
    theirs = HookedModel.from_transformer_lens(bridge)
    rows = ours.batch(pad([[5, 6, 7, 8, 9, 10], [11, 12, 13]], 0))
    options = dict(
        max_new_tokens=3, edits=[Scale("L0H1", -1.0), Blend("L1H0", 0.4, queries="end")], stop=(), logits=True
    )
    found = theirs.generate(rows, **options)
    assert "no cache" in found.method and "one by one" in found.method
    assert Counter(step.kind for step in found.steps) == {"whole": 6}
    same(found, ours.generate(rows, **options))


@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl", "gemma3_vlm"])
def test_pictures_are_seen_once_and_written_about(hooked: Any, architecture: str) -> None:
    model = hooked(architecture)
    inputs = dict(model.adapter.probe_inputs)
    n = inputs["input_ids"].shape[1]
    edits = [Scale("vision.L0H1", 0.0), Scale("L0H1", 2.0), Blend("L1H1", 0.3)]
    ids = inputs["input_ids"][0].tolist()
    kept = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    written = list[int]()
    with torch.no_grad(), model.edit(*edits):
        for _ in range(3):
            each = {
                name: torch.nn.functional.pad(value, (0, len(written))) if value.shape == (1, n) else value
                for name, value in kept.items()
            }
            now = torch.tensor([ids + written])
            written.append(
                int(model({"input_ids": now, "attention_mask": torch.ones_like(now), **each})[0, -1].argmax())
            )
    found = model.generate(inputs, max_new_tokens=3, edits=edits, stop=())
    assert found.tokens[0].tolist() == written and found.method == "cached"
    assert [step.fired for step in found.steps] == [(1, 1, 1), (0, 1, 1), (0, 1, 1)]
    plain = model.generate({"input_ids": torch.tensor([[5, 6, 7]])}, max_new_tokens=2, stop=())
    assert plain.tokens[0].tolist() == naive(model, [5, 6, 7], [], 2)  # positions are not those of the last picture


def test_mini_vlm_answers_about_pictures_with_edits_on() -> None:
    model = opened("mini-vlm")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(2)]
    texts = [f"USER: <image>\n{ask} ASSISTANT:" for ask in ("What colour is the ring?", "How many things are there?")]
    edits = [Scale("L0H1,L1H0", 0.5), Blend("L1H1", 0.5, queries="end")]
    options = dict(max_new_tokens=3, edits=edits, stop=(), logits=True)
    found = model.generate(texts, images=images, **options)
    same(found, model.generate(texts, images=images, cached=False, **options))
    assert found.method == "cached"
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        alone = model.generate([text], images=[image], **options)
        assert torch.equal(alone.tokens[0], found.tokens[row])


def test_drawing_follows_the_probabilities_and_the_seed() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    full = (logits[0] / 0.5).double().softmax(-1)
    torch.testing.assert_close(Sampling(0.5).probabilities(logits)[0], full)
    two = Sampling(top_k=2).probabilities(logits)[0]
    assert two.tolist()[2:] == [0, 0] and float(two[0] / two[1]) == pytest.approx(np.e)
    p = logits[0].double().softmax(-1)
    for top_p in (0.5, float(p[0]) + 0.01, float(p[:2].sum()) + 0.01, 1.0):
        kept = Sampling(top_p=top_p).probabilities(logits)[0] > 0
        needed = next(n for n in range(1, 5) if float(p[:n].sum()) >= min(top_p, float(p.sum())))
        assert kept.tolist() == [index < needed for index in range(4)]
    model = opened("mini")
    once, again, other = (
        model.generate(TEXTS, max_new_tokens=5, sample=Sampling(1.5, seed=seed), stop=()).tokens for seed in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    first = model.generate(TEXTS[:1], max_new_tokens=5, sample=Sampling(1.5, seed=1), stop=()).tokens
    assert torch.equal(first[0], once[0])  # whatever the other prompts draw
    many = model.generate([TEXTS[1]] * 400, max_new_tokens=1, sample=Sampling(5.0, top_k=3), stop=(), logits=True)
    wanted = Sampling(5.0, top_k=3).probabilities(many.logits[:1, 0])[0]
    shares = torch.bincount(many.tokens[:, 0], minlength=len(wanted)) / 400
    assert float((shares - wanted).abs().max()) < 0.1 and int((shares > 0).sum()) == int((wanted > 0).sum())
    for wrong in (dict(temperature=0.0), dict(top_k=0), dict(top_p=0.0)):
        with pytest.raises(InterpError, match="E205"):
            Sampling(**wrong)


def test_texts_end_where_they_should() -> None:
    model = opened("mini")
    free = model.generate(TEXTS, max_new_tokens=6, stop=())
    assert free.ended == ("length",) * 3 and bool((free.tokens >= 0).all())
    second = int(free.tokens[0, 1])
    cut = model.generate(TEXTS, max_new_tokens=6, stop=[second], logits=True)
    for row in range(3):
        whole, found = free.tokens[row].tolist(), cut.tokens[row].tolist()
        n = whole.index(second) + 1 if second in whole else len(whole)
        assert found[:n] == whole[:n] and set(found[n:]) <= {-1}
        assert cut.ended[row] == ("stop" if second in whole else "length")
        assert cut.logits[row, n:].isnan().all() and not cut.logits[row, :n].isnan().any()
    word = model.tokenizer.decode([second])
    assert model.generate(TEXTS[0], max_new_tokens=6, stop=[word]).tokens.shape[1] == 2
    own = model.generate(TEXTS[0], max_new_tokens=6)
    assert own.ended == ("stop",) and int(own.tokens[0, -1]) == model.tokenizer.eos_token_id


def test_what_cannot_be_continued_is_refused(hooked: Any) -> None:
    for name in ("bert", "vit", "clip"):
        model = hooked(name)
        with pytest.raises(InterpError, match="E407"):
            model.generate(dict(model.adapter.probe_inputs), max_new_tokens=2)
    model = hooked("gpt2")
    with pytest.raises(InterpError, match="E309"):
        model.generate([[5] * 60], max_new_tokens=6)
    assert model.generate([[5] * 60], max_new_tokens=5, stop=()).tokens.shape == (1, 5)
    with pytest.raises(InterpError, match="E205"):
        model.generate([[5]], max_new_tokens=0)
    with pytest.raises(InterpError, match="E201"):
        model.generate([[5]], max_new_tokens=2, stop=["."])
    told = {"input_ids": torch.tensor([[5, 6]]), "position_ids": torch.tensor([[3, 4]])}
    with pytest.raises(InterpError, match="E205"):
        model.generate(told, max_new_tokens=2)
