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
# # Circuit reuse: two tasks, one mechanism?
#
# *Tony and Ruth found the house closed, and Ruth gave a letter back to* asks for a name. *On the table, there is a red
# pen, ... What color is the pen?* asks for a colour. Both fetch one of several words. Merullo et al. (2024, arXiv
# 2310.08744) found that GPT-2 medium uses most of one circuit for both, and that on coloured objects some heads of it
# are not driven: made to look where the other task would have them look, they repair the answers.
#
# Here both circuits are found in `mini`, what they share is held against chance, each is asked to do the other's task,
# and then heads are made to look where they should, on wordings that `mini` gets wrong.

# %%
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io

import interp
from interp.circuits.edges.posed import Posed
from interp.circuits.graph.flow import Flow
from interp.circuits.group_result import Limits
from interp.circuits.judging.baselines import drawn, shuffled, shuffled_within
from interp.circuits.judging.faithfulness import faithfulness
from interp.circuits.judging.overlap import edge_overlap
from interp.circuits.judging.selection import top_n
from interp.circuits.question import Question
from interp.circuits.understanding.compressing import Compressing
from interp.circuits.understanding.compression import compress
from interp.circuits.understanding.measured import measured
from interp.circuits.understanding.overrides import LookAt
from interp.circuits.understanding.repair import find_heads, repair
from interp.circuits.understanding.repaired import Repairing
from interp.discovery.comparison import compare
from interp.discovery.roles import score_roles
from interp.hooks.examples import Example
from interp.hooks.interventions import Ablate
from interp.hooks.metrics import metric
from interp.hooks.names import parse_heads
from interp.hooks.pairs import tokenise
from interp.report.figures import framed
from interp.report.palette import CONTROL, HEAD, INK
from interp.tasks.colored_objects import ColoredObjects, draw_scene
from interp.tasks.text import fill

plotly.io.renderers.default = "plotly_mimetype"
PROMPTS, RANDOM, REWORDED, CHOICES = 16, 10, 48, 48
model = interp.load("mini")
tasks = {"ioi": interp.task("ioi", n=PROMPTS), "colored_objects": interp.task("colored_objects", n=PROMPTS, shots=0)}


def posed(task, read="logit_diff"):
    """The prompts of a task, and what is asked of them."""
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples)
    return pairs, Question.of(pairs, metric(read))


for task in tasks.values():
    example = task.examples(model.tokenizer).examples[0]
    print(f"{example.clean!r} -> {example.answer!r}, not {example.distractor!r}")

# %% [markdown]
# ## Two circuits
#
# Edges are scored by integrated gradients between the two prompts of a pair. Each circuit is the smallest that keeps 85
# % of the gap on the prompts that choose it. Four others are a first look at whether it holds; the table further down
# judges on as many as chose.

# %%
circuits = {
    name: interp.circuit(model, task, judge=replace(task, n=4, seed=1000), n_random=RANDOM, n_curve=1, beside=())
    for name, task in tasks.items()
}
ioi, colours = circuits.values()
print(ioi.headline(), colours.headline(), sep="\n")

# %% [markdown]
# ## What they share, and by what chance
#
# The circuits differ in size, so *what share do they have in common* has three answers: of the smaller circuit, of the
# larger one, of both together. Chance has two. Random circuits of these sizes may have any edges; the stricter ones
# have as many as these in every class (layer and kind of the writer, layer and part of the reader), so that two
# circuits do not agree only because both sit at the same depth.

# %%
common = compare(ioi, colours)
common

# %%
rows = {
    f"{one.what}, of {whose}": (one.shared, of, one.shared / of, one.expected / of, one.matched / of)
    for one in (common.edges, common.nodes)
    for whose, of in (
        ("ioi", one.first),
        ("colored_objects", one.second),
        ("both", one.first + one.second - one.shared),
    )
}
columns = ["shared", "of", "share", "by chance", "in the same layers"]
pd.DataFrame.from_dict(rows, "index", columns=columns).round(2)

# %%
print(f"edges: p {common.edges.p:.2g}, in the same layers p {common.edges.p_matched:.2g}")
print(f"nodes: p {common.nodes.p:.2g}, in the same layers p {common.nodes.p_matched:.2g}")

