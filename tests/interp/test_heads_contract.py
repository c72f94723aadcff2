"""What holds for every scorer: padding, batches, permuted heads, determinism, inputs that nobody writes to."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads import scorer, scorers
from interp.heads.run import score
from interp.heads.weights.base import WeightScorer
from interp.hooks.batch import Batch, pad
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.pairs import Pairs, tokenise

NAMES = sorted(scorers())
READERS = [name for name in NAMES if not issubclass(scorers()[name], WeightScorer)]
MODEL = "mini-retrieval"


@cache
def opened() -> HookedModel:
    return interp.load(MODEL)


@cache
def prompts() -> Pairs:
    """Six questions of different lengths, with everything that any scorer needs."""
    tokenizer = opened().tokenizer
    tasks = [interp.task("retrieval", n=3, length=length, facts=2, seed=length) for length in (40, 64)]
    examples = [
        replace(one, id=f"{one.id}-{task.length}") for task in tasks for one in task.examples(tokenizer).examples
    ]
    return tokenise(tokenizer, examples, needs=frozenset({"answer", "distractor", "corrupt"}))


def measured(name: str, pairs: Pairs, batch_size: int = 6, model: HookedModel | None = None, heads: str = "all"):
    model = model or opened()
    return scorer(name).measure(model, pairs, parse_heads(heads, model.heads), batch_size)


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
    return replace(pad(rows, 0, "left"), spans=spans, tokenizer=batch.tokenizer)


@pytest.mark.parametrize("name", READERS)
def test_padding_on_either_side_gives_the_same(name: str) -> None:
    pairs = prompts()
    clean = moved(pairs.clean)
    left = replace(pairs, clean=clean, corrupt=moved(pairs.corrupt), read_at=clean.end)
    assert clean.first.max() > 0
    agree(measured(name, pairs), measured(name, left))


@pytest.mark.parametrize("name", READERS)
def test_a_batch_is_its_singles(name: str) -> None:
    agree(measured(name, prompts()), measured(name, prompts(), 1))


@pytest.mark.parametrize("name", READERS)
def test_a_score_takes_no_part_in_padding_that_others_need(name: str) -> None:
    """One prompt by itself, without the padding that the longest one brings."""
    pairs = prompts()
    one = tokenise(opened().tokenizer, pairs.examples[:1])
    assert one.clean.input_ids.shape[1] < pairs.clean.input_ids.shape[1]
    alone, among = measured(name, one), measured(name, pairs)
    agree(replace(among, values=among.values[:, :1], null=among.null[:, :1]), alone)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bits(name: str) -> None:
    first, second = measured(name, prompts()), measured(name, prompts())
    assert np.array_equal(first.values, second.values, equal_nan=True)
    assert np.array_equal(first.null, second.null, equal_nan=True) and first.notes == second.notes
    assert first.p is None or np.array_equal(first.p, second.p, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_weights_are_read_only(name: str) -> None:
    pairs, network = prompts(), opened().adapter.model
    tensors = [pairs.clean.input_ids, pairs.clean.mask, pairs.corrupt.input_ids, pairs.answer, pairs.distractor]
    tensors += [pairs.read_at, *network.parameters()]
    before = [tensor._version for tensor in tensors]
    copies = [tensor.clone() for tensor in tensors[:6]]
    measured(name, pairs)
    assert [tensor._version for tensor in tensors] == before and not opened().is_edited
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=False))
    assert all(parameter.grad is None for parameter in network.parameters())


@cache
def permuted() -> HookedModel:
    """The same model with the two query heads of each key/value head of layer 1 changed over."""
    network = interp.load(MODEL).adapter.model
    attention = network.model.layers[1].self_attn
    order = [1, 0, 3, 2]
    with torch.no_grad():
        o = attention.o_proj.weight
        for q in attention.q_proj.parameters():
            q.copy_(q.unflatten(0, (4, -1))[order].flatten(0, 1).clone())
        o.copy_(o.unflatten(1, (4, -1))[:, order].flatten(1, 2).clone())
    return HookedModel.from_hf(network, opened().tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_permuted_heads_have_permuted_scores(name: str) -> None:
    plain, other = measured(name, prompts(), heads="L1H*"), measured(name, prompts(), model=permuted(), heads="L1H*")
    order = [1, 0, 3, 2]
    agree(replace(plain, values=plain.values[order], null=plain.null[order]), other, 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_shape_ceiling_and_words(name: str) -> None:
    kind, found = scorers()[name], measured(name, prompts())
    n_heads = sum(opened().heads[""])
    columns = 1 if issubclass(kind, WeightScorer) else len(prompts())
    assert found.values.shape == found.null.shape == (n_heads, columns) and found.values.dtype == np.float64
    if kind.ceiling is not None:
        assert np.nanmax(found.values, initial=0) <= kind.ceiling + 1e-5
    assert kind.source and kind.says and kind.chance and kind.__doc__
    assert (found.p is not None) == issubclass(kind, WeightScorer)


@pytest.mark.parametrize("name", ["induction", "copying", "retrieval", "gradient-attribution"])
def test_results_print_plot_tabulate_and_come_back_from_disk(name: str, tmp_path) -> None:
    found = score(opened(), name, n=4)
    found.save(tmp_path / "run")
    assert type(found).load(tmp_path / "run") == found
    assert found.headline() in repr(found) and found.run_id == score(opened(), name, n=4).run_id
    frame = found.to_frame()
    assert len(frame) == found.values.size and set(frame["scorer"]) == {name}
    figure = found.plot()
    assert sum(mark == "●" for row in figure.data[0].text for mark in row) == found.claimed.sum()
    assert figure.data[0].z[1][2] == pytest.approx(found.mean[found.heads.index("L1H2")])
    assert found.axis == "query_head" and found.model_hash and found.n_kept + len(found.drops) == found.n_total
    assert found.stderr.shape == found.mean.shape == (16,)
    assert (found.data_hash != "") == (name != "copying")
