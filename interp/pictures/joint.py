"""Queries and keys of a head as points of one picture, over many prompts (AttentionViz)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.circuits.ranks import centred_ranks, correlation
from interp.hooks.names import HeadId, HeadSpec, parse_head
from interp.hooks.prompts import Prompts
from interp.kernels.errors import InterpError, suggest
from interp.pictures.closeness import Closeness, closeness, nearness
from interp.pictures.distance import main_heads
from interp.pictures.normalising import Normalising, balanced
from interp.pictures.vectors import HeadVectors, Spots, head_vectors
from interp.sinks.asking import ask
from interp.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

METHODS = ("pca", "tsne")
FACTORS = 2.0 ** np.linspace(-2, 2, 9)
"""What the balanced factor is multiplied by, to find the one under which nearness tells attention best."""

EMBEDDED = {
    None: "queries and keys as they are: the model has no rotary positions",
    True: "queries and keys after rotary positions, whose products are the scores",
    False: "queries and keys before rotary positions, whose products are not the scores",
}


@dataclass(frozen=True, eq=False)
class JointEmbedding:
    """One head's queries and keys in two dimensions; near means attended, as far as `flat` says.

    Attributes:
        head: its label.
        method: 'pca' or 'tsne'.
        embedded: which queries and keys.
        tokens: as text, one a point.
        prompts, positions: of each point.
        is_key: whether a point is a key; else it is a query.
        places: in the picture.
        norms: length of the query or key as the model has it.
        normalising: what was done to both before; rows of attention do not change by it.
        explained: share of the variance in the picture; nan for t-SNE.
        full, flat: how well nearness tells attention, before the picture and in it; on pairs that the factor was not
            chosen by.
    """

    head: str
    method: str
    embedded: str
    tokens: tuple[str, ...]
    prompts: Int[np.ndarray, " point"]
    positions: Int[np.ndarray, " point"]
    is_key: Bool[np.ndarray, " point"]
    places: Float[np.ndarray, "point two"]
    norms: Float[np.ndarray, " point"]
    normalising: Normalising
    explained: float
    full: Closeness
    flat: Closeness

    def to_frame(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        columns: dict[str, Any] = {
            "head": self.head, "kind": np.where(self.is_key, "key", "query"), "prompt": self.prompts,
            "position": self.positions, "token": list(self.tokens), "x": self.places[:, 0], "y": self.places[:, 1],
            "norm": self.norms,
        }  # fmt: skip
        return pd.DataFrame(columns)

    def plot(self, colour: str = "kind") -> go.Figure:
        """Points with token, position and prompt on hover; size is the norm.

        Args:
            colour: 'kind' (query or key) or 'position'.
        """
        from interp.report.picture_figures import joint_figure

        return joint_figure(self, colour)


def joint_embedding(model: HookedModel, head: str | HeadId, prompts: Task | Prompts, **options: Any) -> JointEmbedding:
    """One head's queries and keys as points of one picture; see `joint_embeddings` for options and errors."""
    label = parse_head(head).label
    return joint_embeddings(model, prompts, label, **options)[label]


