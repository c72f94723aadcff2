"""How far back each head looks: the attention that an average query gives to each distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from interp.hooks.naive import batches
from interp.hooks.names import HeadId, HeadSpec, parse_heads
from interp.hooks.pairs import Pairs
from interp.hooks.prompts import Prompts
from interp.kernels.errors import InterpError, suggest
from interp.pictures.offsets import OffsetMass
from interp.sinks.asking import ask
from interp.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

FURTHEST = 256


@dataclass(frozen=True, eq=False)
class AttentionByDistance:
    """What queries give to the key so many tokens before them.

    Attributes:
        heads: labels.
        offsets: distances in tokens; below 0 are keys after the query, which models that look ahead have alone.
        mean: over all queries that have a key at this distance; nan where none has.
        even: what even attention to every key that a query sees would give there.
        counts: queries that have such a key.
        beyond: share of all attention that goes further.
    """

    heads: tuple[str, ...]
    offsets: Int[np.ndarray, " offset"]
    mean: Float[np.ndarray, "head offset"]
    even: Float[np.ndarray, " offset"]
    counts: Int[np.ndarray, " offset"]
    beyond: Float[np.ndarray, " head"]

    def index(self, head: str) -> int:
        """Row of a head (E201)."""
        if head not in self.heads:
            raise InterpError("E201", f"no head {head!r}", fix=suggest(head, self.heads))
        return self.heads.index(head)

    def peak(self, head: str) -> int:
        """The distance that gets most."""
        return int(self.offsets[np.nanargmax(self.mean[self.index(head)])])

    def to_frame(self) -> pd.DataFrame:
        """One row a head and distance."""
        import pandas as pd

        n_heads, n_offsets = self.mean.shape
        columns: dict[str, Any] = {
            "label": np.repeat(np.array(self.heads, dtype=object), n_offsets),
            "offset": np.tile(self.offsets, n_heads),
            "attention": self.mean.ravel(),
            "even": np.tile(self.even, n_heads),
            "queries": np.tile(self.counts, n_heads),
        }
        return pd.DataFrame(columns)

    def plot(self, heads: Sequence[str] | None = None) -> go.Figure:
        """One line a head; dotted, even attention."""
        from interp.report.picture_figures import distance_figure

        return distance_figure(self, heads)


def attention_by_distance(
    model: HookedModel,
    prompts: Task | Prompts,
    heads: HeadSpec = "all",
    *,
    furthest: int | None = None,
    batch_size: int = 16,
    truncate: bool = False,
) -> AttentionByDistance:
    """Mean attention by distance, from one forward a batch; memory grows with the length of prompts, not its square.

    Args:
        prompts: a task, or prompts as a model takes them.
        furthest: the longest distance that is told apart; None takes the longest prompt, up to `FURTHEST`.

    Raises:
        InterpError: E205, furthest under 1, or heads of another tower; E303 to E313 for the prompts; E403 attention
            that is computed where it can't be read.
    """
    chosen = main_heads(model, heads)
    return of_pairs(model, ask(model, prompts, truncate=truncate).pairs, chosen, furthest, batch_size)


def of_pairs(
    model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], furthest: int | None = None, batch_size: int = 16
) -> AttentionByDistance:
    """The same of prompts as the model reads them."""
    lengths = pairs.clean.lengths.numpy()
    most = min(FURTHEST, max(1, int(lengths.max()) - 1)) if furthest is None else furthest
    asked = {"mass": OffsetMass(most)}
    layers = sorted({head.layer for head in heads})
    total = np.zeros((len(heads), 2 * most + 2))
    for start, stop in batches(len(pairs), batch_size):
        _, found = model.run_with_statistics(pairs.clean.rows(start, stop).to(model.device), asked, layers=layers)
        total += [found[head.layer]["mass"][:, head.head].double().sum(0).cpu().numpy() for head in heads]
    return _averaged([head.label for head in heads], total, lengths, most)


def _averaged(
    labels: Sequence[str], total: Float[np.ndarray, "head entry"], lengths: Int[np.ndarray, " prompt"], most: int
) -> AttentionByDistance:
    ahead = bool(total[:, :most].any())
    offsets = np.arange(-most if ahead else 0, most + 1)
    counts = np.maximum(lengths[:, None] - np.abs(offsets), 0).sum(0)
    known = np.where(counts > 0, counts, np.nan)
    mass = total[:, most + offsets[0] : 2 * most + 1]
    even = np.nansum([_even(int(length), offsets, ahead) for length in lengths], axis=0) / known
    beyond = total[:, -1] / total.sum(1)
    return AttentionByDistance(tuple(labels), offsets, mass / known, even, counts, beyond)


def _even(length: int, offsets: Int[np.ndarray, " offset"], ahead: bool) -> Float[np.ndarray, " offset"]:
    """Sum over the queries of a prompt of what even attention gives to each distance."""
    n = np.maximum(length - np.abs(offsets), 0)
    if ahead:
        even: np.ndarray = n / length
        return even
    share = 1 / np.arange(1, length + 1)
    later = np.append(share[::-1].cumsum()[::-1], 0.0)
    found: np.ndarray = later[np.minimum(offsets, length)]
    return found


def main_heads(model: HookedModel, heads: HeadSpec) -> tuple[HeadId, ...]:
    """The chosen heads, all of the main tower (E205)."""
    chosen = parse_heads(heads, model.heads)
    other = [head.label for head in chosen if head.tower]
    if other:
        raise InterpError("E205", f"{other[0]} is no head of the main tower", where="pictures", fix="choose others")
    return chosen
