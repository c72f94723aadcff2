"""Graphs in models of many architectures: edges are what autograd and forwards from scratch say, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.graph.flow import Flow
from interp.circuits.readout import Norm
from interp.hooks.architectures import sharp_model
from interp.hooks.interventions import Ablate
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId, point_name
from interp.hooks.prompts import from_inputs
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired, prompts
from tests.cases.more_models import opened_more

FALCONS: dict[str, dict[str, Any]] = {
    "one key and value": {},
    "grouped keys, two norms": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "in turn, alibi": {"parallel_attn": False, "alibi": True, "multi_query": False, "bias": True},
}
OWN_CODE = [("bloom", {}), ("gptj", {}), *(("falcon", options) for options in FALCONS.values())]
FOUND = (
    "codegen", "glm4", "gpt_bigcode", "gpt_neo", "granite", "modernbert", "mpt", "nemotron", "olmo", "olmoe", "opt",
)  # fmt: skip
REFUSED = {
    "deepseek_v2": "queries, keys and values of was not recognised",
    "olmo_clipped": "queries, keys and values of was not recognised",
    "opt_post_norm": "post-norm",
    "distilbert": "post-norm",
}


def assert_edges_are_gradients_of_masks(model: HookedModel) -> None:
    contrast = contrasted(*paired(model, lengths=(6, 5)))
    assert contrast.flow.error < 1e-5
    runs, full = MaskedRuns(contrast), torch.from_numpy(contrast.flow.graph.full).float()
    masks = full[None].clone().requires_grad_()
    expected = torch.autograd.grad(runs.measured(runs.outputs(masks)).sum(), masks)[0][0]
    found = METHODS["eap"].run(contrast, Settings()).scores.sum(0)
    largest = float(expected.abs().max())
    assert largest > 1e-1 and float((found - expected).abs().max()) < 1e-5 * max(1.0, largest)


@pytest.mark.parametrize("name", FOUND)
def test_eap_is_the_gradient_of_the_masks(name: str) -> None:
    assert_edges_are_gradients_of_masks(opened_more(name))


@pytest.mark.parametrize(("name", "options"), OWN_CODE)
def test_attention_in_code_of_its_own(name: str, options: dict[str, Any]) -> None:
    """EAP against masks, exact effects against whole forwards, none against all edges in."""
    model = opened(name, **options)
    assert_edges_are_gradients_of_masks(model)
    flow, clean, corrupt = paired(model, lengths=(6, 5))
    contrast, graph = contrasted(flow, clean, corrupt), flow.graph
    scores, runs = exact(contrast).scores.permute(1, 2, 3, 0), MaskedRuns(contrast)
    chosen = np.random.default_rng(0).permutation(np.argwhere(graph.full))[:8]
    without = np.repeat(graph.full[None], len(chosen), 0)
    without[np.arange(len(chosen)), *chosen.T] = False
    whole, none, *others = runs.values([graph.full, graph.none, *without], tokens=1)
    effects = torch.stack([whole - other for other in others])
    assert effects.abs().max() > 1e-1
    assert (scores[tuple(chosen.T)] - effects).abs().max() < 1e-5
    for batch, value in ((clean, whole), (corrupt, none)):
        logits = model(batch)[torch.arange(batch.size), batch.end]
        assert (logits[:, 11] - logits[:, 12] - value).abs().max() < 2e-5


def test_shapes_of_falcons() -> None:
    shapes = [Flow.of(opened("falcon", **options)).graph.layers[0] for options in FALCONS.values()]
    assert [shape.kv_heads for shape in shapes] == [1, 2, 4]
    assert [shape.is_parallel for shape in shapes] == [True, True, False]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InterpError, match=REFUSED[name]) as caught:
        Flow.of(opened_more(name))
    assert caught.value.code == "E403"


@pytest.mark.parametrize("model", [lambda: opened("bert"), lambda: opened_more("distilbert")])
def test_post_norm_says_why_and_what_works_instead(model: Any) -> None:
    with pytest.raises(InterpError, match="every norm scales anew what was written before") as caught:
        Flow.of(model())
    assert all(word in caught.value.fix for word in ("interp.ablate", "interp.patch", "interp.paths"))
    batch = prompts(model(), (8,), 0)
    plain = model()(batch)
    with model().edit(Ablate(HeadId("", 0, 1), "zero")):
        assert (model()(batch) - plain).abs().max() > 1e-2
    for kind in ("hook_attn_out", "hook_mlp_out", "hook_resid_mid", "attn.hook_q", "hook_mlp_in"):
        model().check_point(point_name(kind, 1))


@pytest.mark.parametrize("name", ["glm4", "granite"])
def test_what_stands_between_heads_and_the_stream(name: str) -> None:
    """What GLM 4 normalises and Granite multiplies is shown and edited as it arrives."""
    model, layer = opened_more(name), 1
    points = [
        point_name(kind, layer) for kind in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    ]
    batch = prompts(model, (6, 6), 0)
    plain, cache = model.run_with_cache(batch, points)
    before, attn, mlp, after = (cache[point] for point in points)
    assert (before + attn + mlp - after).abs().max() < 1e-5 * after.abs().max()
    kept: dict[str, torch.Tensor] = {}
    hooks = {points[2]: lambda value, _: value + 1, points[3]: lambda value, _: kept.update(after=value)}
    model.run_with_hooks(batch, hooks)
    assert (kept["after"] - after - 1).abs().max() < 1e-5
    assert torch.equal(model.run_with_hooks(batch, {points[1]: lambda value, _: value}), plain)


def test_factors_of_each_dimension_behind_the_heads() -> None:
    """DINOv2 scales what attention writes; trained factors are not 1."""
    hf = sharp_model("dinov2_with_registers")
    for name, parameter in hf.named_parameters():
        if "lambda1" in name:
            nn.init.uniform_(parameter, 0.2, 2.0)
    flow = Flow.of(HookedModel.from_hf(hf))
    assert all(norm is not None and norm.is_fixed for norm in flow.norms.values())
    assert not any(shape.is_joined for shape in flow.graph.layers)
    batch = from_inputs(flow.model.adapter.probe_inputs)
    _, cache = flow.model.run_with_cache(batch, flow.points)
    assert flow.check(cache) < 1e-5
    total = torch.cat(list(flow.columns(flow.record(batch))), 2).sum(2)
    left = cache[point_name("hook_resid_post", flow.n_layers - 1)] - total
    assert (left - sum(flow.constant(layer) for layer in range(flow.n_layers))).abs().max() < 1e-5


def test_no_constant_factor_is_taken_for_a_norm_and_gains_are_no_multiples() -> None:
    class OnePlus(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)

    assert Norm.of(nn.Identity(), 6) is None
    found = Norm.of(OnePlus(6), 6)  # fresh weights are 1, and twice the gain at half the scale would fit as well
    assert found is not None and torch.allclose(found.gain, torch.full((6,), 2.0, dtype=torch.float64), rtol=1e-4)
    fixed = Norm.fixed(nn.Identity(), 6)
    assert fixed is not None and fixed.is_fixed and torch.equal(fixed.gain, torch.ones(6, dtype=torch.float64))
    assert Norm.fixed(nn.LayerNorm(6), 6) is None
