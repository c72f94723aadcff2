"""Pictures of heads: normalisation that changes no attention, distances against loops, planted heads where they must be."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import interp
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.pictures.closeness import closeness
from interp.pictures.normalising import Normalising, balanced
from interp.pictures.vectors import Spots, head_vectors
from interp.report.picture_figures import joint_matrix
from interp.sinks.asking import ask

PLANTED = "planted-induction"


@cache
def opened(name: str) -> HookedModel:
    return interp.load(name)


@cache
def asked(name: str):
    return interp.task("bundled", model=name) if name == PLANTED else interp.task("ioi", n=6)


def softmax_rows(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Causal softmax of plain products, in float64."""
    scores = torch.from_numpy(queries @ keys.T) / queries.shape[1] ** 0.5
    past = torch.ones_like(scores).tril().bool()
    return scores.masked_fill(~past, -torch.inf).softmax(-1).numpy()


def patterns(model: HookedModel, name: str, row: int = 0) -> np.ndarray:
    """Attention of all heads on one prompt, [layer head query key]."""
    pairs = ask(model, asked(name), truncate=False).pairs
    ids = pairs.clean.input_ids[row][pairs.clean.mask[row]]
    _, cache = model.run_with_cache([ids], "*hook_pattern")
    return torch.stack([cache["pattern", layer][0] for layer in range(model.n_layers)]).double().numpy()


@pytest.mark.parametrize("factor", [0.3, 1.0, 7.0])
def test_normalising_leaves_softmax_as_it_is(factor: float) -> None:
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(2, 3, (20, 8)), rng.normal(-5, 1, (20, 8))
    one = Normalising.of(queries, keys, factor)
    moved = one.queries(queries), one.keys(keys)
    assert np.abs(softmax_rows(*moved) - softmax_rows(queries, keys)).max() < 1e-12
    assert np.allclose(moved[0].mean(0), moved[1].mean(0))
    assert not np.allclose(moved[1], keys)


def test_the_balanced_factor_gives_both_the_same_spread() -> None:
    rng = np.random.default_rng(1)
    queries, keys = rng.normal(0, 9, (40, 4)), rng.normal(3, 0.5, (40, 4))
    one = Normalising.of(queries, keys, balanced(queries, keys))
    spread = [((side - side.mean(0)) ** 2).sum() for side in (one.queries(queries), one.keys(keys))]
    assert spread[0] == pytest.approx(spread[1])
    assert balanced(np.ones((3, 4)), keys[:3]) == 1.0


@pytest.mark.parametrize(("name", "head"), [(PLANTED, "L1H2"), ("mini", "L0H5"), ("mini", "L2H7")])
def test_normalised_vectors_give_the_models_own_attention(name: str, head: str) -> None:
    """With grouped keys and rotary positions too."""
    model = opened(name)
    pairs, (chosen,) = ask(model, asked(name), truncate=False).pairs, parse_heads(head, model.heads)
    length = int(pairs.clean.lengths[0])
    spots = Spots.draw([length], length, 3, 0)
    first = interp.sinks.asking.ask(model, [pairs.clean.input_ids[0][pairs.clean.mask[0]]], truncate=False).pairs
    found = head_vectors(model, first, [chosen], spots, rotated=True, batch_size=1)[chosen]
    one = Normalising.of(found.queries, found.keys, balanced(found.queries, found.keys))
    rows = softmax_rows(one.queries(found.queries), one.keys(found.keys))
    own = patterns(model, name)[chosen.layer, chosen.head]
    assert np.abs(rows - own).max() < 1e-6
    token, key = spots.pairs
    assert np.abs(found.attention - own[token, key]).max() < 1e-6
    if found.turned:
        bare = head_vectors(model, first, [chosen], spots, rotated=False, batch_size=1)[chosen]
        assert np.abs(softmax_rows(bare.queries, bare.keys) - own).max() > 0.05


def test_vectors_do_not_depend_on_batches_or_padding() -> None:
    model = opened("mini")
    pairs = ask(model, asked("mini"), truncate=False).pairs
    assert len(set(pairs.clean.lengths.tolist())) > 1
    spots, heads = Spots.draw(pairs.clean.lengths.tolist(), 5, 2, 0), parse_heads("L1H3,L3H0", model.heads)
    whole, single = (head_vectors(model, pairs, heads, spots, rotated=True, batch_size=size) for size in (6, 1))
    for head in heads:
        for side in ("queries", "keys", "attention"):
            assert np.allclose(getattr(whole[head], side), getattr(single[head], side), atol=1e-5)
        assert len(whole[head].attention) == len(spots.pairs[0])


def test_spots_are_drawn_from_each_prompt_and_look_back() -> None:
    spots = Spots.draw([3, 50, 9], 8, 4, 0)
    assert [int((spots.prompts == row).sum()) for row in range(3)] == [3, 8, 8]
    token, key = spots.pairs
    assert (spots.prompts[token] == spots.prompts[key]).all() and (spots.positions[key] <= spots.positions[token]).all()
    assert len(set(zip(token.tolist(), key.tolist(), strict=True))) == len(token)
    alone = Spots.draw([3], 8, 4, 0)
    assert (alone.targets == spots.targets[:3]).all()


