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
# # The circuit of a task, from edges to claims
#
# "When Mary and John went to the store, John gave a book to" is followed by " Mary". Which connections inside `mini` carry
# that? A circuit is a set of edges: what one part writes into the residual stream, read by the queries, keys or values of
# a later head, by an MLP, or by the logits. An edge is taken out by showing its reader what the writer wrote on another
# prompt, one with three other names.

# %%
import pandas as pd
import plotly.io

import interp
from interp.discovery.comparison import compare
from interp.discovery.roles import score_roles

plotly.io.renderers.default = "plotly_mimetype"
model = interp.load("mini")
ioi = interp.task("ioi", n=32, templates="first")
ioi.examples(model.tokenizer).examples[0]

# %% [markdown]
# ## Find
#
# Every edge is scored by integrated gradients between the two prompts (EAP-IG), in one pass a step for all of them. The
# circuit is the smallest that keeps 85 % of the metric's gap on these prompts. It is judged on prompts that had no part in
# choosing it: other names, and sentences of other wording.

# %%
others = interp.task("ioi", n=32, seed=1, templates="rest")
circuit = interp.circuit(model, ioi, judge=others, n_random=50, n_curve=3)
circuit

# %% [markdown]
# A tenth of the edges keeps most of the behaviour on wordings it was not chosen on, and none of fifty random circuits
# of its size comes near. Before any of that was run, two circuits whose outcome is known were: all edges in is the
# untouched model, no edge in is the model on the other prompt.

# %%
pd.DataFrame(circuit.run.canary["edges"])

# %%
circuit.svg()

# %%
circuit.plot()

# %% [markdown]
# The picture of faithfulness over size also shows what does not work: edges ranked by how much they carry, without asking
# what it does, keep nothing until most of the model is back.
#
# ## What stands in matters
#
# The circuit was chosen for one way of taking edges out. Under others it keeps far less, as published circuits do (Miller
# et al. 2024): it says which edges tell these names from other names, not which ones the model needs to write English.

# %%
pd.DataFrame(circuit.ablation_table(), columns=["ablation", "model", "circuit", "no edges", "kept", "interval", "from"])

# %% [markdown]
# ## What its heads do
#
# Scorers that look at attention, and at what taking a head away does, name some of these heads. For each scorer: how many
# heads it claims in the whole model, and how many of them are in the circuit. Nothing in `mini` is a name mover of the
# published kind (a head that looks at the answer and copies it): the answer is fetched from the word before the gap. All
# heads that look at the token before, and all that write towards the answer, are in the circuit; of the induction heads,
# which this task does not need, fewer are than chance would give.

# %%
named = circuit.with_roles(*score_roles(model, interp.task("ioi", n=16)))
pd.DataFrame([vars(share) for share in named.roles.shares])

# %%
named.roles.names

# %% [markdown]
# ## Another task
#
# Coloured objects ("On the table there are a red pen, ... What colour is the pen?") is another task of the same kind: fetch
# one of several words. Its circuit is smaller. How much of it do both share, and how much would two random circuits of
# these sizes share, or random ones with as many edges in each layer?

# %%
colours = interp.circuit(model, interp.task("colored_objects", n=24), n_random=10, n_curve=1, beside=())
colours

# %%
compare(circuit, colours)
