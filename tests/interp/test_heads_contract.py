"""What holds for every scorer: padding, batches, permuted heads, determinism, inputs that nobody writes to."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer, scorers
from interp.heads.run import heads_for, score
from interp.heads.weights.base import WeightScorer
from interp.hooks.batch import Batch, pad
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.tiny import tiny_model

NAMES = sorted(scorers())
READERS = [name for name in NAMES if not issubclass(scorers()[name], WeightScorer)]
MODELS = {"shapes": "mini-vlm"}
REFUSING = {"refusal-direction": "mini"}  # it needs a model that refuses, and enough prompts for a direction
EXPERTS = "tiny mixtral"


def bench(name: str) -> str:
    """Which model a scorer is tried on: one that sees, one that has experts, or one that reads."""
    kind = scorers()[name]
    return EXPERTS if kind.axis == "expert" else REFUSING.get(name) or MODELS.get(kind.task, "mini-retrieval")


@cache
def opened(model: str) -> HookedModel:
    if model != EXPERTS:
        return interp.load(model)
    tokenizer = opened("mini-retrieval").tokenizer
    return HookedModel.from_hf(tiny_model("mixtral", vocab_size=len(tokenizer)), tokenizer)


@cache
def prompts(model: str) -> Pairs:
    """Six questions of different lengths, with everything that any scorer needs."""
    hooked, needs = opened(model), frozenset({"answer", "distractor", "corrupt"})
    match model:
        case "mini-vlm":
            tasks = [interp.task("shapes", n=6)]
        case "mini":
            tasks = [interp.task("safety", n=24, templates="first", ask="harmful")]
        case _:
            tasks = [interp.task("retrieval", n=3, length=length, facts=2, seed=length) for length in (40, 64)]
    found = [(number, one) for number, task in enumerate(tasks) for one in task.examples(hooked.tokenizer).examples]
    examples = [replace(one, id=f"{one.id}-{number}") for number, one in found]
    return tokenise(hooked.tokenizer, examples, processor=hooked.processor, needs=needs)


def measured(name: str, pairs: Pairs, batch_size: int = 6, model: HookedModel | None = None, layer: int | None = None):
    model = model or opened(bench(name))
    asked = scorer(name)
    heads = heads_for(model, asked, "all")
    return asked.measure(model, pairs, [head for head in heads if layer in (None, head.layer)], batch_size)


def agree(one, other, tolerance: float = 1e-4) -> None:
    for a, b in ((one.values, other.values), (one.null, other.null)):
        assert (np.isnan(a) == np.isnan(b)).all()
        size = max(1.0, float(np.nanmax(np.abs(a), initial=0)))
        assert np.nanmax(np.abs(a - b), initial=0) <= tolerance * size


def moved(batch: Batch) -> Batch:
    """The same prompts, padded on the left."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.mask, strict=True)]
    shifts = (batch.input_ids.shape[1] - batch.lengths).tolist()
    spans = {
        role: tuple(tuple(place + shift for place in span) for span, shift in zip(found, shifts, strict=True))
        for role, found in batch.spans.items()
    }
    padded = pad(rows, 0, "left")
    return replace(
        padded, inputs={**batch.inputs, **padded.inputs}, spans=spans, tokenizer=batch.tokenizer, counts=batch.counts
    )


@pytest.mark.parametrize("name", READERS)
def test_padding_on_either_side_gives_the_same(name: str) -> None:
    pairs = prompts(bench(name))
    clean = moved(pairs.clean)
    left = replace(pairs, clean=clean, corrupt=moved(pairs.corrupt), read_at=clean.end)
    assert clean.first.max() > 0
    agree(measured(name, pairs), measured(name, left))


@pytest.mark.parametrize("name", READERS)
def test_a_batch_is_its_singles(name: str) -> None:
    agree(measured(name, prompts(bench(name))), measured(name, prompts(bench(name)), 1))


