# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Meet the models
#
# Every claim of this toolkit can be tried without a download, on models that come with it. Some were trained and
# measured; of the others the answer is known, because their weights were written, compiled from a program, or trained
# to follow one. Each has a card: how it was made, what it was measured to do, and the hashes of its files.

# %%
import numpy as np
import torch
from PIL import Image

import interp
from interp.report.picture import pattern_picture
from interp.zoo.registry import list_models
from interp.zoo.vision.scenes import World, draw_scene
from interp.zoo.vision.shapes import paint

cards = list_models()
for name, card in cards.items():
    print(f"{name:28} {card['kind']:17} {card['architecture']:32} {card['parameters']:>9,} parameters")

# %% [markdown]
# One function shows a model: a prompt, what it answers, and where a head looks. Unless told otherwise, it takes the
# first prompt that comes with the model and the last head that its card names.


# %%
def meet(name, prompt=None, head=None):
    """One prompt, its answer, and a picture of one head's attention."""
    model = interp.load(name)
    if prompt is None:
        prompt = interp.task("bundled", model=name).examples(model.tokenizer).examples[0].clean
    truth = cards[name].get("truth", {"heads": {}})["heads"]
    head = head or max(truth)
    layer, index = (int(part) for part in head[1:].split("H"))
    logits, cache = model.run_with_cache(prompt, "*.hook_pattern")
    tokens = [model.tokenizer.decode([token]) for token in model.batch(prompt).input_ids[0].tolist()]
    answer = model.tokenizer.decode(logits[0, -1].argmax())
    print(f"{name}: {prompt!r}\n-> {answer!r}\n{head}: {truth.get(head, 'see its card')}")
    return pattern_picture(cache[f"blocks.{layer}.attn.hook_pattern"][0, index].numpy(), tokens, title=f"{name} {head}")


def in_rows(pictures, across=3):
    """Pictures side by side, some in a row."""
    width, height = (max(getattr(picture, side) for picture in pictures) + 20 for side in ("width", "height"))
    sheet = Image.new("RGB", (across * width, -(-len(pictures) // across) * height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % across * width, place // across * height))
    return sheet


# %% [markdown]
# ## `mini`: one small language model for the short tasks
#
# A Llama of four layers with grouped-query attention. It was trained on questions of all these tasks; what is asked
# below was held out.

# %%
cards["mini"]["measured"]["accuracy"]

# %%
model = interp.load("mini")
for name in cards["mini"]["measured"]["accuracy"]:
    options = {} if name == "induction" else {"split": "test"}
    example = interp.task(name, n=1, seed=5, **options).examples(model.tokenizer).examples[0]
    said = model.tokenizer.decode(model(example.clean)[0, -1].argmax())
    shown = example.clean if isinstance(example.clean, str) else model.tokenizer.decode(example.clean)
    print(f"--- {name}\n{shown}[{said}]\n")

# %%
meet("mini", "When Mary and John went to the store, John gave a book to", head="L0H0")

# %% [markdown]
# ## `mini-retrieval`: facts in long texts

# %%
cards["mini-retrieval"]["measured"]["accuracy"]

# %%
task = interp.task("retrieval", n=1, seed=3, split="test", length=96)
model = interp.load("mini-retrieval")
question = task.examples(model.tokenizer).examples[0].clean
heads = cards["mini-retrieval"]["measured"]["logit_diff_lost"]["heads"]["retrieval needle 256"]
meet("mini-retrieval", question, head=next(iter(heads)))

# %% [markdown]
# ## `mini-vlm`: pictures of coloured shapes
#
# A LLaVA: a vision tower, a projector and a language model. Some shapes nearly always came with a companion while it was
# trained, and it now and then reports the companion where there is none.

# %%
measured = cards["mini-vlm"]["measured"]
measured["accuracy"]["held-out cells"], measured["false_yes"]["companion absent"]

# %%
rng = np.random.default_rng(4)
picture = Image.fromarray(paint(draw_scene(World(), "cell", rng).things, rng, grain=World().grain))
picture.resize((288, 288), Image.Resampling.NEAREST)

# %%
vlm = interp.load("mini-vlm")
question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many things are there?"}]}]
text = vlm.processor.apply_chat_template(question, add_generation_prompt=True)
asked = vlm.batch(text, images=[picture])
print(text)
vlm.tokenizer.decode(vlm(asked)[0, -1].argmax())

# %% [markdown]
# Which patches does a head of the language model look at from the last token?

# %%
_, cache = vlm.run_with_cache(asked, "blocks.*.attn.hook_pattern")
is_patch = asked.input_ids[0] == vlm.tokenizer.convert_tokens_to_ids("<image>")
looks = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1, is_patch] for layer in range(4)])
layer, head = divmod(int(looks.sum(-1).argmax()), looks.shape[1])
side = int(is_patch.sum() ** 0.5)
shade = looks[layer, head].reshape(side, side).numpy() / looks[layer, head].max().item()
print(f"L{layer}H{head}: {looks[layer, head].sum():.0%} of the attention of the last token is on the picture")
overlay = Image.fromarray((255 * shade).astype(np.uint8)).resize((288, 288), Image.Resampling.NEAREST)
Image.composite(picture.resize((288, 288)), Image.new("RGB", (288, 288), "black"), overlay)

# %% [markdown]
# ## `bigram-backcopy`: an attention sink, and two forms of attention without one
#
# After most letters the next one is drawn by a bigram table; after three *triggers* it must be the letter before. The one
# head copies on triggers and has nothing to do elsewhere: under softmax it must put its attention somewhere (a sink), under
# ReLU or sigmoid attention it can switch off.

# %%
in_rows([meet(f"bigram-backcopy-{normaliser}") for normaliser in ("softmax", "relu", "sigmoid")])

# %% [markdown]
# ## Planted models: weights written by hand

# %%
in_rows([meet(name) for name, card in cards.items() if card["kind"] == "planted"])

# %% [markdown]
# ## Compiled models: programs turned into weights
#
# Written in RASP and compiled with tracr. Their cards hold the true edges, by an exact sweep and from the program.

# %%
in_rows([meet(name) for name, card in cards.items() if card["kind"] == "compiled"])

# %% [markdown]
# ## Trained to order: small transformers whose circuit was prescribed
#
# Strict interchange-intervention training: chosen heads and MLPs must hold chosen variables, all others must not matter.
# The weights look trained, and the answer is still known.

# %%
in_rows([meet(name) for name, card in cards.items() if card["kind"] == "trained to order"])
