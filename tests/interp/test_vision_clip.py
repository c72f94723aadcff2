"""CLIP embeddings taken apart: exact sums, ablations by hand, and the texts that say what heads write."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.vision.concept_map import faithfulness
from interp.vision.decomposition import ImageParts, decompose, text_embeddings
from interp.vision.geometry import Geometry
from interp.vision.text_span import head_texts, text_span

N = 5


@cache
def clip() -> HookedModel:
    network = sharp_model("clip")
    with torch.no_grad():  # biases start at 0, and what is 0 cannot be shared out wrongly
        for name, parameter in network.vision_model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return HookedModel.from_hf(network, name="clip")


def pixels() -> torch.Tensor:
    return torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@cache
def parts() -> ImageParts:
    return decompose(clip(), clip().batch({"pixel_values": pixels()}), tokens=True)


def test_the_parts_sum_to_the_embedding_that_the_model_gives() -> None:
    with torch.no_grad():
        given = clip().adapter.model.get_image_features(pixel_values=pixels()).pooler_output.double()
    given /= given.norm(dim=-1, keepdim=True)
    found = parts()
    assert (found.embedding - given).abs().max() < 1e-5
    assert (found.heads.sum((1, 2)) + found.mlps.sum(1) + found.embed - given).abs().max() < 1e-5
    assert found.tokens is not None and (found.tokens.sum(3) - found.heads).abs().max() < 1e-5
    assert found.tokens.shape == (N, 2, 4, 17, 16) and found.remainder.abs().max() < 1e-5


def test_parts_by_head_alone_are_the_same() -> None:
    found = decompose(clip(), clip().batch({"pixel_values": pixels()}))
    assert found.tokens is None and (found.heads - parts().heads).abs().max() < 1e-6
    with pytest.raises(InterpError, match="not split by token"):
        found.on_picture(torch.zeros(1, 16))


def test_one_head_and_token_against_the_formula_of_the_paper() -> None:
    """((A v W_O + b_O / (N H)) - mean / (M N H)) gamma / std + beta / (M N H), projected, over the embedding's length."""
    network = clip().adapter.model
    tower, layer, head, token, image = network.vision_model, 1, 2, 7, 3
    names = [f"vision.blocks.1.attn.hook_{kind}" for kind in ("pattern", "v")]
    inputs = {**clip().adapter.probe_inputs, "pixel_values": pixels()[image : image + 1]}
    _, cache_ = clip().run_with_cache(inputs, names)
    attention = cache_[names[0]][0, head, 0, token].double()
    out = tower.encoder.layers[layer].self_attn.out_proj
    written = attention * (out.weight[:, head * 8 : head * 8 + 8].double() @ cache_[names[1]][0, token, head].double())
    written = (written + out.bias.double() / (17 * 4)).detach()
    with torch.no_grad():
        stream = tower(pixels()[image : image + 1]).last_hidden_state[0, 0].double()
        whole = network.get_image_features(pixel_values=pixels()[image : image + 1]).pooler_output[0].double()
    norm, count = tower.post_layernorm, 5 * 17 * 4
    std = (stream.var(unbiased=False) + norm.eps).sqrt()
    normed = (written - stream.mean() / count) * norm.weight.double() / std + norm.bias.double() / count
    expected = (network.visual_projection.weight.double() @ normed / whole.norm()).detach()
    assert parts().tokens[image, layer, head, token].numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_mean_ablation_against_plain_sums() -> None:
    found = parts()
    heads, mlps, embed = (one.numpy() for one in (found.heads, found.mlps, found.embed))
    changed = heads.copy()
    changed[:, 0] = heads[:, 0].mean(0)
    changed[:, 1, 2] = heads[:, 1, 2].mean(0)
    other = mlps.copy()
    other[:, 1] = mlps[:, 1].mean(0)
    expected = changed.sum((1, 2)) + other.sum(1) + embed
    assert found.mean_ablated(attention=[0], mlps=[1], heads=[(1, 2)]).numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found.mean_ablated(), found.embedding)
    every = found.mean_ablated(attention=[0, 1], mlps=[0, 1], heads=[(0, 1)])
    assert (every - every.mean(0) - (found.embed - found.embed.mean(0))).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["siglip", "llava", "vit"])
def test_towers_whose_embedding_is_no_such_sum_are_refused(name: str) -> None:
    model = HookedModel.from_hf(sharp_model(name), name=name)
    with pytest.raises(InterpError, match="no sum over heads and patches"):
        decompose(model, model.batch({"pixel_values": pixels()}))


def test_a_projection_behind_attention_pooling_is_refused_by_its_numbers() -> None:
    network = sharp_model("siglip")
    network.visual_projection = torch.nn.Linear(32, 32, bias=False)
    model = HookedModel.from_hf(network, name="siglip")
    with pytest.raises(InterpError, match="no class token|attention pooling"):
        decompose(model, model.batch({"pixel_values": pixels()}))


