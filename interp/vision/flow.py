"""Where a picture's content travels: attention between groups of tokens is forbidden in a window of layers.

After Kaduri et al. 2025, What's in the Image, arXiv 2411.17491, and Geva et al. 2023, arXiv 2304.14767.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.evidence import bootstrap_interval
from interp.circuits.tables import as_text, counted, interval, number
from interp.hooks.batch import Batch
from interp.hooks.interventions import Knockout
from interp.hooks.metrics import metric as metric_of
from interp.hooks.naive import plain_outputs, sweep
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.vision.pictures import after_image

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

TEXT, LAST = "text behind the picture", "last token"
PATHS = {
    "image to text": (TEXT, "image"),
    "image to end": (LAST, "image"),
    "text to end": (LAST, TEXT),
}
"""Path -> who may no longer look, and at what. Text is what stands between the picture and the last token."""


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """What a metric loses when a path is cut in a window of layers.

    Attributes:
        paths, windows: what was cut, and in which layers (first, one behind the last).
        clean: the metric of each prompt.
        values: the metric with a path cut.
    """

    metric: str
    paths: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    clean: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "path window prompt"]

    @property
    def lost(self) -> Float[np.ndarray, "path window prompt"]:
        """Clean less cut: positive where the path is needed."""
        return self.clean - self.values

    def to_frame(self) -> pd.DataFrame:
        """One row a path and window: what is lost, mean and 95 % interval over prompts."""
        import pandas as pd

        lost = self.lost.reshape(-1, len(self.clean))
        low, high = bootstrap_interval(lost)
        cells = [(path, *window) for path in self.paths for window in self.windows]
        rows = [(*cell, *numbers) for cell, *numbers in zip(cells, lost.mean(1), low, high, strict=True)]
        return pd.DataFrame(rows, columns=["path", "first", "stop", "lost", "low", "high"])

    def plot(self) -> go.Figure:
        """What is lost by window, one line a path."""
        from interp.report.seeing_figures import flow_figure

        return flow_figure(self)

    def __repr__(self) -> str:
        rows = self.to_frame().itertuples(index=False, name=None)
        lines = [[row[0], f"{row[1]} to {row[2] - 1}", number(row[3], signed=True), interval(row[4], row[5])] for row in rows]  # fmt: skip
        said = f"{self.metric} is {number(float(self.clean.mean()))} on {counted(len(self.clean), 'prompt')}"
        return as_text(f"Flow: {said}", ("path cut", "layers", "lost", "interval"), lines)


def knockout_windows(
    model: HookedModel,
    pairs: Pairs,
    *,
    width: int = 1,
    paths: Sequence[str] = tuple(PATHS),
    metric: str = "logit_diff",
    batch_size: int = 64,
) -> Flow:
    """Cut each path in every window of `width` layers.

    Raises:
        InterpError: E205, a width that the model has not; E201, another path; E314, prompts without a picture.
    """
    if not 1 <= width <= model.n_layers:
        raise InterpError("E205", f"windows of {width} layers", where="knockout", fix=f"1 to {model.n_layers}")
    if unknown := [name for name in paths if name not in PATHS]:
        raise InterpError("E201", f"no path {unknown[0]!r}", fix=f"known: {', '.join(PATHS)}")
    windows = [(first, first + width) for first in range(model.n_layers - width + 1)]
    batch = with_groups(pairs.clean, pairs.read_at).to(model.device)

    def measure(output: Float[Tensor, "part d_out"], start: int, stop: int) -> Float[Tensor, " part"]:
        sides = (("answer", pairs.answer), ("distractor", pairs.distractor))
        return metric_of(metric)(output, **{name: side[start:stop] for name, side in sides if side is not None})

    cuts = [Knockout([f"L{layer}H*" for layer in range(*window)], *PATHS[path]) for path in paths for window in windows]
    values = sweep(model, batch, cuts, pairs.read_at, measure, batch_size=batch_size).numpy()
    clean = measure(plain_outputs(model, batch, pairs.read_at, batch_size), 0, len(pairs)).double().numpy()
    shaped = values.reshape(len(paths), len(windows), -1)
    return Flow(metric, tuple(paths), tuple(windows), clean, shaped)


def with_groups(batch: Batch, read_at: Tensor) -> Batch:
    """The batch with roles for the text behind the picture and for the token where the answer is read (E314)."""
    behind = after_image(batch)
    last = torch.zeros_like(behind)
    last[torch.arange(batch.size), read_at] = True
    return replace(batch, spans={**batch.spans, TEXT: _spans(behind & ~last), LAST: _spans(last)})


def _spans(where: Bool[Tensor, "batch pos"]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row.nonzero().flatten().tolist()) for row in where)