def by_loops(pattern: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of one head's attention by distance, and how many queries have a key there."""
    total, count = np.zeros(len(offsets)), np.zeros(len(offsets))
    for query in range(len(pattern)):
        for place, offset in enumerate(offsets):
            if 0 <= query - offset < len(pattern):
                total[place] += pattern[query, query - offset]
                count[place] += 1
    return total, count


def test_attention_by_distance_against_loops() -> None:
    model = opened("mini")
    found = interp.attention_by_distance(model, asked("mini"), "L0H1,L2H6", furthest=12, batch_size=4)
    assert found.offsets.tolist() == list(range(13))
    for row, (layer, head) in enumerate([(0, 1), (2, 6)]):
        parts = [by_loops(patterns(model, "mini", prompt)[layer, head], found.offsets) for prompt in range(6)]
        total, count = (sum(side) for side in zip(*parts, strict=True))
        assert np.allclose(found.mean[row], total / count, atol=1e-6) and (found.counts == count).all()
        lengths = sum(len(patterns(model, "mini", prompt)[0, 0]) for prompt in range(6))
        assert found.beyond[row] == pytest.approx(1 - total.sum() / lengths, abs=1e-5)
    assert found.beyond[1] > 0.01
    even = [by_loops(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None], found.offsets) for n in _lengths(model)]
    total, count = (sum(side) for side in zip(*even, strict=True))
    assert np.allclose(found.even, total / count)


def _lengths(model: HookedModel) -> list[int]:
    return ask(model, asked("mini"), truncate=False).pairs.clean.lengths.tolist()


def test_models_that_look_ahead_have_distances_on_both_sides() -> None:
    model = HookedModel.from_hf(tiny_model("bert"), None)
    ids = [list(range(5, 16)), list(range(20, 31))]
    found = interp.attention_by_distance(model, ids, "L1H0", furthest=4)
    assert found.offsets.tolist() == list(range(-4, 5))
    _, cache = model.run_with_cache(ids, "blocks.1.attn.hook_pattern")
    parts = [by_loops(pattern[0].double().numpy(), found.offsets) for pattern in cache["pattern", 1]]
    total, count = (sum(side) for side in zip(*parts, strict=True))
    assert np.allclose(found.mean[0], total / count, atol=1e-6)
    assert np.allclose(found.even, 1 / 11)


def test_planted_heads_peak_at_their_distance() -> None:
    found = interp.attention_by_distance(opened(PLANTED), asked(PLANTED))
    assert found.peak("L0H0") == 1 and found.mean[found.index("L0H0"), 1] == pytest.approx(1, abs=1e-4)
    assert found.peak("L1H2") == 19  # 20 different words, and the word after the earlier occurrence
    noise = found.index("L0H1")
    assert np.allclose(found.mean[noise], found.even, atol=0.01)
    frame = found.to_frame()
    assert len(frame) == found.mean.size and set(frame["label"]) == set(found.heads)


def position_share(found) -> float:
    """Share of a picture's variance that lies between positions, over queries."""
    places, positions = found.places[~found.is_key], found.positions[~found.is_key]
    inside = sum(((own - own.mean(0)) ** 2).sum() for at in np.unique(positions) for own in [places[positions == at]])
    return 1 - float(inside / ((places - places.mean(0)) ** 2).sum())


def test_the_picture_of_a_planted_head_separates_positions_and_pairs_them() -> None:
    found = interp.joint_embeddings(opened(PLANTED), asked(PLANTED), "L0H0,L1H2")
    previous, induction = found["L0H0"], found["L1H2"]
    assert position_share(previous) > 0.99 > 0.5 > position_share(induction)
    queries, keys = dict[int, np.ndarray](), dict[int, np.ndarray]()
    for place, at, is_key in zip(previous.places, previous.positions, previous.is_key, strict=True):
        (keys if is_key else queries)[int(at)] = place
    spread = np.linalg.norm(previous.places.std(0))
    for at in range(2, 30):  # a query lies on the key before it, and on no other
        near = [np.linalg.norm(queries[at] - keys[other]) / spread for other in (at - 1, at)]
        assert near[0] < 0.1 and near[0] < near[1]
    assert previous.full.correlation > 0.4 > 0.1 > abs(previous.full.permuted) and previous.full.p == 0.01
    assert previous.flat.correlation > previous.flat.permuted + 5 * previous.flat.spread
    assert "no rotary" in previous.embedded and previous.explained > 0


def test_closeness_is_spearmans_and_its_control_is_not() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    distance = np.linalg.norm(queries - keys, axis=1)
    prompts = np.repeat(np.arange(10), 20)
    exact = closeness(queries, keys, np.exp(-distance), prompts, seed=0)
    assert exact.correlation == pytest.approx(1) and exact.p == 0.01 and exact.permuted < 0.5
    noise = rng.random(200)
    found = closeness(queries, keys, noise, prompts, seed=0)
    assert found.correlation == pytest.approx(spearmanr(-distance, noise)[0]) and found.p > 0.01
    flat = closeness(queries, keys, np.ones(200), prompts, seed=0)
    assert np.isnan(flat.correlation)


