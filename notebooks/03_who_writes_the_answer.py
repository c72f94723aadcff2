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
# # Who writes the answer, and who tells them?
#
# *When Mary and John went to the store, John gave a book to* - and `mini` says *Mary*. Patching a head says that it
# matters, but not for whom. **Path patching** follows one way through the model: what a head (the *sender*) writes is
# taken from a corrupt prompt, everything between it and a *receiver* is held as it was, and the model runs on with only
# what the receiver reads changed (Wang et al. 2022; Goldowsky-Dill et al. 2023). Nothing is approximated.
#
# The corrupt prompts have three other names, so neither answer is favoured. Heads are chosen on some templates and some
# pairs of names; whether they hold is asked on other templates and other pairs.

# %%
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io

import interp
from interp.report.palette import CONTROL, DIVERGING, GRID, HEAD, scale
from interp.tasks.ioi import TEMPLATES, Ioi

plotly.io.renderers.default = "plotly_mimetype"


@dataclass(frozen=True)
class SomeTemplates(Ioi):
    """Questions from some of the templates; ids name the template."""

    numbers: tuple[int, ...] = ()

    def draw(self, rng, index, words):
        """One question from one of them."""
        template = rng.choice(self.numbers)
        example = Ioi(self.n, self.seed, split=self.split, template=template).draw(rng, index, words)
        return replace(example, id=f"{example.id}-{template}")


numbers = range(len(TEMPLATES))
chosen_on = SomeTemplates(n=32, seed=0, split="train", numbers=tuple(numbers[::2]))
held_out = SomeTemplates(n=48, seed=1, split="test", numbers=tuple(numbers[1::2]))
model = interp.load("mini")
for task in (chosen_on, held_out):
    print(f"{task.split:5} templates {task.numbers}: {task.examples(model.tokenizer).examples[0].clean} ...")

# %% [markdown]
# ## Who writes to the logits?
#
# Every head is a sender, the logits are the receiver, and all other heads and MLPs are held: the direct effect, as the
# final norm and the output layer see it. A dot marks heads that do more than their matched controls, by the
# rules of the toolkit (false discoveries at 5 %).

# %%
direct = interp.paths(model, chosen_on)
direct

# %%
direct.plot()

# %% [markdown]
# The *writers* are the heads that are claimed and write towards the answer.


# %%
def helping(result):
    """Claimed heads whose effect is positive."""
    return [row.label for row in result.top(len(result.cells)) if row.claimed and row.mean > 0]


writers = helping(direct)
print(", ".join(writers))

# %% [markdown]
# ## Who tells them?
#
# A head can be told something through its queries (where to look from), its keys (where it is found) and its values (what
# is carried along). So the writers are receivers now, all at once, one kind of input at a time. Where query heads share
# keys and values, the shared ones are patched. For each kind: how many senders are claimed, the largest of them, and what
# the positive ones sum to.

# %%
told = {part: interp.paths(model, chosen_on, [f"{head}.{part}" for head in writers]) for part in "qkv"}
pd.DataFrame(
    {
        "claimed senders": {part: int(result.evidence.claimed.sum()) for part, result in told.items()},
        "of": {part: result.evidence.n_tested for part, result in told.items()},
        "largest sender": {part: result.top(1)[0].label for part, result in told.items()},
        "its effect": {part: result.top(1)[0].mean for part, result in told.items()},
        "sum of positive effects": {part: result.evidence.mean.clip(min=0).sum() for part, result in told.items()},
    }
).rename_axis("writers' input").round(3)

# %%
way = max(told, key=lambda part: told[part].evidence.mean.clip(min=0).sum())
movers = helping(told[way])
print(f"Most goes into {way}. Senders claimed there, towards the answer: {', '.join(movers)}")
told[way].plot()

# %% [markdown]
# ## Where do they put it?
#
# Nothing moves between positions on a path: what a sender writes at a token is read at that token. So every position can
# be asked by itself. Sentences differ, so positions are counted from the second mention of the subject (*John* in the
# example), the first token that tells both names apart. Below the senders, for comparison, a matched head of the same
# layer for each.

# %%
receivers = [f"{head}.{way}" for head in writers]
places = interp.paths(model, replace(chosen_on, n=16), receivers, movers, positions="each", n_controls=1)
second = [len(prompt.tokens) - 1 - prompt.tokens[::-1].index(prompt.distractor) for prompt in places.prompts]
rows = [
    (cell.unit.label, cell.place - second[number], effect)
    for cell, effects in zip(places.cells, places.effects, strict=True)
    for number, effect in enumerate(effects)
    if np.isfinite(effect)
]
offsets = pd.DataFrame(rows, columns=["sender", "tokens after the second mention", "effect"])
offsets = offsets.groupby(["sender", "tokens after the second mention"])["effect"].sum() / len(places.prompts)
others = [label for label in dict.fromkeys(cell.unit.label for cell in places.cells) if label not in movers]
offsets = offsets.unstack().loc[[*others[::-1], *movers[::-1]]]
size = offsets.abs().max().max()
figure = go.Figure(
    go.Heatmap(z=offsets, x=offsets.columns, y=offsets.index, zmin=-size, zmax=size, colorscale=scale(DIVERGING))
)
figure.update_layout(template="none", height=280, margin={"l": 60, "r": 10, "t": 10, "b": 50})
figure.update_xaxes(title="tokens after the second mention of the subject")
figure

