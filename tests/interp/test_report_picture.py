"""The picture of a pattern: every cell has the colour of its weight, where it belongs."""

import numpy as np
import pytest
from PIL import ImageColor

from interp.report.palette import SEQUENTIAL
from interp.report.picture import pattern_picture


@pytest.mark.parametrize("count", [3, 40, 200])
def test_cells_stand_where_they_belong_in_the_colour_of_their_weight(count):
    pattern = np.random.default_rng(0).random((count, count)) * np.tri(count)
    pattern[0, 0], pattern[-1, -1] = 1.0, 0.5
    picture = pattern_picture(pattern, ["x"] * count, labels=False)
    cell = max(4, min(22, 360 // count))
    assert picture.size == (6 + count * cell + 1,) * 2

    def at(query, key):
        return picture.getpixel((6 + key * cell + cell // 2, 6 + query * cell + cell // 2))

    dark, middle, light = (ImageColor.getrgb(SEQUENTIAL[place]) for place in (-1, 2, 0))
    assert at(0, 0) == dark and at(count - 1, count - 1) == middle and at(0, count - 1) == light


def test_tokens_and_title_make_room_for_themselves():
    pattern = np.eye(4)
    plain, labelled = (pattern_picture(pattern, ["one", " two", "three", "<s>"], labels=flag) for flag in (False, True))
    titled = pattern_picture(pattern, ["one", " two", "three", "<s>"], title="a head")
    assert plain.size < labelled.size and titled.height > labelled.height == labelled.width
    assert len({labelled.getpixel((x, y)) for x in range(10) for y in range(labelled.height)}) > 1
