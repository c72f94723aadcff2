"""An attention pattern as a small picture (PNG), for notebooks and pages that run no scripts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageColor, ImageDraw, ImageFont

from interp.report.palette import SEQUENTIAL
from interp.report.text import token_label

SIDE, CELL, LABEL = 360, (4, 22), 11
"""Pixels: about how wide all cells are together, smallest and largest cell, height of the letters."""


def pattern_picture(
    pattern: Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    labels: bool | None = None,
    title: str = "",
) -> Image.Image:
    """Queries from top to bottom, keys from left to right; dark is much attention, on a scale from 0 to 1.

    Args:
        pattern: attention of one head.
        tokens: as text, one a position.
        labels: write the tokens beside the cells; None does so where they fit.
        title: written above.
    """
    count = len(tokens)
    cell = max(CELL[0], min(CELL[1], SIDE // count))
    labelled = cell >= LABEL if labels is None else labels
    names = [_name(token_label(token)) for token in tokens] if labelled else []
    margin = max((name.width for name in names), default=0) + 6
    side = cell * count
    picture = Image.new("RGB", (margin + side + 1, margin + side + 1), "white")
    shades = np.array([ImageColor.getrgb(colour) for colour in SEQUENTIAL], dtype=np.float64)
    place = np.clip(pattern, 0, 1) * (len(shades) - 1)
    low = np.minimum(place.astype(int), len(shades) - 2)
    colours = shades[low] + (shades[low + 1] - shades[low]) * (place - low)[..., None]
    cells = Image.fromarray(colours.round().astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(cells, (margin, margin))
    ImageDraw.Draw(picture).rectangle((margin - 1, margin - 1, margin + side, margin + side), outline="#888888")
    for position, name in enumerate(names):
        offset = margin + position * cell + (cell - name.height) // 2
        picture.paste(name, (margin - 4 - name.width, offset))
        picture.paste(name.rotate(90, expand=True), (offset, margin - 4 - name.width))
    if not title:
        return picture
    heading = _name(title)
    titled = Image.new("RGB", (max(picture.width, heading.width), picture.height + 2 * LABEL), "white")
    titled.paste(heading, (0, 0))
    titled.paste(picture, (0, 2 * LABEL))
    return titled


def _name(text: str) -> Image.Image:
    """A token as a strip of letters."""
    font = ImageFont.load_default(LABEL)
    left, top, right, bottom = font.getbbox(text or " ")
    strip = Image.new("RGB", (round(right), LABEL + 3), "white")
    ImageDraw.Draw(strip).text((0, 0), text, fill="#333333", font=font)
    return strip
