"""Interventions on heads that see: each against a plain loop, prompt by prompt, however padded."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate, Intervention, Scale, Steer
from interp.hooks.model import HookedModel
from interp.hooks.names import point_name
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from interp.vision.class_looks import class_looks
from interp.vision.contrast import carved
from interp.vision.edits import KEYS, Boost, Deactivate, Weigh, at_keys, from_first
from interp.vision.gaze import gaze_guidance, gaze_shift
from interp.vision.geometry import geometry
from interp.vision.modulation import image_boost, modulation, most_looked_at, outlying
from interp.vision.outlier_branch import outlier_contrast
from interp.vision.pictures import after_image, blank, image_tokens, without_picture
from interp.vision.redistribution import ShareSinks, image_centric, redistribution
from interp.vision.reinforcement import reinforcement
from interp.vision.sinks import find_sinks, phi, sink_dimensions

Z, SCORES, PATTERN = "attn.hook_z", "attn.hook_attn_scores", "attn.hook_pattern"


@cache
def opened() -> HookedModel:
    return interp.load("mini-vlm")


@cache
def asked() -> Pairs:
    """Five questions of three lengths."""
    examples = interp.task("shapes", n=5, seed=3).examples(opened().tokenizer).examples
    return tokenise(opened().tokenizer, examples, processor=opened().processor)


def read(pairs: Pairs) -> tuple[Batch, torch.Tensor]:
    return pairs.clean, pairs.read_at


def left(batch: Batch) -> Batch:
    """The same prompts, padded on the left."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.mask, strict=True)]
    shifts = (batch.input_ids.shape[1] - batch.lengths).tolist()
    spans = {
        role: tuple(tuple(place + shift for place in span) for span, shift in zip(found, shifts, strict=True))
        for role, found in batch.spans.items()
    }
    moved = pad(rows, 0, "left")
    return replace(
        moved,
        spans=spans,
        inputs={**moved.inputs, "pixel_values": batch.inputs["pixel_values"]},
        tokenizer=batch.tokenizer,
    )


def answers(batch: Batch, at: torch.Tensor, *edits: object) -> torch.Tensor:
    with opened().edit(*edits):
        return opened()(batch)[torch.arange(batch.size), at]


def seen(batch: Batch, name: str, *edits: object) -> torch.Tensor:
    with opened().edit(*edits):
        return opened().run_with_cache(batch, name)[1][name]


# --- pictures


def test_a_prompt_without_its_picture_keeps_every_other_token():
    batch, at = read(asked())
    bare, moved = without_picture(opened(), batch, at)
    for row in range(batch.size):
        image = set(batch.spans["image"][row])
        kept = [int(token) for i, token in enumerate(batch.input_ids[row]) if batch.mask[row, i] and i not in image]
        assert bare.input_ids[row][bare.mask[row]].tolist() == kept
        assert bare.input_ids[row, moved[row]] == batch.input_ids[row, at[row]]


def test_a_blank_picture_has_one_colour():
    picture = asked().examples[0].image
    found = blank(picture)
    assert (
        found.shape == picture.shape and found.dtype == np.uint8 and len(np.unique(found.reshape(-1, 3), axis=0)) == 1
    )
    assert np.abs(found[0, 0] - picture.mean((0, 1))).max() <= 0.5


def test_prompts_without_a_picture_are_refused():
    text = tokenise(opened().tokenizer, [replace(asked().examples[0], clean="Is there a red ring?", image=None, corrupt=None, corrupt_image=None, spans={}, corrupt_spans={})])  # fmt: skip
    for call in (image_tokens, after_image):
        with pytest.raises(InterpError, match="E314"):
            call(text.clean)


# --- values that follow tokens


def test_values_of_tokens_come_back_on_either_side_of_the_padding():
    batch = asked().clean
    values = torch.rand(batch.mask.shape) * batch.mask
    tokens = from_first(values, batch)
    assert torch.equal(at_keys(tokens, batch, values.shape[1]), values)
    other = left(batch)
    back = at_keys(tokens, other, values.shape[1])
    for row in range(batch.size):
        assert torch.equal(back[row][other.mask[row]], values[row][batch.mask[row]])
    with pytest.raises(InterpError, match="E206"):
        at_keys(tokens[:2], batch, 9)


# --- reinforcement


