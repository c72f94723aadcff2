"""Scorers of heads that bring a picture into a text: contract, planted readers, and plain loops."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer
from interp.heads.result import HeadScores
from interp.heads.scorer import Scores
from interp.heads.seeing.hallucination import contrast, influence
from interp.heads.seeing.image_mass import by_layer
from interp.heads.seeing.key_share import KeyShare
from interp.heads.seeing.sparse_vectors import own_class, vote
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate, Steer
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.reference import Reference
from interp.hooks.tiny import IMAGE_TOKEN, tiny_model
from interp.kernels.errors import InterpError
from interp.vision.divergence import answer_z, divergence, total_divergence, without_outliers
from interp.vision.pictures import image_tokens, without_picture

NAMES = ("vhd", "image-mass", "hallucination-influence", "sav", "visual-sink-share")
OPTIONS = {"visual-sink-share": {"dimensions": (3, 41), "tau": 1.5}}
WRONG = 17
"""Of absent companions of seed 0, the model reports some of the first so many."""


@cache
def opened() -> HookedModel:
    return interp.load("mini-vlm")


@cache
def prompts() -> Pairs:
    """Questions of several lengths, absent companions that the model reports among them."""
    tokenizer, drawn = opened().tokenizer, []
    for ask, n in (("absent", WRONG), ("mixed", 5)):
        found = interp.task("shapes", n=n, seed=0, ask=ask).examples(tokenizer).examples
        drawn += [replace(one, id=f"{ask}-{one.id}") for one in found]
    every = tokenise(tokenizer, drawn, processor=opened().processor)
    output = opened()(every.clean)[torch.arange(len(every)), every.read_at]
    wrong = (output.argmax(-1) != every.answer.view(-1)).nonzero().flatten().tolist()
    kept = [drawn[row] for row in [*wrong[:2], *range(WRONG, WRONG + 5)]]
    assert wrong
    return tokenise(tokenizer, kept, processor=opened().processor)


def measured(
    name: str, pairs: Pairs, batch_size: int = 8, model: HookedModel | None = None, heads: str = "all"
) -> Scores:
    model = model or opened()
    return scorer(name, **OPTIONS.get(name, {})).measure(model, pairs, parse_heads(heads, model.heads), batch_size)


def agree(one: Scores, other: Scores, tolerance: float = 1e-4) -> None:
    for a, b in ((one.values, other.values), (one.null, other.null)):
        assert (np.isnan(a) == np.isnan(b)).all()
        assert np.nanmax(np.abs(a - b), initial=0) <= tolerance * max(1.0, float(np.nanmax(np.abs(a), initial=0)))


def moved(batch: Batch) -> Batch:
    """The same prompts, padded on the left."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.mask, strict=True)]
    shifts = (batch.input_ids.shape[1] - batch.lengths).tolist()
    spans = {
        role: tuple(tuple(place + shift for place in span) for span, shift in zip(found, shifts, strict=True))
        for role, found in batch.spans.items()
    }
    shown = pad(rows, 0, "left")
    inputs = {**shown.inputs, "pixel_values": batch.inputs["pixel_values"]}
    return replace(shown, spans=spans, inputs=inputs, tokenizer=batch.tokenizer)


# --- the contract


@pytest.mark.parametrize("name", NAMES)
def test_padding_on_either_side_gives_the_same(name: str) -> None:
    pairs = prompts()
    clean, corrupt = moved(pairs.clean), moved(pairs.corrupt)
    assert clean.first.max() > 0
    agree(measured(name, pairs), measured(name, replace(pairs, clean=clean, corrupt=corrupt, read_at=clean.end)))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_singles_and_inputs_are_read_only(name: str) -> None:
    pairs, network = prompts(), opened().adapter.model
    tensors = [pairs.clean.input_ids, pairs.clean.mask, pairs.clean.inputs["pixel_values"], *network.parameters()]
    before = [tensor._version for tensor in tensors]
    together = measured(name, pairs)
    agree(together, measured(name, pairs, 1))
    assert [tensor._version for tensor in tensors] == before and not opened().is_edited
    again = measured(name, pairs)
    assert np.array_equal(together.values, again.values, equal_nan=True) and together.left_out == again.left_out
    assert together.values.shape == together.null.shape == (32, len(pairs)) and together.values.dtype == np.float64


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sav"])  # which is a score of a prompt among others
def test_a_prompt_alone_has_the_score_it_has_among_others(name: str) -> None:
    pairs = prompts()
    one = tokenise(opened().tokenizer, pairs.examples[:1], processor=opened().processor)
    among = measured(name, pairs)
    agree(replace(among, values=among.values[:, :1], null=among.null[:, :1]), measured(name, one))


