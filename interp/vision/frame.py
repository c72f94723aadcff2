"""Where a patch of the processed picture lies in the picture as it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interp.kernels.errors import InterpError


@dataclass(frozen=True)
class Frame:
    """What a processor did to a picture: resized it, then cut out its middle.

    Attributes:
        size: height and width of the picture as it was given, in pixels.
        scale: pixels of the processed picture for one of the given one, down and across.
        offset: rows and columns of the resized picture that were cut off at the top and on the left; negative where the
            processor put a border there.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of(cls, processor: Any, size: tuple[int, int], processed: tuple[int, int]) -> Frame:
        """The frame of one picture.

        Args:
            processor: of the model, or its image processor.
            size: height and width of the given picture.
            processed: the same of what the model reads: `pixel_values.shape[-2:]`, or, where pictures are given as rows of
                patches, rows and columns of patches times their size.

        Raises:
            InterpError: E205 where the processor's settings lead to another size than that, or it adds borders.
        """
        images = getattr(processor, "image_processor", processor)
        resized = _resized(images, size, processed)
        cut = getattr(images, "crop_size", None) if getattr(images, "do_center_crop", False) else None
        final = resized if cut is None else (int(cut["height"]), int(cut["width"]))
        if final != processed:
            what = f"{type(images).__name__} makes {final} of {size}, and the model reads {processed}"
            raise InterpError("E205", what, fix="use the processor that made the pictures")
        offset = (float((resized[0] - final[0]) // 2), float((resized[1] - final[1]) // 2))
        return cls(size, (resized[0] / size[0], resized[1] / size[1]), offset)

    def original(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Top, left, bottom and right of a box of the processed picture in the given one, cut at its borders."""
        ends = []
        for place, axis in zip(box, (0, 1, 0, 1), strict=True):
            found = (place + self.offset[axis]) / self.scale[axis]
            ends.append(min(max(found, 0.0), float(self.size[axis])))
        return ends[0], ends[1], ends[2], ends[3]


def _resized(images: Any, size: tuple[int, int], processed: tuple[int, int]) -> tuple[int, int]:
    """Size after resizing and before anything is cut off."""
    if not getattr(images, "do_resize", False):
        return size
    wanted = images.size
    if "height" in wanted:
        return int(wanted["height"]), int(wanted["width"])
    if ("longest_edge" in wanted and not getattr(images, "do_pad", False)) or getattr(images, "merge_size", None):
        return processed  # whatever suits the patches; nothing is cut off or added
    if "shortest_edge" not in wanted:
        what = f"{type(images).__name__} adds borders, and where they are is not known"
        raise InterpError("E205", what, fix="show the picture as the model reads it: frame=None")
    edge = int(wanted["shortest_edge"])
    short, long = min(size), max(size)
    other = int(edge * long / short)
    return (edge, other) if size[0] <= size[1] else (other, edge)