@pytest.mark.parametrize("name", [name for name in READERS if not getattr(scorers()[name], "pooled", False)])
def test_a_score_takes_no_part_in_padding_that_others_need(name: str) -> None:
    """One prompt by itself, without the padding that the longest one brings."""
    pairs = prompts(bench(name))
    hooked = opened(bench(name))
    one = tokenise(hooked.tokenizer, pairs.examples[:1], processor=hooked.processor)
    assert one.clean.input_ids.shape[1] < pairs.clean.input_ids.shape[1]
    alone, among = measured(name, one), measured(name, pairs)
    agree(replace(among, values=among.values[:, :1], null=among.null[:, :1]), alone)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bits(name: str) -> None:
    first, second = (measured(name, prompts(bench(name))) for _ in range(2))
    assert np.array_equal(first.values, second.values, equal_nan=True)
    assert np.array_equal(first.null, second.null, equal_nan=True) and first.notes == second.notes
    assert first.p is None or np.array_equal(first.p, second.p, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_weights_are_read_only(name: str) -> None:
    pairs, hooked = prompts(bench(name)), opened(bench(name))
    tensors = [pairs.clean.input_ids, pairs.clean.mask, pairs.corrupt.input_ids, pairs.answer, pairs.distractor]
    tensors += [pairs.read_at, *hooked.adapter.model.parameters()]
    before = [tensor._version for tensor in tensors]
    copies = [tensor.clone() for tensor in tensors[:6]]
    measured(name, pairs)
    assert [tensor._version for tensor in tensors] == before and not hooked.is_edited
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=False))
    assert all(parameter.grad is None for parameter in hooked.adapter.model.parameters())


@cache
def permuted(model: str, sees: bool) -> tuple[HookedModel, list[int]]:
    """The same model with neighbouring query heads of layer 1 changed over, and where each head now is.

    Neighbours share a key/value head; where every head has its own, keys and values are moved along.
    """
    hooked = opened(model)
    network = copy.deepcopy(hooked.adapter.model)
    tower = hooked.adapter.seeing_tower or "" if sees else ""
    n = hooked.heads[tower][1]
    order = [head + 1 - 2 * (head % 2) for head in range(n)]
    (block,) = [
        module
        for name, module in network.named_modules()
        if name.endswith("layers.1.self_attn") and ("vision" in name) == bool(tower)
    ]
    inner = [block.q_proj] if hooked.kv_heads[tower][1] < n else [block.q_proj, block.k_proj, block.v_proj]
    with torch.no_grad():
        o = block.out_proj.weight if tower else block.o_proj.weight
        for parameter in [parameter for projection in inner for parameter in projection.parameters()]:
            parameter.copy_(parameter.unflatten(0, (n, -1))[order].flatten(0, 1).clone())
        o.copy_(o.unflatten(1, (n, -1))[:, order].flatten(1, 2).clone())
    return HookedModel.from_hf(network, hooked.tokenizer, processor=hooked.processor), order


@pytest.mark.parametrize("name", [name for name in NAMES if scorers()[name].axis == "query_head"])
def test_permuted_heads_have_permuted_scores(name: str) -> None:
    other, order = permuted(bench(name), scorers()[name].sees)
    pairs = prompts(bench(name))
    plain, moved_along = measured(name, pairs, layer=1), measured(name, pairs, model=other, layer=1)
    agree(replace(plain, values=plain.values[order], null=plain.null[order]), moved_along, 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_shape_ceiling_and_words(name: str) -> None:
    kind, found = scorers()[name], measured(name, prompts(bench(name)))
    n_heads = len(heads_for(opened(bench(name)), scorer(name), "all"))
    columns = 1 if issubclass(kind, WeightScorer) else len(prompts(bench(name)))
    assert found.values.shape == found.null.shape == (n_heads, columns) and found.values.dtype == np.float64
    if kind.ceiling is not None:
        assert np.nanmax(found.values, initial=0) <= kind.ceiling + 1e-5
    assert kind.source and kind.says and kind.chance and kind.__doc__
    assert (found.p is not None) == issubclass(kind, WeightScorer)


@pytest.mark.parametrize("name", ["induction", "copying", "retrieval", "gradient-attribution"])
def test_results_print_plot_tabulate_and_come_back_from_disk(name: str, tmp_path) -> None:
    opened_here = opened("mini-retrieval")
    found = score(opened_here, name, n=4)
    found.save(tmp_path / "run")
    assert type(found).load(tmp_path / "run") == found
    assert found.headline() in repr(found) and found.run_id == score(opened_here, name, n=4).run_id
    frame = found.to_frame()
    assert len(frame) == found.values.size and set(frame["scorer"]) == {name}
    figure = found.plot()
    assert sum(mark == "●" for row in figure.data[0].text for mark in row) == found.claimed.sum()
    assert figure.data[0].z[1][2] == pytest.approx(found.mean[found.heads.index("L1H2")])
    assert found.axis == "query_head" and found.model_hash and found.n_kept + len(found.drops) == found.n_total
    assert found.stderr.shape == found.mean.shape == (16,)
    assert (found.data_hash != "") == (name != "copying")
