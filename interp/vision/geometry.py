"""Token-to-patch geometry: which token of a model that sees shows which part of the picture.

Nothing is believed of an architecture's name. Sizes come from the configuration and the pictures, the order of tokens is
expected to be one of the known ones, and both are proven on the model: a patch that is changed must change the vector of
the token that is named for it, and no other, before any token has looked at another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError
from interp.vision.layout import Cells, Grid, Layout, image_positions, image_token, layout_of, special_tokens
from interp.vision.probing import brightened, changed, entering_point, reached_text, stream_at

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Which token shows which patch.

    Attributes:
        tower: whose tokens they are, as `model.heads` names it.
        n_tokens: of one picture in the tower.
        tokens: the token of each patch.
        special: tokens that show no patch: 'cls', 'register', 'distillation' or 'other'.
        patch: height and width of a patch in pixels of the processed picture.
        text: of models that read text too, the number among the picture's image tokens of the one that stands for each
            cell of patches; None where a tower is all there is, or text and picture never meet.
    """

    tower: str
    n_tokens: int
    tokens: Grid
    special: Mapping[str, tuple[int, ...]]
    patch: tuple[int, int]
    text: Cells | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def patches(self) -> tuple[int, ...]:
        """Tokens of all patches, row by row."""
        return tuple(self.tokens.ravel().tolist())

    @property
    def cell(self) -> tuple[int, int]:
        """Rows and columns of patches that one image token of the text stands for."""
        rows, cols = self.shape if self.text is None else self.text.shape
        return self.shape[0] // rows, self.shape[1] // cols

    def kind(self, token: int) -> str:
        """'patch', or what the token is instead."""
        return next((kind for kind, tokens in self.special.items() if token in tokens), "patch")

    def place(self, token: int) -> tuple[int, int]:
        """Row and column of a token's patch.

        Raises:
            InterpError: E203, a token that shows no patch.
        """
        found = np.argwhere(self.tokens == token)
        if not len(found):
            raise InterpError("E203", f"token {token} shows no patch", fix=f"patches: {min(self.patches)} and later")
        return int(found[0, 0]), int(found[0, 1])

    def box(self, row: int, col: int) -> Box:
        """Top, left, bottom and right of a patch, in pixels of the processed picture; the last two are outside."""
        height, width = self.patch
        return row * height, col * width, (row + 1) * height, (col + 1) * width

    def text_box(self, row: int, col: int) -> Box:
        """The same for a cell of patches that one image token of the text stands for."""
        high, wide = self.cell
        top, left, _, _ = self.box(row * high, col * wide)
        return top, left, top + high * self.patch[0], left + wide * self.patch[1]

    def on_grid(self, values: Tensor) -> Tensor:
        """Values with one number a token of the tower [... token], as the picture has them [... row col]."""
        return values[..., self.tokens]

    def text_positions(self, batch: Batch, config: Any) -> Int[np.ndarray, "batch row col"]:
        """Positions in each prompt of the image tokens, as the picture has them."""
        assert self.text is not None, "no text in this model"
        return np.stack([image_positions(batch, config, row)[self.text] for row in range(batch.size)])


def geometry(model: HookedModel, batch: Batch) -> Geometry:
    """The geometry of a batch of pictures of one size, proven on its first one.

    Costs a few forwards that stop behind the embeddings, once for each model and size of picture.

    Raises:
        InterpError: E205 a model that reads no pictures, or pictures of several sizes; E314 no picture; E206 a size that
            is no whole number of patches; E403 where the order of tokens is none that is known.
    """
    tower = model.adapter.seeing_tower
    if tower is None:
        raise InterpError("E205", f"no part of {model.name} reads pictures", fix="choose a model that sees")
    layout = layout_of(model, tower, batch)
    known = _KNOWN.setdefault(model.adapter, {})
    key = (*layout.shape, tuple(sorted(set(batch.inputs))))
    if key not in known:
        known[key] = _proven(model, tower, layout, batch.rows(0, 1))
    return known[key]


