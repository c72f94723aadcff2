"""A worker: opens the model once, then computes shards. `python -m interp.sweeps.worker` is one that talks by pipes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import torch

from interp.hooks.probe import TOLERANCE
from interp.kernels.errors import InterpError
from interp.sweeps.code import code_version
from interp.sweeps.compute import Failure, Outcome, compute, pack, unpack
from interp.sweeps.frames import read_frame, write_frame
from interp.sweeps.job import Job
from interp.sweeps.opening import Opening
from interp.sweeps.plan import Shard, differences
from interp.sweeps.units import Unit
from interp.sweeps.work import Work

Message = tuple[dict[str, Any], bytes]


class Worker:
    """Computes shards of one job on one device.

    Args:
        job: see `Job.to_bytes`.
        opening: how to open the model.
        code: `code_version` of whoever planned the sweep.
        threads: for torch; numbers can depend on it.
        device: instead of the opening's; None keeps that.
    """

    def __init__(
        self, job: bytes, opening: Mapping[str, Any], code: Mapping[str, Any], threads: int, device: str | None = None
    ) -> None:
        self.job, self.opening, self.code = Job.from_bytes(job), Opening(**opening), dict(code)
        self.threads, self.device = threads, device
        self.work: Work | None = None

    def open(self) -> dict[str, Any]:
        """Open the model and see that it is the planned one; the failure where it is not, else nothing."""
        try:
            self._open()
        except Exception as error:
            return {"failure": Failure.of(error).to_dict()}
        return {}

    def _open(self) -> None:
        torch.set_num_threads(self.threads)
        if changed := differences(self.code, code_version()):
            name, was, now = changed[0]
            raise InterpError(
                "E703", f"a worker has other code: {name} is {now}, planned was {was}", fix="install the same"
            )
        model = self.opening.open(self.device)
        question, stop = self.job.question, min(self.job.batch_size, self.job.question.batch.size)
        clean = question.clean(model, 0, stop, self.job.batch_size)
        own, planned = question.measure(clean, 0, stop, clean).double(), self.job.baseline[:stop]
        allowed = TOLERANCE[model.dtype] * max(1.0, float(planned.nan_to_num().abs().max()))
        if not torch.allclose(own, planned, rtol=0, atol=allowed, equal_nan=True):
            raise InterpError(
                "E703",
                f"the model that a worker opened gives a {question.metric.name} of {float(own[0]):.6g} on the first "
                f"prompt, the planned one {float(planned[0]):.6g}",
                where=self.opening.name,
                fix="was it changed after it was loaded? save_pretrained it and load that folder",
            )
        self.work = self.job.work(model)

    def run(self, units: list[list[int]]) -> Message:
        """Compute units; header and bytes of the answer."""
        assert self.work is not None, "open() comes first"
        outcome = compute(self.work, Shard("", tuple(Unit(*unit) for unit in units)))
        header = {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes, "halvings": outcome.halvings}
        failure = None if outcome.failure is None else outcome.failure.to_dict()
        return {**header, "failure": failure}, pack(outcome.values)


def answer(shard: Shard, message: Message, attempts: int) -> Outcome:
    """The outcome that a worker's message tells of."""
    header, body = message
    if header["failure"] is not None:
        return Outcome(shard, seconds=header["seconds"], attempts=attempts, failure=Failure(**header["failure"]))
    values = unpack(shard.units, body)
    return Outcome(shard, values, header["seconds"], header["peak_bytes"], header["halvings"], attempts)


def opening_error(header: Mapping[str, Any]) -> InterpError | None:
    """Why a worker could not open its model: no other worker could either."""
    if "failure" not in header:
        return None
    failure = Failure(**header["failure"])
    return InterpError(failure.code or "E405", failure.what, where=failure.where, fix=failure.fix)


def main() -> None:
    """Serve requests from stdin on stdout until stdin ends, which it does when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not end up among the replies
    try:
        header, job = read_frame(sys.stdin.buffer)
        worker = Worker(job, **header)
        write_frame(replies, worker.open())
        while True:
            header, _ = read_frame(sys.stdin.buffer)
            write_frame(replies, *worker.run(header["units"]))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the parent is gone: nobody waits for a clean-up


if __name__ == "__main__":
    main()
