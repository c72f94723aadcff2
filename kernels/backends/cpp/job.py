"""The kernel's call: `job.h` field by field, and how a tensor enters it."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int64, c_void_p

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MARGIN = 64
"""Zeros on either side of the band's weights."""

SIZES = ("batches", "heads", "kv_heads", "queries", "keys", "d_head", "d_value")
COUNTS = ("functional_count", "band_count", "distances", "column_count")
VIEWS = ("q", "k", "v", "low", "high", "first", "stop", "shift", "functionals", "weights")
POINTERS = (
    *("slopes", "band", "output", "lse", "entropy", "largest", "argmax", "squares"),
    *("means", "near", "columns", "peak", "total"),
)


class View(Structure):
    """A tensor by its address and first three strides, in elements."""

    _fields_ = [("data", c_void_p), ("batch", c_int64), ("head", c_int64), ("row", c_int64)]


class Job(Structure):
    """One call."""

    _fields_ = [
        *((name, c_int64) for name in (*SIZES, *COUNTS, "kind", "sigmoid", "threads")),
        *((name, c_double) for name in ("scale", "softcap")),
        *((name, View) for name in VIEWS),
        *((name, c_void_p) for name in POINTERS),
    ]


def view(tensor: Tensor) -> View:
    """Of a tensor [batch, head, row, column] or [batch, head, row], whose last axis is contiguous.

    An axis of one that stands for all is to be expanded before.
    """
    assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1, "the last axis is not contiguous"
    row = tensor.stride(2) if tensor.ndim == 4 else 1
    return View(tensor.data_ptr(), tensor.stride(0), tensor.stride(1), row)
