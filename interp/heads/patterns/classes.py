"""Classes of heads whose attention looks alike: clustering of what their patterns show over many prompts.

A head is described by seven numbers between 0 and 1, means over prompts of what `interp.heads` measures without storing a
map: attention to the query itself, the token before, the first token, the same token before, the token after it, how spread
out it is, and how far back it looks. Heads are joined by Ward's method, which draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.tables import as_text, counted, number
from interp.heads.attention import AttentionScorer
from interp.heads.patterns.binned_maps import binned_maps
from interp.heads.patterns.distance import AttentionDistance
from interp.heads.patterns.duplicate_token import DuplicateToken
from interp.heads.patterns.induction import Induction
from interp.heads.patterns.place import CurrentToken, FirstToken
from interp.heads.patterns.previous_token import PreviousToken
from interp.heads.patterns.spread import Entropy
from interp.heads.together import measure_together
from interp.hooks.names import HeadId, HeadSpec, parse_heads
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd

    from interp.hooks.model import HookedModel

SHARES: tuple[AttentionScorer, ...] = (
    CurrentToken(), PreviousToken(), FirstToken(), DuplicateToken(), Induction(), Entropy(),
)  # fmt: skip
"""What a head is described by, beside its distance."""

FEATURES = (*(one.name for one in SHARES), "distance")
DRAWS, MOST = 20, 10
"""Of the null and of the resampled prompts; classes at most."""

Table = Float[np.ndarray, "head feature"]
Labels = Int[np.ndarray, " head"]


@dataclass(frozen=True, eq=False, repr=False)
class PatternClasses:
    """Classes of heads, largest first.

    Attributes:
        model, task: names.
        heads: labels.
        classes: number of each head's class.
        features: what each head is described by, see `FEATURES`.
        maps: typical map of each class, mean over its heads and some prompts; rows are bins of queries, columns of keys.
        silhouette: of each head, -1 to 1: how much nearer it is to its class than to the next one.
        null: mean silhouette where each feature is permuted over heads by itself, draw by draw; as many classes are
            chosen there as fit best.
        stability: agreement of the classes with those found on prompts drawn with replacement (adjusted Rand index, 1
            where all heads stay together), draw by draw.
    """

    model: str
    task: str
    heads: tuple[str, ...]
    classes: Labels
    features: Table
    maps: Float[np.ndarray, "class query key"]
    silhouette: Float[np.ndarray, " head"]
    null: Float[np.ndarray, " draw"]
    stability: Float[np.ndarray, " draw"]

    @property
    def members(self) -> tuple[tuple[str, ...], ...]:
        """Labels of the heads of each class."""
        return tuple(
            tuple(head for head, own in zip(self.heads, self.classes, strict=True) if own == one)
            for one in range(len(self.maps))
        )

    @property
    def p(self) -> float:
        """Share of permuted tables that fall into classes as well: (r + 1) / (n + 1)."""
        return float((np.sum(self.null >= self.silhouette.mean()) + 1) / (len(self.null) + 1))

    def centre(self, number_of_class: int) -> dict[str, float]:
        """Mean of each feature over the heads of a class."""
        mean = self.features[self.classes == number_of_class].mean(0)
        return dict(zip(FEATURES, mean.tolist(), strict=True))

    def headline(self) -> str:
        """One sentence."""
        found, by_chance = number(float(self.silhouette.mean())), number(float(self.null.max()))
        stable = f"agreement over resampled prompts {number(float(self.stability.mean()))}"
        size = f"{counted(len(self.heads), 'head')} in {len(self.maps)} classes"
        verdict = "" if self.p <= 0.05 else ": not distinguishable from permuted features"
        return f"{size}, silhouette {found} (at most {by_chance} of permuted features), {stable}{verdict}."

    def __repr__(self) -> str:
        rows = []
        for one, members in enumerate(self.members):
            inside, centre = self.classes == one, self.centre(one)
            top = sorted(FEATURES, key=lambda name: -centre[name])[:3]
            shown = ", ".join(f"{name} {number(centre[name])}" for name in top)
            rows.append(
                [str(one), str(len(members)), ", ".join(members), shown, number(self.silhouette[inside].mean())]
            )
        title = f"PatternClasses({self.model}, {self.task}): {self.headline()}"
        return as_text(title, ("class", "heads", "members", "most of", "silhouette"), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a head."""
        import pandas as pd

        columns = dict(zip(FEATURES, self.features.T, strict=True))
        told = {"head": self.heads, "class": self.classes, "silhouette": self.silhouette}
        return pd.DataFrame({**told, **columns})


