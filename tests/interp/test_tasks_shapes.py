"""Shapes: pictures and questions that agree, by an oracle of their own, and what `mini-vlm` makes of them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.heads.run import score, tokens_digest
from interp.hooks import naive
from interp.hooks.interventions import Ablate
from interp.hooks.pairs import tokenise
from interp.hooks.rerun.sweep import sweep
from interp.kernels.errors import InterpError
from interp.tasks import shapes as drawn
from interp.zoo.vision.scenes import ANCHORS, COMPANIONS

opened = cache(interp.load)


def answered(scene, text):
    """The answer to a question, read off the scene by the words of the question."""
    words = text.rstrip("?").replace(",", "").split()
    looks = scene.looks()
    if text.startswith("What colour"):
        (found,) = [colour for colour, shape in looks if shape == words[-1]]
        return found
    if text.startswith("What shape"):
        (found,) = [shape for colour, shape in looks if colour == words[-2]]
        return found
    if text.startswith("Is there"):
        return "yes" if (words[-2], words[-1]) in looks else "no"
    (cell,) = [thing.cell for thing in scene.things if thing.look == (words[2], words[3])]
    names = {"top": cell < 3, "bottom": cell > 5, "left": cell % 3 == 0, "right": cell % 3 == 2}
    (found,) = [word for word in (words[4], words[6]) if names[word]]
    return found


@pytest.mark.parametrize("kind", drawn.MIXED)
@pytest.mark.parametrize("pictures", drawn.PICTURES)
def test_the_answer_is_right_and_the_distractor_is_after_the_change(kind, pictures):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene, question = drawn.draw_question(kind, pictures, rng)
        assert answered(scene, question.text) == question.answer
        assert answered(drawn.changed(scene, question, rng), question.text) == question.distractor


def test_absent_companions_are_absent_and_their_anchors_are_there():
    for seed in range(20):
        scene, question = drawn.draw_absent(np.random.default_rng(seed))
        words = question.text.rstrip("?").split()
        companion = (words[-2], words[-1])
        assert companion in COMPANIONS and companion not in scene.looks() and question.answer == "no"
        assert ANCHORS[COMPANIONS.index(companion)] in scene.looks()


def test_examples_are_the_same_for_the_same_seed_and_others_for_another():
    tokenizer = opened("mini-vlm").tokenizer
    first, again, other = (interp.task("shapes", n=8, seed=seed).examples(tokenizer).examples for seed in (0, 0, 1))
    assert all(np.array_equal(a.image, b.image) and a == b for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))
    longer = interp.task("shapes", n=12).examples(tokenizer).examples
    assert longer[:8] == first


def test_clean_and_corrupt_pictures_differ_in_one_or_two_cells():
    """Background and grain are the same; what is changed is a thing, or two that change places."""
    tokenizer = opened("mini-vlm").tokenizer
    for one in interp.task("shapes", n=16).examples(tokenizer).examples:
        differ = (one.image != one.corrupt_image).any(-1).reshape(3, 16, 3, 16).any((1, 3)).sum()
        assert 1 <= differ <= 2, one.id


def test_mini_vlm_answers_and_follows_the_change():
    model, task = opened("mini-vlm"), interp.task("shapes", n=64, seed=3)
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples, processor=model.processor)
    rows = torch.arange(len(pairs))
    for side, wanted in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.distractor)):
        top = model(side)[rows, pairs.read_at].argmax(-1)
        assert (top == wanted).float().mean() > 0.85


def test_sweeps_run_on_pictures_as_full_forwards_do():
    """Same tokens, other pictures: nothing may be shared between prompts that differ in their pictures alone."""
    model, task = opened("mini-vlm"), interp.task("shapes", n=6, ask="presence")
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples, processor=model.processor)

    def measure(output, start, stop):
        return output[:, :50].sum(-1)

    variants = [Ablate(heads=[head]) for head in ("L0H0", "L1H2", "L3H5")]
    fast, clean = sweep(model, pairs.clean, variants, pairs.read_at, measure, batch_size=4)
    slow = naive.sweep(model, pairs.clean, variants, pairs.read_at, measure, batch_size=4)
    torch.testing.assert_close(fast, slow, atol=1e-3, rtol=0)
    assert ((fast - clean).abs().max(1).values > 0.1).all()


def test_the_digest_of_a_score_tells_pictures_apart():
    """The same words over other pictures are other data."""
    model = opened("mini-vlm")
    task = interp.task("shapes", n=4, ask="presence")
    examples = task.examples(model.tokenizer).examples
    swapped = [replace(one, image=one.corrupt_image) for one in examples]
    digests = [
        tokens_digest(tokenise(model.tokenizer, each, processor=model.processor)) for each in (examples, swapped)
    ]
    assert digests[0] != digests[1]
    assert score(model, "entropy", task).data_hash == digests[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"ask": "smell"}, "smell"), ({"pictures": "old"}, "old"), ({"template": "What is it?"}, "no place")],
)
def test_bad_options_say_what_is_known(options, says):
    with pytest.raises(InterpError, match=says):
        interp.task("shapes", **options)
