"""Heads that move answers: planted ones, against runs written out with hooks, and what the bundled models show."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.circuits.decompose import Decomposer
from interp.heads import scorer
from interp.heads.answers.held_norm import held_shares
from interp.heads.answers.multiple_choice import option_lines, with_letters_swapped
from interp.heads.answers.places import every_head, find_places, some
from interp.heads.run import score
from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, parts, word_tokenizer
from interp.zoo.recipes.planted_copy import FILLERS, NAMES
from interp.zoo.truth import Truth

WORDS = (*FILLERS, *NAMES)
READER, MOVER = "L0H1", "L1H2"


@cache
def opened(name: str) -> HookedModel:
    return interp.load(name)


def bundled(name: str) -> Any:
    return interp.task("bundled", model=name)


@cache
def asked(model: str, task: str, n: int, **options: Any) -> Pairs:
    found = interp.task(task, n=n, seed=2, **options)
    return tokenise(opened(model).tokenizer, found.examples(opened(model).tokenizer).examples)


@dataclass(frozen=True)
class PlantedIoi(PlantedPlain):
    """L0H1 hears the last name of the prompt; L1H2 copies a name that L0H1 has not heard."""

    name: ClassVar[str] = "planted-ioi"
    data: ClassVar[str] = "Written by hand."
    layers: ClassVar[int] = 2
    d_head: ClassVar[int] = len(NAMES) + 1
    positions: ClassVar[int] = 14

    @property
    def words(self) -> tuple[str, ...]:
        return WORDS

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(WORDS) + 1, ONE=1, POSITION=self.positions, HEARD=len(NAMES), ANSWER=len(NAMES))

    def write(self, model: Any, part: dict[str, slice]) -> None:
        names, each, sharp = self.places(*NAMES), range(len(NAMES)), SHARPNESS * self.d_head**0.5
        reader, mover = cleared(model, 0, 1), cleared(model, 1, 2)
        reader["q"][part["ONE"], 0] = sharp
        reader["k"][names, 0] = 1
        reader["k"][0, 0] = 0.5
        reader["k"][part["POSITION"], 0] += 0.05 * torch.arange(self.positions)
        mover["q"][part["ONE"], each] = sharp
        mover["q"][part["ONE"], len(NAMES)] = sharp / 2
        mover["q"][part["HEARD"], each] = -2 * sharp * torch.eye(len(NAMES))
        mover["k"][names, each] = 1
        mover["k"][0, len(NAMES)] = 1
        for head, to in ((reader, "HEARD"), (mover, "ANSWER")):
            head["v"][names, each] = 1
            head["o"][each, part[to]] = torch.eye(len(NAMES))
        model.lm_head.weight[names, range(part["ANSWER"].start, part["ANSWER"].stop)] = LOUD

    def question(self, rng: random.Random) -> Question:
        io, subject, *others = rng.sample(NAMES, 5)
        words, at = rng.choices(FILLERS, k=12), (*rng.sample((1, 4), 2), 8)
        clean, corrupt = list(words), list(words)
        for place, name, other in zip(at, (io, subject, subject), others, strict=True):
            clean[place], corrupt[place] = name, other
        return Question(" ".join(clean), " ".join(corrupt), f" {io}", f" {subject}")

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        return {}

    def truth(self) -> Truth:
        return Truth({READER: "s-inhibition", MOVER: "name mover"})


@cache
def ioi() -> tuple[HookedModel, Pairs]:
    """The planted model, and 12 questions."""
    recipe = PlantedIoi(noise=0.004, n=12)
    model = HookedModel.from_hf(recipe.build(), word_tokenizer(WORDS, PlantedIoi.positions), name=recipe.name)
    examples = [
        Example(f"ioi-{index}", one.clean, one.answer, one.distractor, one.corrupt)
        for index, one in enumerate(recipe.questions())
    ]
    return model, tokenise(model.tokenizer, examples)


def measured(name: str, model: HookedModel, pairs: Pairs, **options: Any):
    return (
        scorer(name, **options).measure(model, pairs, every_head(model), 5)
        if options
        else scorer(name).measure(model, pairs, every_head(model), 5)
    )


def place(model: HookedModel, label: str) -> int:
    return [head.label for head in every_head(model)].index(label)


def difference(pairs: Pairs, output: Tensor) -> np.ndarray:
    rows = torch.arange(len(pairs))
    last = output[rows, pairs.read_at]
    return (last[rows, pairs.answer] - last[rows, pairs.distractor]).double().numpy()


def held(model: HookedModel, pairs: Pairs, layer: int, head: int, upto: int) -> dict[str, Any]:
    """Hooks under which one head writes what it does in the corrupt run, and all others what they do in the clean one."""
    _, own = model.run_with_cache(pairs.clean, ["*.hook_z", *(["*.hook_mlp_out"] if has_mlp(model) else [])])
    _, other = model.run_with_cache(pairs.corrupt, "*.hook_z")

    def hold(x: Tensor, context: Any) -> Tensor:
        x = own[context.name].clone()
        if context.name == f"blocks.{layer}.attn.hook_z":
            x[:, :, head] = other[context.name][:, :, head]
        return x

    kinds = ("attn.hook_z", "hook_mlp_out") if has_mlp(model) else ("attn.hook_z",)
    return {f"blocks.{at}.{kind}": hold for at in range(upto) for kind in kinds}


def has_mlp(model: HookedModel) -> bool:
    return "blocks.0.hook_mlp_out" in model.adapter.available


@pytest.mark.parametrize("name, true", [("planted-copy", "L0H2"), ("planted-backup", "L0H1")])
def test_planted_name_movers(name: str, true: str) -> None:
    """The corrupt prompt has another name: the difference of two names' logits changes by 20, whole."""
    found = score(opened(name), "name-mover", bundled(name))
    assert [label for label, yes in zip(found.heads, found.claimed, strict=True) if yes] == [true]
    mean = dict(zip(found.heads, found.mean, strict=True))
    assert mean.pop(true) == pytest.approx(20, rel=0.01) and max(map(abs, mean.values())) < 0.1
    assert not score(opened(name), "negative-name-mover", bundled(name)).claimed.any()