def test_reinforcement_is_the_algorithm_prompt_by_prompt():
    """Layer by layer with plain hooks, one prompt at a time, each with and without its picture."""
    batch, at = read(asked())
    edit = reinforcement(opened(), (batch, at), alpha=1.7, layers=(0, 2, 3))
    for row in range(batch.size):
        one = batch.rows(row, row + 1)
        bare, moved = without_picture(opened(), one, at[row : row + 1])
        bare = replace(bare, spans={})
        chosen: list[str] = []
        for layer in (0, 2, 3):
            name = point_name(Z, layer)
            edits = [Scale(chosen, 1.7)] if chosen else []
            full, none = seen(one, name, *edits)[0, at[row]], seen(bare, name, *edits)[0, moved[0]]
            away, length = (full - none).double().norm(dim=-1), none.double().square().sum(-1)
            odd = (away > away.mean() + away.std(correction=0)) & (length > length.mean() + length.std(correction=0))
            away[odd] = 0
            heads = (away > away.median()).nonzero().flatten().tolist()
            assert edit.factors[name][row].tolist() == pytest.approx([1.7 if h in heads else 1.0 for h in range(8)])
            chosen += [f"L{layer}H{head}" for head in heads]
    parts = reinforcement(opened(), (batch, at), alpha=1.7, layers=(0, 2, 3), batch_size=2)
    assert parts == edit and hash(parts) == hash(edit)


def test_weights_of_heads_act_on_their_prompt_alone():
    batch, at = read(asked())
    name, factors = point_name(Z, 1), torch.ones(5, 8)
    factors[2, 3] = 2.0
    edit = Weigh(Reference({name: factors}, paired=True), "end")
    plain, changed = answers(batch, at), answers(batch, at, edit)
    rows = (plain - changed).abs().amax(-1) > 1e-6
    assert rows.tolist() == [False, False, True, False, False]
    single = answers(batch.rows(2, 3), at[2:3], Scale(["L1H3"], 2.0, positions="end"))
    assert torch.allclose(changed[2], single[0], atol=1e-5)
    assert torch.allclose(answers(batch.rows(1, 4), at[1:4], edit.rows(1, 4)), changed[1:4], atol=1e-5)
    assert edit.to_dict()["factors"]["sha256"] == edit.factors.digest
    assert torch.equal(answers(batch, at, Weigh(Reference({name: torch.ones(5, 8)}, paired=True))), plain)


# --- visual sinks


def planted(at: int = 9, size: float = 400.0) -> Steer:
    """Two huge dimensions at one image token, from layer 1 on."""
    name = point_name("hook_resid_pre", 1)
    vector = torch.zeros(128)
    vector[[17, 90]] = size
    return Steer(1, Reference({name: vector}), positions=at)


def test_a_planted_sink_is_found_with_its_dimensions():
    batch = asked().clean
    assert not any(find_sinks(opened(), batch).visual(layer).any() for layer in range(4))
    with opened().edit(planted()):
        found = find_sinks(opened(), batch)
    assert found.dimensions == (17, 90)
    for layer in (1, 2, 3):
        assert [row.nonzero().flatten().tolist() for row in found.visual(layer)] == [[9]] * 5
        assert torch.equal(found.tokens[layer], found.visual(layer))
    assert not found.tokens[0].any()


def test_phi_is_a_loop_and_never_above_the_root_of_the_width():
    stream = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    found = phi(stream, (3, 8))
    for row in range(2):
        for at in range(7):
            x = stream[row, at].double()
            assert found[row, at] == pytest.approx(
                float(max(abs(x[3]), abs(x[8])) / ((x**2).mean() + 1e-6).sqrt()), rel=1e-5
            )
    stream[0, 0] = 0
    stream[0, 0, 3] = 1e4
    assert phi(stream, (3,))[0, 0] == pytest.approx(32**0.5, rel=1e-4)
    assert not phi(stream, ()).any()


def test_dimensions_that_are_large_everywhere_are_no_sinks():
    noise = torch.randn(6, 40, 64, generator=torch.Generator().manual_seed(1))
    real = torch.ones(6, 40, dtype=torch.bool)
    assert sink_dimensions({0: noise}, real) == ()
    everywhere = noise.clone()
    everywhere[..., 5] += 50
    assert sink_dimensions({0: everywhere}, real) == ()
    few = noise.clone()
    few[:, 11, 20] -= 60
    assert sink_dimensions({0: few}, real) == (20,)