_KNOWN: WeakKeyDictionary[Any, dict[Any, Geometry]] = WeakKeyDictionary()


def _proven(model: HookedModel, tower: str, layout: Layout, batch: Batch) -> Geometry:
    point = entering_point(model, tower)
    before = stream_at(model, batch, point)
    probes = _corners(layout)
    found = {}
    for row, col in probes:
        hit = changed(before, stream_at(model, brightened(batch, _where(layout, row, col)), point))
        if len(hit) != 1:
            raise _unknown(model, f"patch {row}, {col} reaches {len(hit)} tokens instead of one")
        found[row, col] = hit[0]
    first = found[0, 0] - int(layout.order[0, 0])
    tokens = first + layout.order
    wrong = next(((row, col) for row, col in probes if tokens[row, col] != found[row, col]), None)
    if wrong is not None:
        what = f"patch {wrong[0]}, {wrong[1]} is token {found[wrong]}, where {tokens[wrong]} was expected"
        raise _unknown(model, what)
    rest = sorted(set(range(before.shape[1])) - set(tokens.ravel().tolist()))
    if len(rest) + tokens.size != before.shape[1]:
        raise _unknown(model, f"{tokens.size} patches and {before.shape[1]} tokens")
    bare = Geometry(tower, before.shape[1], tokens, special_tokens(model, tower, rest), layout.patch)
    return bare if tower == "" else replace(bare, text=_text_cells(model, bare, layout, batch))


def _corners(layout: Layout) -> list[tuple[int, int]]:
    """Patches that tell every known order from every other: three corners, and the neighbours of the first."""
    rows, cols = layout.shape
    found = {(0, 0), (0, min(1, cols - 1)), (min(1, rows - 1), 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)}
    return sorted(found)


def _where(layout: Layout, row: int, col: int) -> Box | int:
    if layout.rows_of_input is not None:
        return int(layout.rows_of_input[row, col])
    high, wide = layout.patch
    return row * high, col * wide, (row + 1) * high, (col + 1) * wide


def _text_cells(model: HookedModel, found: Geometry, layout: Layout, batch: Batch) -> Cells | None:
    """Number of the image token that stands for each cell; None where picture and text do not meet in one sequence.

    Raises:
        InterpError: E403 where image tokens stand for something else than one cell of patches each.
    """
    config = model.adapter.config  # type: ignore[attr-defined]
    if image_token(config) is None or "input_ids" not in batch.inputs:
        return None
    places = image_positions(batch, config, 0)
    cells = _cells(model, found, layout, len(places))
    high, wide = layout.shape[0] // cells.shape[0], layout.shape[1] // cells.shape[1]
    for row, col in _corners(replace(layout, order=found.tokens)):
        reached = reached_text(model, found.tower, batch, int(found.tokens[row, col]))
        expected = int(places[cells[row // high, col // wide]])
        if reached != [expected]:
            raise _unknown(model, f"patch {row}, {col} is read at {reached}, where {[expected]} was expected")
    return cells


def _cells(model: HookedModel, found: Geometry, layout: Layout, n_image: int) -> Cells:
    rows, cols = layout.shape
    n_special = found.n_tokens - rows * cols
    if n_image == rows * cols + n_special and n_special:
        return np.asarray(found.tokens)  # the tower's tokens, all of them
    side = max(1, round((rows * cols / n_image) ** 0.5))
    if rows % side or cols % side or rows * cols != n_image * side**2:
        raise _unknown(model, f"{rows} x {cols} patches and {n_image} image tokens in the text")
    return np.arange(n_image).reshape(rows // side, cols // side)


def _unknown(model: HookedModel, why: str) -> InterpError:
    fix = "its geometry is not known; scores that need none work all the same"
    return InterpError(
        "E403", f"tokens and patches of {model.name} do not fit together: {why}", where=model.name, fix=fix
    )