def pattern_classes(
    model: HookedModel,
    task: Task,
    *,
    heads: HeadSpec = "all",
    n_classes: int | None = None,
    shown: int = 8,
    batch_size: int = 32,
    seed: int = 0,
) -> PatternClasses:
    """Heads of the main tower by what their patterns look like on the prompts of a task.

    Args:
        task: its prompts should repeat tokens, or nothing tells induction heads from others; `induction` does.
        n_classes: None takes the number, from 2 to 10, whose mean silhouette is highest.
        shown: prompts that typical maps are made of.
        seed: of permutations and resampled prompts.

    Raises:
        InterpError: E202, E203 for the heads; E205, fewer than three of them or another number of classes than 2 to one
            less than heads; E403, attention that can't be read; E303 to E312 for the prompts.
    """
    chosen = parse_heads(heads, model.heads)
    most = min(MOST, len(chosen) - 1)
    if most < 2 or (n_classes is not None and not 2 <= n_classes < len(chosen)):
        what = f"{n_classes or 'some'} classes of {counted(len(chosen), 'head')}"
        raise InterpError("E205", what, fix="at least 2, and fewer than heads")
    pairs = tokenise(model.tokenizer, task.examples(model.tokenizer).examples, limit=model.adapter.n_positions)
    table = described(model, pairs, chosen, batch_size)
    sizes = range(2, most + 1) if n_classes is None else (n_classes,)
    features = np.nanmean(table, axis=2)
    classes, silhouette = best_classes(features, sizes)
    rng = np.random.default_rng(seed)
    null = [best_classes(permuted(features, rng), sizes)[1].mean() for _ in range(DRAWS)]
    maps = binned_maps(model, pairs.clean.rows(0, min(shown, len(pairs))), chosen)
    typical = np.stack([maps[classes == one].mean(0) for one in range(classes.max() + 1)])
    stability = np.array([_agreement(table, classes, rng) for _ in range(DRAWS)])
    labels = tuple(head.label for head in chosen)
    found = (classes, features, typical, silhouette, np.array(null), stability)
    return PatternClasses(model.name, task.name, labels, *found)


def described(
    model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int
) -> Float[np.ndarray, "head feature prompt"]:
    """Each feature of each head on each prompt; nan where a prompt does not show it, as without a repeated token."""
    *shares, distance = measure_together([*SHARES, AttentionDistance()], model, pairs, heads, batch_size)
    far = distance.values / (2 * distance.null)
    table = np.stack([*(one.values for one in shares), far], axis=1)
    return np.where(np.isnan(table).all(2, keepdims=True), 0.0, table)


def best_classes(features: Table, sizes: Sequence[int]) -> tuple[Labels, Float[np.ndarray, " head"]]:
    """Classes by Ward's method, in the number that separates best, largest class first; and each head's silhouette."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_samples

    best: tuple[Labels, Float[np.ndarray, " head"]] | None = None
    for size in sizes:
        labels = AgglomerativeClustering(size).fit_predict(features)
        fit = silhouette_samples(features, labels)
        if best is None or fit.mean() > best[1].mean():
            best = labels, fit
    assert best is not None
    order = np.argsort(-np.bincount(best[0]), kind="stable")
    return np.argsort(order)[best[0]], best[1]


def permuted(features: Table, rng: np.random.Generator) -> Table:
    """Each column in an order of its own: values as they were, without what they have to do with each other."""
    return np.stack([rng.permutation(column) for column in features.T], axis=1)


def _agreement(table: Float[np.ndarray, "head feature prompt"], classes: Labels, rng: np.random.Generator) -> float:
    """Adjusted Rand index of classes from prompts drawn with replacement and these."""
    from sklearn.metrics import adjusted_rand_score

    drawn = table[:, :, rng.integers(table.shape[2], size=table.shape[2])]
    kept = np.isfinite(drawn)
    features = np.where(kept, drawn, 0).sum(2) / np.maximum(kept.sum(2), 1)
    return float(adjusted_rand_score(classes, best_classes(features, (int(classes.max()) + 1,))[0]))
