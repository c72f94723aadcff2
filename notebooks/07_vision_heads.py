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
# # Vision heads: who reads the picture, and can they be made to read it better?
#
# `mini-vlm` answers questions on drawn shapes. Some combinations nearly always stand together in its training pictures,
# and where one of them is missing the model now and then reports it all the same: a hallucination with a known cause.
# Heads that read the picture are looked for here in four ways. Then they are made stronger, as the literature suggests,
# and everything that lowers false reports is held against the plainest control there is: making *yes* harder to say.

# %%
import pandas as pd
import plotly.io

import interp
from interp.circuits.tables import interval
from interp.hooks.pairs import tokenise
from interp.report.seeing_figures import layer_profile
from interp.report.vision_figures import patch_overlay
from interp.vision.contenders import (
    BLANK,
    VHD,
    AllHeads,
    LowerYes,
    Redistribution,
    ReinforcedAgainstBlank,
    ReinforcedHeads,
    Reinforcement,
)
from interp.vision.flow import knockout_windows
from interp.vision.geometry import geometry
from interp.vision.pruning import pruning_curve
from interp.vision.study import compare

plotly.io.renderers.default = "plotly_mimetype"
model = interp.load("mini-vlm")
task = interp.task("shapes", n=48, seed=3)
pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples, processor=model.processor)

# %% [markdown]
# ## Where the picture enters
#
# How much of its attention does the last token, which says the answer, give to the picture? The sink at the first token
# is left out.

# %%
mass = interp.score(model, "image-mass", task, sinks="excluded")
mass

# %%
layer_profile(mass, "attention to the picture")

# %% [markdown]
# Looking is not reading. So paths are cut: the words may not look at the picture, or the last token may not look at the
# picture, or not at the words.

# %%
flow = knockout_windows(model, pairs)
flow.plot()

# %% [markdown]
# The words of the question never read the picture for the answer. The last token reads the words first, then the
# picture itself. And does its attention know which patches matter? Image tokens are hidden from layer 1 on, those it
# looked at least first; the controls hide tokens at random, or those it looked at most.

# %%
curve = pruning_curve(
    model, pairs, layer=1, shares=(1.0, 0.5, 0.25, 0.1), rankings=("attention", "random", "least attention")
)
curve.plot()

# %% [markdown]
# ## Which heads
#
# VHD is how far z moves when the picture goes. Heads that only notice that tokens have moved up score as well, so chance
# is what a blank picture does.

# %%
aware = interp.score(model, "vhd", task)
aware.plot()

# %%
columns = {"nothing": aware.mean}
columns["blank picture"] = interp.score(model, "vhd", task, against="blank").mean
columns["other picture"] = interp.score(model, "vhd", task, against="other").mean
columns["nothing, relative"] = interp.score(model, "vhd", task, measure_by="relative").mean
columns["attention to the picture"] = mass.mean
pd.DataFrame(columns, index=aware.heads).corr("spearman").round(2)

# %% [markdown]
# The rankings agree in part. Lengths decide much of VHD: relative to the length of z the order is another one. And held
# against no picture it also counts heads that only notice that there is one. What two of the heads look at:

# %%
example = pairs.examples[0]
where, names = geometry(model, pairs.clean.rows(0, 1)), ("L0H3", "L1H0")
_, cache = model.run_with_cache(pairs.clean.rows(0, 1), "*hook_pattern")
image, at = list(pairs.clean.spans["image"][0]), int(pairs.read_at[0])
maps = [cache["pattern", int(name[1])][0, int(name[3]), at, image].numpy()[where.text] for name in names]
print(example.clean.splitlines()[1], "->", example.answer)
patch_overlay(example.image, maps, names, where)

# %% [markdown]
# ## Who brings the false yes
#
# Pairs of pictures: with the thing that announces the missing one, and without it. A head's influence is what the
# probability of the spoken word loses without the head, on wrong answers less on their right twins.

# %%
wrong = interp.score(model, "hallucination-influence", n=64)
wrong

# %% [markdown]
# ## Making them stronger
#
# One protocol for all: heads and settings are chosen on pictures of one seed and judged on those of another. The last two
# lines are controls. *Beyond threshold* compares yes to companions that **are** there with the untouched model's, when its
# threshold for yes is raised until it reports as many absent ones: above 0, a method tells them apart better.


# %%
def chosen(rankings):
    published, blank = ReinforcedHeads(rankings[VHD]), ReinforcedAgainstBlank(rankings[BLANK])
    return (Reinforcement(), published, blank, Redistribution(), AllHeads(), LowerYes())


study = compare(model, n=192, tuning_n=192, make=chosen, n_controls=10)
study

# %%
study.plot()

# %% [markdown]
# ## The claim, and its control
#
# Heads ranked by VHD against a **blank** picture, half of each layer, made stronger by half: false yes falls by more than
# the bar of 30 % and ordinary questions do not suffer, while the other half of the same layers, made stronger likewise, does
# not lower it at all. That holds on other seeds (`compare(model, n=320, seed=1, tuning_seed=1001)`: 45 % [30, 59], the
# others -11 %), with the same sixteen heads. **Claimed:** which heads are made stronger matters, and VHD against a blank
# picture finds them. Ranked against **no** picture, as published, VHD does not hold over seeds, and random heads do as
# much: without a picture all tokens move up, and heads that notice that alone rank high. VHR, which chooses prompt by
# prompt, raises false yes here. Visual sinks, which VAR needs, this model has none of.
#
# **Not claimed:** that the model sees better. All heads made stronger lower false yes as well, and so does a lower logit of
# yes, which looks at nothing. Beyond a threshold little or nothing is left: at as many false yeses no method finds more
# faint companions that are there. The false yeses are nearly calibrated guesses: in training the companion stood there in
# 85 to 98 of 100 pictures with its anchor, and could be so faint that it was hardly seen.

# %%
for row in study.rows:
    drawn = f" (controls {min(row.controls):+.0%} to {max(row.controls):+.0%})" if row.controls else ""
    beyond = f"beyond a threshold {row.beyond:+.3f}, interval {interval(*row.beyond_ends)}"
    print(f"{row.method}: false yes lowered by {row.reduction:.0%}{drawn}, regular {row.regular:+.1%}, {beyond}")
