"""`mini-vlm`: its drawn world, how it is read and trained, and what the shipped model does."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import interp
from interp.zoo.recipes.mini_vlm import MiniVlm
from interp.zoo.registry import ROOT
from interp.zoo.vision.batch import Lexicon, answer_logits, pixels
from interp.zoo.vision.figures import by_kind, false_yes, guessed, right, share
from interp.zoo.vision.files import build_words, prompt
from interp.zoo.vision.heads import ablate_each, mean_input, read
from interp.zoo.vision.questions import KINDS, NUMBERS, Question, ask, presence
from interp.zoo.vision.quiz import Quiz, adversarial, blank, regular
from interp.zoo.vision.scenes import (
    ANCHORS,
    COMPANIONS,
    HELD_OUT,
    PAIRS,
    World,
    draw_scene,
    is_new,
    without_anchor,
)
from interp.zoo.vision.shapes import CELL, COLOURS, SHAPES, SIDE, Thing, coverage, paint

FOLDER = ROOT / "mini-vlm"
WORLD = World()
TINY = MiniVlm(
    steps=4,
    warmup=1,
    pictures=2,
    questions=3,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    width=16,
    layers=1,
    heads=2,
    kv_heads=1,
    hidden=24,
)


@pytest.fixture(scope="module")
def model():
    return LlavaForConditionalGeneration.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def lexicon(processor):
    return Lexicon(processor.tokenizer)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return TINY.build().eval()


def scenes(split, n, seed=0, world=WORLD):
    rng = np.random.default_rng(seed)
    return [draw_scene(world, split, rng) for _ in range(n)]


# --- pictures


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi * 36),
        ("square", (1.7 * 6) ** 2),
        ("triangle", 0.5 * (1.7 * 6) ** 2),
        ("cross", 2 * 12 * 3.6 - 3.6**2),
        ("diamond", 2 * 6.6**2),
        ("ring", math.pi * (36 - 9)),
    ],
)
def test_a_shape_covers_the_area_it_should(shape, area):
    assert coverage(Thing(shape, "red", 0, radius=6.0)).sum() == pytest.approx(area, rel=0.05)


def test_a_picture_shows_each_thing_in_its_cell_and_nothing_else():
    bare = paint((), np.random.default_rng(1))
    assert len(np.unique(bare)) == 1
    for cell in range(9):
        changed = (paint((Thing("circle", "red", cell),), np.random.default_rng(1)) != bare).any(-1)
        rows, columns = np.nonzero(changed)
        assert set(rows // CELL) == {cell // 3} and set(columns // CELL) == {cell % 3}
        middle = (cell // 3 * CELL + CELL // 2, cell % 3 * CELL + CELL // 2)
        assert tuple(paint((Thing("circle", "red", cell),), np.random.default_rng(1))[middle]) == COLOURS["red"]


def test_what_has_no_opacity_cannot_be_seen():
    unseen = paint((Thing("ring", "pink", 4, opacity=0.0),), np.random.default_rng(2), grain=9.0)
    assert (unseen == paint((), np.random.default_rng(2), grain=9.0)).all()


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="no shape 'star'"):
        coverage(Thing("star", "red", 0))


# --- what stands together


def test_training_never_shows_what_is_held_out():
    for scene in scenes("train", 600):
        assert not any(is_new(thing) for thing in scene.things)
        assert len({thing.cell for thing in scene.things}) == len(scene.things) <= WORLD.most


def test_held_out_pictures_hold_what_training_never_shows():
    shown = {(thing.look, thing.cell) for scene in scenes("train", 1500) for thing in scene.things}
    cells = [[(thing.look, thing.cell) for thing in scene.things] for scene in scenes("cell", 300)]
    assert all(any(thing not in shown for thing in things) for things in cells)
    assert np.mean([thing not in shown for things in cells for thing in things]) > 0.9
    assert all(any(look in HELD_OUT for look in scene.looks()) for scene in scenes("look", 300))


def test_each_shape_has_one_held_out_colour_and_no_anchor_or_companion_is_held_out():
    assert {shape for _, shape in HELD_OUT} == set(SHAPES) and len({colour for colour, _ in HELD_OUT}) == len(SHAPES)
    assert not set(HELD_OUT) & {*ANCHORS, *COMPANIONS} and len({*ANCHORS, *COMPANIONS}) == 2 * len(PAIRS)


def test_companions_come_along_as_often_as_the_recipe_says():
    seen = [(scene.pair, scene.has(PAIRS[scene.pair][1])) for scene in scenes("train", 2500) if scene.pair is not None]
    for pair, prior in enumerate(WORLD.priors):
        found = [there for which, there in seen if which == pair]
        assert np.mean(found) == pytest.approx(prior, abs=4 * math.sqrt(prior * (1 - prior) / len(found)))


def test_adversarial_pictures_lack_the_companion_and_their_twins_the_anchor():
    for scene in scenes("absent", 300):
        anchor, companion = PAIRS[scene.pair]
        twin = without_anchor(scene)
        assert scene.has(anchor) and not scene.has(companion)
        assert not any(twin.has(look) for look in (*ANCHORS, companion))
        assert sum(a != b for a, b in zip(scene.things, twin.things, strict=True)) == 1
        assert not any(is_new(thing) for thing in (*scene.things, *twin.things))


def test_twins_differ_in_the_anchors_cell_alone():
    absent, twin = adversarial(WORLD, 8)
    for scene, first, second in zip(absent.scenes, absent.pictures, twin.pictures, strict=True):
        rows, columns = np.nonzero((first != second).any(-1))
        (cell,) = {3 * (row // CELL) + column // CELL for row, column in zip(rows, columns, strict=True)}
        assert next(thing for thing in scene.things if thing.cell == cell).look == PAIRS[scene.pair][0]


# --- questions


def answer(text, scene):
    """A reader of the question that knows nothing of how it was made."""
    looks = scene.looks()
    if found := re.fullmatch(r"What colour is the (\w+)\?", text):
        (only,) = [colour for colour, shape in looks if shape == found[1]]
        return only
    if found := re.fullmatch(r"What shape is the (\w+) thing\?", text):
        (only,) = [shape for colour, shape in looks if colour == found[1]]
        return only
    if found := re.fullmatch(r"Is the (\w+) (\w+) (left|top) or (right|bottom)\?", text):
        (cell,) = [thing.cell for thing in scene.things if thing.look == (found[1], found[2])]
        place = cell % 3 if found[3] == "left" else cell // 3
        return {0: found[3], 2: found[4]}[place]
    if found := re.fullmatch(r"Is there an? (\w+) (\w+)\?", text):
        return "yes" if (found[1], found[2]) in looks else "no"
    what = re.fullmatch(r"How many (.+) are there\?", text)[1]
    if what == "things":
        return NUMBERS[len(looks)]
    if what.endswith(" things"):
        return NUMBERS[sum(f"{colour} things" == what for colour, _ in looks)]
    return NUMBERS[sum(what in (f"{shape}s", f"{shape}es") for _, shape in looks)]


@pytest.mark.parametrize("split", ["train", "cell", "look"])
def test_answers_are_right_and_every_kind_is_asked(split):
    rng = np.random.default_rng(3)
    kinds: Counter[str] = Counter()
    for scene in scenes(split, 300):
        questions = ask(scene, 8, 0.5, rng)
        assert len({question.text for question in questions}) == len(questions)
        for question in questions:
            assert question.answer == answer(question.text, scene) != question.distractor
            kinds[question.kind] += 1
    assert set(kinds) == {*KINDS, "companion"} and min(kinds.values()) > 50


def test_training_never_asks_about_held_out_combinations():
    rng = np.random.default_rng(4)
    named = [f"{colour} {shape}" for colour, shape in HELD_OUT]
    texts = [question.text for scene in scenes("train", 500) for question in ask(scene, 8, 0.5, rng)]
    assert not any(name in text for text in texts for name in named)
    asked = [question.text for scene in scenes("look", 300) for question in ask(scene, 8, 0.5, rng)]
    assert any(name in text for text in asked for name in named)


def test_article_and_plural():
    scene = scenes("train", 1)[0]
    assert presence(scene, ("orange", "triangle")).text == "Is there an orange triangle?"
    assert presence(scene, ("red", "circle")).text == "Is there a red circle?"


def test_quizzes_and_batches_depend_on_their_seed_and_step_alone():
    first, again, other = (regular(WORLD, "cell", 6, seed) for seed in (5, 5, 6))
    assert first.questions == again.questions and first.scenes == again.scenes and first.scenes != other.scenes
    assert np.array_equal(first.pictures, again.pictures)
    assert torch.equal(TINY.batch(3).pixel_values, TINY.batch(3).pixel_values)
    assert not torch.equal(TINY.batch(3).pixel_values, TINY.batch(4).pixel_values)
    assert not torch.equal(TINY.batch(3).pixel_values, replace(TINY, seed=1).batch(3).pixel_values)


# --- reading


def test_every_answer_and_word_of_a_question_is_one_token():
    tokenizer, rng = build_words(256), np.random.default_rng(7)
    for scene in scenes("look", 200):
        for question in ask(scene, 8, 0.5, rng):
            tokens = tokenizer.tokenize(question.text)
            assert [token.strip("Ġ") for token in tokens] == re.findall(r"\w+|\?", question.text)
            assert tokenizer.tokenize(f" {question.answer}") == [f"Ġ{question.answer}"]


@pytest.mark.parametrize("text", ["", "a  b\n\tc", "naïve café 漢字 \U0001f600", "Is there 1 star?"])
def test_any_text_is_taken_and_given_back(text):
    tokenizer = build_words(256)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_processor_makes_what_training_reads(processor):
    quiz = regular(WORLD, "cell", 3)
    images = [Image.fromarray(picture) for picture in quiz.pictures]
    inputs = processor(images=images, text=[prompt("Is there a red circle?")] * 3, return_tensors="pt")
    assert torch.allclose(inputs["pixel_values"], pixels(quiz.pictures), atol=1e-6)
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [36] * 3


def test_the_processor_takes_images_of_any_size(processor):
    images = [Image.new("RGB", (200, 90), "red"), Image.new("L", (20, 20))]
    assert processor(images=images, text=[prompt("")] * 2, return_tensors="pt")["pixel_values"].shape == (
        2,
        3,
        SIDE,
        SIDE,
    )


def test_the_chat_template_writes_the_prompt_of_training(processor):
    ask_user = [{"type": "image"}, {"type": "text", "text": "Is there a red circle?"}]
    messages = [{"role": "user", "content": ask_user}]
    written = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert written == prompt("Is there a red circle?") == "USER: <image>\nIs there a red circle? ASSISTANT:"
    messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "Is it left or right?"}]
    longer = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert longer == f"{written} yes USER: Is it left or right? ASSISTANT:"


def test_packed_questions_are_computed_as_if_each_stood_alone(tiny):
    quiz, tokenizer = regular(WORLD, "cell", 4), TINY.lexicon.tokenizer
    packed = answer_logits(tiny, quiz.batches(TINY.lexicon)[0])[0]
    alone = []
    for picture, questions in zip(quiz.pictures, quiz.questions, strict=True):
        for question in questions:
            text = prompt(question.text).replace("<image>", "<image>" * 36)
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            alone.append(tiny(input_ids=ids, pixel_values=pixels([picture])).logits[0, -1])
    assert len(packed) == len(quiz.flat()) and torch.allclose(packed, torch.stack(alone), atol=1e-5)


# --- training


def test_loss_falls():
    torch.manual_seed(0)
    recipe = replace(TINY, learning_rate=1e-2, muon_rate=1e-2)
    model = recipe.build()
    optimisers, losses = recipe.optimisers(model), []
    for step in range(40):
        losses.append(recipe.backward(model, step)["answer"])
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    assert losses[0] > 5 and np.mean(losses[-5:]) < 3


def test_the_loss_is_the_cross_entropy_of_the_answer_tokens(tiny):
    batch = TINY.batch(0)
    logits = tiny(**batch.inputs(tiny.device)).logits.detach()
    rows = [-logits[r, e].log_softmax(-1)[a] for r, e, a in zip(batch.rows, batch.ends, batch.answers, strict=True)]
    assert TINY.backward(tiny, 0)["answer"] == pytest.approx(float(torch.stack(rows).mean()), abs=1e-5)
    assert all(batch.input_ids[r, e + 1] == a for r, e, a in zip(batch.rows, batch.ends, batch.answers, strict=True))
    tiny.zero_grad()


# --- figures


def test_shares_by_kind_and_over_all():
    quiz = regular(WORLD, "cell", 60)
    is_count = torch.tensor([question.kind == "count" for question in quiz.flat()])
    found = by_kind(quiz, is_count)
    assert set(found) == {"all", "companion", *KINDS} and found["count"] == 1 and found["colour"] == 0
    assert found["all"] == share(is_count) == round(int(is_count.sum()) / len(is_count), 4)


def test_guesses_without_a_picture_follow_the_text_then_the_kind():
    asked = [Question("shape", f"What shape is the {c} thing?", a, "") for c, a in (("red", "ring"), ("blue", "cross"))]
    seen = [
        *[replace(asked[0], answer=a) for a in ("ring", "ring", "cross")],
        *[replace(asked[0], text="-", answer="cross")] * 2,
    ]
    assert guessed(Quiz((), (), (tuple(asked),)), seen).tolist() == [True, True]
    assert guessed(Quiz((), (), (tuple(asked),)), [replace(asked[0], answer="square")]).tolist() == [False, False]


def test_ablating_a_head_loses_what_a_bias_would(tiny):
    """Replacing a head's output by its mean is the same as silencing its weights and adding their share to the stream."""
    quiz, lexicon = regular(WORLD, "cell", 3), TINY.lexicon
    batches, questions = quiz.batches(lexicon), quiz.flat()
    layer = tiny.model.language_model.layers[0].self_attn.o_proj
    clean, mean = read(tiny, lexicon, batches, questions), mean_input(tiny, lexicon, layer, batches, questions)
    kept = layer.weight.data.clone()
    layer.weight.data[:, :8] = 0
    layer.bias = torch.nn.Parameter(kept[:, :8] @ mean[:8])
    silenced = read(tiny, lexicon, batches, questions)
    layer.weight.data.copy_(kept)
    layer.bias = None
    expected = float((clean - silenced)[0].mean())
    lost = ablate_each(tiny, lexicon, quiz)
    assert abs(expected) > 1e-5 and lost["L0H0"]["margin"] == pytest.approx(expected, abs=1e-7, rel=1e-2)
    assert set(lost) == {"L0H0", "L0H1", "vision.L0H0", "vision.L0H1"}


