"""What an executor is, and how to get one by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from interp.kernels.errors import InterpError, suggest
from interp.sweeps.compute import Outcome
from interp.sweeps.plan import Shard

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.sweeps.job import Job
    from interp.sweeps.work import Work

NAMES = ("inline", "process", "ray")


@runtime_checkable
class Executor(Protocol):
    """Computes shards, in any order. A worker that dies is replaced; an error of the data is not tried again."""

    def map(self, shards: Iterable[Shard]) -> Iterator[Outcome]:
        """The outcome of each shard as soon as it is known.

        Raises:
            InterpError: no worker could be started, with the reason.
        """
        ...

    def capacity(self) -> int:
        """Shards computed at the same time."""
        ...

    def close(self) -> None:
        """Stop all work at once; what is unfinished is dropped."""
        ...


@dataclass(frozen=True)
class Execution:
    """Who computes a sweep; it changes no number.

    Attributes:
        executor: 'inline' (this process), 'process' (spawned ones on this machine) or 'ray' (a cluster).
        workers: how many; inline has one.
        shards: pieces the sweep is cut into; None chooses by a measurement.
        address: of a running Ray cluster ('auto', 'host:6379' or 'ray://host:10001'); None starts one on this machine.
        threads: of torch, in every worker.

    Raises:
        InterpError: E201 no such executor; E205 settings that do not fit together.
    """

    executor: str = "inline"
    workers: int = 1
    shards: int | None = None
    address: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.executor not in NAMES:
            raise InterpError("E201", f"no executor {self.executor!r}", fix=suggest(self.executor, NAMES))
        if self.executor == "inline" and self.workers != 1:
            raise InterpError("E205", f"{self.workers} workers inline", fix="several need --executor process or ray")
        if self.address is not None and self.executor != "ray":
            raise InterpError("E205", f"an address for executor {self.executor}", fix="--executor ray takes --address")
        if self.workers < 1 or self.threads < 1:
            raise InterpError("E205", f"{self.workers} workers with {self.threads} threads", fix="ask for 1 or more")

    def open(self, model: HookedModel, job: Job, work: Work) -> Executor:
        """The executor, ready to work.

        Args:
            work: of this process, with all that it has recorded; workers elsewhere make their own from the job.

        Raises:
            InterpError: E205 a model in memory cannot leave this process; E601 Ray is not installed; E605 no cluster.
        """
        if self.executor == "inline":
            from interp.sweeps.executors.inline import Inline

            return Inline(work)
        from interp.sweeps.opening import Opening

        opening = Opening.required(model, f"a worker of executor {self.executor!r}")
        if self.executor == "process":
            from interp.sweeps.executors.process import Processes

            return Processes(job.to_bytes(), opening, workers=self.workers, threads=self.threads)
        from interp.sweeps.executors.ray import Actors

        return Actors(job.to_bytes(), opening, workers=self.workers, threads=self.threads, address=self.address)


def worker_device(device: str, slot: int) -> str | None:
    """Device of a worker on this machine: 'cuda' without a number goes round the accelerators; None: as it is."""
    import torch

    return f"cuda:{slot % torch.cuda.device_count()}" if device == "cuda" else None