def sinks_edit(batch: Batch, rows: list[list[int]], **options: float) -> ShareSinks:
    where = torch.zeros(batch.mask.shape)
    for row, places in enumerate(rows):
        where[row, places] = 1
    return ShareSinks("all", Reference({"L2": from_first(where, batch)}, paired=True), **options)


PLACES = [[0, 6], [0, 7, 20], [0], [0, 39], [0, 5, 6]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_shared_out_attention_is_the_published_rule_row_by_row(side: str):
    """keep 0.6; rows behind the picture; image mass at least 0.2, and at most half of it on visual sinks."""
    batch = asked().clean
    edit = sinks_edit(batch, PLACES)
    shown = batch if side == "right" else left(batch)
    name = point_name(PATTERN, 2)
    before, after = seen(shown, name).double(), seen(shown, name, edit).double()
    assert (after.sum(-1) - before.sum(-1)).abs().max() < 1e-6 and after.min() >= 0
    moved = 0
    for row in range(5):
        first, length = int(shown.first[row]), int(shown.lengths[row])
        image, sinks = [place + 0 for place in shown.spans["image"][row]], [place + first for place in PLACES[row]]
        visual, others = [k for k in sinks if k in image], [k for k in image if k not in sinks]
        for head in range(8):
            for q in range(first, first + length):
                old, new = before[row, head, q], after[row, head, q]
                mass, on = float(old[image].sum()), float(old[visual].sum())
                chosen = q > max(image) and visual and mass >= 0.2 and on / mass <= 0.5
                if not chosen:
                    assert torch.equal(old, new)
                    continue
                expected, freed = old.clone(), float(0.4 * old[sinks].sum())
                expected[sinks] *= 0.6
                expected[others] += freed * old[others] / old[others].sum()
                assert torch.allclose(new, expected, atol=1e-6)
                moved += 1
    assert moved > 20


def test_sinks_of_a_batch_are_those_of_its_prompts():
    batch, at = read(asked())
    with opened().edit(planted()):
        edit = redistribution(opened(), (batch, at), layers=(1, 2, 3), keep=0.1)
        assert edit is not None and set(edit.sinks.values) == {"L1", "L2", "L3"}
        together = answers(batch, at, edit)
        for row in range(5):
            one = redistribution(opened(), (batch.rows(row, row + 1), at[row : row + 1]), layers=(1, 2, 3), keep=0.1, dimensions=(17, 90))  # fmt: skip
            alone = answers(batch.rows(row, row + 1), at[row : row + 1], one)
            assert torch.allclose(alone[0], together[row], atol=1e-4)
        assert (together - answers(batch, at)).abs().max() > 1e-3
        assert torch.allclose(answers(batch, at, replace(edit, keep=1.0)), answers(batch, at), atol=1e-5)
    assert redistribution(opened(), (batch, at)) is None


def test_a_row_whose_image_attention_is_all_on_sinks_is_left():
    pattern = torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.2, 0.1, 0.7, 0.0]]]])
    sinks, image = torch.tensor([[True, True, False, False]]), torch.tensor([[False, True, True, False]])
    assert image_centric(pattern, sinks, image, 0.5, 0.2).tolist() == [[[False], [True]]]
    assert not image_centric(pattern, torch.zeros_like(sinks), image, 0.5, 0.2).any()


# --- boosts


@pytest.mark.parametrize("rule", ["logits", "share"])
def test_boosts_are_the_formula_at_the_newest_token_alone(rule: str):
    batch, at = read(asked())
    weights = 0.8 * image_tokens(batch).float()
    edit = Boost(["L1H2", "L3H0"], Reference({KEYS: from_first(weights, batch)}, paired=True), rule)
    scores = seen(batch, point_name(SCORES, 1)).double()
    before, after = (seen(batch, point_name(PATTERN, 1), *edits).double() for edits in ((), (edit,)))
    rows = torch.arange(5)
    own = scores[rows, 2, at]
    if rule == "logits":
        expected = (own + 0.8 * own.abs() * image_tokens(batch)).softmax(-1)
    else:
        expected = before[rows, 2, at] * (1 + weights)
        expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(after[rows, 2, at], expected, atol=1e-6)
    after[rows, 2, at] = before[rows, 2, at]
    assert torch.equal(after, before)