@cache
def permuted() -> HookedModel:
    """The same model with the two query heads of each key/value head of layer 1 changed over."""
    network = interp.load("mini-vlm").adapter.model
    attention, order = network.model.language_model.layers[1].self_attn, [1, 0, 3, 2, 5, 4, 7, 6]
    with torch.no_grad():
        for q in attention.q_proj.parameters():
            q.copy_(q.unflatten(0, (8, -1))[order].flatten(0, 1).clone())
        o = attention.o_proj.weight
        o.copy_(o.unflatten(1, (8, -1))[:, order].flatten(1, 2).clone())
    return HookedModel.from_hf(network, opened().tokenizer, processor=opened().processor)


@pytest.mark.parametrize("name", NAMES)
def test_permuted_heads_have_permuted_scores(name: str) -> None:
    plain, other = measured(name, prompts(), heads="L1H*"), measured(name, prompts(), model=permuted(), heads="L1H*")
    order = [1, 0, 3, 2, 5, 4, 7, 6]
    agree(replace(plain, values=plain.values[order], null=plain.null[order]), other, 1e-3)


def test_prompts_without_pictures_are_refused_with_the_role() -> None:
    with pytest.raises(InterpError, match="E313.*image"):
        interp.score(interp.load("mini"), "image-mass", interp.task("ioi", n=4))


# --- a planted reader


