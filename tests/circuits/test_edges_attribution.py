"""Edge attribution against gradients of masks, finite differences, closed forms, and models that say the same otherwise."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.ablation.asking import tokenised
from interp.circuits.edges.attribution import CLEAN, Contrast, Written, adaptive, along_inputs, gap, points
from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.zoo.recipes.planted_chain import GAINS, carried, slopes
from tests.cases.edges import asked, contrasted, opened, paired, prompts

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "olmo2", "gemma2", "gemma3", "qwen3", "mixtral", "gpt_oss", "phi3")


def eap(contrast: Contrast) -> Tensor:
    return METHODS["eap"].run(contrast, Settings()).scores


def with_places(contrast: Contrast) -> Contrast:
    """The same with three classes of positions."""
    flow = contrast.flow
    flow = Flow(flow.model, flow.graph.at_places(("a", "b", "c")), flow.norms, flow.reads, flow.error)
    shape = next(iter(contrast.clean.embed.values())).shape[:2]
    return replace(contrast, flow=flow, place_of=torch.randint(3, shape, generator=torch.Generator().manual_seed(1)))


def mask_gradients(contrast: Contrast, at: Tensor) -> Tensor:
    """What the metric, summed over prompts, gains with every mask."""
    runs = MaskedRuns(contrast)
    masks = at[None].clone().requires_grad_()
    return torch.autograd.grad(runs.measured(runs.outputs(masks)).sum(), masks)[0][0]


def close(found: Tensor, expected: Tensor, bar: float = 1e-5) -> bool:
    """Equal up to rounding, and something to compare."""
    largest = float(expected.abs().max())
    return largest > 1e-3 and float((found - expected).abs().max()) < bar * max(1.0, largest)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_eap_is_the_gradient_of_the_masks(architecture: str) -> None:
    contrast = contrasted(*paired(opened(architecture)))
    for some in (contrast, with_places(contrast)):
        full = torch.from_numpy(some.flow.graph.full).float()
        assert close(eap(some).sum(0), mask_gradients(some, full))


def test_eap_is_the_slope_of_the_metric() -> None:
    """Central differences in float64, edge by edge."""
    contrast = contrasted(*paired(opened("gpt2", dtype=torch.float64)))
    runs, graph, step = MaskedRuns(contrast), contrast.flow.graph, 1e-4
    scores = eap(contrast)
    chosen = np.random.default_rng(0).permutation(np.argwhere(graph.full))[:40]
    for place, writer, reader in chosen:
        masks = torch.from_numpy(graph.full).double().repeat(2, 1, 1, 1)
        masks[:, place, writer, reader] += torch.tensor([step, -step])
        with torch.no_grad():
            above, below = runs.measured(runs.outputs(masks))
        slope = (above - below) / (2 * step)
        assert (scores[:, place, writer, reader] - slope).abs().max() < 1e-6 * max(1.0, float(slope.abs().max()))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_edges_out_of_the_embeddings_carry_everything(share: float) -> None:
    """At every point of the path their scores sum to the slope of the metric along it."""
    contrast = contrasted(*paired(opened("gpt2", dtype=torch.float64)))
    n, step = len(contrast.clean.embed), 1e-4
    scores = along_inputs(contrast, [(share, 1.0)]).scores[:, :, :n].sum((1, 2, 3))
    above, below = (contrast.gradients(share + side * step).values for side in (1, -1))
    assert close(scores, (above - below) / (2 * step), 1e-6)


def test_a_linear_chain_has_its_closed_form() -> None:
    model = interp.load("planted-chain")
    task = interp.task("file", path="interp/zoo/models/planted-chain/examples.jsonl", n=12)
    m = metric("logit_diff")
    examples = task.examples(model.tokenizer).examples
    pairs = tokenised(model, task, examples, m, "resample", truncate=False, first_token=False)
    assert pairs.corrupt is not None
    flow = Flow.of(model)
    contrast = Contrast(flow, Question.of(pairs, m), flow.record(pairs.clean), flow.record(pairs.corrupt))
    expected = torch.zeros(len(pairs), *flow.graph.full.shape)
    for row, example in enumerate(pairs.examples):
        sign = 1.0 if str(example.answer).strip() == "high" else -1.0
        clean, corrupt = (carried(*map(float, str(text).split()[-2:])) for text in (example.clean, example.corrupt))
        for edge, slope in slopes().items():
            expected[row, *flow.graph.edge(edge)] = sign * slope * (clean[edge] - corrupt[edge])
    stated = flow.graph.of_labels(GAINS)
    assert (expected.abs().sum(0)[stated] > 0).all()
    for name in ("eap", "eap-denoise", "clean-corrupted", "eap-ig", "eap-ig-activations", "exact"):
        found = METHODS[name].run(contrast, Settings(steps=2)).scores
        assert (found - expected).abs().max() < 1e-4, name


def test_shared_keys_and_values_sum_what_each_query_head_reads() -> None:
    """A twin with keys and values of its own for each query head, all weights repeated, says the same."""
    grouped = opened("llama")
    hf: Any = grouped.adapter.model  # type: ignore[attr-defined]
    config = copy.deepcopy(hf.config)
    config.num_key_value_heads = config.num_attention_heads
    twin: Any = type(hf)(config).eval()
    times = hf.config.num_attention_heads // hf.config.num_key_value_heads
    weights = hf.state_dict()
    for name in [name for name in weights if name.endswith(("k_proj.weight", "v_proj.weight"))]:
        each = weights[name].unflatten(0, (hf.config.num_key_value_heads, -1))
        weights[name] = each.repeat_interleave(times, 0).flatten(0, 1)
    twin.load_state_dict(weights)
    flow, clean, corrupt = paired(grouped)
    other = Flow.of(HookedModel.from_hf(twin))
    for method in ("eap", "eap-ig", "eap-ig-activations"):
        found = METHODS[method].run(contrasted(flow, clean, corrupt), Settings(steps=2)).scores
        apart = METHODS[method].run(contrasted(other, clean, corrupt), Settings(steps=2)).scores
        summed = torch.zeros_like(found)
        for index, reader in enumerate(other.graph.readers):
            label = reader.label
            if reader.part in ("k", "v"):
                label = f"L{reader.layer}KV{reader.head // times}.{reader.part}"
            summed[..., flow.graph.reader_index[label]] += apart[..., index]
        assert close(found, summed), method


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations", "exact"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_scores_of_a_prompt_are_its_own(architecture: str, method: str) -> None:
    """Whatever stands beside it, and on whichever side it is filled up."""
    model = opened(architecture)
    flow, lengths = Flow.of(model), (9, 6, 7)
    run = METHODS[method].run
    together = {
        side: run(contrasted(flow, *(prompts(model, lengths, seed, side) for seed in (0, 1))), Settings(steps=2)).scores
        for side in ("left", "right")
    }
    assert close(together["left"], together["right"])
    clean, corrupt = (prompts(model, lengths, seed) for seed in (0, 1))
    for row, length in enumerate(lengths):
        alone = [model.batch([batch.input_ids[row, :length].tolist()]) for batch in (clean, corrupt)]
        found = run(contrasted(flow, *alone), Settings(steps=2)).scores[0]
        assert close(found, together["right"][row])


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_pieces_of_any_size_give_the_same(architecture: str) -> None:
    contrast = contrasted(*paired(opened(architecture), lengths=(40, 33)))
    for some in (contrast, with_places(contrast)):
        least = replace(some, chunk=1)
        assert Written(least).step == 16 and Written(some).step == 40
        assert close(eap(least), eap(some))
    assert close(eap(with_places(contrast)).sum(1, keepdim=True), eap(contrast))


def test_activations_are_moved_one_writer_at_a_time() -> None:
    """The mean of mask gradients over runs in which all edges of one writer are equally far out."""
    contrast = contrasted(*paired(opened("llama"), lengths=(7,)))
    full = torch.from_numpy(contrast.flow.graph.full).float()
    expected = torch.zeros_like(full)
    for share, weight in points("midpoint", 2):
        for writer in range(full.shape[1]):
            masks = full.clone()
            masks[:, writer] *= share
            expected[:, writer] += weight * mask_gradients(contrast, masks)[:, writer]
    found = METHODS["eap-ig-activations"].run(contrast, Settings(steps=2)).scores[0]
    assert close(found, expected * full)


def test_integration_adds_up() -> None:
    contrast = contrasted(*paired(opened("gpt2")))
    for rule in ("midpoint", "trapezoid", "left", "right"):
        assert sum(weight for _, weight in points(rule, 7)) == pytest.approx(1)
        assert sum(share * weight for share, weight in points(rule, 400)) == pytest.approx(0.5, abs=2e-3)
    found, steps, left = adaptive(contrast, 0.02, 64)
    assert left <= 0.02 < gap(contrast, adaptive(contrast, 1e9, 1)[0]) and 1 < steps <= 64
    n = len(contrast.clean.embed)
    total = found.scores[:, :, :n].sum((1, 2, 3))
    change = found.values[1.0] - found.values[0.0]
    assert (total - change).abs().sum() <= 0.02 * change.abs().sum() + 1e-5
    expected = along_inputs(contrast, points("trapezoid", steps)).scores
    assert close(found.scores, expected)


@pytest.mark.parametrize(("code", "arguments"), [("E201", ("simpson", 3)), ("E205", ("left", 0))])
def test_rules_that_are_none(code: str, arguments: tuple[str, int]) -> None:
    with pytest.raises(InterpError) as caught:
        points(*arguments)
    assert caught.value.code == code


def test_a_metric_without_gradient_is_refused_and_the_model_left_as_it_was() -> None:
    flow, clean, corrupt = paired(opened("gpt2"))
    parameters = list(flow.model.adapter.model.parameters())  # type: ignore[attr-defined]
    contrast = contrasted(flow, clean, corrupt)
    asked_again = replace(contrast, question=asked(clean, "top1"))
    with pytest.raises(InterpError, match="has no gradient") as caught:
        eap(asked_again)
    assert caught.value.code == "E407" and "exact" in caught.value.fix
    assert exact(asked_again).scores.abs().max() >= 0
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


def test_attribution_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    contrast = contrasted(*paired(opened("gpt2")))
    runs: list[float] = []
    taken = Contrast.gradients

    def counted(self: Contrast, share: float = 1.0) -> Any:
        runs.append(share)
        return taken(self, share)

    monkeypatch.setattr(Contrast, "gradients", counted)
    assert along_inputs(contrast, CLEAN).forwards == 3 * len(runs) == 3
    assert METHODS["eap-ig"].run(contrast, Settings(steps=4)).forwards == 3 * (len(runs) - 1) == 12
