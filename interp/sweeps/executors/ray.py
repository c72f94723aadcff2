"""Shards in Ray actors, on this machine or on a cluster that runs already. Ray is imported only here, when asked for.

Ray's own rule is kept: a worker or node that dies is replaced and its shard begun again, an error of the data is not.
Whoever reaches a cluster can run code on it. One that is started here listens on this machine alone; another one belongs
in a trusted network, and where it asks for a token, RAY_AUTH_MODE=token makes Ray send the user's.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from interp.kernels.errors import InterpError
from interp.sweeps.code import code_version
from interp.sweeps.compute import ATTEMPTS, Outcome
from interp.sweeps.executors.process import ROOT, died
from interp.sweeps.opening import Opening
from interp.sweeps.plan import Shard
from interp.sweeps.worker import Worker, answer, opening_error

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 10.0
REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch, read when it is imported, for nodes that other machines can reach; "0" binds everything to loopback."""


class Actors:
    """The executor with Ray actors; each opens the model once.

    Args:
        job: see `Job.to_bytes`.
        opening: how actors open the model; a local folder must be there on every node.
        workers: actors; each reserves one processor, and one accelerator where the model is on one.
        threads: of torch in each of them.
        address: of a running cluster; None starts one on this machine and stops it afterwards.

    Raises:
        InterpError: E601 Ray is not installed; E605 the cluster does not answer.
    """

    def __init__(self, job: bytes, opening: Opening, *, workers: int, threads: int, address: str | None) -> None:
        self.ray, self.is_ours = connect(workers, address)
        self.workers = workers
        on_accelerator = opening.device.startswith("cuda")
        remote = self.ray.remote(num_cpus=1, num_gpus=int(on_accelerator), max_restarts=0, max_task_retries=0)(Worker)
        data = self.ray.put(job)
        device = "cuda" if on_accelerator else None  # Ray shows each actor its own accelerator alone
        self._start: Callable[[], Any] = lambda: remote.remote(data, opening.to_dict(), code_version(), threads, device)
        self.actors: dict[int, Any] = {}

    def capacity(self) -> int:
        return self.workers

    def map(self, shards: Iterable[Shard]) -> Iterator[Outcome]:
        todo = deque((shard, 1) for shard in shards)
        flights: dict[Any, tuple[int, Shard, int]] = {}
        free = list(range(min(self.workers, len(todo))))
        while todo or flights:
            while todo and free:
                slot, (shard, attempt) = free.pop(), todo.popleft()
                flights[self._begin(slot, shard)] = slot, shard, attempt
            (landed,), _ = self.ray.wait(list(flights), num_returns=1)
            slot, shard, attempt = flights.pop(landed)
            free.append(slot)
            outcome = self._land(landed, slot, shard, attempt)
            if outcome is None:
                todo.appendleft((shard, attempt + 1))
            else:
                yield outcome

    def _begin(self, slot: int, shard: Shard) -> Any:
        """Send a shard to the actor of a slot, which is started if there is none."""
        if slot not in self.actors:
            actor = self._start()
            self.actors[slot] = actor, actor.open.remote()
        return self.actors[slot][0].run.remote([unit.to_list() for unit in shard.units])

    def _land(self, landed: Any, slot: int, shard: Shard, attempt: int) -> Outcome | None:
        """The outcome; None where the actor died and the shard is to be begun again."""
        errors = self.ray.exceptions
        try:
            error = opening_error(self.ray.get(self.actors[slot][1]))
            if error is not None:
                raise error
            return answer(shard, self.ray.get(landed), attempt)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
            del self.actors[slot]
            if attempt < ATTEMPTS:
                return None
            return Outcome(shard, attempts=attempt, failure=died([type(error).__name__] * attempt))

    def close(self) -> None:
        for actor, _ in self.actors.values():
            self.ray.kill(actor)
        self.actors.clear()
        if self.is_ours:
            self.ray.shutdown()


def connect(workers: int, address: str | None) -> tuple[Any, bool]:
    """The package `ray`, connected, and whether the connection was made here; one of the caller's own is used as it is.

    Raises:
        InterpError: E601 Ray is not installed; E605 no cluster, or none that keeps to this machine.
    """
    check_answers(address)
    ray = imported(is_local=address is None)
    if ray.is_initialized():
        return ray, False
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    local = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": variables},
            **local,
        )
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        raise no_cluster(address or LOOPBACK, error) from error
    if address is None and any(node["NodeManagerAddress"] != LOOPBACK for node in ray.nodes()):
        ray.shutdown()
        raise InterpError(
            "E605",
            "Ray was imported before, and would listen on every network of this machine",
            fix="use --executor ray in a fresh Python, or start a cluster yourself and name its --address",
        )
    return ray, True


def imported(*, is_local: bool) -> Any:
    """The package, told before it is read to report nothing and, for a local cluster, to keep to this machine (E601)."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if is_local:
        os.environ.setdefault(REACHABLE, "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise InterpError("E601", "Ray is not installed", fix='pip install "interp[ray]"') from error
    finally:
        if is_local and os.environ[REACHABLE] == "0":
            del os.environ[REACHABLE]


def check_answers(address: str | None) -> None:
    """Raise E605 where nobody listens; Ray itself would go on trying for ten minutes, and then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise no_cluster(str(address), error) from error


def no_cluster(address: str, error: Exception) -> InterpError:
    return InterpError(
        "E605",
        f"no Ray cluster at {address}: {str(error).splitlines()[0]}",
        fix="start one with `ray start --head`, set RAY_AUTH_MODE=token where it asks for one, or leave --address out",
    )
