"""Shards in spawned processes of this machine. One that dies is replaced, and its shard begun again."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import interp
from interp.sweeps.code import code_version
from interp.sweeps.compute import ATTEMPTS, Failure, Outcome
from interp.sweeps.executors.base import worker_device
from interp.sweeps.frames import read_frame, write_frame
from interp.sweeps.opening import Opening
from interp.sweeps.plan import Shard
from interp.sweeps.worker import Message, answer, opening_error

ROOT = Path(interp.__file__).parents[1]


STARTS = 2 * ATTEMPTS
"""Workers that may die while they open the model, for one shard: that is not the shard's fault."""


class Died(Exception):
    """A worker's process is gone."""


class Spawned:
    """One worker process."""

    def __init__(self, header: dict[str, Any], job: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "interp.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        self.opening = (header, job)

    def open(self) -> None:
        """Wait for the model.

        Raises:
            InterpError: it cannot be opened.
            Died: the process is gone.
        """
        error = opening_error(self._ask(*self.opening)[0])
        if error is not None:
            raise error

    def run(self, shard: Shard) -> Message:
        """Compute a shard (Died)."""
        return self._ask({"units": [unit.to_list() for unit in shard.units]})

    def _ask(self, header: dict[str, Any], body: bytes = b"") -> Message:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            write_frame(self.process.stdin, header, body)
            return read_frame(self.process.stdout)
        except (EOFError, OSError) as error:
            raise Died from error

    def stop(self) -> str:
        """End the process, and say how it had ended."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # a request that the dead worker never read is flushed here
                continue
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def environment() -> dict[str, str]:
    """Of a worker: it imports the same `interp`, and its libraries start no threads of their own."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Processes:
    """The executor with spawned processes; a thread of this process waits for each of them.

    Args:
        job: see `Job.to_bytes`.
        opening: how workers open the model.
        workers: processes.
        threads: of torch in each of them.
    """

    def __init__(self, job: bytes, opening: Opening, *, workers: int, threads: int) -> None:
        self.job, self.opening, self.workers, self.threads = job, opening, workers, threads
        self.running: dict[int, Spawned] = {}
        self._closing = False
        self._lock = threading.Lock()

    def capacity(self) -> int:
        return self.workers

    def pids(self) -> list[int]:
        """Processes that are alive, as far as is known."""
        with self._lock:
            return [worker.process.pid for worker in self.running.values()]

    def map(self, shards: Iterable[Shard]) -> Iterator[Outcome]:
        todo: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        asked = list(shards)
        for shard in asked:
            todo.put(shard)
        for slot in range(min(self.workers, len(asked))):
            threading.Thread(target=self._serve, args=(slot, todo, done), daemon=True).start()
        for _ in asked:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found

    def _serve(
        self,
        slot: int,
        todo: queue.SimpleQueue[Shard],
        done: queue.SimpleQueue[Outcome | BaseException],
    ) -> None:
        """Give shards to the worker of this slot until none is left."""
        try:
            while not self._closing:
                outcome = self._attempts(slot, todo.get_nowait())
                if outcome is not None:
                    done.put(outcome)
        except queue.Empty:
            return
        except BaseException as error:  # whoever waits for outcomes raises it
            done.put(error)

    def _attempts(self, slot: int, shard: Shard) -> Outcome | None:
        """Begin a shard until a worker lives long enough; None where everything is being stopped."""
        ends: list[str] = []
        starts: list[str] = []
        while len(ends) < ATTEMPTS and len(starts) < STARTS and not self._closing:
            deaths = starts
            try:
                worker = self._worker(slot)
                deaths = ends
                return answer(shard, worker.run(shard), len(ends) + 1)
            except Died:
                deaths.append(self._end(slot))
        return None if self._closing else Outcome(shard, attempts=len(ends), failure=died(starts + ends))

    def _worker(self, slot: int) -> Spawned:
        """The worker of a slot, started if there is none."""
        with self._lock:
            if self._closing:
                raise Died
            known = self.running.get(slot)
            if known is None:
                self.running[slot] = Spawned(self._header(slot), self.job)
            worker = self.running[slot]
        if known is None:
            worker.open()
        return worker

    def _header(self, slot: int) -> dict[str, Any]:
        device = worker_device(self.opening.device, slot)
        return {"opening": self.opening.to_dict(), "code": code_version(), "threads": self.threads, "device": device}

    def _end(self, slot: int) -> str:
        with self._lock:
            worker = self.running.pop(slot, None)
        return worker.stop() if worker is not None else "stopped"

    def close(self) -> None:
        with self._lock:
            self._closing = True
            slots = list(self.running)
        for slot in slots:
            self._end(slot)


def died(ends: list[str]) -> Failure:
    """A shard whose workers all died."""
    return Failure(
        "E603",
        f"the worker died {len(ends)} times on this shard: {', '.join(ends)}",
        fix="SIGKILL is most often the system's, for want of memory: use fewer --workers or a smaller --batch-size",
    )