@cache
def planted() -> tuple[HookedModel, Batch, Batch, torch.Tensor]:
    """Heads L0H0 and L0H1 read what pictures bring, the two others what texts bring: their values live in other dims.

    Queries are 0, so that attention is even; the second batch has blank pictures.
    """
    network = tiny_model("llava")
    width = 64
    with torch.no_grad():
        projector, text = network.model.multi_modal_projector.linear_2, network.model.language_model
        projector.weight[: width // 2] = 0
        projector.bias[: width // 2] = 0
        text.embed_tokens.weight[:, width // 2 :] = 0
        attention = text.layers[0].self_attn
        attention.q_proj.weight.zero_()
        value = attention.v_proj.weight
        value.zero_()
        half = len(value) // 2
        for row in range(half):
            value[row, width // 2 + row] = 1.0
            value[half + row, row] = 1.0
    model = HookedModel.from_hf(network)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 100, (6, 24), generator=generator)
    ids[:, 2:18] = IMAGE_TOKEN
    mask = torch.ones_like(ids, dtype=torch.bool)
    pixels = torch.randn(6, 3, 32, 32, generator=generator)
    spans = {"image": (tuple(range(2, 18)),) * 6}
    batches = [
        Batch({"input_ids": ids, "attention_mask": mask.long(), "pixel_values": one}, mask, (0,) * 6, spans=spans)
        for one in (pixels, torch.zeros_like(pixels))
    ]
    return model, batches[0], batches[1], torch.full((6,), 23)


def test_planted_readers_move_with_the_picture_and_text_heads_do_not() -> None:
    model, batch, empty, at = planted()
    z = [answer_z(model, (one, at), [0])[0] for one in (batch, empty)]
    found = divergence(*z)
    assert found[:, 2:].max() < 1e-6 < 1e-3 < found[:, :2].min()
    against_nothing = answer_z(model, without_picture(model, batch, at), [0])[0]
    full, blank = (divergence(one, against_nothing) for one in z)
    assert (full - blank)[:, 2:].abs().max() < 1e-6 and full[
        :, 2:
    ].min() > 1e-3  # moved by the tokens, not by what they show
    assert against_nothing[:, :2].abs().max() < 1e-6
    assert torch.allclose(divergence(z[0], against_nothing, "relative")[:, :2], torch.ones(6, 2, dtype=torch.float64))


def test_distances_are_loops() -> None:
    a, b = (torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for row in range(3):
        for head in range(4):
            x, y = a[row, head].numpy(), b[row, head].numpy()
            expected = {
                "l2": np.sqrt(((x - y) ** 2).sum()),
                "squared": ((x - y) ** 2).sum(),
                "cosine": 1 - x @ y / np.sqrt((x @ x) * (y @ y)),
                "relative": np.sqrt(((x - y) ** 2).sum() / (x**2).sum()),
            }
            for name, value in expected.items():
                assert float(divergence(a, b, name)[row, head]) == pytest.approx(value, rel=1e-9)


def test_the_outlier_rule_takes_heads_that_only_lose_their_text() -> None:
    """Head 0 is far and long without the picture; head 1 is far but short; the others neither."""
    found = torch.tensor([[9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    without = torch.zeros(1, 8, 2)
    without[0, 0] = 5.0
    without[0, 1:] = 0.1
    assert without_outliers(found, without)[0].tolist() == [0.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_total_divergence_is_the_sum_of_each_layers_largest() -> None:
    values = np.array([[1.0, 4.0], [3.0, 0.0], [2.0, 2.0], [5.0, 1.0], [0.0, 7.0]])
    assert total_divergence(values, [0, 0, 0, 1, 1], 2).tolist() == [3 + 2 + 5 + 0, 4 + 2 + 1 + 7]


def test_held_against_a_blank_or_another_picture() -> None:
    pairs, heads = prompts(), parse_heads("all", opened().heads)
    blank = scorer("vhd", against="blank").measure(opened(), pairs, heads, 8)
    other = scorer("vhd", against="other", outliers=True).measure(opened(), pairs, heads, 8)
    assert not blank.null.any() and not other.null.any() and blank.values.max() > 1
    z = answer_z(opened(), (pairs.clean, pairs.read_at), [2])[2]
    twin = answer_z(opened(), (pairs.corrupt, pairs.read_at), [2])[2]
    assert other.values[16:24] == pytest.approx(divergence(z, twin).T.numpy(), abs=1e-6)
    with pytest.raises(InterpError, match="E303"):
        scorer("vhd", against="other").measure(opened(), replace(pairs, corrupt=None), heads, 8)
    with pytest.raises(InterpError, match="E201"):
        scorer("vhd", against="everything")


# --- attention to the picture


@pytest.mark.parametrize("sinks", ["raw", "excluded", "value"])
def test_image_mass_is_a_sum_over_the_pattern(sinks: str) -> None:
    pairs = prompts()
    found = scorer("image-mass", sinks=sinks).measure(opened(), pairs, parse_heads("all", opened().heads), 8)
    _, cache = opened().run_with_cache(pairs.clean, ["*hook_pattern", "*hook_v"])
    image = image_tokens(pairs.clean)
    for layer in range(4):
        pattern, values = (cache[f"blocks.{layer}.attn.hook_{name}"].double() for name in ("pattern", "v"))
        for row in range(len(pairs)):
            length = int(pairs.clean.lengths[row])
            for head in range(8):
                p, keys = pattern[row, head, length - 1, :length].clone(), image[row, :length].double()
                even = torch.ones(length, dtype=torch.float64)
                if sinks == "excluded":
                    p[0] = even[0] = 0
                if sinks == "value":
                    moves = (values[row, :length, head // 2] @ opened().w_out(layer)[head].double()).norm(dim=-1)
                    p, even = p * moves, even * moves
                index = 8 * layer + head
                assert found.values[index, row] == pytest.approx(float((p * keys).sum() / p.sum()), abs=1e-5)
                assert found.null[index, row] == pytest.approx(float((even * keys).sum() / even.sum()), abs=1e-5)


@pytest.mark.parametrize("backend", ["eager", "blockwise"])
def test_key_share_is_the_same_from_every_backend(backend: str) -> None:
    batch = prompts().clean
    asked = {"share": KeyShare(image_tokens(batch), opened().w_out(1))}
    _, plain = opened().run_with_statistics(batch, asked, layers=[1], backend="eager")
    _, found = opened().run_with_statistics(batch, asked, layers=[1], backend=backend)
    assert torch.allclose(found[1]["share"], plain[1]["share"], atol=1e-5, equal_nan=True)
    assert found[1]["share"].shape[-1] == 2


def test_layer_means() -> None:
    scores = interp.score(opened(), "image-mass", n=6)
    assert isinstance(scores, HeadScores)
    means = by_layer(scores)
    assert list(means) == [0, 1, 2, 3]
    assert means[2] == pytest.approx(scores.values[16:24].mean(0))


def test_sink_share_with_a_planted_sink() -> None:
    pairs = prompts()
    vector = torch.zeros(128)
    vector[[17, 90]] = 400.0
    plant = Steer(1, Reference({"blocks.1.hook_resid_pre": vector}), positions=9)
    heads = parse_heads("all", opened().heads)
    with opened().edit(plant):
        found = scorer("visual-sink-share").measure(opened(), pairs, heads, 8)
        pattern = opened().run_with_cache(pairs.clean, "blocks.2.attn.hook_pattern")[1]["blocks.2.attn.hook_pattern"]
    row = pattern[torch.arange(len(pairs)), :, pairs.read_at].double()
    expected = row[..., 9] / row[..., list(pairs.clean.spans["image"][0])].sum(-1)
    assert found.values[16:24] == pytest.approx(expected.T.numpy(), abs=1e-5)
    assert not found.values[:8].any() and np.allclose(found.null[8:], 1 / 36) and found.notes == ()
    assert scorer("visual-sink-share").measure(opened(), pairs, heads, 8).notes


# --- hallucinations


def test_influence_is_what_an_ablation_takes_from_the_probability() -> None:
    pairs = prompts()
    heads = parse_heads("L0H*", opened().heads)
    tokens = pairs.answer.view(-1)
    rows = torch.arange(len(pairs))
    plain = opened()(pairs.clean)[rows, pairs.read_at].double().log_softmax(-1)[rows, tokens]
    found = {kind: influence(opened(), pairs.clean, pairs.read_at, tokens, heads, kind) for kind in ("difference", "absolute", "log")}  # fmt: skip
    for head in (0, 6):
        with opened().edit(Ablate([f"L0H{head}"])):
            without = opened()(pairs.clean)[rows, pairs.read_at].double().log_softmax(-1)[rows, tokens]
        lost = plain.exp() - without.exp()
        assert torch.allclose(found["difference"][head], lost, atol=1e-5)
        assert torch.allclose(found["absolute"][head], lost.abs(), atol=1e-5)
        assert torch.allclose(found["log"][head], plain - without, atol=1e-3)


def test_only_wrong_answers_with_a_right_twin_are_scored() -> None:
    pairs, found = prompts(), measured("hallucination-influence", prompts())
    output = [
        opened()(side)[torch.arange(len(pairs)), pairs.read_at].argmax(-1) for side in (pairs.clean, pairs.corrupt)
    ]
    right = [one == pairs.answer.view(-1) for one in output]
    kept = (~right[0] & right[1]).tolist()
    assert any(kept) and sorted(found.left_out) == [row for row, one in enumerate(kept) if not one]
    assert np.isfinite(found.values[:, kept]).all() and np.isnan(found.values[:, [not one for one in kept]]).all()


def test_the_published_contrast_is_a_difference_of_means() -> None:
    values = np.array([[0.5, 0.1, 0.3], [0.0, 0.2, 0.4]])
    assert contrast(values, np.array([True, False, False])) == pytest.approx([0.3, -0.3])
    with pytest.raises(InterpError, match="E303"):
        contrast(values, np.array([True, True, True]))


# --- sparse vectors


def noise(heads: int, prompts: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 4, (prompts,), generator=generator)
    found = torch.randn(heads, prompts, 16, generator=generator)
    found[0] += 3 * torch.eye(16)[classes]
    return found, classes


def test_left_out_centroids_are_a_loop() -> None:
    found, classes = noise(3, 20)
    for leave in (True, False):
        right = own_class(found, classes, leave_one_out=leave)
        for head in range(3):
            for row in range(20):
                near = []
                for kind in range(4):
                    others = [i for i in range(20) if classes[i] == kind and not (leave and i == row)]
                    centroid = found[head, others].mean(0)
                    near.append(float(torch.cosine_similarity(found[head, row], centroid, dim=0)))
                assert right[head, row] == float(int(np.argmax(near)) == classes[row])


def test_the_informative_head_ranks_first_and_in_sample_centroids_flatter_noise() -> None:
    found, classes = noise(40, 80)
    fair, flattering = (own_class(found, classes, leave_one_out=leave).mean(1) for leave in (True, False))
    assert fair.argmax() == 0 and fair[0] > 0.8
    assert fair[1:].mean() == pytest.approx(0.25, abs=0.05)
    assert flattering[1:].mean() > 0.35


def test_a_class_of_one_has_no_score_when_it_is_left_out() -> None:
    found = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 0, 1, 1, 2])
    assert own_class(found, classes, leave_one_out=True)[:, 4].isnan().all()
    assert not own_class(found, classes, leave_one_out=False).isnan().any()


def test_voting_heads_name_the_class_of_new_prompts() -> None:
    train, test = noise(40, 80), noise(40, 60, seed=1)
    assert (vote(*train, test[0], k=1) == test[1]).double().mean() > 0.75
    assert (vote(*train, test[0], k=40) == test[1]).double().mean() < 0.75