# %% [markdown]
# *All nodes of the smaller circuit are in the larger one* sounds like much and is the weakest of these figures: the
# larger circuit has most of the heads. And edges are shared five times as often as by chance, but hardly more often
# than by circuits with as many edges between the same layers. Does that depend on where each circuit was cut? The best
# edges by both scores, equally many of each:

# %%
graph, flow = ioi.graph, Flow.of(model)
cuts = {}
for n in (12, 25, 50, 100):
    both = edge_overlap(graph, *(top_n(graph, one.scores, n).edges for one in circuits.values()))
    cuts[n] = (both.first, both.second, both.shared, both.expected, both.matched, both.p_matched)
pd.DataFrame.from_dict(cuts, "index", columns=["ioi", "colored_objects", *columns[:1], *columns[3:], "p"]).round(3)

# %% [markdown]
# It does. Of the 25 best edges and more, pruned, more are shared than depth explains; of the twelve best none is. *How
# much is shared* is a curve, and one cut through it is one point. (Numbers of prompts move it too: with `PROMPTS = 32`
# both circuits share 17 edges where 12.3 are expected in the same layers, p .006.)
#
# ## What scorers call the heads in both
#
# What scorers call them on either task. None is a *name mover* or an *S-inhibition head* as published: the scorer of
# the former claims no head of `mini`, and that of the latter starts from name movers.

# %%
named = {name: one.with_roles(*score_roles(model, tasks[name])) for name, one in circuits.items()}
names = {name: one.roles.names for name, one in named.items()}
pd.DataFrame(
    {name: {head: ", ".join(names[name].get(head, ())) or "-" for head in common.shared_heads} for name in names}
)

# %% [markdown]
# ## Where they look
#
# A name mover would look at the answer. Attention of the shared heads at the token that is to be followed by the
# answer, to each mention of a word and to the token behind it:


# %%
def looks(task, head):
    """Mean attention of a head to the tokens behind each mention of a word, for the answer and for the distractor."""
    pairs, _ = posed(task)
    _, cache = model.run_with_cache(pairs.clean, f"blocks.{head[1]}.attn.hook_pattern")
    found = {"answer": [], "behind the answer": [], "distractor": [], "behind the distractor": []}
    for row, end in enumerate(pairs.read_at.tolist()):
        pattern, ids = cache["pattern", int(head[1])][row, int(head[3]), end], pairs.clean.input_ids[row, :end].tolist()
        for word, token in (("answer", pairs.answer[row]), ("distractor", pairs.distractor[row])):
            at = [place for place, one in enumerate(ids) if one == int(token)]
            found[word].append(float(pattern[at].sum()))
            found[f"behind the {word}"].append(float(pattern[[place + 1 for place in at]].sum()))
    return {name: np.mean(values) for name, values in found.items()}


attention = {(name, head): looks(task, head) for name, task in tasks.items() for head in common.shared_heads}
pd.DataFrame(attention).T.round(2)

# %% [markdown]
# L1H4 and L1H5 look at the token **behind** a word in both tasks, so layer 0 must have left the word there. (Which head
# did, the circuit of the coloured objects cannot say: the list is the same in both prompts of a pair.) But they do not
# do the same job. On coloured objects they look behind the right word alone, so they choose. On names they look behind
# both, and something else must choose.
#
# ## Does the circuit of one task do the other?
#
# Every circuit on prompts of both tasks that chose neither. Beside them, the edges that both have, and random circuits
# as large as each: of any edges, and *permuted*, the same circuit's scores shuffled among readers of one layer and
# kind. Of these the best of ten is shown. Share of the metric's gap that is kept, with intervals:

# %%
tried = {"ioi": ioi.edges, "colored_objects": colours.edges, "shared edges": ioi.edges & colours.edges}
for name, one in circuits.items():
    for kind, draw in (("random", partial(shuffled, graph)), ("permuted", partial(shuffled_within, graph, one.scores))):
        for number, (edges,) in enumerate(drawn(graph, draw, [one.n_edges], RANDOM, seed=1)):
            tried[f"{kind}, as large as {name} #{number}"] = edges


