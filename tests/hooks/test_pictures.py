"""Prompts with a picture: against the processor's own batches, roles around the picture, several kinds of processors."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

import interp
from interp.hooks.examples import Example
from interp.hooks.pairs import tokenise
from interp.hooks.pictures import ROLE
from interp.kernels.errors import InterpError, InterpErrors

opened = cache(interp.load)
GREY = np.full((48, 48, 3), 90, dtype=np.uint8)
QUESTION = "What colour is the ring?"


def example(name="one", text=QUESTION, image=GREY, **more):
    return Example(name, text, image=image, **more)


def read(*examples, **options):
    model = opened("mini-vlm")
    return tokenise(model.tokenizer, examples, processor=model.processor, **options)


def test_ids_and_pixels_are_those_of_the_processor():
    model = opened("mini-vlm")
    pictures = [GREY, np.zeros_like(GREY)]
    texts = [
        "USER: <image>\nWhat colour is the ring? ASSISTANT:",
        "USER: <image>\nHow many things are there? ASSISTANT:",
    ]
    pairs = read(*(example(str(i), text, image) for i, (text, image) in enumerate(zip(texts, pictures, strict=True))))
    theirs = model.processor(text=texts, images=pictures, return_tensors="pt", padding=True, padding_side="right")
    assert set(pairs.clean.inputs) == set(theirs)
    for name in theirs:
        kept = pairs.clean.mask if name == "input_ids" else slice(None)
        assert torch.equal(pairs.clean.inputs[name][kept], theirs[name][kept]), name
    image_id = model.tokenizer.convert_tokens_to_ids("<image>")
    found = [tuple((row == image_id).nonzero()[:, 0].tolist()) for row in theirs["input_ids"]]
    assert pairs.clean.spans[ROLE] == tuple(found) and len(found[0]) == 36


@pytest.mark.parametrize("text", [QUESTION, f"<image>\n{QUESTION}", f"USER: <image>\n{QUESTION} ASSISTANT:"])
def test_roles_are_where_the_author_put_them(text):
    start = text.index("ring")
    pairs = read(example(text=text, spans={"thing": (start, start + 4)}))
    (place,) = pairs.clean.spans["thing"][0]
    assert pairs.tokens[0][place] == " ring"
    assert pairs.tokens[0][-1] == ("?" if text.endswith("?") else ":")


def test_a_prompt_reads_the_same_alone_and_in_a_batch():
    pairs = read(example("a"), example("b", "Is there a red circle?", np.zeros_like(GREY)))
    model, rows = opened("mini-vlm"), torch.arange(2)
    together = model(pairs.clean)[rows, pairs.read_at]
    alone = torch.stack([model(pairs.clean.rows(i, i + 1))[0, pairs.read_at[i]] for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_the_corrupt_prompt_has_its_own_picture_or_the_same():
    other = np.zeros_like(GREY)
    pairs = read(example("a", corrupt=QUESTION, corrupt_image=other), example("b", corrupt=QUESTION))
    clean, corrupt = (side.inputs["pixel_values"] for side in (pairs.clean, pairs.corrupt))
    assert not torch.equal(clean[0], corrupt[0]) and torch.equal(clean[1], corrupt[1])


def test_models_that_read_pictures_alone_have_no_tokens():
    processor = CLIPImageProcessorPil(size={"height": 8, "width": 8}, crop_size={"height": 8, "width": 8})
    pairs = tokenise(None, [example(text="", answer=3), example("b", "", answer=1)], processor=processor)
    assert pairs.clean.mask is None and pairs.clean.size == 2 and pairs.tokens == ((), ())
    assert pairs.clean.inputs["pixel_values"].shape == (2, 3, 8, 8) and pairs.answer.tolist() == [3, 1]
    with pytest.raises(InterpErrors, match="reads pictures alone"):
        tokenise(None, [example()], processor=processor)


class Uneven:
    """A processor whose pictures are rows of patches, as many as they have, and whose ids have kinds."""

    image_token, image_token_id = "<image>", 7
    tokenizer = property(lambda self: opened("mini-vlm").tokenizer)

    def __call__(self, text, images, return_tensors):
        n = images[0].shape[0] // 16
        ids = self.tokenizer(text[0])["input_ids"]
        at = ids.index(self.tokenizer.convert_tokens_to_ids("<image>"))
        ids = torch.tensor([ids[:at] + [7] * n + ids[at + 1 :]])
        kinds = (ids == 7).long()
        patches = torch.full((n, 5), float(n))
        return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": kinds, "patches": patches}


def test_pictures_of_several_sizes_are_cut_by_prompts():
    tall = np.zeros((80, 48, 3), dtype=np.uint8)
    pairs = tokenise(
        opened("mini-vlm").tokenizer, [example("a"), example("b", image=tall), example("c")], processor=Uneven()
    )
    assert pairs.clean.counts == {"patches": (3, 5, 3)} and pairs.clean.inputs["patches"].shape == (11, 5)
    for row, n in enumerate((3, 5, 3)):
        one = pairs.clean.rows(row, row + 1)
        assert one.inputs["patches"].tolist() == [[float(n)] * 5] * n
        assert one.inputs["token_type_ids"].shape == one.input_ids.shape
        assert [len(span) for span in one.spans[ROLE]] == [n]
    assert pairs.clean.rows(1, 3).rows(1, 2).inputs["patches"].shape == (3, 5)


@pytest.mark.parametrize(
    ("broken", "code", "says"),
    [
        (example(text="<image> and <image>?"), "E303", "2 places"),
        (Example("ids", (1, 2, 3), image=GREY), "E303", "token ids beside a picture"),
        (example(text=QUESTION * 100), "E309", "positions"),
    ],
)
def test_bad_input_says_what_to_do(broken, code, says):
    with pytest.raises(InterpErrors, match=says) as caught:
        read(broken, limit=256, truncate=True)
    assert caught.value.errors[0].code == code and caught.value.errors[0].fix


def test_some_pictures_and_no_processor_are_refused():
    with pytest.raises(InterpError, match="1 of 2 prompts have no picture"):
        read(example("a"), Example("b", QUESTION))
    with pytest.raises(InterpErrors, match="without a processor"):
        tokenise(opened("mini").tokenizer, [example()])


def test_a_processor_that_rewrites_the_text_places_no_role():
    class Rewriting(Uneven):
        def __call__(self, text, images, return_tensors):
            return super().__call__([f"{text[0]} Is there a ring?".replace("What", "How")], images, return_tensors)

    tokenizer = opened("mini-vlm").tokenizer
    with pytest.raises(InterpErrors, match="holds no token"):
        tokenise(tokenizer, [example(spans={"thing": (0, 4)})], processor=Rewriting())
    assert len(tokenise(tokenizer, [example()], processor=Rewriting())) == 1


def test_two_towers_read_apart():
    def processor(text, images, return_tensors):
        ids = torch.tensor([processor.tokenizer(text[0])["input_ids"]])
        return {"input_ids": ids, "attention_mask": ids * 0 + 1, "pixel_values": torch.zeros(1, 3, 4, 4)}

    apart = SimpleNamespace(tokenizer=opened("mini-vlm").tokenizer)
    processor.tokenizer = apart.tokenizer
    pairs = tokenise(apart.tokenizer, [example(spans={"thing": (19, 23)})], processor=processor)
    assert ROLE not in pairs.clean.spans and pairs.tokens[0][pairs.clean.spans["thing"][0][0]] == " ring"


def test_images_handed_to_a_batch_have_the_role_too():
    """Interventions name the picture's tokens wherever prompts come from."""
    model, text = opened("mini-vlm"), f"USER: <image>\n{QUESTION} ASSISTANT:"
    batch = model.batch([text, text.replace("colour", "shape")], images=[GREY, GREY])
    assert batch.spans[ROLE] == read(example(text=text), example("b", text)).clean.spans[ROLE]
    with model.edit(interp.Knockout("all", "end", ROLE)):
        blind = model(batch)[:, -1]
    assert (blind - model(batch)[:, -1]).abs().max() > 0.1
    written = model.generate(
        [text], images=[GREY], max_new_tokens=1, edits=[interp.Knockout("all", "end", ROLE)], logits=True
    )
    torch.testing.assert_close(written.logits[0, 0], blind[0], atol=1e-4, rtol=0)
