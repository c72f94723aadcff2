"""Prompts of every kind become the ids their tokenizer gives, and nothing about them is read in silence."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch
from interp.hooks.model import HookedModel
from interp.hooks.prompts import encode_text, first_token_warnings, make_batch
from interp.hooks.tiny import IMAGE_TOKEN
from interp.kernels.errors import InterpError

TEXT = "When Mary and John went to the store"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def model(hooked: Any, bpe: Any) -> HookedModel:
    return hooked("llama", bpe, vocab_size=len(bpe), max_position_embeddings=40)


@pytest.fixture(scope="module")
def masked(hooked: Any, wordpiece: Any) -> HookedModel:
    return hooked("bert", wordpiece)


def ids_of(batch: Batch) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(batch.input_ids, batch.mask, strict=True)]


def test_every_way_to_give_one_prompt_is_the_same_prompt(model: HookedModel, bpe: Any) -> None:
    ids = bpe(TEXT)["input_ids"]
    wanted = model(TEXT)
    for prompt in ([TEXT], ids, [ids], tuple(ids), torch.tensor(ids), torch.tensor([ids]), [torch.tensor(ids)]):
        batch = model.batch(prompt)
        assert ids_of(batch) == [ids] and batch.warnings == () and batch.truncated == (0,)
        assert torch.equal(model(prompt), wanted)
    for inputs in (bpe(TEXT, return_tensors="pt"), {"input_ids": torch.tensor([ids])}, model.batch(TEXT)):
        torch.testing.assert_close(model(inputs), wanted)


def test_prompts_of_several_kinds_and_lengths_in_one_batch(model: HookedModel, bpe: Any) -> None:
    short = bpe("The cat")["input_ids"]
    batch = model.batch([TEXT, short, torch.tensor(short)])
    assert ids_of(batch) == [bpe(TEXT)["input_ids"], short, short]
    assert model.tokens(batch)[1] == [bpe.decode([index]) for index in short]
    assert model.tokens(batch)[1][0] == "<s>"


def test_tokens_are_numbers_where_there_is_no_tokenizer(hooked: Any) -> None:
    model = hooked("llama")
    assert model.tokens(model.batch([[5, 6], [7]])) == [["5", "6"], ["7"]]


@pytest.mark.parametrize("empty", ["", "   ", "\n", [], [[]], torch.tensor([], dtype=torch.long)], ids=repr)
def test_an_empty_prompt_is_refused(model: HookedModel, masked: HookedModel, empty: Any) -> None:
    for one in (model, masked):
        with pytest.raises(InterpError, match="E304|E311"):
            one.batch(empty)


def test_an_empty_prompt_among_others_is_refused(model: HookedModel) -> None:
    with pytest.raises(InterpError, match="E304"):
        model.batch([TEXT, " "])


@pytest.mark.parametrize("wrong", [[1.5, 2.0], [{"text": "x"}], [None], [3, "x"]], ids=repr)
def test_prompts_of_an_unknown_kind_are_refused(model: HookedModel, wrong: Any) -> None:
    with pytest.raises(InterpError, match="E303"):
        model.batch(wrong)


def test_text_without_a_tokenizer_is_refused(hooked: Any) -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        hooked("llama").batch(TEXT)
    assert "tokenizer=" in caught.value.fix


def test_a_prompt_that_is_too_long_is_refused_or_cut_with_its_count(model: HookedModel, bpe: Any) -> None:
    long = list(range(3, 3 + 47))
    with pytest.raises(InterpError, match="E309") as caught:
        model.batch([TEXT, long])
    assert "47 tokens" in caught.value.what and "40" in caught.value.what and caught.value.where == "prompt 1"
    batch = model.batch([TEXT, long], truncate=True)
    assert batch.truncated == (0, 7) and ids_of(batch)[1] == long[:40]
    assert any("1 of 2 prompts were cut to 40 tokens" in warning for warning in batch.warnings)
    assert model(batch).shape[1] == 40
    exact = model.batch([long[:40]])
    assert exact.truncated == (0,)


def test_an_unknown_padding_side_is_refused(model: HookedModel) -> None:
    with pytest.raises(InterpError, match="E205"):
        model.batch([TEXT], padding_side="centre")


# --- special tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["</s>", "<s>", "<pad>"])
def test_special_tokens_inside_a_text_stay_text_and_are_warned_of(model: HookedModel, bpe: Any, spelled: str) -> None:
    batch = model.batch(f"The cat {spelled} sat")
    assert ids_of(batch)[0].count(bpe.convert_tokens_to_ids(spelled)) == (1 if spelled == "<s>" else 0)
    assert ids_of(batch)[0][0] == bpe.bos_token_id
    assert bpe.decode(ids_of(batch)[0][1:]) == f"The cat {spelled} sat"
    assert batch.warnings == (f"special token {spelled!r} inside a prompt was read as plain text",)


def test_special_tokens_inside_bert_text_stay_text(masked: HookedModel, wordpiece: Any) -> None:
    ids = ids_of(masked.batch("The cat [SEP] sat"))[0]
    assert ids.count(wordpiece.sep_token_id) == 1 and ids[-1] == wordpiece.sep_token_id


def test_the_mask_token_asks_the_question(masked: HookedModel, wordpiece: Any) -> None:
    batch = masked.batch("Mary [MASK] to the store.")
    ids = ids_of(batch)[0]
    assert ids.count(wordpiece.mask_token_id) == 1 and batch.warnings == ()
    with pytest.raises(InterpError, match="E303") as caught:
        masked.batch("Mary [MASK] to the [SEP] store.")
    assert "[SEP]" in caught.value.what


def test_a_bos_token_that_is_missing_or_doubled_is_said(model: HookedModel, bpe: Any) -> None:
    ids = bpe(TEXT)["input_ids"]
    (missing,) = model.batch(ids[1:]).warnings
    (twice,) = model.batch([bpe.bos_token_id, *ids]).warnings
    assert "do not start with '<s>'" in missing and "'<s>' twice" in twice
    assert model.batch(ids).warnings == ()


def test_a_missing_cls_token_is_said(masked: HookedModel, wordpiece: Any) -> None:
    ids = wordpiece("mary went")["input_ids"]
    assert masked.batch(ids).warnings == ()
    (missing,) = masked.batch(ids[1:]).warnings
    assert "[CLS]" in missing


def test_a_tokenizer_that_adds_nothing_is_never_said_to_miss_something(bpe: Any) -> None:
    from tokenizers import processors

    bare = copy.deepcopy(bpe)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert bare("The")["input_ids"][0] != bare.bos_token_id
    assert first_token_warnings(bare, bare("The cat")["input_ids"]) == ()
    assert "twice" in first_token_warnings(bare, [bare.bos_token_id] * 2 + [9])[0]


def test_a_tokenizer_that_adds_bos_twice_is_found_out(bpe: Any) -> None:
    from tokenizers import processors

    double = copy.deepcopy(bpe)
    double.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A", special_tokens=[("<s>", 1)]
    )
    assert encode_text(double, TEXT).warnings == ("prompts start with '<s>' twice",)


def test_offsets_are_those_of_the_characters(bpe: Any) -> None:
    encoded = encode_text(bpe, TEXT)
    assert encoded.offsets[0] == (0, 0)
    pieces = [TEXT[first:last] for first, last in encoded.offsets[1:]]
    assert "".join(pieces) == TEXT or " ".join(pieces) == TEXT


# --- chat ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chatty(bpe: Any) -> HookedModel:
    tokenizer = copy.deepcopy(bpe)
    tokenizer.chat_template = TEMPLATE
    return HookedModel.from_hf(sharp_model("llama", vocab_size=len(bpe)), tokenizer)


def test_chat_messages_go_through_the_models_own_template(chatty: HookedModel, bpe: Any) -> None:
    messages = [{"role": "user", "content": "The cat"}, {"role": "assistant", "content": " sat"}]
    wanted = bpe("<s>[user]The cat[assistant] sat[assistant]", add_special_tokens=False)["input_ids"]
    batch = chatty.batch(messages)
    assert ids_of(batch) == [wanted] and batch.warnings == () and wanted.count(bpe.bos_token_id) == 1
    two = chatty.batch([messages, messages[:1]])
    assert two.size == 2 and ids_of(two)[0] == wanted
    mixed = chatty.batch([messages[:1], "The cat"])
    assert ids_of(mixed)[1] == bpe("The cat")["input_ids"]


def test_special_tokens_inside_a_message_are_warned_of(chatty: HookedModel) -> None:
    (warning,) = chatty.batch([{"role": "user", "content": "The </s> cat"}]).warnings
    assert "'</s>'" in warning and "chat message" in warning


def test_chat_messages_without_a_template_are_refused(model: HookedModel) -> None:
    with pytest.raises(InterpError, match="E303") as caught:
        model.batch([{"role": "user", "content": "The cat"}])
    assert "template" in caught.value.what


# --- images -------------------------------------------------------------------------------------------------------


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def llava(bpe: Any) -> HookedModel:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    tokenizer = copy.deepcopy(bpe)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    index = tokenizer.convert_tokens_to_ids("<image>")
    square = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    hf = sharp_model("llava")
    hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    hf.config.image_token_id = index
    assert index != IMAGE_TOKEN
    return HookedModel.from_hf(hf, tokenizer, processor=processor)


def test_text_with_an_image_goes_through_the_models_own_processor(llava: HookedModel) -> None:
    batch = llava.batch("<image> The cat", images=picture(0))
    image = batch.input_ids == llava.adapter.config.image_token_id
    assert int(image.sum()) == 16 and batch.inputs["pixel_values"].shape == (1, 3, 32, 32)
    logits, cache = llava.run_with_cache(batch, ["*hook_pattern", "vision.*hook_z"])
    assert cache["pattern", 0, "vision"].shape == (1, 4, 17, 17) and cache["pattern", 0].shape[-1] == logits.shape[1]
    same = llava(llava.processor(text="<image> The cat", images=picture(0), return_tensors="pt"))
    torch.testing.assert_close(logits, same)
    other = llava.run_with_hooks("<image> The cat", {}, images=picture(1))
    assert float((other - logits).abs().max()) > 1e-3
    zeroed = llava.run_with_hooks(batch, {"vision.blocks.0.attn.hook_z": lambda z, _: 0 * z})
    assert float((zeroed - logits).abs().max()) > 1e-3


def test_several_prompts_each_with_its_image(llava: HookedModel) -> None:
    texts, images = ["<image> The cat sat on the mat", "<image> Mary"], [picture(0), picture(1)]
    together = llava.batch(texts, images=images)
    assert together.size == 2 and not bool(together.mask.all())
    logits = llava(together)
    for row in range(2):
        alone = llava(llava.batch(texts[row], images=images[row]))[0]
        torch.testing.assert_close(logits[row, together.mask[row]], alone, atol=1e-5, rtol=0)


def test_an_image_alone(hooked: Any) -> None:
    from transformers import CLIPImageProcessorPil

    square = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)
    model = HookedModel.from_hf(sharp_model("vit"), processor=processor)
    batch = model.batch(images=[picture(0), picture(1)])
    assert batch.mask is None and batch.size == 2
    _, cache = model.run_with_cache(batch, "*hook_z")
    assert cache["z", 0].shape == (2, 17, 4, 8)


def test_images_without_a_processor_and_nothing_at_all_are_refused(hooked: Any) -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        hooked("vit").batch(images=picture(0))
    assert "processor=" in caught.value.fix
    with pytest.raises(InterpError, match="E311"):
        hooked("llama").batch()


def test_batches_pass_through(bpe: Any) -> None:
    batch = make_batch(bpe, TEXT)
    assert make_batch(bpe, batch) is batch