# %%
for head in movers:
    best = offsets.loc[head].idxmax()
    share = offsets.loc[head, best] / offsets.loc[head].sum()
    print(f"{head}: {share:.0%} of its effect is at {best:+d} tokens from the second mention")

# %% [markdown]
# ## Does it hold where nobody looked?
#
# The same heads, on templates and names that had no part in choosing them. First all direct effects again, head by head.

# %%
again = interp.paths(model, held_out)
colours = np.where(np.isin(direct.labels, writers), HEAD, CONTROL)
both = np.concatenate([direct.evidence.mean, again.evidence.mean])
ends = [both.min(), both.max()]
figure = go.Figure(
    [
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": GRID}, hoverinfo="skip"),
        go.Scatter(
            x=direct.evidence.mean,
            y=again.evidence.mean,
            text=[label if label in writers else "" for label in direct.labels],
            customdata=direct.labels,
            mode="markers+text",
            textposition="top left",
            marker={"color": colours, "size": 9},
            hovertemplate="%{customdata}: %{x:.2f} and %{y:.2f}<extra></extra>",
        ),
    ]
)
figure.update_layout(
    template="none", height=380, width=460, showlegend=False, margin={"l": 60, "r": 10, "t": 10, "b": 50}
)
figure.update_xaxes(title="direct effect where heads were chosen")
figure.update_yaxes(title="direct effect on held-out templates")
figure

# %%
r = np.corrcoef(direct.evidence.mean, again.evidence.mean)[0, 1]
still = [head for head in writers if again.evidence.claimed[again.labels.index(head)]]
print(f"correlation over heads {r:.3f}; {len(still)} of {len(writers)} writers are claimed again: {', '.join(still)}")

# %% [markdown]
# Then the writers, and the movers, as one sender each: beside random sets with as many heads in each layer and similar
# norms.

# %%
ways = {"writers to the logits": ("logits", writers), f"movers to the writers' {way}": (receivers, movers)}
tests = {
    (name, label): interp.paths(model, task, to, senders, together=True, n_controls=8)
    for name, (to, senders) in ways.items()
    for label, task in (("chosen", chosen_on), ("held out", held_out))
}
pd.DataFrame(
    {
        name: {
            "effect": result.evidence.mean[0],
            "interval from": result.evidence.ci_low[0],
            "to": result.evidence.ci_high[0],
            "random sets, mean": result.evidence.control_mean[0],
            "random sets, largest": result.evidence.mean[1:].max(),
            "of the gap": 1 - result.mean_normalised[0],
            "claimed": bool(result.evidence.claimed[0]),
        }
        for name, result in tests.items()
    }
).T.rename_axis(["paths", "prompts"])

# %% [markdown]
# And template by template, the held-out ones alone: each point is one prompt, blue the found heads, grey the mean of the
# random sets.


# %%
def by_template(result):
    """Effects of the set and of its random sets on each prompt, by template."""
    templates = [int(prompt.id.rpartition("-")[2]) for prompt in result.prompts]
    rows = {"found": result.effects[0], "random sets": result.effects[1:].mean(axis=0)}
    return pd.DataFrame({"template": templates, **rows}).sort_values("template")


figure = go.Figure()
for column, (name, _) in enumerate(ways.items()):
    table = by_template(tests[name, "held out"])
    for kind, colour in (("random sets", CONTROL), ("found", HEAD)):
        axes = {"xaxis": f"x{column + 1}", "yaxis": f"y{column + 1}"}
        dots = {"mode": "markers", "marker": {"color": colour, "opacity": 0.7}}
        figure.add_trace(
            go.Scatter(x=table["template"], y=table[kind], name=kind, showlegend=column == 0, **dots, **axes)
        )
    figure.update_layout(
        {
            f"xaxis{column + 1}": {
                "domain": [0.55 * column, 0.55 * column + 0.45],
                "title": "template",
                "type": "category",
            },
            f"yaxis{column + 1}": {"anchor": f"x{column + 1}", "title": name},
        }
    )
figure.update_layout(
    template="none", height=340, margin={"l": 60, "r": 10, "t": 10, "b": 50}, legend={"orientation": "h", "y": 1.1}
)
figure

# %%
for name in ways:
    means = by_template(tests[name, "held out"]).groupby("template").mean()
    held = int((means["found"] > means["random sets"]).sum())
    print(f"{name}: above their random sets on {held} of {len(means)} held-out templates")
