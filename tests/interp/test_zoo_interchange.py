"""Interchanges in blocks against one prompt at a time by hand, and programs against the plainest Python."""

import numpy as np
import pytest
import torch

from interp.zoo.ordered.interchange import UNASKED, Lesson, Swap, everywhere, losses, node_names, outside, run
from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.recipes.ordered_balance import Balance
from interp.zoo.recipes.ordered_command import Command
from interp.zoo.recipes.ordered_induction import Induction

HEADS, WIDTH = 2, 4


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "both ways"])
def model(request):
    torch.manual_seed(0)
    config = PlainConfig(
        vocab_size=12, hidden_size=HEADS * WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=10,
        hidden_act="gelu", max_position_embeddings=10, causal=request.param, initializer_range=0.5,
    )  # fmt: skip
    return PlainTransformer(config).eval()


def by_hand(model, ids, put):
    """One prompt [pos], written out with loops; `put` holds z of heads and outputs of MLPs to use instead."""
    body, seen = model.model, {}
    stream = body.embed_tokens(ids) + body.embed_positions(torch.arange(len(ids)))
    for index, layer in enumerate(body.layers):
        normed, attn = layer.input_layernorm(stream), layer.self_attn
        q, k, v = attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        written = attn.o_proj.bias.repeat(len(ids), 1)
        for head in range(HEADS):
            cut = slice(head * WIDTH, (head + 1) * WIDTH)
            z = torch.zeros(len(ids), WIDTH)
            for place in range(len(ids)):
                visible = place + 1 if model.config.causal else len(ids)
                scores = torch.stack([q[place, cut] @ k[other, cut] for other in range(visible)]) / WIDTH**0.5
                z[place] = scores.softmax(0) @ v[:visible, cut]
            name = f"L{index}H{head}"
            seen[name] = put.get(name, z)
            written = written + seen[name] @ attn.o_proj.weight[:, cut].T
        stream = stream + written
        seen[f"M{index}"] = put.get(f"M{index}", layer.mlp(layer.post_attention_layernorm(stream)[None])[0])
        stream = stream + seen[f"M{index}"]
    return model.lm_head(body.norm(stream)), seen


@torch.no_grad()
def test_an_interchange_agrees_with_one_prompt_at_a_time(model):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 12, (5, 7), generator=rng)
    order = torch.tensor([3, 0, 4, 1, 2])
    names = node_names(model.config)
    assert names == ("L0H0", "L0H1", "M0", "L1H0", "L1H1", "M1")
    clean = run(model, ids)
    plain = [by_hand(model, row, {}) for row in ids]
    coins = {name: torch.rand(5, generator=rng) < 0.5 for name in names}
    for taken in (*(everywhere([name], 5) for name in names), everywhere(["L0H1", "M1"], 5), coins, {}):
        edited = run(model, ids, {name: Swap(clean.outputs[name][order], rows) for name, rows in taken.items()})
        for row in range(5):
            put = {name: plain[order[row]][1][name] for name, rows in taken.items() if rows[row]}
            logits, outputs = by_hand(model, ids[row], put)
            torch.testing.assert_close(edited.logits[row], logits, atol=2e-5, rtol=1e-4)
            for name in names:
                torch.testing.assert_close(edited.outputs[name][row], outputs[name], atol=2e-5, rtol=1e-4)
        assert not taken or (edited.logits - clean.logits).abs().max() > 1e-3


@torch.no_grad()
def test_a_run_leaves_the_model_as_it_was(model):
    ids = torch.arange(6)[None]
    before = model(ids).logits
    swap = Swap(torch.ones(1, 6, WIDTH), torch.tensor([True]))
    assert not torch.equal(run(model, ids, {"L1H0": swap}).logits, before)
    with pytest.raises(KeyError, match="no such node: L7H0"):
        run(model, ids, {"L7H0": swap})
    assert torch.equal(model(ids).logits, before) and torch.equal(run(model, ids).logits, before)


def answers_by_hand(program, ids, instead):
    """Answers of one prompt in plain Python; `instead` names a variable and the prompt that it is taken over from."""
    variable, other = instead or (None, ids)
    if isinstance(program, Command):
        word, letters = (other if variable == "command" else ids)[1], ids[2:]

        def move(command, place):
            return {1: place, 2: 4 - place, 3: (place - 1) % 5}[command]

        targets = [move(other[1] if variable == "target" else word, place) for place in range(5)]
        if variable == "moved":
            return [UNASKED] * 2 + [other[2:][move(other[1], place)] for place in range(5)]
        return [UNASKED] * 2 + [letters[target] for target in targets]
    if isinstance(program, Balance):
        found = []
        for end in range(2, len(ids) + 1):
            a = (other if variable in ("count_a", "verdict") else ids)[:end].count(1)
            b = (other if variable in ("count_b", "verdict") else ids)[:end].count(2)
            found.append(5 if a < b else 6 if a == b else 7)
        return [UNASKED, *found]
    base = other if variable == "found" else ids
    before = other if variable == "before" else base
    found = []
    for place in range(1, len(ids)):
        followers = {base[k] for k in range(1, place + 1) if before[k - 1] == base[place]}
        found.append(UNASKED if len(followers) > 1 else followers.pop() if followers else 7)
    return [UNASKED, *found]