def test_a_name_mover_with_its_sign_changed_is_a_negative_one() -> None:
    network = interp.load("planted-copy").adapter.model
    with torch.no_grad():
        network.model.layers[0].self_attn.o_proj.weight.mul_(-1)
    model = HookedModel.from_hf(network, opened("planted-copy").tokenizer)
    found = score(model, "negative-name-mover", bundled("planted-copy"))
    assert found.mean[2] == pytest.approx(20, rel=0.01) and found.claimed.tolist() == [False, False, True, False]
    assert not score(model, "name-mover", bundled("planted-copy")).claimed.any()


@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_the_planted_backup_head(ablation: str) -> None:
    """L1H2 writes nothing while L0H1 does its work, and all of the answer where it does not: 10."""
    found = score(opened("planted-backup"), "backup-name-mover", bundled("planted-backup"), ablation=ablation)
    mean = dict(zip(found.heads, found.mean, strict=True))
    assert mean.pop("L1H2") == pytest.approx(10, rel=0.01) and found.operator == ablation
    assert np.isnan(mean.pop("L0H1")) and max(map(abs, mean.values())) < 0.1
    assert [label for label, yes in zip(found.heads, found.claimed, strict=True) if yes] == ["L1H2"]
    assert "Name movers, with the number of prompts of 64: L0H1 (64)." in found.run.warnings


def test_direct_effects_with_norms_held_are_shares_of_the_difference() -> None:
    """The clean ones are those of direct attribution; a head that stands before what is ablated keeps its own."""
    model, pairs = opened("mini"), asked("mini", "ioi", 4)
    heads = every_head(model)
    held_clean = held_shares(model, Decomposer.of(model), pairs, heads, [interp.Ablate(heads="L2H0")])
    whole = measured("direct-logit-attribution", model, pairs)
    np.testing.assert_allclose(held_clean.clean.numpy(), whole.values, atol=1e-4)
    gains = (held_clean.edited[0] - held_clean.clean).abs()
    early = [index for index, head in enumerate(heads) if head.layer < 3 and head.label != "L2H0"]
    assert float(gains[early].max()) == 0 < float(gains[24:].max())
    assert torch.equal(held_clean.edited[0, place(model, "L2H0")], torch.zeros(4, dtype=torch.float64))


def test_planted_s_inhibition() -> None:
    """Without what L0H1 heard, L1H2 looks at all three names alike: the difference falls from 10 to -10/3."""
    model, pairs = ioi()
    movers = measured("name-mover", model, pairs).values.mean(1)
    assert movers.argmax() == place(model, MOVER) and movers.max() == pytest.approx(10, rel=0.01)
    for options in ({}, {"movers": MOVER}):
        found = measured("s-inhibition", model, pairs, **options)
        mean = found.values.mean(1)
        assert mean[place(model, READER)] == pytest.approx(40 / 3, rel=0.02)
        assert np.abs(np.delete(mean, place(model, READER))).max() < 0.1
        assert not found.left_out