def joint_embeddings(
    model: HookedModel,
    prompts: Task | Prompts,
    heads: HeadSpec = "all",
    *,
    method: str = "pca",
    rotated: bool = True,
    per_prompt: int = 32,
    targets: int = 4,
    batch_size: int = 16,
    seed: int = 0,
    truncate: bool = False,
) -> dict[str, JointEmbedding]:
    """Queries and keys of heads, normalised so that near means attended; all heads from one forward a batch.

    Yeh et al. 2023, arXiv 2305.03210. Keys are moved so that both have one centre, and queries are scaled against keys
    by the factor under which nearness tells attention best: neither changes a row of attention. A soft cap, sink logits
    or biases of positions are no part of the products, so that nearness says less there; `full` measures how much.

    Args:
        prompts: a task, or prompts as a model takes them.
        method: 'pca', or 'tsne' (slower; distances between groups mean little).
        rotated: on models with rotary positions, the queries and keys that meet, with their positions in them; False
            takes them before, which shows content alone.
        per_prompt: tokens of each prompt that are shown, at most.
        targets: keys of each shown query whose attention is compared with their distance.

    Returns:
        By label of the head.

    Raises:
        InterpError: E201 another method; E205 fewer than 4 tokens, or heads of another tower; E303 to E313 for the
            prompts; E403 queries and keys that can't be read.
    """
    if method not in METHODS:
        raise InterpError("E201", f"no method {method!r}", where="joint embedding", fix=suggest(method, METHODS))
    chosen, pairs = main_heads(model, heads), ask(model, prompts, truncate=truncate).pairs
    spots = Spots.draw(pairs.clean.lengths.tolist(), per_prompt, targets, seed)
    if len(spots.prompts) < 4:
        what = f"{len(spots.prompts)} tokens to show"
        raise InterpError("E205", what, where="joint embedding", fix="more prompts, or more tokens of each")
    found = head_vectors(model, pairs, chosen, spots, rotated=rotated, batch_size=batch_size)
    words = [pairs.tokens[prompt][at] for prompt, at in zip(spots.prompts, spots.positions, strict=True)]
    return {head.label: _embedded(head.label, one, spots, words, method, seed) for head, one in found.items()}


def _embedded(
    label: str, vectors: HeadVectors, spots: Spots, words: Sequence[str], method: str, seed: int
) -> JointEmbedding:
    normalising, held_out = _normalised(vectors, spots)
    queries, keys = normalising.queries(vectors.queries), normalising.keys(vectors.keys)
    places, explained = _flat(np.concatenate([queries, keys]), method, seed)
    token, key = (side[held_out] for side in spots.pairs)
    attention, prompts, n = vectors.attention[held_out], spots.prompts[token], len(words)
    return JointEmbedding(
        head=label, method=method, embedded=EMBEDDED[vectors.turned], tokens=(*words, *words),
        prompts=np.tile(spots.prompts, 2), positions=np.tile(spots.positions, 2), is_key=np.arange(2 * n) >= n,
        places=places, norms=np.linalg.norm(np.concatenate([vectors.queries, vectors.keys]), axis=1),
        normalising=normalising, explained=explained,
        full=closeness(queries[token], keys[key], attention, prompts, seed=seed),
        flat=closeness(places[token], places[n + key], attention, prompts, seed=seed),
    )  # fmt: skip


def _normalised(vectors: HeadVectors, spots: Spots) -> tuple[Normalising, Int[np.ndarray, " pair"]]:
    """The best factor on every second pair, and the numbers of the other pairs."""
    every = np.arange(len(vectors.attention))
    token, key = (side[::2] for side in spots.pairs)
    ranks = centred_ranks(vectors.attention[::2])
    middle, best, most = balanced(vectors.queries, vectors.keys), 1.0, -np.inf
    for factor in middle * FACTORS[np.argsort(np.abs(np.log(FACTORS)), kind="stable")]:
        one = Normalising.of(vectors.queries, vectors.keys, float(factor))
        near = nearness(one.queries(vectors.queries)[token], one.keys(vectors.keys)[key])
        found = float(np.nan_to_num(correlation(centred_ranks(near), ranks), nan=-1.0))
        if found > most:
            best, most = float(factor), found
    return Normalising.of(vectors.queries, vectors.keys, best), every[1::2]


def _flat(points: Float[np.ndarray, "point axis"], method: str, seed: int) -> tuple[np.ndarray, float]:
    """Points in two dimensions, and the share of the variance that is left."""
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(points) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points).astype(float), np.nan
    from sklearn.decomposition import PCA

    if not np.ptp(points, axis=0).any():  # all in one place: nothing varies
        return np.zeros((len(points), 2)), 0.0
    pca = PCA(2, svd_solver="full")
    return pca.fit_transform(points), float(pca.explained_variance_ratio_.sum())