def test_a_weight_of_minus_one_hides_a_key_and_never_blinds_a_row():
    batch, at = read(asked())
    every = Boost("all", Reference({KEYS: from_first(-batch.mask.float(), batch)}, paired=True), "share", None)
    assert torch.allclose(answers(batch, at, every), answers(batch, at), atol=1e-4)
    hidden = Boost(
        "all", Reference({KEYS: from_first(-image_tokens(batch).float(), batch)}, paired=True), "share", None
    )
    pattern = seen(batch, point_name(PATTERN, 3), hidden)
    behind = after_image(batch)
    for row in range(5):
        assert pattern[row][:, behind[row]][..., image_tokens(batch)[row]].max() < 1e-20


def test_a_boost_of_the_picture_weighs_every_image_token():
    batch, at = read(asked())
    edit = image_boost((batch, at), alpha=0.4)
    assert torch.equal(at_keys(edit.weights[KEYS], batch, batch.mask.shape[1]), 0.4 * image_tokens(batch).float())


def test_modulation_takes_objects_and_summaries_from_the_tower():
    batch, at = read(asked())
    early, late = (class_looks(opened(), batch, layer) for layer in (0, -2))
    edit = modulation(opened(), (batch, at), heads=["L1H0"], alpha=0.7, beta=0.3)
    weights = at_keys(edit.weights[KEYS], batch, batch.mask.shape[1])
    for row in range(5):
        values = late[row].numpy()
        low, high = np.quantile(values, (0.25, 0.75))
        summary = set(np.argsort(-values, kind="stable")[: int((values > high + 1.5 * (high - low)).sum())].tolist())
        objects = set(np.argsort(-early[row].numpy(), kind="stable")[:9].tolist()) - summary
        expected = [0.7 * (i in objects) + 0.3 * (i in summary) for i in range(36)]
        assert weights[row, list(batch.spans["image"][row])].tolist() == pytest.approx(expected)
    nothing = modulation(opened(), (batch, at), alpha=0.0, beta=0.0)
    assert torch.allclose(answers(batch, at, nothing), answers(batch, at), atol=1e-5)


def test_looks_of_the_class_token_against_plain_algebra():
    """CLIP's first token; the patches follow row by row, as the image tokens do."""
    batch = asked().clean
    pattern = seen(batch, "vision.blocks.1.attn.hook_pattern")
    assert torch.allclose(class_looks(opened(), batch, 1), pattern[:, :, 0, 1:].mean(1), atol=1e-6)
    q, k = (seen(batch, f"vision.blocks.2.attn.hook_{part}").flatten(2) for part in ("q", "k"))
    wide = torch.softmax(q[:, :1] @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)[:, 0, 1:]
    assert torch.allclose(class_looks(opened(), batch, -1, "official-code"), wide, atol=1e-6)
    assert (class_looks(opened(), batch, -1) - wide).abs().max() > 1e-3
    with pytest.raises(InterpError, match="E201"):
        class_looks(opened(), batch, 0, "other")


