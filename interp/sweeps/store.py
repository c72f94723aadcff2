"""A sweep on disk: the plan first, then shard after shard, so that whatever ends the process loses one shard at most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.circuits.files import digest, encode_json, inside, remove, write_inside
from interp.circuits.runfolder import FAILED, PARTS, PLAN, TENSORS, RunFolder, RunWriter
from interp.kernels.errors import InterpError
from interp.sweeps import parts
from interp.sweeps.compute import Outcome
from interp.sweeps.ledger import begun_as
from interp.sweeps.parts import Part
from interp.sweeps.plan import Plan, Shard

JOB = f"{TENSORS}/job.safetensors"


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep, finished or not. Only its lock's holder writes to it.

    Attributes:
        plan: what is asked.
        request: how to ask it again; None where it cannot be written down.
        expected: what it was expected to cost.
    """

    path: Path
    plan: Plan
    request: Mapping[str, Any] | None
    expected: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        path: Path,
        plan: Plan,
        *,
        request: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> SweepFolder:
        """Start a run: from now on it can be resumed.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        writer = RunFolder.create(path, overwrite=overwrite)
        head, *lines = plan.lines()
        writer.write_lines(PLAN, [{**head, "request": request, "expected": expected or {}}, *lines])
        return cls(path, plan, request, expected or {})

    @classmethod
    def open(cls, path: str | Path) -> SweepFolder:
        """A run that was started.

        Raises:
            InterpError: E204 no run, or one that was interrupted before its plan was written; E701 the plan was changed.
        """
        path = Path(path)
        if not (path / PLAN).is_file():
            what = "not the folder of a sweep" if not path.is_dir() or any(path.iterdir()) else "an empty folder"
            raise InterpError("E204", f"{what}: no {PLAN}", where=str(path), fix="start it with interp ablate --out")
        if begun_as(path):
            fix = "interp resume goes on with it"
            raise InterpError("E204", "the folder of another kind of run than a sweep", where=str(path), fix=fix)
        try:
            lines = [json.loads(line) for line in (path / PLAN).read_bytes().splitlines()]
            plan = Plan.from_lines(lines, str(path))
            return cls(path, plan, lines[0]["request"], lines[0]["expected"])
        except (ValueError, LookupError, TypeError) as error:
            raise InterpError(
                "E701", f"{PLAN} was changed or cut", where=str(path), fix="start the run anew, with --overwrite"
            ) from error

    def part_name(self, shard: Shard) -> str:
        return f"{PARTS}/{shard.key}.parquet"

    def failed_name(self, shard: Shard) -> str:
        return f"{FAILED}/{shard.key}.json"

    def write_job(self, data: bytes) -> None:
        """Store what workers compute from: prompts and reference values as they were."""
        path = inside(self.path, JOB)
        if not path.is_file() or digest(path.read_bytes()) != digest(data):
            write_inside(self.path, JOB, data)

    def record(self, outcome: Outcome) -> None:
        """Store what became of a shard (E602)."""
        shard = outcome.shard
        if outcome.failure is not None:
            data = {"key": shard.key, "attempts": outcome.attempts, **outcome.failure.to_dict()}
            write_inside(self.path, self.failed_name(shard), encode_json(data))
            return
        write_inside(self.path, self.part_name(shard), parts.encode(self.plan, outcome))
        if inside(self.path, self.failed_name(shard)).exists():
            remove(self.path / FAILED, [f"{shard.key}.json"])

    def read(self, shard: Shard) -> Part:
        """A stored shard (E701)."""
        name = self.part_name(shard)
        try:
            data = inside(self.path, name).read_bytes()
        except OSError as error:
            raise parts.damaged(name, "is missing") from error
        return parts.decode(self.plan, shard, data, name)

    def is_stored(self, shard: Shard) -> bool:
        return inside(self.path, self.part_name(shard)).is_file()

    def pending(self) -> tuple[Shard, ...]:
        """Shards without values, in order."""
        return tuple(shard for shard in self.plan.shards if not self.is_stored(shard))

    def failures(self) -> dict[str, dict[str, Any]]:
        """What is recorded of shards that failed, by key."""
        paths = [(shard, inside(self.path, self.failed_name(shard))) for shard in self.plan.shards]
        return {shard.key: json.loads(path.read_bytes()) for shard, path in paths if path.is_file()}

    def damaged(self) -> Iterator[tuple[Shard, InterpError]]:
        """Stored shards that are not what was written, with what is wrong."""
        for shard in self.plan.shards:
            if self.is_stored(shard):
                try:
                    self.read(shard)
                except InterpError as error:
                    yield shard, error

    def reopen(self) -> tuple[Shard, ...]:
        """Make ready for more work: left-overs and damaged shards go, and what is to be computed comes back (E602)."""
        RunFolder.unfinish(self.path)
        for shard, _ in list(self.damaged()):
            remove(self.path / PARTS, [f"{shard.key}.parquet"])
        return self.pending()

    def writer(self) -> RunWriter:
        """For the finished run: what is stored already is listed."""
        writer = RunWriter(self.path)
        names = [PLAN, JOB, *map(self.part_name, self.plan.shards)]
        for name in names:
            writer.adopt(name)
        return writer