# --- the shipped model


def test_the_card_keeps_its_promises():
    measured = json.loads((FOLDER / "card.json").read_text("utf-8"))["measured"]
    assert measured["accuracy"]["held-out cells"]["all"] >= 0.9
    assert 0.1 <= measured["false_yes"]["companion absent"] <= 0.5
    assert measured["false_yes"]["without anchor"] < measured["false_yes"]["companion absent"]
    accuracy = measured["accuracy"]
    assert accuracy["blank picture"]["all"] <= accuracy["most frequent training answer"]["all"] + 0.05
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_held_out_accuracy_needs_the_picture(model, lexicon):
    quiz = regular(WORLD, "cell", 48, seed=77)
    assert share(right(model, lexicon, quiz)) >= 0.87  # 240 questions: two standard errors below 0.9
    guess = guessed(quiz, regular(WORLD, "train", 500).flat())
    assert share(right(model, lexicon, blank(quiz, WORLD))) <= share(guess) + 0.05 < 0.6


def test_absent_companions_are_reported_because_of_the_anchor(model, lexicon):
    absent, twin = adversarial(WORLD, 192, seed=77)
    assert 0.1 <= share(false_yes(model, lexicon, absent)) <= 0.5
    assert share(false_yes(model, lexicon, twin)) < share(false_yes(model, lexicon, absent))


def test_the_model_writes_its_answer_and_ends(model, processor):
    quiz = regular(WORLD, "cell", 6, seed=78)
    for picture, (question, *_) in zip(quiz.pictures, quiz.questions, strict=True):
        inputs = processor(images=Image.fromarray(picture), text=prompt(question.text), return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert written[-1] == processor.tokenizer.eos_token_id and len(written) == 2


def test_it_opens_with_every_head_hooked(model):
    opened = interp.load("mini-vlm")
    quiz = regular(WORLD, "cell", 2, seed=79)
    texts, images = [prompt(row[0].text) for row in quiz.questions], [Image.fromarray(p) for p in quiz.pictures]
    logits, cache = opened.run_with_cache(texts, names="*pattern", images=images)
    inputs = opened.processor(images=images, text=texts, padding=True, return_tensors="pt")
    plain, kept = model(**inputs).logits, inputs["attention_mask"].bool()
    assert torch.allclose(logits[kept], plain[kept], atol=1e-4)
    text, vision = model.config.text_config, model.config.vision_config
    assert cache["blocks.0.attn.hook_pattern"].shape[1] == text.num_attention_heads
    assert len(cache) == text.num_hidden_layers + vision.num_hidden_layers