def test_maps_of_concepts_find_a_planted_patch() -> None:
    """Random parts, and in each picture some patches along the concept: the map ranks exactly those first."""
    draw = torch.Generator().manual_seed(0)
    tokens = 0.02 * torch.randn(4, 2, 3, 17, 24, generator=draw, dtype=torch.float64)
    where = Geometry("", 17, np.arange(1, 17).reshape(4, 4), {"cls": (0,)}, (8, 8))
    concept = torch.nn.functional.normalize(torch.randn(2, 24, generator=draw, dtype=torch.float64), dim=1)
    inside = torch.rand(4, 4, 4, generator=draw) < 0.3
    tokens[:, 1, 2, 1:] += inside.flatten(1)[..., None] * concept[0]
    empty = torch.zeros(4, 24, dtype=torch.float64)
    planted = ImageParts(tokens.sum(3), tokens, torch.zeros(4, 2, 24).double(), empty, empty, where)
    maps = planted.on_picture(concept)
    assert faithfulness(maps[:, 0], inside.numpy()) == pytest.approx(1.0)
    assert abs(np.mean(faithfulness(maps[:, 1], inside.numpy())) - 0.5) < 0.35
    assert float(maps[0].sum(0)[0, 0]) == pytest.approx(float((tokens[0, :, :, 1].sum((0, 1)) @ concept.T).sum()))


def test_texts_have_the_embeddings_of_the_model() -> None:
    ids = torch.randint(3, 100, (4, 8), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = text_embeddings(clip(), inputs)
    with torch.no_grad():
        given = clip().adapter.model.get_text_features(**inputs).pooler_output
    assert torch.cosine_similarity(found, given.double(), dim=1).min() > 1 - 1e-9
    assert found.norm(dim=1) == pytest.approx(torch.ones(4).double())


CHOSEN, RESIDUAL, DEFECTIVE = [20, 10, 16, 22, 14, 32], 8.0708437144, 15.6206418971
ROW = (-0.5328880417, 0.3049332308, 0.1226895309)
"""What loops over the published steps gave on `random_outputs`, with rank 12 and 6 texts: choice, variance that is left,
the same of a reconstruction whose rows share one buffer, and the start of that row."""


def random_outputs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(2310)
    return torch.from_numpy(rng.standard_normal((30, 16))), torch.from_numpy(rng.standard_normal((40, 16)))


@pytest.mark.parametrize("code", ["paper", "official-code"])
def test_choice_and_reconstruction_of_the_published_steps(code: str) -> None:
    outputs, texts = random_outputs()
    found = text_span(outputs, texts, n=6, rank=12, code=code)
    assert list(found.chosen) == CHOSEN
    left = float((outputs - found.reconstruction).var(0).sum())
    assert left == pytest.approx(RESIDUAL if code == "paper" else DEFECTIVE, abs=1e-8)
    assert float(found.residual[-1]) == pytest.approx(RESIDUAL, abs=1e-8)
    if code == "official-code":
        assert (found.reconstruction == found.reconstruction[0]).all()
        assert found.reconstruction[0, :3].tolist() == pytest.approx(ROW, abs=1e-9)


def test_residual_never_grows_and_directions_are_orthogonal() -> None:
    found = text_span(torch.randn(50, 24, generator=torch.Generator().manual_seed(0)), random_texts(200, 24), n=40)
    assert (found.residual.diff() <= 1e-12).all() and len(found.chosen) == 24  # nothing is left of any text after 24
    assert (found.directions @ found.directions.T - torch.eye(24)).abs().max() < 1e-10
    assert float(found.residual[-1]) < 1e-9 and float(found.explained[-1]) == pytest.approx(1)


def random_texts(n: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_it_stops_where_nothing_is_left_and_the_published_code_does_not() -> None:
    outputs, texts = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), random_texts(3, 8)
    assert sorted(text_span(outputs, texts, n=10).chosen) == [0, 1, 2]
    assert len(text_span(outputs, texts, n=10, code="official-code").chosen) == 10
    twice = torch.cat([texts[:1], texts[:1]])
    assert text_span(outputs, twice, n=10).chosen == (0,)


def test_a_head_that_writes_along_two_texts_is_said_by_them() -> None:
    texts, draw = random_texts(60, 32), torch.Generator().manual_seed(3)
    weights = torch.randn(40, 2, generator=draw)
    said = weights[:, :1] * texts[17] + 0.8 * weights[:, 1:] * texts[42]
    heads = 0.01 * torch.randn(40, 1, 2, 32, generator=draw)
    heads[:, 0, 0] += said
    heads[:, 0, 1] = torch.randn(40, 32, generator=draw)
    names = [f"text {index}" for index in range(60)]
    found = head_texts(heads, texts, names, chosen=[(0, 0), (0, 1)], n=2, draws=19)
    assert set(found[0].texts) == {"text 17", "text 42"} and found[0].explained > 0.99
    assert found[0].p == pytest.approx(1 / 20) and found[0].by_chance < 0.98
    assert found[1].p > 0.05 and abs(found[1].explained - found[1].by_chance) < 0.1
    assert "L0H0: text" in str(found[0])


def test_bad_arguments() -> None:
    outputs, texts = random_outputs()
    for given, match in (
        ({"code": "mine"}, "code is"), ({"outputs": outputs[:1]}, "1 pictures"), ({"texts": texts[:, :5]}, "dimensions"),
        ({"texts": texts[:0]}, "0 texts"),
    ):  # fmt: skip
        with pytest.raises(InterpError, match=match):
            text_span(**{"outputs": outputs, "texts": texts, **given})
