"""How `mini-vlm` reads: tokenizer, image processor, chat template."""

from __future__ import annotations

from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from interp.zoo.language.vocabulary import build_tokenizer
from interp.zoo.vision.questions import NUMBERS, PLURALS, PROMPT
from interp.zoo.vision.shapes import COLOURS, SHAPES, SIDE

IMAGE = "<image>"
SENTENCES = (
    "What colour is the thing?",
    "What shape is the thing?",
    "How many things are there?",
    "Is there a",
    "Is the an",
    "left or right",
    "top or bottom",
    "yes or no",
    "of in on it this picture shape",
    "A The",
)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}:"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %} <image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if loop.first and message['content'] | selectattr('type', 'equalto', 'image') | list | length == 0 %} {% endif %}"
    "{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if not loop.last %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def prompt(question: str) -> str:
    """What the chat template makes of one image and one question."""
    return PROMPT.replace("[QUESTION]", question)


def build_words(positions: int) -> PreTrainedTokenizerFast:
    """The tokenizer: every word of the questions and answers is one token, and so is the placeholder of a patch."""
    answers = [f" {word}" for word in (*COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS, "yes", "no")]
    spaced = [f" {sentence}" for sentence in SENTENCES]
    tokenizer = build_tokenizer([prompt(""), *SENTENCES, *spaced, *answers], positions)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return tokenizer


def build_processor(positions: int, patch: int) -> LlavaProcessor:
    """Images of any size are brought to 48 x 48 pixels, levels to -1 .. 1; `<image>` becomes one token a patch."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_words(positions),
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,  # the CLS token, which "default" takes off again
    )