def test_s_inhibition_is_that_of_runs_written_out() -> None:
    model, pairs = ioi()
    read: dict[str, Tensor] = {}
    hooks = {**held(model, pairs, 0, 1, 1), "blocks.1.attn.hook_q": lambda x, _: read.update(q=x.clone())}
    clean = difference(pairs, model.run_with_hooks(pairs.clean, hooks={}))
    model.run_with_hooks(pairs.clean, hooks)
    rows = torch.arange(len(pairs))

    def put(x: Tensor, _: Any) -> Tensor:
        x = x.clone()
        x[rows, pairs.read_at, 2] = read["q"][rows, pairs.read_at, 2]
        return x

    patched = difference(pairs, model.run_with_hooks(pairs.clean, {"blocks.1.attn.hook_q": put}))
    _, cache = model.run_with_cache(pairs.clean, "blocks.0.attn.hook_pattern")
    looks = cache["blocks.0.attn.hook_pattern"][rows, 1, pairs.read_at, 9].double().numpy()
    expected = (clean - patched) * looks
    found = measured("s-inhibition", model, pairs).values[place(model, READER)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert looks.min() > 0.99 and expected.min() > 10


def test_name_movers_are_those_of_runs_written_out() -> None:
    """On a trained model: path by full forwards, attention from the map, and the copy by the model's own last layers."""
    model, pairs = opened("mini-retrieval"), asked("mini-retrieval", "retrieval", 4, length=40, facts=2)
    network, rows = model.adapter.model, torch.arange(4)
    clean = difference(pairs, model(pairs.clean))
    found = measured("name-mover", model, pairs)
    _, cache = model.run_with_cache(pairs.clean, ["*.hook_pattern", "*.hook_v"])
    for layer, head in ((0, 2), (1, 2), (1, 3), (3, 1)):
        effect = clean - difference(pairs, model.run_with_hooks(pairs.clean, held(model, pairs, layer, head, 4)))
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][rows, head, pairs.read_at]
        values = cache[f"blocks.{layer}.attn.hook_v"][:, :, model.kv_head(every_head(model)[layer * 4 + head])]
        expected = []
        for row in range(4):
            spots = [spot for spot, token in enumerate(pairs.clean.input_ids[row]) if token == pairs.answer[row]]
            spots = [spot for spot in spots if spot < pairs.read_at[row]]
            assert spots
            hits = []
            for spot in spots:
                weight = network.model.layers[layer].self_attn.o_proj.weight.unflatten(1, (4, -1))[:, head]
                logits = network.lm_head(network.model.norm(weight @ values[row, spot]))
                hits.append(int(pairs.answer[row]) in logits.topk(5).indices.tolist())
            expected.append(effect[row] * float(pattern[row, spots].sum()) * np.mean(hits))
        np.testing.assert_allclose(found.values[layer * 4 + head], expected, atol=1e-3)
    assert set(np.argsort(-found.values.mean(1))[:2]) == {6, 7}


def test_mini_has_heads_with_direct_effects_and_no_name_movers() -> None:
    """Its heads fetch the answer from a word in between, so none looks at the name; direct attribution agrees on which."""
    model, task = opened("mini"), interp.task("ioi", n=24, seed=1)
    plain = score(model, "name-mover", task, gated=False)
    shares = score(model, "direct-logit-attribution", task)
    assert not score(model, "name-mover", task).claimed.any()
    ranks = [np.argsort(np.argsort(one.mean)) for one in (plain, shares)]
    size = np.abs(plain.mean) > 0.1
    assert np.corrcoef(plain.mean, shares.mean)[0, 1] > 0.95 and np.corrcoef(ranks[0][size], ranks[1][size])[0, 1] > 0.8
    best = [set(np.argsort(-one.mean)[:6].tolist()) for one in (plain, shares)]
    assert len(best[0] & best[1]) >= 5 and place(model, "L2H0") in best[0] & best[1]
    for name in ("s-inhibition", "backup-name-mover"):
        with pytest.raises(InterpError, match="no head is a name mover in it") as caught:
            score(model, name, interp.task("ioi", n=4))
        assert caught.value.code == "E311"


def test_roles_of_the_task_and_tokens_name_the_same_places() -> None:
    model, pairs = opened("mini"), asked("mini", "ioi", 6)
    for role, tokens in (("io", pairs.answer), ("s2", pairs.distractor)):
        spots = find_places(model, pairs, role, None, role).spots
        assert spots == tuple(one[-1:] for one in find_places(model, pairs, "", tokens, role).spots)
    choice = asked("mini", "mcqa", 6)
    assert (
        find_places(model, choice, "letter", None, "").spots == find_places(model, choice, "", choice.answer, "").spots
    )


