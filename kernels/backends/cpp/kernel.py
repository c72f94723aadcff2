"""A request answered by the compiled library; row pass first, then the column pass where columns are asked."""

from __future__ import annotations

from ctypes import byref, sizeof

import torch
from torch import Tensor
from torch.nn.functional import pad

from interp.kernels.backends.cpp import build
from interp.kernels.backends.cpp.job import KINDS, MARGIN, Job, view
from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.errors import InterpError


def supports(request: Request) -> str | None:
    """Why this kernel cannot answer, or None where it can. Builds the library where that alone is left to be known."""
    if reason := _refusal(request):
        return reason
    try:
        build.library()
    except InterpError as error:
        return error.what
    return None


def run(request: Request) -> Primitives:
    """The answer; float32 inside, whatever the inputs.

    Results do not depend on the number of threads, which is torch's.

    Raises:
        InterpError: E205, the request is none for this kernel; E601, no compiler; E602, the cache cannot be written.
    """
    if reason := _refusal(request):
        raise InterpError("E205", f"the cpp kernel cannot do this: {reason}", fix="choose another backend, or 'auto'")
    _check_shapes(request)
    library = build.library()
    assert library.interp_job_size() == sizeof(Job), "job.h and job.py differ"
    inputs, answers = _inputs(request), _answers(request)
    job = _job(request, inputs, answers)
    library.interp_rows(byref(job))
    if request.columns is not None:
        library.interp_columns(byref(job))
    return _primitives(request, answers)


def _refusal(request: Request) -> str | None:
    tensors = (request.q, request.k, request.v)
    if any(x.device.type != "cpu" for x in tensors):
        return "tensors are not on the CPU"
    if any(x.dtype not in KINDS for x in tensors) or len({x.dtype for x in tensors}) > 1:
        kinds = ", ".join(str(x.dtype).removeprefix("torch.") for x in tensors)
        return f"q, k and v must be all float32, all bfloat16 or all float16, not {kinds}"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "it has no gradients"
    return None


def _check_shapes(request: Request) -> None:
    """The library trusts its addresses."""
    (batch, heads, queries, width), (_, kv_heads, keys, _) = request.q.shape, request.k.shape
    assert request.k.shape == (batch, kv_heads, keys, width), "q and k do not fit"
    assert request.v.shape[:3] == request.k.shape[:3] and heads % max(kv_heads, 1) == 0, "k, v and heads do not fit"
    rows = request.rows
    per_query = (rows.low, rows.high, rows.first, rows.stop, request.shift, request.columns)
    assert all(x is None or x.shape[-1] == queries for x in per_query), "rows, shift and columns are one a query"
    assert request.functionals is None or request.functionals.shape[2] == keys, "functionals are one a key"
    assert request.slopes is None or request.slopes.shape == (heads,), "slopes are one a head"


def _inputs(request: Request) -> dict[str, Tensor]:
    """Tensors as the library reads them: last axis contiguous, axes of one expanded."""
    batch, heads = request.q.shape[:2]
    rows = request.rows
    seen = {"low": rows.low, "high": rows.high, "first": rows.first, "stop": rows.stop}
    numbers = {"shift": request.shift, "functionals": request.functionals, "weights": request.columns}
    wide = {name: x.to(torch.int32) for name, x in seen.items()}
    wide |= {name: x.to(torch.float32) for name, x in numbers.items() if x is not None}
    inputs = {name: _dense(x).expand(batch, heads, *x.shape[2:]) for name, x in wide.items()}
    inputs |= {name: _dense(x) for name, x in (("q", request.q), ("k", request.k), ("v", request.v))}
    if request.slopes is not None:
        inputs["slopes"] = request.slopes.to(torch.float32).contiguous()
    if request.band is not None:
        inputs["band"] = pad(request.band.to(torch.float32), (MARGIN, MARGIN)).contiguous()
    return inputs


def _dense(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.stride(-1) == 1 else x.contiguous()


def _answers(request: Request) -> dict[str, Tensor]:
    """Empty tensors for what is asked."""
    batch, heads, queries, _ = request.q.shape
    rows = (batch, heads, queries)
    shapes: dict[str, tuple[int, ...]] = {name: rows for name in ("lse", "peak", "total")}
    shapes |= {name: rows for name in ("entropy", "largest", "squares") if getattr(request, name)}
    if request.output:
        shapes["output"] = (*rows, request.v.shape[-1])
    if request.functionals is not None:
        shapes["means"] = (*rows, request.functionals.shape[-1])
    if request.band is not None:
        shapes["near"] = (*rows, request.band.shape[0])
    if request.columns is not None:
        shapes["columns"] = (batch, heads, request.columns.shape[2], request.k.shape[2])
    answers = {name: torch.empty(shape) for name, shape in shapes.items()}
    if request.largest:
        answers["argmax"] = torch.empty(rows, dtype=torch.int64)
    return answers


def _job(request: Request, inputs: dict[str, Tensor], answers: dict[str, Tensor]) -> Job:
    job = Job(kind=KINDS[request.q.dtype], sigmoid=int(request.rule == "sigmoid"), threads=torch.get_num_threads())
    job.batches, job.heads, job.queries, job.d_head = request.q.shape
    job.kv_heads, job.keys, job.d_value = request.v.shape[1:]
    job.functional_count = 0 if request.functionals is None else request.functionals.shape[-1]
    job.band_count, job.distances = (0, 0) if request.band is None else request.band.shape
    job.column_count = 0 if request.columns is None else request.columns.shape[2]
    job.scale, job.softcap = request.scale, request.softcap or 0.0
    for name, tensor in inputs.items():
        setattr(job, name, tensor.data_ptr() if name in ("slopes", "band") else view(tensor))
    for name, tensor in answers.items():
        setattr(job, name, tensor.data_ptr())
    return job


def _primitives(request: Request, answers: dict[str, Tensor]) -> Primitives:
    output = answers.get("output")
    return Primitives(
        output=None if output is None else output.to(request.v.dtype),
        lse=answers["lse"],
        entropy=answers.get("entropy"),
        largest=answers.get("largest"),
        argmax=answers.get("argmax"),
        squares=answers.get("squares"),
        functionals=answers.get("means"),
        band=answers.get("near"),
        columns=answers.get("columns"),
        notes=() if build.seconds is None else (f"the cpp kernel was compiled in {build.seconds:.1f} s",),
    )
