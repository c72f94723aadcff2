"""Patterns of all heads on one prompt, small enough to look at side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.hooks.names import HeadSpec
from interp.hooks.prompts import Prompts
from interp.kernels.errors import InterpError
from interp.kernels.statistics.pooled import BlockPooled
from interp.pictures.distance import main_heads
from interp.sinks.asking import ask
from interp.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.hooks.model import HookedModel

CELLS = 48


@dataclass(frozen=True, eq=False)
class HeadMatrix:
    """Patterns of heads on one prompt.

    Attributes:
        heads: labels.
        cells: of each head, rows are queries; of long prompts the largest entry of blocks of tokens.
        block: tokens in a row or column; 1 shows the pattern itself.
        tokens: of the prompt.
    """

    heads: tuple[str, ...]
    cells: Float[np.ndarray, "head query key"]
    block: int
    tokens: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a head and cell; `query` and `key` are the first tokens of their blocks."""
        import pandas as pd

        n_heads, n_queries, n_keys = self.cells.shape
        at = pd.MultiIndex.from_product(
            [self.heads, range(0, n_queries * self.block, self.block), range(0, n_keys * self.block, self.block)],
            names=["label", "query", "key"],
        )
        columns: dict[str, Any] = {"attention": self.cells.ravel()}
        return pd.DataFrame(columns, index=at).reset_index()

    def plot(self) -> go.Figure:
        """Small multiples: layers down, heads across."""
        from interp.report.picture_figures import matrix_figure

        return matrix_figure(self)


def head_matrix(
    model: HookedModel,
    prompts: Task | Prompts,
    heads: HeadSpec = "all",
    *,
    prompt: int = 0,
    cells: int = CELLS,
    truncate: bool = False,
) -> HeadMatrix:
    """Patterns of heads on one prompt, pooled on the way where it is long: no pattern is stored.

    Args:
        prompt: number of the prompt among those kept.
        cells: rows and columns at most.

    Raises:
        InterpError: E205, no such prompt, fewer than 2 cells, or heads of another tower; E303 to E313 for the prompts;
            E403 attention that is computed where it can't be read.
    """
    chosen, pairs = main_heads(model, heads), ask(model, prompts, truncate=truncate).pairs
    if not 0 <= prompt < len(pairs) or cells < 2:
        what = f"prompt {prompt} of {len(pairs)}, in {cells} cells"
        raise InterpError("E205", what, where="head matrix", fix="prompts count from 0; 2 cells or more")
    tokens = pairs.tokens[prompt]
    block = -(-len(tokens) // cells)
    ids = _alone(model, pairs.clean.input_ids[prompt], pairs.clean.mask, prompt)
    asked = {"map": BlockPooled(block)}
    _, found = model.run_with_statistics(ids, asked, layers=sorted({head.layer for head in chosen}))
    maps = [found[head.layer]["map"][0, head.head].double().cpu().numpy() for head in chosen]
    return HeadMatrix(tuple(head.label for head in chosen), np.stack(maps), block, tokens)


def _alone(model: HookedModel, ids: Any, mask: Any, prompt: int) -> Sequence[Any]:
    """One prompt without the padding that others need."""
    return [ids if mask is None else ids[mask[prompt]]]