def test_rotary_models_say_what_is_embedded() -> None:
    options = {"per_prompt": 8, "targets": 3}
    turned = interp.joint_embedding(opened("mini"), "L0H1", asked("mini"), **options)
    bare = interp.joint_embedding(opened("mini"), "L0H1", asked("mini"), rotated=False, **options)
    assert "after rotary" in turned.embedded and "before rotary" in bare.embedded
    assert turned.full.correlation > bare.full.correlation + 0.2  # L0H1 looks at a distance, which is in the rotation
    frame = turned.to_frame()
    assert len(frame) == len(turned.norms) and (frame["kind"] == "key").sum() * 2 == len(frame)


def test_tsne_draws_the_same_twice() -> None:
    options = {"method": "tsne", "per_prompt": 6, "targets": 2}
    one, other = (interp.joint_embedding(opened("mini"), "L0H0", asked("mini"), **options) for _ in range(2))
    assert np.array_equal(one.places, other.places) and np.isnan(one.explained) and one.places.shape[1] == 2


def test_the_matrix_holds_patterns_or_their_largest_entries() -> None:
    model = opened("mini")
    own = patterns(model, "mini", 2)
    whole = interp.head_matrix(model, asked("mini"), prompt=2)
    assert whole.block == 1 and np.abs(whole.cells.reshape(own.shape) - own).max() < 1e-6
    small = interp.head_matrix(model, asked("mini"), "L1H*", prompt=2, cells=8)
    size, block = own.shape[-1], small.block
    assert block == -(-size // 8) and small.cells.shape[1] <= 8
    for query in range(0, size, block):
        for key in range(0, size, block):
            largest = own[1, :, query : query + block, key : key + block].max((1, 2))
            assert np.allclose(small.cells[:, query // block, key // block], largest, atol=1e-6)
    assert len(small.to_frame()) == small.cells.size


def test_depth_is_scores_by_layer() -> None:
    model = opened(PLANTED)
    found = interp.depth_profile(model, asked(PLANTED))
    entropy = interp.score(model, "entropy", asked(PLANTED))
    assert np.allclose(found.scores["entropy"].mean, entropy.mean)
    assert found.by_layer("entropy")[0] == pytest.approx(entropy.mean[:4].mean())
    assert len(found.to_frame()) == 3 * 8


def test_figures_show_what_was_measured() -> None:
    model, task = opened(PLANTED), asked(PLANTED)
    matrix = interp.head_matrix(model, task)
    assert len(matrix.plot().data) == 8 and np.allclose(matrix.plot().data[0].z, matrix.cells[0])
    far = interp.attention_by_distance(model, task, "L0H0,L1H2")
    assert [trace.name for trace in far.plot().data] == ["L0H0", "L1H2", "even attention"]
    assert len(interp.depth_profile(model, task).plot().data) == 9
    found = interp.joint_embeddings(model, task, "L0H0,L1H2", per_prompt=4, targets=2)
    figure = found["L0H0"].plot()
    shown = sum(len(trace.x) for trace in figure.data)
    assert shown == len(found["L0H0"].tokens) and "position" in figure.data[0].hovertext[0]
    assert "&lt;bos&gt;" in "".join(text for trace in figure.data for text in trace.hovertext)
    assert found["L0H0"].plot("position").data[1].marker.showscale and len(joint_matrix(found).data) == 4


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: interp.joint_embedding(opened("mini"), "L0H0", asked("mini"), method="umap"), "E201"),
        (lambda: interp.joint_embedding(opened("mini"), "L9H0", asked("mini")), "E203"),
        (lambda: interp.joint_embedding(opened("mini"), "L0H0", ["Hi"]), "E205"),
        (lambda: interp.head_matrix(opened("mini"), asked("mini"), prompt=6), "E205"),
        (lambda: interp.head_matrix(opened("mini"), asked("mini"), cells=1), "E205"),
        (lambda: interp.attention_by_distance(opened("mini"), asked("mini"), furthest=0), "E205"),
    ],
)
def test_mistakes_are_said(call, code: str) -> None:
    with pytest.raises(InterpError) as error:
        call()
    assert error.value.code == code


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.numel())
        return found


def test_a_long_prompt_needs_no_stored_pattern() -> None:
    length = 2048
    model = HookedModel.from_hf(tiny_model("llama", max_position_embeddings=length), None)
    whole = model.heads[""][0] * length**2
    ids = [torch.arange(length) % 30 + 5]
    with Largest() as largest:
        far = interp.attention_by_distance(model, ids, "L0H0", furthest=64)
        cells = interp.head_matrix(model, ids, "L0H0", cells=32).cells
    assert largest.size < whole / 2
    assert far.mean.shape == (1, 65) and np.isfinite(far.mean).all() and cells.shape == (1, 32, 32)
    with Largest() as largest:
        model.run_with_cache(ids, "blocks.0.attn.hook_pattern")
    assert largest.size >= whole
