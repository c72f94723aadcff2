"""Shards in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from interp.sweeps.compute import Outcome, compute
from interp.sweeps.plan import Shard
from interp.sweeps.work import Work


class Inline:
    """The executor without workers."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def map(self, shards: Iterable[Shard]) -> Iterator[Outcome]:
        return (compute(self.work, shard) for shard in shards)

    def capacity(self) -> int:
        return 1

    def close(self) -> None:
        """Nothing to stop."""