def test_the_most_looked_at_are_a_stable_order():
    looks = torch.tensor([[0.1, 0.3, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert most_looked_at(looks, torch.tensor([2, 1])).tolist() == [
        [False, True, True, False],
        [True, False, False, False],
    ]
    assert outlying(torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])).tolist() == [1]


def test_gaze_shift_is_the_sum_of_rises():
    batch = asked().clean
    found = gaze_shift(opened(), batch, [1, 2])
    looks = torch.stack([seen(batch, point_name(PATTERN, layer)).mean(1) for layer in (1, 2)]).mean(0)
    for row in range(5):
        behind = after_image(batch)[row].nonzero().flatten().tolist()
        for key in range(batch.mask.shape[1]):
            rises = sum(max(0.0, float(looks[row, q, key] - looks[row, q - 1, key])) for q in behind[1:])
            is_image = key in batch.spans["image"][row]
            assert found[row, key] == pytest.approx(rises if is_image else 0.0, abs=1e-6)
    edit = gaze_guidance(opened(), (batch, asked().read_at), alpha=5.0)
    weights = at_keys(edit.weights[KEYS], batch, batch.mask.shape[1])
    assert weights[image_tokens(batch)].max() == pytest.approx(5.0) and weights.min() >= 0
    for row in range(5):
        mean = weights[row][image_tokens(batch)[row]].mean()
        assert torch.allclose(weights[row][after_image(batch)[row]], mean)


# --- what looks behind the picture


def test_deactivated_heads_lose_what_stands_behind_the_picture():
    batch, at = read(asked())
    name, edit = point_name(PATTERN, 0), Deactivate(["L0H0", "L0H3"], 0.5)
    before, after = seen(batch, name), seen(batch, name, edit)
    hit = 0
    for row in range(5):
        behind = after_image(batch)[row]
        for head in range(8):
            old, new = before[row, head, at[row]], after[row, head, at[row]]
            expected = old.clone()
            if head in (0, 3) and old[behind].sum() >= 0.5:
                expected[behind] = 0
                hit += 1
            assert torch.equal(new, expected)
    assert hit
    with pytest.raises(InterpError, match="E205"):
        Deactivate("all", 1.5)


# --- pictures and logits


def test_a_carved_picture_keeps_the_patches_that_the_question_draws_attention_to():
    batch, at = read(asked())
    found = carved(opened(), (batch, at), keep=0.25).inputs["pixel_values"]
    where, old = geometry(opened(), batch), batch.inputs["pixel_values"]
    for row in range(5):
        kept = 0
        for r in range(6):
            for c in range(6):
                top, lft, bottom, right = where.text_box(r, c)
                new, was = found[row, :, top:bottom, lft:right], old[row, :, top:bottom, lft:right]
                same = torch.equal(new, was)
                assert same or torch.allclose(new, old[row].mean((1, 2))[:, None, None].expand_as(new))
                kept += same
        assert kept == 9
    assert torch.equal(carved(opened(), (batch, at), keep=1.0).inputs["pixel_values"], old)
    with pytest.raises(InterpError, match="E205"):
        carved(opened(), (batch, at), keep=2.0)


def test_contrast_with_outliers_against_a_model_that_is_shown_them_alone():
    batch, at = read(asked())
    found = outlier_contrast(opened(), (batch, at), alpha=2.0, count=4, batch_size=2)
    looks = class_looks(opened(), batch, -1)
    for row in range(5):
        one = batch.rows(row, row + 1)
        shown = looks[row].argsort(descending=True)[:4].tolist()
        gone = [place for i, place in enumerate(one.spans["image"][0]) if i not in shown]
        cut = [interp.Knockout("all", tuple(range(int(one.lengths))), tuple(gone))]
        own, other = answers(one, at[row : row + 1])[0], answers(one, at[row : row + 1], *cut)[0]
        expected = 3 * own - 2 * other
        cutoff = own < own.max() + np.log(0.1)
        assert torch.isneginf(found[row][cutoff]).all()
        assert torch.allclose(found[row][~cutoff], expected[~cutoff], atol=1e-3)


def test_edits_leave_no_trace():
    batch, at = read(asked())
    before = answers(batch, at)
    edit = reinforcement(opened(), (batch, at))
    with opened().edit(edit, Ablate(["L0H0"])):
        opened()(batch)
    assert torch.equal(answers(batch, at), before) and not opened().is_edited


# --- while a model writes


@cache
def made() -> dict[str, Intervention]:
    """Every kind of edit, for the same five prompts."""
    batch, at = read(asked())
    found: dict[str, Intervention] = {
        "reinforcement": reinforcement(opened(), (batch, at), alpha=1.5),
        "reinforcement at the end": reinforcement(opened(), (batch, at), alpha=1.5, positions="end"),
        "redistribution": sinks_edit(batch, PLACES, keep=0.1, seen=0.1),
        "modulation": modulation(opened(), (batch, at), heads=["L1H0", "L1H6"]),
        "gaze": gaze_guidance(opened(), (batch, at)),
        "deactivation": Deactivate(["L0H0", "L0H6"], 0.3),
    }
    return found


@pytest.mark.parametrize("name", ["reinforcement", "reinforcement at the end", "redistribution", "modulation", "gaze", "deactivation"])  # fmt: skip
def test_edits_act_on_every_written_token_as_in_whole_texts(name: str):
    batch, edit = asked().clean, made()[name]
    options = {"max_new_tokens": 4, "stop": [], "logits": True}
    cached = opened().generate(batch, edits=[edit], **options)
    whole = opened().generate(batch, edits=[edit], cached=False, **options)
    assert cached.method != whole.method and torch.equal(cached.tokens, whole.tokens)
    assert (cached.logits - whole.logits).abs().max() < 1e-3
    plain = opened().generate(batch, **options)
    assert (cached.logits - plain.logits).abs().max() > 1e-3
    assert torch.allclose(cached.logits[:, 0], answers(batch, asked().read_at, edit), atol=1e-3)
