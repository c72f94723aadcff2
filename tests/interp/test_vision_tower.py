"""Scores of heads that look at pictures: on a model with planted heads, by loops, and by closed forms."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from interp.heads import scorer
from interp.heads.vision.class_attention import ClassAttention
from interp.heads.vision.patch_distance import GridDistance
from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch
from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.pairs import Pairs
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.vision.aligned import (
    aligned_map,
    among_patches,
    at_offsets,
    best_offset,
    centre_of_mass,
    compactness,
    pairs_at,
)
from interp.vision.geometry import Geometry
from interp.vision.head_maps import aligned_heads

SIDE, SHARPNESS = 4, 60.0
RIGHT, DOWN, CLASS, EVEN = range(4)


def as_pairs(model: HookedModel, pixels: torch.Tensor, **inputs: torch.Tensor) -> Pairs:
    batch = model.batch({**inputs, "pixel_values": pixels})
    examples = tuple(Example(f"picture-{index}", "") for index in range(len(pixels)))
    return Pairs(examples, batch, None, None, None, torch.full((len(pixels),), -1), ((),) * len(pixels))


def pictures(n: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@cache
def planted() -> HookedModel:
    """A ViT whose heads look at the patch on the right, at the one below, at the class token, and everywhere alike.

    Patches at the right border and at the lower one look at themselves. Positions stand one-hot in the stream.
    """
    network = tiny_model("vit", hidden_size=128, num_hidden_layers=1)
    n_tokens, d_head = SIDE**2 + 1, 32
    with torch.no_grad():
        embeddings = network.vit.embeddings
        for parameter in embeddings.patch_embeddings.parameters():
            parameter.mul_(1e-4)  # the picture hardly tells in the stream, but it arrives
        embeddings.cls_token.zero_()
        embeddings.position_embeddings.zero_()
        embeddings.position_embeddings[0, :, :n_tokens] = torch.eye(n_tokens)
        attention = network.vit.layers[0].attention
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        q, k = (one.weight.view(4, d_head, 128) for one in (attention.q_proj, attention.k_proj))
        k[:, :n_tokens, :n_tokens] = torch.eye(n_tokens)
        for head, target in ((RIGHT, right_of), (DOWN, below), (CLASS, lambda token: 0)):
            for token in range(n_tokens):
                q[head, target(token), token] = SHARPNESS * 32**0.5 / 128
    return HookedModel.from_hf(network, name="planted-vit")


def right_of(token: int) -> int:
    return token if token == 0 or token % SIDE == 0 else token + 1


def below(token: int) -> int:
    return token if token == 0 or token > SIDE * (SIDE - 1) else token + SIDE


def scores(name: str, model: HookedModel | None = None, **options: object) -> tuple[np.ndarray, np.ndarray]:
    model = model or planted()
    found = scorer(name, **options).measure(model, as_pairs(model, pictures()), parse_heads("all", model.heads), 2)
    return found.values, found.null


def test_planted_offset_heads_rank_first_at_their_ceiling_and_others_are_at_chance() -> None:
    values, null = scores("offset-local")
    assert (values[[RIGHT, DOWN]] > 0.99).all() and (values[EVEN] < 0.1).all()
    assert values[EVEN] == pytest.approx(1 / 16, abs=1e-6) and null == pytest.approx(1 / 16)


def test_the_offset_is_the_planted_one() -> None:
    maps = aligned_heads(planted(), as_pairs(planted(), pictures()).clean)[0]
    assert best_offset(maps, (SIDE, SIDE), 2)[1][[RIGHT, DOWN]].tolist() == [[0, 1], [1, 0]]
    centre = centre_of_mass(maps)
    assert centre[RIGHT].tolist() == pytest.approx([0, 0.75 / (SIDE - 1)], abs=1e-4)  # one of four stays at the border
    assert centre[EVEN].abs().max() < 1e-6 and compactness(maps, (SIDE, SIDE))[EVEN] == pytest.approx(0, abs=1e-6)
    values, null = scores("attention-offset")
    assert values[[RIGHT, DOWN]] == pytest.approx(0.25, abs=1e-4) and (null == 0).all() and values[EVEN].max() < 1e-6


def test_distance_of_planted_heads_and_of_even_attention() -> None:
    values, null = scores("patch-distance")
    steps = [math.hypot(a // 4 - b // 4, a % 4 - b % 4) for a in range(16) for b in range(16)]
    assert values[RIGHT] == pytest.approx(0.75 / 3, abs=1e-4) and values[DOWN] == pytest.approx(0.75 / 3, abs=1e-4)
    assert values[EVEN] == pytest.approx(np.mean(steps) / 3, rel=1e-6) and null == pytest.approx(np.mean(steps) / 3)
    in_patches, _ = scores("patch-distance", unit="patch")
    assert in_patches == pytest.approx(values * 3, abs=1e-5)


def test_class_attention_of_planted_heads() -> None:
    values, null = scores("class-attention")
    assert (values[CLASS] > 0.99).all() and (values[[RIGHT, DOWN]] < 0.01).all()
    assert values[EVEN] == pytest.approx(1 / 17) and null == pytest.approx(1 / 17)
    given, chance = scores("class-attention", side="given")
    assert given[EVEN] == pytest.approx(16 / 17) and chance == pytest.approx(16 / 17) and (given[CLASS] < 0.01).all()


def test_the_published_slip_reads_the_first_patch_instead_of_the_class_token() -> None:
    values, _ = scores("class-attention", code="official-code")
    assert scorer("class-attention", code="official-code").variant == "official-code"
    assert (values[CLASS] < 0.01).all() and values[EVEN] == pytest.approx(1 / 17)


def test_entropy_of_planted_heads() -> None:
    values, null = scores("patch-entropy")
    assert values[EVEN] == pytest.approx(1.0) and (values[[RIGHT, DOWN]] < 0.02).all() and (null == 0).all()


@pytest.mark.parametrize("name", ["dinov2_with_registers", "vit"])
def test_scores_against_loops_over_captured_patterns(name: str) -> None:
    """Distance, offset and best neighbour of random heads, patch by patch; registers are no patches."""
    model = HookedModel.from_hf(sharp_model(name), name=name)
    first = 5 if name.startswith("dino") else 1
    pixels = pictures(2)
    _, cache_ = model.run_with_cache({"pixel_values": pixels}, ["*hook_pattern"])
    found = {s: scorer(s).measure(model, as_pairs(model, pixels), parse_heads("L1H*", model.heads), 2).values
             for s in ("patch-distance", "attention-offset", "offset-local", "patch-entropy")}  # fmt: skip
    for image in range(2):
        for head in range(4):
            rows = cache_["blocks.1.attn.hook_pattern"][image, head, first:, first:].double().numpy()
            expected = looped(rows, SIDE)
            got = [found[s][head, image] for s in found]
            assert got == pytest.approx(list(expected), abs=1e-5)


def looped(pattern: np.ndarray, side: int) -> tuple[float, float, float, float]:
    """The published formulas, one pair of patches at a time."""
    rows = pattern / pattern.sum(1, keepdims=True)
    distance = entropy = 0.0
    total, count = np.zeros((2 * side - 1, 2 * side - 1)), np.zeros((2 * side - 1, 2 * side - 1))
    for q in range(side**2):
        for k in range(side**2):
            down, across = k // side - q // side, k % side - q % side
            distance += rows[q, k] * math.sqrt(down**2 + across**2) / (side - 1) / side**2
            entropy -= rows[q, k] * math.log(rows[q, k]) / math.log(side**2) / side**2
            total[down + side - 1, across + side - 1] += rows[q, k]
            count[down + side - 1, across + side - 1] += 1
    share, axis = total / total.sum(), [2 * i / (2 * side - 2) - 1 for i in range(2 * side - 1)]
    x = sum(share[i, j] * axis[j] for i in range(2 * side - 1) for j in range(2 * side - 1))
    y = sum(share[i, j] * axis[i] for i in range(2 * side - 1) for j in range(2 * side - 1))
    middle = side - 1
    near = [total[i, j] / count[i, j] for i in range(middle - 2, middle + 3) for j in range(middle - 2, middle + 3)
            if (i, j) != (middle, middle)]  # fmt: skip
    return distance, math.hypot(x, y), max(near), entropy


def test_rows_without_attention_among_patches_count_as_none() -> None:
    pattern = torch.zeros(16, 16)
    pattern[0, 1] = 1
    found = aligned_map(pattern, (4, 4))
    assert float(found.sum()) == pytest.approx(1 / 16) and found[3, 4] == pytest.approx(1 / 16)
    assert centre_of_mass(torch.zeros(7, 7)).abs().max() == 0


@pytest.mark.parametrize(("offset", "shape"), [((0, 1), (4, 4)), ((1, -1), (5, 3)), ((-2, 0), (6, 6))])
def test_a_hand_built_shift_is_found_whole_with_edges_corrected(
    offset: tuple[int, int], shape: tuple[int, int]
) -> None:
    rows, cols = shape
    pattern = torch.zeros(rows * cols, rows * cols, dtype=torch.float64)
    for q in range(rows * cols):
        row, col = q // cols + offset[0], q % cols + offset[1]
        if 0 <= row < rows and 0 <= col < cols:
            pattern[q, row * cols + col] = 1
    found = aligned_map(pattern, shape)
    value, best = best_offset(found, shape, 2)
    assert float(value) == pytest.approx(1) and best.tolist() == list(offset)
    assert compactness(found, shape) == pytest.approx(1)
    expected = [o / (n - 1) for o, n in zip(offset, shape, strict=True)]
    assert centre_of_mass(found).tolist() == pytest.approx(expected)
    assert at_offsets(aligned_map(torch.ones_like(pattern), shape), shape) == pytest.approx(torch.full(
        pairs_at(shape).shape, 1 / (rows * cols), dtype=torch.float64))  # fmt: skip


def test_importance_against_a_model_with_the_head_cut_out() -> None:
    model = HookedModel.from_hf(sharp_model("vit"), name="vit")
    pixels = pictures(4)
    pairs, heads = as_pairs(model, pixels), parse_heads("L0H1,L1H3", model.heads)
    found = {m: scorer("vision-importance", operator="zero", metric=m).measure(model, pairs, heads, 2).values
             for m in ("kl", "prediction", "cosine")}  # fmt: skip
    plain = sharp_model("vit")
    with torch.no_grad():
        old = plain(pixels).logits.double()
        for row, (layer, head) in enumerate(((0, 1), (1, 3))):
            cut = sharp_model("vit")
            cut.vit.layers[layer].attention.o_proj.weight[:, head * 8 : head * 8 + 8] = 0
            new = cut(pixels).logits.double()
            kl = torch.nn.functional.kl_div(new.log_softmax(-1), old.softmax(-1), reduction="none").sum(-1)
            assert found["kl"][row] == pytest.approx(kl.numpy(), rel=1e-4, abs=1e-7)
            assert (found["prediction"][row] == (new.argmax(-1) != old.argmax(-1)).numpy()).all()
            cosine = (new * old).sum(-1) / new.norm(dim=-1) / old.norm(dim=-1)
            assert found["cosine"][row] == pytest.approx(1 - cosine.numpy(), abs=1e-6)


def test_a_head_that_writes_nothing_is_worth_nothing() -> None:
    network = sharp_model("vit")
    with torch.no_grad():
        network.vit.layers[1].attention.o_proj.weight[:, :8] = 0
    model = HookedModel.from_hf(network, name="vit")
    for operator in ("zero", "mean", "uniform"):
        pairs, heads = as_pairs(model, pictures()), parse_heads("L1H0,L1H1", model.heads)
        values = scorer("vision-importance", operator=operator).measure(model, pairs, heads, 3).values
        assert np.abs(values[0]).max() < 1e-9 < np.abs(values[1]).max()


def test_what_a_model_or_a_word_does_not_allow_is_refused() -> None:
    dino = HookedModel.from_hf(sharp_model("dinov2_with_registers"), name="dino")
    pairs, heads = as_pairs(dino, pictures()), parse_heads("all", dino.heads)
    with pytest.raises(InterpError, match="needs classes or words"):
        scorer("vision-importance").measure(dino, pairs, heads, 3)
    assert scorer("vision-importance", metric="cosine").measure(dino, pairs, heads, 3).values.min() > 0
    for name, options in (
        ("patch-distance", {"unit": "metre"}), ("class-attention", {"side": "left"}), ("vision-importance", {"metric": "x"}),
        ("class-attention", {"side": "given", "code": "official-code"}), ("offset-local", {"reach": 0}),
    ):  # fmt: skip
        with pytest.raises(InterpError):
            scorer(name, **options)


def test_a_batch_is_its_singles() -> None:
    model = HookedModel.from_hf(sharp_model("vit"), name="vit")
    pairs, heads = as_pairs(model, pictures(5)), parse_heads("all", model.heads)
    for name in ("patch-distance", "patch-entropy", "offset-local", "attention-offset", "class-attention"):
        together, apart = (scorer(name).measure(model, pairs, heads, size) for size in (5, 1))
        assert together.values == pytest.approx(apart.values, abs=1e-6)


def test_no_class_token_no_class_attention() -> None:
    from interp.vision.part import seeing_part

    model = seeing_part(HookedModel.from_hf(sharp_model("siglip"), name="siglip"))
    assert isinstance(as_pairs(model, pictures()).clean, Batch)
    with pytest.raises(InterpError, match="no class token"):
        scorer("class-attention").measure(model, as_pairs(model, pictures()), parse_heads("all", model.heads), 3)


PUBLISHED = (  # distance, centre across, centre down, offset, attention to the token behind the class token
    (0.6201458223, -0.019990538, 0.0019326121, 0.0200837397, 0.04855328),
    (0.6359605806, -0.0029647237, -0.0025121381, 0.0038859264, 0.0418408328),
    (0.6114119687, -0.0293947603, 0.0552660153, 0.0625969998, 0.0336907446),
)
"""The published formulas, written out as loops over pairs of patches, on the attention of `random_attention`."""


def random_attention() -> np.ndarray:
    """Three heads over a class token and 5 x 5 patches."""
    pattern = np.random.default_rng(2212).random((3, 26, 26)) ** 6
    return pattern / pattern.sum(-1, keepdims=True)


def test_published_figures_of_random_attention() -> None:
    pattern = torch.from_numpy(random_attention())
    where = Geometry("", 26, np.arange(1, 26).reshape(5, 5), {"cls": (0,)}, (8, 8))
    rows = among_patches(pattern[None, :, 1:, 1:])
    distance = GridDistance(where).of_rows(rows, torch.arange(25))[0].mean(-1)
    centre = centre_of_mass(aligned_map(pattern[:, 1:, 1:], (5, 5)))
    for head, (far, across, down, offset, slip) in enumerate(PUBLISHED):
        assert float(distance[head]) == pytest.approx(far, abs=1e-9)
        assert centre[head].tolist() == pytest.approx([down, across], abs=1e-9)
        assert float(centre[head].norm()) == pytest.approx(offset, abs=1e-9)
        keys = ClassAttention(code="official-code").statistic(where).of.tokens
        assert float(pattern[head, 1:, list(keys)].mean()) == pytest.approx(slip, abs=1e-9)
