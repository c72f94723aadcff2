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
# # Attention sinks: where heads rest, and what for
#
# Many heads give most of their attention to the first token, which says nothing. That is called an *attention sink*, and
# there are four ways to look for it: the key **receives** much, its **value** is short, the **stream** there is an
# outlier, or **taking the head away** where it rests changes nothing. The first three are appearance, the last is cause.
# They need not agree, so the toolkit shows them side by side.

# %%
import numpy as np
import pandas as pd
import plotly.io

import interp
from interp.report.sink_figures import change_by_domain, criteria_matrix
from interp.sinks.purpose import purpose
from interp.sinks.run import sinks
from interp.zoo.recipes.bigram_backcopy import HELD_OUT, RECIPES

plotly.io.renderers.default = "plotly_mimetype"

# %% [markdown]
# ## A head with a job at three tokens
#
# In `bigram-backcopy` most tokens follow from the one before them, and the only head has nothing to do. After one of
# three *trigger* letters the letter before it comes again, and the head must fetch it. The same model was trained with
# softmax rows, which must give their attention to something, and with ReLU and sigmoid rows, which need not.

# %%
reports = {}
for recipe in RECIPES:
    triggers = np.flatnonzero(recipe.chain.is_trigger).tolist()
    prompts = recipe.sequences(HELD_OUT, 48, recipe.length)
    model = interp.load(recipe.name)
    reports[recipe.normaliser] = sinks(model, prompts, token_roles={"trigger": triggers}, lengths=())
reports["softmax"]

# %%
rows = {}
for name, report in reports.items():
    on, off = (report.domains.index(domain) for domain in ("trigger", "other"))
    mean = {key: report.mean(key)[0] for key in ("received", "values", "mass", "output")}
    rows[name] = {
        "BOS receives": mean["received"][0],
        "length of its value": mean["values"][0],
        "mass of rows, on triggers": mean["mass"][on],
        "off triggers": mean["mass"][off],
        "length of output, off over on": mean["output"][off] / mean["output"][on],
        "KL without the head, on (nats)": report.changes.mean[0, on],
        "off": report.changes.mean[0, off],
    }
pd.DataFrame(rows).T.round(4)

# %% [markdown]
# By cause the three heads are the same: active on triggers, dormant elsewhere. Only the softmax head needs a place to
# rest, and only there is one: BOS receives much and its value is drained. The other two switch off.
#
# ## A sink that is not the first token
#
# In `planted-sink`, written by hand, one head rests on BOS until the word *again* comes. Here BOS is put in the middle.

# %%
planted = interp.load("planted-sink")
ids = planted.batch(" ".join(f"w{number}" for number in range(1, 19))).input_ids[0].tolist()
bos, words = ids[0], ids[1:]
moved = sinks(planted, [[*words[:at], bos, *words[at:]] for at in (2, 5, 8)], lengths=())
pd.DataFrame([spot.__dict__ for spot in moved.hidden])

# %% [markdown]
# ## A model that nobody planted a sink in
#
# `mini` answers or refuses requests. Do its heads rest?

# %%
model = interp.load("mini")
chosen_on = interp.task("safety", n=16, seed=0, split="train")
held_out = interp.task("safety", n=48, seed=1, split="test")
report = sinks(model, chosen_on, n_controls=1)
report

# %% [markdown]
# One threshold at one length misleads: in longer texts the same heads stay below it. The four criteria of all heads where
# one of the first three says sink (dark):

# %%
criteria_matrix(report)

# %%
resting = [head for head, one in zip(report.heads, report.criteria, strict=True) if one.attention]
for head in resting:
    one = report.criteria[report.index(head)]
    value = report.mean("written")[report.index(head), 0]
    print(f"{head}: value {value:.2f} of the other keys, {report.verdicts[report.index(head)]}: {one.disagreement}")

# %%
change_by_domain(report, resting)

# %% [markdown]
# The criteria disagree. Some of these heads find a value at the first token that is as long as any other, so something
# could be read there, although taking them away where they rest changes the output by less than the tolerance of 0.02
# nats for each query. The metric of the task is finer than that, and can be asked.
#
# ## What is the sink for?
#
# So ask by cause, on requests that were not looked at before (other verbs and things). The heads that rest may not look
# at the first token (*removed*), or look and find nothing (*value zeroed*). The control is the same done to another
# early key.

# %%
answer = purpose(model, held_out, heads=resting)
answer

# %%
answer.plot()

# %%
known = purpose(planted, interp.task("bundled", model="planted-sink"))
known.plot()

# %% [markdown]
# ## The claim, and its control
#
# In both models the sink is needed: without it the answer suffers, and without another early key it does not. What it is
# needed for is known for the planted head alone, a place to rest, since nothing is lost with its value. In `mini` the loss
# with an empty value depends on which heads are asked and which other keys are drawn: over other seeds and choices of heads
# it was now above that of other keys, now not. So nothing is claimed of it here.

# %%
for name, result in (("planted-sink", known), ("mini", answer)):
    cells = {row.label: row for row in result.top()}
    for label in ("sink removed", "sink's value zeroed"):
        row = cells[label]
        verdict = "claimed" if row.claimed else "not claimed"
        print(f"{name:13}{label:21}{row.mean:+.2f}   another key {row.control_mean:+.2f}   {verdict}")
    print(result.headline(), "\n")