@pytest.mark.parametrize(
    ("program", "names"),
    [(Command(), ["command", "target", "moved"]), (Balance(), ["count_a", "count_b", "verdict"]),
     (Induction(), ["before", "found"])],
)  # fmt: skip
def test_programs_answer_as_plain_python_does(program, names):
    rng = np.random.default_rng(0)
    ids = program.draw(rng, 60)
    source = torch.from_numpy(rng.permutation(60))
    assert ids.shape == (60, program.length) and (ids[:, 0] == 0).all() and int(ids.max()) <= len(program.words)
    lists = ids.tolist()
    assert program.run(ids)["answer"].tolist() == [answers_by_hand(program, row, None) for row in lists]
    plain = program.run(ids)
    assert set(plain) == {*names, "answer"}
    for name in names:
        found = program.run(ids, {name: Swap(plain[name][source], torch.ones(60, dtype=torch.bool))})["answer"]
        expected = [answers_by_hand(program, row, (name, lists[k])) for row, k in zip(lists, source, strict=True)]
        assert found.tolist() == expected, name
        assert found.tolist() != plain["answer"].tolist()
        half = torch.arange(60) < 30
        found = program.run(ids, {name: Swap(plain[name][source], half)})["answer"]
        assert found.tolist() == expected[:30] + plain["answer"].tolist()[30:]


def surprise_by_hand(logits, answer):
    asked = [(row, place) for row, line in enumerate(answer.tolist()) for place, one in enumerate(line) if one >= 0]
    return -torch.stack([logits[cell].log_softmax(-1)[answer[cell]] for cell in asked]).mean()


def test_the_losses_are_those_of_the_definition(model):
    program, alignment = Induction(), {"before": ("L0H1",), "found": ("L1H0", "M1")}
    ids = program.draw(np.random.default_rng(3), 16)
    found = losses(Lesson(model, program, alignment, ids), np.random.default_rng(5))
    idle = ["L0H0", "M0", "L1H1"]
    assert outside(alignment, node_names(model.config)) == idle

    rng = np.random.default_rng(5)
    order, one = rng.permutation(16), rng.integers(2, size=16)
    some = {name: (one == index) | (rng.random(16) < 0.25) for index, name in enumerate(alignment)}
    some |= dict.fromkeys(idle, rng.random(16) < 0.5)
    strict = {name: rng.random(16) < 0.5 for name in idle}
    same_or_other = np.where(rng.random(16) < 0.5, np.arange(16), rng.permutation(16))
    both = {name: rng.random(16) < 0.5 for name in (*alignment, *idle)}

    def exchange(taken, outputs, variables, order):
        """Prompt by prompt."""
        logits, seen, values = [], [], []
        for row in range(16):
            names = [name for name in taken if taken[name][row]]
            rows = torch.ones(1, dtype=torch.bool)
            k = int(order[row])
            nodes = [node for name in names for node in alignment.get(name, (name,))]
            one = run(model, ids[row : row + 1], {node: Swap(outputs[node][k : k + 1], rows) for node in nodes})
            swaps = {name: Swap(variables[name][k : k + 1], rows) for name in names if name in alignment}
            logits.append(one.logits)
            seen.append(one.outputs)
            values.append(program.run(ids[row : row + 1], swaps))
        gather = [{name: torch.cat([each[name] for each in many]) for name in many[0]} for many in (seen, values)]
        return torch.cat(logits), *gather

    clean, outputs, variables = exchange({}, {}, {}, order)
    mixed, mixed_outputs, mixed_variables = exchange(some, outputs, variables, order)
    stricter, _, same = exchange(strict, outputs, variables, order)
    paths, _, path_variables = exchange(both, mixed_outputs, mixed_variables, same_or_other)
    assert torch.equal(same["answer"], variables["answer"])
    expected = {
        "behaviour": surprise_by_hand(clean, variables["answer"]),
        "interchange": surprise_by_hand(mixed, mixed_variables["answer"]),
        "strict": surprise_by_hand(stricter, variables["answer"]),
        "paths": surprise_by_hand(paths, path_variables["answer"]),
    }
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, atol=1e-4, rtol=1e-4)
    assert len({round(loss.item(), 4) for loss in found.values()}) == 4
