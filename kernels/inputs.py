"""What is wrong with the tensors of a call: all of it at once, by argument name."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from interp.kernels.errors import InterpError, InterpErrors

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NAMES = {"q": "[batch, head, query_pos, d_head]", "k": "[batch, kv_head, key_pos, d_head]"}
NAMES["v"] = "[batch, kv_head, key_pos, d_value]"


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_mask: Tensor | None,
    documents: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Raises everything that is wrong: E206 shapes, dtypes and devices, E207 numbers that are not finite, E205 documents
    that come back after another one."""
    tensors = {"q": q, "k": k, "v": v}
    wrong = [*_axes(tensors)]
    if not wrong:
        wrong = [
            *_sizes(q, k, v),
            *_dtypes(tensors),
            *_keywise({"key_mask": key_mask, "documents": documents}, q, k),
            *_cellwise({"mask": mask, "bias": bias}, q, k),
        ]
    if not wrong:
        wrong = [*_values(tensors), *_packing(documents, key_mask)]
    if wrong:
        raise InterpErrors(wrong) if len(wrong) > 1 else wrong[0]


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _axes(tensors: dict[str, Tensor]) -> Iterator[InterpError]:
    for name, x in tensors.items():
        if x.ndim != 4 or 0 in x.shape:
            yield InterpError("E206", f"{name} must be {NAMES[name]}, none of them empty", where=f"{name}: {_shape(x)}")


def _sizes(q: Tensor, k: Tensor, v: Tensor) -> Iterator[InterpError]:
    where = f"q: {_shape(q)}, k: {_shape(k)}, v: {_shape(v)}"
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        yield InterpError("E206", "q, k and v differ in batch size", where=where)
    if k.shape[1:3] != v.shape[1:3]:
        yield InterpError("E206", "k and v differ in heads or length", where=where)
    if q.shape[3] != k.shape[3]:
        yield InterpError("E206", "q and k differ in d_head", where=where)
    if q.shape[1] % k.shape[1]:
        yield InterpError(
            "E206",
            f"{q.shape[1]} query heads can't share {k.shape[1]} key/value heads evenly",
            where=where,
            fix="head / kv_head must be a whole number",
        )


def _dtypes(tensors: dict[str, Tensor]) -> Iterator[InterpError]:
    kinds = {(x.dtype, x.device) for x in tensors.values()}
    if len(kinds) > 1 or next(iter(kinds))[0] not in DTYPES:
        yield InterpError(
            "E206",
            "q, k and v must share one floating dtype and one device",
            where=", ".join(f"{name}: {x.dtype} on {x.device}" for name, x in tensors.items()),
            fix="float64, float32, bfloat16 or float16",
        )


def _keywise(tensors: dict[str, Tensor | None], q: Tensor, k: Tensor) -> Iterator[InterpError]:
    for name, x in tensors.items():
        if x is None:
            continue
        if x.shape != (k.shape[0], k.shape[2]):
            yield InterpError(
                "E206", f"{name} must be [batch, key_pos] = [{k.shape[0]}, {k.shape[2]}]", where=f"{name}: {_shape(x)}"
            )
        if (x.dtype == torch.bool) != (name == "key_mask") or x.is_floating_point():
            yield InterpError(
                "E206",
                f"{name} must be {'bool' if name == 'key_mask' else 'whole numbers'}",
                where=f"{name}: {x.dtype}",
                fix=f"{name}={name}.{'bool' if name == 'key_mask' else 'long'}()",
            )
    if tensors["documents"] is not None and q.shape[2] > k.shape[2]:
        yield InterpError(
            "E205", "documents are named by key, and there are more queries than keys", fix="leave them out"
        )


def _cellwise(tensors: dict[str, Tensor | None], q: Tensor, k: Tensor) -> Iterator[InterpError]:
    for name, x in tensors.items():
        if x is None:
            continue
        full = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        fits = x.ndim == 4 and x.shape[2:] == full[2:] and all(x.shape[i] in (1, full[i]) for i in (0, 1))
        if not fits:
            yield InterpError(
                "E206",
                f"{name} must be [batch or 1, head or 1, query_pos, key_pos] = {list(full)}",
                where=f"{name}: {_shape(x)}",
            )
        if (x.dtype == torch.bool) != (name == "mask"):
            yield InterpError(
                "E206",
                f"{name} must be {'bool, True where a key may be seen' if name == 'mask' else 'floating'}",
                where=f"{name}: {x.dtype}",
                fix="numbers added to scores are a bias; True and False are a mask",
            )


def _values(tensors: dict[str, Tensor]) -> Iterator[InterpError]:
    for name, x in tensors.items():
        finite = x.detach().isfinite()
        if not bool(finite.all()):
            batch, head, position, _ = (~finite).nonzero()[0].tolist()
            yield InterpError(
                "E207",
                f"{name} holds {int((~finite).sum())} numbers that are not finite",
                where=f"{name}[{batch}, {head}, {position}]",
                fix="look at the layers below: capture with names=['blocks.*.hook_resid_pre']",
            )


def _packing(documents: Tensor | None, key_mask: Tensor | None) -> Iterator[InterpError]:
    if documents is None:
        return
    for row, numbers in enumerate(documents.tolist()):
        pieces = [number for i, number in enumerate(numbers) if i == 0 or numbers[i - 1] != number]
        if len(pieces) != len(set(pieces)):
            yield InterpError(
                "E205",
                "a document comes back after another one",
                where=f"documents[{row}]",
                fix="sort the tokens by document, or number the pieces apart",
            )
            return