def crossed(name):
    """Share of the gap that every circuit keeps on prompts of a task that chose no circuit, and its interval."""
    other = replace(tasks[name], seed=7)
    judged, taken = (Posed.of(posed(task)[0], metric("logit_diff")) for task in (other, tasks[name]))
    return {row.circuit: row.f for row in faithfulness(flow, tried, judged, taken, replacements=["resample"]).rows}


kept = {name: crossed(name) for name in tasks}
kinds = dict.fromkeys(circuit.split(" #")[0] for circuit in tried)
best = {
    kind: {
        f"on {name}": max((f for one, f in found.items() if one.split(" #")[0] == kind), key=lambda f: f.value)
        for name, found in kept.items()
    }
    for kind in kinds
}
pd.DataFrame(
    {kind: {on: f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]" for on, f in of.items()} for kind, of in best.items()}
).T

# %% [markdown]
# Neither of these circuits does anything of the other's task, nor do the edges that they share: that every head of the
# one is in the other says nothing of what the other can do. But this too hangs on a few edges. Chosen on six prompts
# instead of sixteen (`PROMPTS = 6`), the circuit of the names keeps .30 of the gap on colours, and the shared edges
# alone .28; the other way round nothing is kept. So heads are reused, circuits at most in part, and one pair of circuits
# does not decide it.
#
# ## Repair
#
# `mini` answers all questions of these tasks. It was trained on three ways to list the objects, so here are three
# others, with the same words: the list before the place, *one* instead of *a*, the question first.

# %%
WORDINGS = {
    "as trained": "Q: On the [PLACE], there is a [C0] [O0], a [C1] [O1], and a [C2] [O2]. What color is the [ASKED]?\nA:",
    "list first": "Q: A [C0] [O0], a [C1] [O1], and a [C2] [O2] lie on the [PLACE]. What color is the [ASKED]?\nA:",
    "one, not a": "Q: On the [PLACE], there is one [C0] [O0], one [C1] [O1], and one [C2] [O2]. What color is the [ASKED]?\nA:",
    "question first": "Q: What color is the [ASKED]? On the [PLACE], there is a [C0] [O0], a [C1] [O1], and a [C2] [O2].\nA:",
}


@dataclass(frozen=True)
class Reworded(ColoredObjects):
    """The same questions in other words; the object that is asked for has a role of its own."""

    shots: int = 0
    wording: str = "as trained"

    def draw(self, rng, index, words):
        """One scene, asked about one of its objects; the corrupt prompt asks about another."""
        scene, asked = draw_scene(rng, words, self.split)
        other = rng.choice([place for place in range(3) if place != asked])
        pattern, roles = WORDINGS[self.wording], {f"O{asked}": "object", "ASKED": "asked"}
        clean, spans = fill(pattern, {**scene, "ASKED": scene[f"O{asked}"]}, roles)
        corrupt, corrupt_spans = fill(pattern, {**scene, "ASKED": scene[f"O{other}"]}, roles)
        answers = (f" {scene[f'C{place}']}" for place in (asked, other))
        return Example(f"reworded-{index:04d}", clean, *answers, corrupt, spans, corrupt_spans)


def reworded(wording, seed, read="logit_diff"):
    return posed(Reworded(n=REWORDED, seed=seed, wording=wording), read)


failing = {}
for wording in WORDINGS:
    values = {read: measured(model, reworded(wording, 0, read)[1], [], 32)[1].mean() for read in ("top1", "logit_diff")}
    behind = {
        head: looks(Reworded(n=REWORDED, wording=wording), head)["behind the answer"] for head in ("L1H4", "L1H5")
    }
    failing[wording] = values | {f"{head} looks behind the answer": value for head, value in behind.items()}
pd.DataFrame(failing).T.round(2)

# %% [markdown]
# Where answers are wrong, L1H4 and L1H5 do not look behind the answer, at the object that is asked for. Is that all
# that is wrong? Every head of the model is a candidate: at the last token it is made to look at that object and at
# nothing else. Those that raise the metric most are searched on half of the prompts of **one** wording.

# %%
pairs, question = reworded("list first", 0)
found = find_heads(model, question, LookAt(model, pairs.clean, "object"), limits=Limits(max_size=2, n_controls=5))
print(f"found {', '.join(found.group)}; in both circuits: {[head in common.shared_heads for head in found.group]}")
found

# %% [markdown]
# Out of 32 heads the search takes two that are in both circuits. Now they are judged on other prompts of this wording,
# and on the wordings that had no part in the search. The controls: as many other heads of the same layer made to look
# at that object, and the same heads looking everywhere alike.

# %%
repairs = {}
for wording in WORDINGS:
    pairs, question = reworded(wording, 1)
    repairs[wording] = repair(
        model, question, LookAt(model, pairs.clean, "object"), found.group, Repairing(n_controls=12)
    )
repairs["list first"]

# %%
shown = {
    wording: {one.name: one.accuracy.mean for one in each.scores} | {"repaired": each.is_repaired}
    for wording, each in repairs.items()
}
runs = [one.name for one in repairs["list first"].scores]
colour = {"repaired": HEAD, "untouched": INK}
bars = [
    go.Bar(
        x=list(repairs),
        y=[each[run].accuracy.mean for each in repairs.values()],
        error_y={
            "array": [each[run].accuracy.ci_high - each[run].accuracy.mean for each in repairs.values()],
            "arrayminus": [each[run].accuracy.mean - each[run].accuracy.ci_low for each in repairs.values()],
        },
        name=run,
        marker={"color": colour.get(run, CONTROL), "pattern": {"shape": "/" if run == "uniform" else ""}},
    )
    for run in runs
]
framed(bars, height=300).update_layout(
    barmode="group", yaxis_title="right answers", legend={"orientation": "h", "y": 1.15}
)

# %%
for wording, each in repairs.items():
    before, after, others = (each[run].accuracy.mean for run in ("untouched", "repaired", "random heads"))
    verdict = "raises" if each.is_repaired else "does not raise"
    print(
        f"{wording}: {before:.0%} -> {after:.0%} (other heads {others:.0%}); {verdict} the metric beyond every control"
    )

# %% [markdown]
# Two heads that look where they should are enough for every answer, in wordings where a third to four fifths of the
# answers were wrong. So what comes after them was there and waited, as in the paper. Two things this does **not** show.
# The override is told which object is asked for, so it does not show that the model could find it; that other heads,
# told the same, do nothing says that being told is not enough. And it does not show why the heads do not look there by
# themselves.
#
# ## A head in three directions, and a shift
#
# What does a head write, in how many directions? Lieberum et al. (2023, arXiv 2307.09458) compressed heads of a
# multiple-choice circuit to a few directions, and then changed the letters of the options. The same here: which letter
# is right is the task, *A* to *D* in order is the base, four random capitals are the shift. What the logit difference
# loses when one head is taken away where the answer is read:

# %%
choices = {
    "base": interp.task("mcqa", n=CHOICES, seed=1),
    "shift": interp.task("mcqa", n=CHOICES, seed=2, letters="random"),
}
source = interp.task("mcqa", n=CHOICES, seed=0)
heads = parse_heads("all", model.heads)
lost = {}
for name, task in choices.items():
    values, clean = measured(model, posed(task)[1], [Ablate((head,), positions="end") for head in heads], 32)
    lost[name] = dict(zip([head.label for head in heads], clean.mean() - values.mean(1), strict=True))
pd.DataFrame(lost).sort_values("base", ascending=False).head(4).round(2)

# %%
writer = max(lost["base"], key=lost["base"].get)
pairs, question = posed(source)
letters = [example.answer for example in pairs.examples]
sides = [posed(task)[1] for task in choices.values()]
few = compress(model, Compressing(writer, "z"), question, *sides, classes=letters)
few

# %% [markdown]
# Four letters have four means, which span three directions; they keep all that the head does for these letters, and
# about a quarter of what it does for others. So the three directions say *which of A to D*, not *which letter*: an
# explanation of the base that is none of the task. A space taken from prompts with random letters needs half of the
# head, and keeps both. (Of so many directions, random ones keep half as well.)

# %%
wide = interp.task("mcqa", n=2 * CHOICES, seed=3, letters="random")
many = compress(model, Compressing(writer, "z"), posed(wide)[1], *sides)
many
