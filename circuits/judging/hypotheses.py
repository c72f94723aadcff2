"""What a circuit claims, each claim with its test: that it does the task, that it alone does it, that nothing of it is idle.

From Shi et al. 2024, Hypothesis Testing the Circuit Hypothesis in LLMs (arXiv 2410.13032), with the authors' code read for
what the paper leaves open: equivalence, independence, minimality against inflated circuits, sufficiency and partial necessity
against random ones. Loss is the mean squared difference to the model's metric, prompt by prompt. Changed here: ties of a
prompt count half for equivalence, tests on prompts count all of them, p of permutations is never 0, and random circuits have
the circuit's size after pruning.

m(C) is the metric of circuit C, prompt by prompt; M is the whole graph. An edge that is taken away leaves the others as they
are: nothing is pruned after it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.baselines import drawn, shuffled
from interp.circuits.judging.completeness import completeness
from interp.circuits.judging.findings import Finding, Findings, Rigour, Values, check_circuit, exact_interval
from interp.circuits.judging.independence import dependence
from interp.circuits.judging.minimality import minimality
from interp.circuits.tables import number


def hypotheses(graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None) -> Findings:
    """Every test of this file, completeness and minimality.

    Raises:
        InterpError: E205 a circuit without edges, or one that is not pruned.
    """
    check_circuit(graph, edges)
    tests = (equivalence, independence, sufficiency, necessity)
    found = [test(graph, edges, values, rigour) for test in tests]
    found += [completeness(graph, edges, values, rigour).finding, minimality(graph, edges, values, rigour).finding]
    return Findings(tuple(found))


def equivalence(graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None) -> Finding:
    """Is the chance that the circuit does better than the model on a prompt within `margin` of 1/2?

    p is the chance of a share so far from 1/2 where the true one is at the margin; at or below the level, the circuit is not
    equivalent. A small sample or a wide margin cannot refuse it.
    """
    rigour = rigour or Rigour()
    full, circuit = values([graph.full, edges])
    share = float(np.mean((circuit > full) + 0.5 * (circuit == full)))
    p = _farther(len(full), abs(share - 0.5), rigour.margin)
    low, high = exact_interval(round(share * len(full)), len(full), rigour.level)
    holds = p > rigour.level
    words = "not told from the model" if holds else ("better" if share > 0.5 else "worse") + " than the model too often"
    null = f"does better on 1/2 of prompts, give or take {rigour.margin:g}"
    return Finding("equivalence", share, low, high, null, p, holds, words)


def _farther(n: int, distance: float, margin: float) -> float:
    """P(|k/n - 1/2| >= distance) for k binomial at 1/2 + margin; the same at 1/2 - margin."""
    from scipy.stats import binom

    k = np.arange(n + 1)
    return float(binom.pmf(k, n, 0.5 + margin)[np.abs(k / n - 0.5) >= distance - 1e-12].sum())


def independence(
    graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None, widths: str = "own"
) -> Finding:
    """Does what is left of the model without the circuit know on which prompts the model does well?"""
    rigour = rigour or Rigour()
    full, rest = values([graph.full, graph.full & ~edges])
    found = dependence(full, rest, widths=widths, seed=rigour.seed)
    holds = found.p > rigour.level
    words = "no trace of the task is seen outside" if holds else "what is outside still depends on the task"
    words += f"; its metric there is {number(float(rest.mean()))}, sd {number(float(rest.std()))}"
    null = f"HSIC of shuffled prompts, mean {number(found.by_chance)}"
    nan = float("nan")
    return Finding("independence", found.hsic, nan, nan, null, found.p, holds, words)


def sufficiency(graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None) -> Finding:
    """Is the circuit nearer to the model than a share q* of random circuits of its size?"""
    rigour = rigour or Rigour()
    others = random_circuits(graph, edges, rigour)
    full, circuit, *random = values([graph.full, edges, *others])
    wins = int((_loss(full, circuit) <= _loss(full, np.stack(random))).sum())
    return _beaten("sufficiency", wins, rigour, "nearer to the model than", "as near")


def necessity(graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None) -> Finding:
    """Does the model lose more without the circuit than without a share q* of random circuits of its size?"""
    rigour = rigour or Rigour()
    others = random_circuits(graph, edges, rigour)
    full, without, *random = values([graph.full, *(graph.full & ~one for one in (edges, *others))])
    wins = int((_loss(full, without) > _loss(full, np.stack(random))).sum())
    return _beaten("partial necessity", wins, rigour, "costs more to lose than", "costs as much to lose")


def random_circuits(graph: Graph, edges: Edges, rigour: Rigour) -> list[Edges]:
    """Circuits of the same number of edges after pruning (never fewer), see `baselines.of_size`."""
    check_circuit(graph, edges)
    draws = drawn(graph, lambda rng: shuffled(graph, rng), [int(edges.sum())], rigour.n_random, rigour.seed)
    return [row[0] for row in draws]


def _beaten(test: str, wins: int, rigour: Rigour, better: str, worse: str) -> Finding:
    from scipy.stats import binomtest

    n, q = rigour.n_random, rigour.quantile
    p = float(binomtest(wins, n, q, alternative="greater").pvalue)
    holds = p <= rigour.level
    words = f"{better} {wins} of {n} random circuits" if holds else f"{worse} as random circuits: {wins} of {n} beaten"
    low, high = exact_interval(wins, n, rigour.level)
    return Finding(test, wins / n, low, high, f"beats at most {q:.0%} of circuits of its size", p, holds, words)


def _loss(
    model: Float[np.ndarray, " prompt"], values: Float[np.ndarray, "*circuit prompt"]
) -> Float[np.ndarray, "*circuit"]:
    return np.asarray(((values - model) ** 2).mean(-1))
