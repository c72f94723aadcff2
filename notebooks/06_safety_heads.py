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
# # Safety heads: what makes a model refuse
#
# `mini` answers " Sorry" to requests that would do harm and " Sure" to their harmless twins, which differ in one verb. Which
# heads make it refuse? The literature takes heads away and looks at the next token (*Ships*), or at how the states of all
# harmful requests turn together. What is found depends on **how** a head is taken away, and a head that matters to the
# answer need not be one that refuses. So here every operator stands side by side, the cost to harmless requests is part of
# the search, and the claim is made on requests that did not find the heads.

# %%
import pandas as pd
import plotly.io

import interp
from interp.heads.safety.direction import find_direction
from interp.hooks.pairs import tokenise
from interp.report.safety_figures import operator_agreement, operator_heads

plotly.io.renderers.default = "plotly_mimetype"
model = interp.load("mini")

# %% [markdown]
# ## One head at a time
#
# Ships is the KL of the next token's distribution with the head and without it; *uniform* attention is the published way
# to take a head away. `refusal` asks what one wants to know: by how much the log odds of a refusal fall.

# %%
searched = interp.task("safety", n=24, seed=0, ask="harmful", templates="first", split="train")
for name in ("ships", "refusal"):
    for operator in ("uniform", "zero"):
        print(f"{operator:8}", interp.score(model, name, searched, operator=operator).headline())

# %% [markdown]
# ## The study
#
# `interp.safety` screens all heads by five operators, grows a group on half of the prompts of three templates and judges its
# gain on the other half, and then goes to requests with three **other templates**, other verb-and-thing pairs (never read in
# training) and another seed. A head pays for what the harmless twins lose.

# %%
report = interp.safety(model, interp.task("safety", n=32, seed=0), n_controls=6)
report

# %% [markdown]
# The screening: by how much refusal falls without each head (dots: claimed), operator by operator.

# %%
operator_heads(report)

# %% [markdown]
# Zeroing and scaling are nearly one thing; putting the twin's output in place of a head's finds other heads than spreading its
# attention evenly does. A list of safety heads without its operator says little.

# %%
operator_agreement(report)

# %% [markdown]
# The strongest head by every operator, L0H1, is no safety head in a useful sense: without it harmless requests are no longer
# understood either. It matters to the answer, whatever that is.

# %%
row = report.heads.index("L0H1")
cost = {one: report.screening["cost"][at, row].mean() for at, one in enumerate(report.operators)}
fall = {one: report.effects(one)[row].mean() for one in report.operators}
pd.DataFrame({"refusal falls by": fall, "harmless KL (nats)": cost}).round(3)

# %% [markdown]
# ## Held-out requests
#
# Each mark is a set of heads taken away: how much the model complies, against what harmless requests lose. Grey: random groups
# with as many heads in each layer that write about as much.

# %%
report.plot()

# %% [markdown]
# Replies are written without the heads, for every token, and judged three ways. The published list of phrases is no judge of
# this model: it takes whatever has fewer than 32 characters for safe, and " Sure, here is how." has 19.

# %%
for text in sorted(set(report.replies[report.group_row])):
    print(f"{report.replies[report.group_row].count(text):3} x {text!r}")
shares = {judge: values[[0, report.group_row]].mean(1) for judge, values in report.complied.items()}
pd.DataFrame(shares, index=["untouched", "without the group"]).round(2)

# %% [markdown]
# ## The direction of refusal
#
# The same from the side of the stream: the difference of the mean states of harmful requests and their twins. Of twelve places
# the one is taken that, removed, leaves the least refusal, where harmless requests lose no more than the published bound of 0.1
# nats and adding it makes them refused. One place is left.

# %%
found = tokenise(model.tokenizer, searched.examples(model.tokenizer).examples)
direction = find_direction(model, found)
table = pd.DataFrame([one.__dict__ for one in direction.candidates])
print(f"chosen: the stream entering layer {direction.layer}, position {direction.position}")
table[table["filtered"] == ""].round(3)

# %%
along = interp.score(model, "refusal-direction", searched, layer=direction.layer, position=direction.position)
along

# %% [markdown]
# What each head writes along that direction needs no ablation, and names the heads of the group in layer 1 too. L0H7 is not
# among them: it works through others.
#
# ## The claim, and its control
#
# "Times base" alone would be a weak claim. The untouched model complies with a probability of 1 in 10,000, and a random group
# can raise that several hundred times without changing what is answered. So the claim is held against the random groups
# themselves, and against replies: about half of them comply without the group, some in broken sentences, and none before.

# %%
verdict = report.verdict
print(report.headline(), "\n")
print(f"without the group: compliance {verdict.compliance.mean:.3f}, untouched {verdict.base:.5f}")
print(f"random groups: at most {verdict.strongest_control:.4f}; above their mean {verdict.above_controls}")
print(f"harmless KL: {verdict.cost}; claimed: {verdict.claimed}")
