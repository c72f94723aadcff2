"""Models trained to order: the bars hold on the shipped files, and a wrong alignment is found out."""

import json

import pytest
import torch

import interp
from interp.zoo.ordered.figures import Questions
from interp.zoo.ordered.interchange import node_names, run
from interp.zoo.ordered.noise import decodable, likeness, structure
from interp.zoo.plain import PlainTransformer
from interp.zoo.recipes.ordered_balance import OrderedBalance
from interp.zoo.recipes.ordered_command import OrderedCommand
from interp.zoo.recipes.ordered_induction import OrderedInduction
from interp.zoo.registry import ROOT, verify

RECIPES = (OrderedBalance(), OrderedCommand(), OrderedInduction())

each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


@pytest.fixture(scope="module")
def model():
    return lambda recipe: PlainTransformer.from_pretrained(ROOT / recipe.name).eval()


@each
def test_the_bars_hold_on_the_shipped_files(recipe):
    folder = ROOT / recipe.name
    card = verify(folder)
    found = recipe.measure(folder)
    assert found["accuracy"] >= 0.99
    assert set(found["interchange"]) == set(recipe.alignment)
    assert all(share >= 0.95 for one in found["interchange"].values() for share in one.values())
    assert len(found["change by idle nodes"]) == 11 - sum(map(len, recipe.alignment.values()))
    assert all(share < 0.02 for share in found["change by idle nodes"].values())
    assert found["interchange with an idle node instead"] < 0.05
    assert found["edges"]["missing"] == found["edges"]["unstated"] == []
    assert all(edge.startswith("pos_embed->") for edge in found["edges"]["program without effect"])
    assert found["edges"]["weakest stated"] > 5 * found["edges"]["strongest other"]
    noise = found["noise"]
    assert noise["structure"]["idle"] < 1.1  # entries in random order have 1
    assert noise["left of the first draw"]["idle"] > noise["left of the first draw"]["true"]
    assert found["accuracy"] == pytest.approx(card["measured"]["accuracy"], abs=2e-3)


@each
@torch.no_grad()
def test_other_prompts_meet_the_bars_too(recipe, model):
    asked = Questions(model(recipe), recipe.program, recipe.alignment, 300, seed=12345)
    assert asked.accuracy() >= 0.99 and max(asked.changes(node) for node in asked.idle) < 0.02
    assert min(one["where it matters"] for one in asked.interchange().values()) >= 0.95
    assert len(asked.idle) == 10 - len(recipe.alignment)


@each
@torch.no_grad()
def test_a_wrong_alignment_is_found_out(recipe, model):
    def least_and_most(alignment):
        found = Questions(model(recipe), recipe.program, alignment, 200).interchange()
        shares = [one["where it matters"] for one in found.values()]
        return min(shares), max(shares)

    taken = {node for nodes in recipe.alignment.values() for node in nodes}
    for wrong in sorted({"L0H0", "L0H3", "L1H0", "L1H3"} - taken):
        assert least_and_most(dict.fromkeys(recipe.alignment, (wrong,)))[1] < 0.05
    names = list(recipe.alignment)
    turned = dict(zip(names, [recipe.alignment[name] for name in names[1:] + names[:1]], strict=True))
    assert least_and_most(recipe.alignment)[0] >= 0.95 and least_and_most(turned)[0] < 0.5


@each
@torch.no_grad()
def test_bundled_prompts_are_answered_by_the_hooked_model(recipe):
    rows = [json.loads(line) for line in (ROOT / recipe.name / "examples.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 64
    model = interp.load(recipe.name)
    words = ("<bos>", *recipe.program.words)
    for side, key in (("clean", "answer"), ("corrupt", "distractor")):
        said = model([row[side] for row in rows])[:, -1].argmax(-1)
        right = [words[token] == row[key].strip() for token, row in zip(said.tolist(), rows, strict=True)]
        assert sum(right) >= 0.95 * len(rows)
    ids = torch.tensor([[words.index(word) for word in ("<bos>", *row["clean"].split())] for row in rows])
    logits, cache = model.run_with_cache(ids, names="blocks.*.attn.hook_z")
    mine = run(PlainTransformer.from_pretrained(ROOT / recipe.name).eval(), ids)
    torch.testing.assert_close(mine.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.outputs["L1H2"], cache["blocks.1.attn.hook_z"][:, :, 2], atol=1e-4, rtol=1e-4)


@each
def test_truth_names_the_aligned_nodes(recipe):
    truth = recipe.truth()
    nodes = {node for aligned in recipe.alignment.values() for node in aligned}
    assert set(truth.heads) == {node for node in nodes if node.startswith("L")}
    writers = {"embed", "pos_embed"} | nodes
    for edges in truth.edges.values():
        for writer, reader in (edge.split("->") for edge in edges):
            assert writer in writers and (reader == "logits" or reader.split(".")[0] in nodes)
    assert nodes <= set(node_names(recipe.build().config))


def test_structure_tells_noise_from_a_pattern():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 20, generator=generator)
    pattern = torch.randn(40, 1, generator=generator) @ torch.randn(1, 20, generator=generator)
    assert structure([noise]) == pytest.approx(1, abs=0.1) and structure([pattern]) > 2
    assert structure([noise, pattern]) == pytest.approx((structure([noise]) + structure([pattern])) / 2, abs=0.15)


def test_likeness_by_hand():
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]])
    assert likeness([first, second], [2 * first, second]) == pytest.approx(1)
    assert likeness([first, second], [torch.tensor([[-4.0, 3.0]]), second]) == pytest.approx(0.5)


def test_an_answer_is_read_out_of_what_holds_it_and_not_of_noise():
    generator = torch.Generator().manual_seed(0)
    answer = torch.randint(0, 4, (200, 5), generator=generator)
    asked = torch.rand(200, 5, generator=generator) < 0.7
    outputs = {
        "holds": torch.nn.functional.one_hot(answer).float() + 0.1 * torch.randn(200, 5, 4, generator=generator),
        "noise": torch.randn(200, 5, 4, generator=generator),
    }
    found = decodable(outputs, answer.where(asked, -100), asked)
    assert found["holds"] > 0.99 and found["noise"] < 0.35