def test_arithmetic_on_mini() -> None:
    """Two heads of layer 1 bring one operand each; the path through MLPs is what the facade's paths say."""
    model, task = opened("mini"), interp.task("arithmetic", n=12, seed=3)
    found = {way: score(model, "arithmetic", task, way=way) for way in ("all", "direct", "mlps")}
    np.testing.assert_allclose(found["all"].values, found["direct"].values + found["mlps"].values, atol=1e-9)
    paths = interp.paths(model, task, positions="end", through_mlps=True, n_controls=1)
    np.testing.assert_allclose(found["all"].values, paths.clean - paths.values, atol=1e-3)
    assert {row.label for row in found["all"].top(2)} == {"L1H2", "L1H3"} and found["all"].claimed[[10, 11]].all()
    assert found["direct"].mean[[10, 11]].max() < 0.2 * found["all"].mean[[10, 11]].min()


def test_multiple_choice_on_mini() -> None:
    """Its heads read the end of the right option's line, and no letter; in prompts with letters swapped nothing is left."""
    model, task = opened("mini"), interp.task("mcqa", n=24, seed=1)
    found = score(model, "multiple-choice", task)
    assert found.top(1)[0].label == "L3H7" and {"L3H6", "L3H7", "L2H4", "L2H5"} <= {row.label for row in found.top(6)}
    assert found.claimed[found.heads.index("L3H7")] and (found.null < 0.1 * found.mean.max()).all()
    assert not score(model, "multiple-choice", task, area="letter").claimed.any()


def test_option_lines_and_swapped_letters() -> None:
    pairs = asked("mini", "mcqa", 6)
    model = opened("mini")
    right, wrong = (find_places(model, pairs, "", ids, "").spots for ids in (pairs.answer, pairs.distractor))
    for row, line in enumerate(option_lines(pairs, right, wrong)):
        texts = [pairs.tokens[row][spot] for spot in line]
        letter, colour = pairs.examples[row].answer.strip(), pairs.tokens[row][pairs.clean.spans["option"][row][0]]
        assert texts == [letter, ".", colour, "\n"]
    swapped = with_letters_swapped(pairs, right, wrong)
    changed = (swapped.clean.input_ids != pairs.clean.input_ids).nonzero().tolist()
    assert changed == sorted([row, spot] for side in (right, wrong) for row, (spot,) in enumerate(side))
    twice = with_letters_swapped(swapped, right, wrong)
    assert torch.equal(twice.clean.input_ids, pairs.clean.input_ids)
    assert torch.equal(twice.corrupt.input_ids, pairs.corrupt.input_ids)


def test_some_pairs_are_those_of_their_numbers() -> None:
    pairs = asked("mini", "ioi", 6)
    few = some(pairs, (4, 1))
    assert [one.id for one in few.examples] == [pairs.examples[4].id, pairs.examples[1].id]
    assert (
        torch.equal(few.clean.input_ids, pairs.clean.input_ids[[4, 1]])
        and few.clean.spans["io"][1] == pairs.clean.spans["io"][1]
    )
    assert torch.equal(few.answer, pairs.answer[[4, 1]]) and few.tokens[0] == pairs.tokens[4]


def test_refusals() -> None:
    model = opened("mini")
    with pytest.raises(InterpError) as caught:
        score(model, "name-mover", interp.task("arithmetic", n=2))
    assert caught.value.code == "E313" and "ioi" in caught.value.fix
    with pytest.raises(InterpError) as caught:
        score(model, "s-inhibition", interp.task("mcqa", n=2), s2="s2")
    assert caught.value.code == "E313"
    with pytest.raises(InterpError) as caught:
        scorer("s-inhibition", io="nobody").measure(model, asked("mini", "ioi", 6), every_head(model), 6)
    assert caught.value.code == "E313"
    for name, options, code in (
        ("backup-name-mover", {"ablation": "mean"}, "E201"), ("ioi-copy", {"form": "mine"}, "E201"),
        ("arithmetic", {"way": "round"}, "E201"), ("multiple-choice", {"area": "page"}, "E201"),
        ("s-inhibition", {"most": 0}, "E205"), ("backup-name-mover", {"movers": ","}, "E205"),
        ("name-mover", {"k": 0}, "E205"), ("ioi-copy", {"sign": 2}, "E205"),
    ):  # fmt: skip
        with pytest.raises(InterpError) as caught:
            scorer(name, **options)
        assert caught.value.code == code


def test_prompts_without_the_answer_are_left_out_with_the_reason() -> None:
    pairs = asked("mini", "ioi", 6)
    answer = pairs.answer.clone()
    answer[2] = int(opened("mini").tokenizer(" store", add_special_tokens=False)["input_ids"][0])
    found = measured("name-mover", opened("mini"), replace(pairs, answer=answer))
    assert found.left_out == {2: "the answer does not stand in the prompt"} and np.isnan(found.values[:, 2]).all()
    assert np.isfinite(np.delete(found.values, 2, 1)).all()
