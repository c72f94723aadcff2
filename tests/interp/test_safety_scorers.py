"""Scorers of safety heads, on a model that refuses by construction and on `mini`, against loops and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.circuits.readout import Readout
from interp.heads.effects.ablation import OPERATORS, ablations, measured, twins
from interp.heads.run import score
from interp.heads.safety.direction import Filter, find_direction
from interp.heads.safety.divergence import divergence
from interp.heads.safety.projection import project
from interp.heads.safety.refusal_score import refusal_score
from interp.heads.safety.selecting import places, shared_end
from interp.heads.safety.states import final_states, full_states
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate
from interp.hooks.model import HookedModel
from interp.hooks.naive import read_output
from interp.hooks.names import HeadId, parse_heads, point_name
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from tests.cases.refusing import HEAD, Requests, refusing, requests

SCORERS = ("ships", "refusal", "ships-angles", "refusal-direction")


@cache
def mini() -> HookedModel:
    return interp.load("mini")


@cache
def asked(n: int = 12, seed: int = 0) -> Pairs:
    found = interp.task("safety", n=n, seed=seed, ask="harmful").examples(mini().tokenizer)
    return tokenise(mini().tokenizer, found.examples)


def values(name: str, model: HookedModel, pairs: Pairs, batch_size: int = 32, heads: str = "all", **options):
    from interp.heads import scorer

    made = scorer(name, **options)
    return made.measure(model, pairs, parse_heads(heads, model.heads), batch_size)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["ships", "refusal"])
def test_the_planted_head_is_first_by_every_operator(name: str, operator: str) -> None:
    found = score(refusing(), name, Requests(n=16), operator=operator)
    order = np.argsort(-found.mean)
    assert found.heads[order[0]] == HEAD and found.mean[order[0]] > 20 * abs(found.mean[order[1]])
    assert found.claimed.tolist() == [label == HEAD for label in found.heads] and found.operator == operator


def test_without_the_planted_head_the_model_complies_and_spares_the_harmless() -> None:
    pairs, head = requests(), (HeadId("", 0, 2),)
    comply = pairs.distractor
    for side, low, high in ((pairs, 0.05, 0.5), (twins(pairs), 1.1, 0.5)):
        variants = ablations(refusing(), side, [head], "zero", batch_size=8)
        measures = {
            "comply": lambda x, _, rows: x.softmax(-1).gather(1, comply[rows, None])[:, 0],
            "kl": lambda x, clean, _: divergence(clean, x),
        }
        found = measured(refusing(), side, variants, measures, 8)
        assert found["comply"][1].max() < low and found["comply"][0].min() > high
        if side is not pairs:
            assert found["kl"][0].max() < 1e-6


def test_the_planted_head_turns_the_states_most() -> None:
    found = score(refusing(), "ships-angles", Requests(n=16), operator="zero")
    mean = dict(zip(found.heads, found.mean, strict=True))
    assert mean[HEAD] > 5 * np.median(list(mean.values())) and max(mean, key=mean.get) == HEAD


@pytest.mark.parametrize("operator", ["zero", "mean", "resample", "scale"])
def test_operators_are_what_full_forwards_with_the_same_edit_give(operator: str) -> None:
    """Naive: z replaced by a hook, one forward a head, KL by a loop."""
    model, pairs = mini(), asked(4)
    heads = [HeadId("", 0, 1), HeadId("", 2, 3)]
    names = [point_name("attn.hook_z", head.layer) for head in heads]
    _, cache = model.run_with_cache(pairs.clean, names)
    _, other = model.run_with_cache(pairs.corrupt, names)
    clean = read_output(model(pairs.clean), pairs.clean, pairs.read_at).double()
    found = values("ships", model, pairs, heads="L0H1,L2H3", operator=operator).values
    for index, (head, name) in enumerate(zip(heads, names, strict=True)):
        every = torch.cat([cache[name][pairs.clean.mask], other[name][pairs.corrupt.mask]])[:, head.head].mean(0)
        new = {
            "zero": 0.0,
            "mean": every,
            "resample": other[name][:, :, head.head],
            "scale": 1e-5 * cache[name][:, :, head.head],
        }

        def edit(z, context, head=head, new=new):
            z = z.clone()
            z[:, :, head.head] = new[operator]
            return z

        logits = read_output(model.run_with_hooks(pairs.clean, {name: edit}), pairs.clean, pairs.read_at).double()
        for row in range(len(pairs)):
            p, q = clean[row].softmax(-1), logits[row].softmax(-1)
            loop = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
            assert found[index, row] == pytest.approx(loop, abs=2e-5 + 1e-3 * abs(loop))


def test_uniform_attention_is_the_limit_of_a_small_query() -> None:
    model, pairs = mini(), asked(4)
    name = point_name("attn.hook_q", 0)

    def shrink(q, context):
        q = q.clone()
        q[:, :, 1] *= 1e-5
        return q

    limit = read_output(model.run_with_hooks(pairs.clean, {name: shrink}), pairs.clean, pairs.read_at)
    with model.edit(Ablate("L0H1", "uniform")):
        uniform = read_output(model(pairs.clean), pairs.clean, pairs.read_at)
    assert (limit - uniform).abs().max() < 1e-3
    clean = read_output(model(pairs.clean), pairs.clean, pairs.read_at)
    assert (clean - uniform).abs().max() > 1


def test_heads_that_are_uniform_already_score_nothing() -> None:
    network = tiny_model("llama", vocab_size=len(mini().tokenizer))
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    model = HookedModel.from_hf(network, mini().tokenizer)
    assert np.abs(values("ships", model, asked(4), operator="uniform").values).max() < 1e-6


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_states_from_the_engine_are_those_of_full_forwards(name: str) -> None:
    """Gemma 2 caps its logits, GPT-2 ties its output layer to the embedding."""
    network = tiny_model(name, vocab_size=max(128, len(mini().tokenizer)))
    model = HookedModel.from_hf(network, mini().tokenizer)
    pairs = asked(4)
    sets = [(head,) for head in parse_heads("all", model.heads)][:3]
    variants = ablations(model, pairs, sets, "zero", batch_size=4)
    plain, states = final_states(model, pairs, variants, 3)
    whole = full_states(model, Readout.of(model), pairs, variants, 4)
    assert (states - whole).abs().max() < 1e-4 * whole.abs().max() and (whole - plain).abs().max() > 1e-3


def test_refusal_score_is_the_stated_formula() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [50.0, 0.0, 0.0]])
    found = refusal_score(logits, torch.tensor([[1, 2], [0, -1]]))
    p = (math.e + 1) / (math.e**2 + math.e + 1)
    assert found[0] == pytest.approx(math.log(p + 1e-8) - math.log(1 - p + 1e-8), abs=1e-12)
    assert found[1] == pytest.approx(math.log(1 + 1e-8) - math.log(1e-8), abs=1e-6) and found.dtype == torch.float64


def test_the_direction_of_mini_makes_it_refuse_and_comply() -> None:
    pairs = asked(24)
    found = find_direction(mini(), pairs, bounds=Filter(kl=0.5))
    assert shared_end(pairs) == (-3, -2, -1) and len(found.candidates) == 12
    best = next(one for one in found.candidates if (one.layer, one.position) == (found.layer, found.position))
    base = refusal_of(mini(), pairs), refusal_of(mini(), twins(pairs), pairs.answer)
    assert best.ablated < base[0] - 3 and best.steered > 0 > base[1] and not best.filtered
    reasons = {one.filtered for one in found.candidates if one.layer == 0}
    assert reasons == {"a score is no number (prompts and twins do not differ there)"}
    allowed = [one for one in found.candidates if not one.filtered]
    assert best.ablated == min(one.ablated for one in allowed)


def refusal_of(model: HookedModel, pairs: Pairs, tokens=None) -> float:
    logits = read_output(model(pairs.clean), pairs.clean, pairs.read_at)
    return float(refusal_score(logits, pairs.answer if tokens is None else tokens).mean())


def test_no_direction_is_an_error_that_says_why() -> None:
    with pytest.raises(InterpError, match="no direction passes the filter"):
        find_direction(mini(), asked(12), bounds=Filter(layers=0.25))
    with pytest.raises(InterpError, match="are refused while their twin is not"):
        find_direction(mini(), replace(asked(12), answer=asked(12).distractor))


@pytest.mark.parametrize("name", ["mini", "refusing", "gpt2", "gemma2", "mixtral"])
def test_what_all_parts_write_along_a_direction_is_that_of_the_stream(name: str) -> None:
    if name in ("mini", "refusing"):
        model, pairs = (mini(), asked(4)) if name == "mini" else (refusing(), requests(4))
    else:
        network = tiny_model(name, vocab_size=max(128, len(mini().tokenizer)))
        model, pairs = HookedModel.from_hf(network, mini().tokenizer), asked(4)
    unit = torch.nn.functional.normalize(torch.randn(model.w_out(0).shape[-1], dtype=torch.float64), dim=0)
    at = places(pairs.clean, [-2])[:, 0]
    found = project(model, pairs.clean, at, unit)
    for layer in range(model.n_layers):
        _, cache = model.run_with_cache(pairs.clean, point_name("hook_resid_pre", layer))
        stream = cache[point_name("hook_resid_pre", layer)][torch.arange(4), at].double() @ unit
        assert torch.allclose(found.entering(layer), stream, atol=1e-4 * float(stream.abs().max() + 1))


def test_the_planted_head_writes_along_the_direction() -> None:
    found = score(refusing(), "refusal-direction", Requests(n=16), layer=1, position=-1)
    mean = dict(zip(found.heads, found.effects.mean(1), strict=True))
    assert max(mean, key=mean.get) == HEAD and mean[HEAD] > 20 * sorted(map(abs, mean.values()))[-2]
    assert "layer 1, position -1" in found.run.warnings[-1]


@cache
def permuted() -> HookedModel:
    """`mini` with two query heads of one key/value group of layer 1 changed over."""
    network = interp.load("mini").adapter.model
    attention, order = network.model.layers[1].self_attn, [1, 0, 2, 3, 4, 5, 6, 7]
    assert mini().kv_head(HeadId("", 1, 0)) == mini().kv_head(HeadId("", 1, 1))
    with torch.no_grad():
        for q in attention.q_proj.parameters():
            q.copy_(q.unflatten(0, (8, -1))[order].flatten(0, 1).clone())
        attention.o_proj.weight.copy_(attention.o_proj.weight.unflatten(1, (8, -1))[:, order].flatten(1, 2).clone())
    return HookedModel.from_hf(network, mini().tokenizer)


def options_of(name: str) -> dict[str, int]:
    return {"layer": 3, "position": -1} if name == "refusal-direction" else {}


@pytest.mark.parametrize("name", SCORERS)
def test_invariances(name: str) -> None:
    """Padding on either side, batches, permuted heads, the same bits twice; prompts and weights are left alone."""
    pairs, options = asked(), options_of(name)
    before = [tensor.clone() for tensor in (pairs.clean.input_ids, pairs.corrupt.input_ids, *parameters())]
    plain = values(name, mini(), pairs, **options)
    again = values(name, mini(), pairs, **options)
    assert np.array_equal(plain.values, again.values)
    corrupt, clean = moved(pairs.corrupt), moved(pairs.clean)
    assert clean.first.max() > 0
    left = replace(pairs, clean=clean, corrupt=corrupt, read_at=clean.end)
    swapped = values(name, permuted(), pairs, heads="L1H*", **options)
    size = np.abs(plain.values).max()
    for other in (values(name, mini(), left, **options), values(name, mini(), pairs, 5, **options)):
        assert np.abs(other.values - plain.values).max() < 2e-3 * size
    assert np.abs(swapped.values[[1, 0]] - plain.values[8:10]).max() < 2e-3 * size
    after = (pairs.clean.input_ids, pairs.corrupt.input_ids, *parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)) and not mini().is_edited


def parameters() -> list[torch.Tensor]:
    return list(mini().adapter.model.parameters())


def moved(batch: Batch) -> Batch:
    """The same prompts, padded on the left."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.mask, strict=True)]
    return replace(pad(rows, 0, "left"), tokenizer=batch.tokenizer)


def test_bad_parameters_are_refused() -> None:
    for name, options, words in (
        ("ships", {"operator": "zeroo"}, "did you mean"),
        ("ships", {"code": "official"}, "official-code"),
        ("refusal-direction", {"layer": 1}, "without a position"),
        ("expert-contrast", {"contrast": "ratios"}, "ratio"),
    ):
        with pytest.raises(InterpError, match=words):
            score(mini(), name, **options)
    with pytest.raises(InterpError, match="a rank from 1"):
        values("ships-angles", mini(), asked(4), rank=5)
    with pytest.raises(InterpError, match="3 or more"):
        values("ships-angles", mini(), asked(2))
