"""Units, shards and keys: what a plan is, and what may and may not change it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.circuits.question import Question
from interp.hooks.batch import pad
from interp.hooks.interventions import Ablate, Knockout, Patch
from interp.hooks.metrics import metric
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from interp.sweeps.estimate import Probe, shards_for
from interp.sweeps.job import Job
from interp.sweeps.merge import merge
from interp.sweeps.parts import Part
from interp.sweeps.plan import Plan, check_same, differences
from interp.sweeps.units import cut, deal

CONFIG = {"model": {"sha256": "ab", "dtype": "float32"}, "task": {"name": "t", "options": {"k": [1, 2]}}, "seed": 0}
LABELS, PROMPTS = tuple("abcde"), tuple("uvwxyz")
UNITS = cut(len(PROMPTS), 2, [0, 0, 0, 1, 1], chunk=2)


def plan(n_shards: int = 3, **config: object) -> Plan:
    return Plan.make({**CONFIG, **config}, UNITS, n_shards, LABELS, PROMPTS)


@given(st.integers(1, 30), st.integers(1, 9), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 5))
def test_units_cover_every_cell_once_and_mix_no_layers(n, batch_size, layers, chunk) -> None:
    layers = sorted(layers)
    covered = np.zeros((len(layers), n), dtype=int)
    for unit in cut(n, batch_size, layers, chunk):
        covered[unit.first : unit.last, unit.start : unit.stop] += 1
        assert {layers[place] for place in range(unit.first, unit.last)} == {unit.layer}
        assert 1 <= unit.shape[0] <= chunk and 1 <= unit.shape[1] <= batch_size
    assert (covered == 1).all()


@given(st.data())
def test_shards_are_runs_of_units_of_about_equal_length(data) -> None:
    units = cut(data.draw(st.integers(1, 40)), 2, [0, 0, 1])
    n = data.draw(st.integers(1, len(units)))
    shards = deal(units, n)
    assert [unit for shard in shards for unit in shard] == list(units)
    assert len(shards) == n and max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("n", [0, len(UNITS) + 1])
def test_no_more_shards_than_units(n) -> None:
    with pytest.raises(InterpError, match=f"{n} shards") as caught:
        deal(UNITS, n)
    assert caught.value.code == "E205"


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [(0.2, 1, 1), (3, 1, 6), (60, 1, 20), (500, 1, 100), (10**6, 1, 2000), (0.2, 3, 12), (60, 8, 32)],
)
def test_shards_by_default_are_short_but_not_many(seconds, workers, expected) -> None:
    units = cut(4000, 1, [0, 1])
    found = Probe(seconds / sum(unit.cells for unit in units), 1.0, 1)
    assert shards_for(found, units, workers) == expected
    assert shards_for(found, units[:2], workers) <= 2


def test_a_key_is_the_digest_of_the_question_and_the_units() -> None:
    shard = plan().shards[0]
    content = {"config": {"schema": 1, **CONFIG}, "units": [unit.to_list() for unit in shard.units]}
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert shard.key == hashlib.sha256(text.encode()).hexdigest()
    assert len({shard.key for shard in plan().shards}) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"model": {"sha256": "cd", "dtype": "float32"}}, {"threads": 2}])
def test_any_change_of_the_question_changes_every_key(change) -> None:
    before, after = ({shard.key for shard in one.shards} for one in (plan(), plan(**change)))
    assert not before & after
    assert plan().digest != plan(**change).digest


def test_sharding_changes_the_keys_and_not_the_question() -> None:
    assert plan(2).digest == plan(3).digest
    assert plan(2).shards[0].key != plan(3).shards[0].key


def test_a_plan_comes_back_from_its_lines_and_notices_changes() -> None:
    lines = [json.loads(json.dumps(line)) for line in plan().lines()]
    assert Plan.from_lines(lines, "x") == plan()
    lines[1]["units"][0][1] += 1
    with pytest.raises(InterpError) as caught:
        Plan.from_lines(lines, "x")
    assert caught.value.code == "E701"
    other = [json.loads(json.dumps(line)) for line in plan().lines()]
    other[0]["config"]["seed"] = 1
    with pytest.raises(InterpError):
        Plan.from_lines(other, "x")


def test_differences_are_named_field_by_field() -> None:
    now = {"model": {"sha256": "cd", "dtype": "float32"}, "task": {"name": "t", "options": {"k": [1, 3]}}, "new": 1}
    assert differences(CONFIG, now) == [
        ("model.sha256", '"ab"', '"cd"'),
        ("new", "null", "1"),
        ("seed", "0", "null"),
        ("task.options.k", "[1, 2]", "[1, 3]"),
    ]
    check_same(plan(), dict(CONFIG), "x")
    with pytest.raises(InterpError, match="model.sha256: planned") as caught:
        check_same(plan(), {**CONFIG, **now}, "x")
    assert caught.value.code == "E703" and caught.value.exit_code == 7 and "--new-run" in caught.value.fix


def stored(one: Plan, table: np.ndarray) -> list[Part]:
    return [
        Part(
            shard,
            tuple(table[unit.first : unit.last, unit.start : unit.stop].copy() for unit in shard.units),
            {"plan": one.digest},
        )
        for shard in one.shards
    ]


@pytest.mark.parametrize("n_shards", [1, 4, len(UNITS)])
def test_merge_is_a_set_union(n_shards) -> None:
    table = np.random.default_rng(0).normal(size=(5, 6))
    table[2, 3], table[1, 1] = np.nan, np.inf
    parts = stored(plan(n_shards), table)
    for order in (parts, parts[::-1], [*parts, parts[0]]):
        np.testing.assert_array_equal(merge(plan(n_shards), order), table)


def test_merge_refuses_gaps_strangers_and_two_values_for_one_cell() -> None:
    table = np.arange(30.0).reshape(5, 6)
    parts = stored(plan(), table)
    with pytest.raises(InterpError, match="values are missing"):
        merge(plan(), parts[1:])
    with pytest.raises(InterpError, match="other values"):
        merge(plan(), [*parts, stored(plan(), table + 1)[0]])
    with pytest.raises(InterpError, match="another plan"):
        merge(plan(), [replace(parts[0], about={"plan": "x"}), *parts[1:]])


def job() -> Job:
    batch = replace(pad([[1, 2, 3], [4, 5]], 0), tokenizer="t", spans={"needle": ((1,), (0, 1))})
    question = Question(batch, torch.tensor([2, 1]), metric("logit_diff"), torch.tensor([3, 4]), torch.tensor([5, 6]))
    mean = Reference({"blocks.0.attn.hook_z": torch.randn(2, 3)}, "mean")
    run = Reference(
        {"blocks.1.attn.hook_pattern": torch.randn(2, 2, 3, 3, dtype=torch.bfloat16)}, "corrupt", paired=True
    )
    variants = (
        Ablate(heads="L0H1", operator="mean", reference=mean, positions="end"),
        Ablate(heads=("L0H0", "L1H1"), operator="zero", positions=(0, 2)),
        Patch(point="pattern", source=run, heads="L1H0"),
        Knockout(heads="L1*".replace("*", "H*"), queries=None, keys="needle"),
    )
    return Job(question, variants, 2, torch.tensor([0.5, float("nan")], dtype=torch.float64))


def test_a_job_comes_back_from_its_bytes() -> None:
    torch.manual_seed(0)
    given_job = job()
    back = Job.from_bytes(given_job.to_bytes())
    assert back.variants == given_job.variants
    assert back.question.metric == given_job.question.metric
    assert back.question.batch.spans == given_job.question.batch.spans
    assert back.question.batch.tokenizer == "t" and back.batch_size == 2
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(back.question.batch.inputs[name], given_job.question.batch.inputs[name])
    assert torch.equal(back.baseline.nan_to_num(9), given_job.baseline.nan_to_num(9))
    assert back.references.keys() == given_job.references.keys()
    assert back.to_bytes() == given_job.to_bytes()
    assert back.prompts_digest() == given_job.prompts_digest()


def test_the_digest_of_prompts_sees_every_part_of_them() -> None:
    one = job()
    changed = [
        replace(one.question, read_at=torch.tensor([1, 1])),
        replace(one.question, answer=torch.tensor([3, 5])),
        replace(one.question, batch=replace(one.question.batch, spans={"needle": ((1,), (0,))})),
        replace(one.question, batch=replace(one.question.batch, inputs={"input_ids": torch.zeros(2, 3).long()})),
    ]
    digests = {one.prompts_digest(), *(replace(one, question=question).prompts_digest() for question in changed)}
    assert len(digests) == 5
