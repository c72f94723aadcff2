"""FastV: how many image tokens a model needs behind its first layers, and whether attention knows which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.evidence import bootstrap_interval
from interp.circuits.tables import as_text, counted, interval, number
from interp.hooks.batch import Batch
from interp.hooks.metrics import metric as metric_of
from interp.hooks.naive import batches, read_output
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.vision.contrast import image_looks
from interp.vision.edits import Boost
from interp.vision.modulation import most_looked_at, of_image
from interp.vision.sinks import find_sinks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

RANKINGS = ("attention", "sinks last", "random", "least attention")


@dataclass(frozen=True, eq=False, repr=False)
class PruningCurve:
    """A metric by share of image tokens that are kept.

    Attributes:
        layer: from which on the others are hidden.
        shares: that are kept.
        rankings: who is kept first.
        values: of each ranking, share and prompt.
    """

    layer: int
    metric: str
    shares: tuple[float, ...]
    rankings: tuple[str, ...]
    values: Float[np.ndarray, "ranking share prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row a ranking and share: mean and 95 % interval over prompts."""
        import pandas as pd

        low, high = bootstrap_interval(self.values.reshape(-1, self.values.shape[2]))
        cells = [(ranking, share) for ranking in self.rankings for share in self.shares]
        mean = self.values.mean(2).ravel()
        rows = [(*cell, *numbers) for cell, *numbers in zip(cells, mean, low, high, strict=True)]
        return pd.DataFrame(rows, columns=["ranking", "share", self.metric, "low", "high"])

    def plot(self) -> go.Figure:
        """The metric by share that is kept, one line a ranking."""
        from interp.report.seeing_figures import pruning_figure

        return pruning_figure(self)

    def __repr__(self) -> str:
        lines = [[row[0], f"{row[1]:.0%}", number(row[2]), interval(row[3], row[4])] for row in self.to_frame().itertuples(index=False, name=None)]  # fmt: skip
        said = f"{self.metric} on {counted(self.values.shape[2], 'prompt')}, image tokens hidden from layer {self.layer} on"
        return as_text(f"PruningCurve: {said}", ("ranking", "kept", self.metric, "interval"), lines)


def pruning_curve(
    model: HookedModel,
    pairs: Pairs,
    *,
    layer: int = 2,
    shares: Sequence[float] = (1.0, 0.75, 0.5, 0.25, 0.1),
    rankings: Sequence[str] = RANKINGS,
    metric: str = "top1",
    batch_size: int = 64,
    seed: int = 0,
) -> PruningCurve:
    """Hide image tokens from layer `layer` on and read the answers.

    Chen et al. 2024, FastV, arXiv 2403.06764: tokens are kept by the attention that the last token gives them in the layer
    before, mean over heads. Hidden tokens keep their places, so that positions stay what they were. The published code
    ranks for a whole batch by its first prompt; here every prompt has its own ranking. That ranking favours visual
    sinks: 'sinks last' puts them behind all others; where there are none it equals 'attention'. 'random' is one order
    for all prompts.

    Args:
        layer: 1 or later.
        seed: of the random order.

    Raises:
        InterpError: E205, a layer without one before it, or a share outside 0 to 1; E201, another ranking; E314, prompts
            without a picture.
    """
    if not 1 <= layer < model.n_layers or not all(0 <= share <= 1 for share in shares):
        raise InterpError(
            "E205", f"layer {layer}, shares {tuple(shares)}", where="pruning curve", fix="layer 1 or later"
        )
    if unknown := [name for name in rankings if name not in RANKINGS]:
        raise InterpError("E201", f"no ranking {unknown[0]!r}", fix=f"known: {', '.join(RANKINGS)}")
    values = np.empty((len(rankings), len(shares), len(pairs)))
    for start, stop in batches(len(pairs), batch_size):
        batch, at = pairs.clean.rows(start, stop).to(model.device), pairs.read_at[start:stop]
        looks = image_looks(model, (batch, at), [layer - 1])
        for i, name in enumerate(rankings):
            order = _worth(model, batch, looks, layer, name, seed)
            for j, share in enumerate(shares):
                output = _pruned(model, batch, at, order, share, layer)
                values[i, j, start:stop] = _value(metric, output, pairs, start, stop)
    return PruningCurve(layer, metric, tuple(shares), tuple(rankings), values)


def _worth(
    model: HookedModel, batch: Batch, looks: Float[Tensor, "batch image_token"], layer: int, name: str, seed: int
) -> Float[Tensor, "batch image_token"]:
    """What each image token is ranked by."""
    if name == "random":
        return torch.rand(looks.shape[1], generator=torch.Generator().manual_seed(seed)).expand_as(looks)
    if name == "sinks last":
        sinks = find_sinks(model, batch, layers=[layer - 1]).visual(layer - 1)
        own = torch.stack([row[list(span)] for row, span in zip(sinks, batch.spans["image"], strict=True)])
        return looks.masked_fill(own, -1.0)
    return -looks if name == "least attention" else looks


def _pruned(
    model: HookedModel, batch: Batch, at: Tensor, order: Float[Tensor, "batch image_token"], share: float, layer: int
) -> Float[Tensor, "batch d_vocab"]:
    count = torch.full((batch.size,), round(share * order.shape[1]))
    hidden = ~most_looked_at(order, count)
    heads = [f"L{later}H*" for later in range(layer, model.n_layers)]
    with model.edit(Boost(heads, of_image(batch, -hidden.float(), "FastV"), "share", None)):
        return read_output(model(batch), batch, at).cpu()


def _value(metric: str, output: Tensor, pairs: Pairs, start: int, stop: int) -> np.ndarray:
    sides = (("answer", pairs.answer), ("distractor", pairs.distractor))
    given = {name: side[start:stop] for name, side in sides if side is not None}
    found: np.ndarray = metric_of(metric)(output, **given).double().numpy()
    return found
