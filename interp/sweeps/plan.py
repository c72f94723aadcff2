"""The plan of a sweep: what is asked, in full, and the shards it is cut into, each named by a digest of its content."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.circuits.files import digest, encode_json, plain
from interp.kernels.errors import InterpError
from interp.sweeps.units import Unit, deal

SCHEMA = 1


@dataclass(frozen=True)
class Shard:
    """Some units that are computed and stored together.

    Attributes:
        key: SHA-256 over the whole question and these units: equal keys mean equal numbers.
    """

    key: str
    units: tuple[Unit, ...]

    @property
    def cells(self) -> int:
        return sum(unit.cells for unit in self.units)

    @property
    def edits(self) -> int:
        """Batches under a variant."""
        return sum(unit.shape[0] for unit in self.units)

    @property
    def short(self) -> str:
        """Enough of the key to be told from others."""
        return self.key[:12]


@dataclass(frozen=True)
class Plan:
    """What a sweep is.

    Attributes:
        config: everything that decides its numbers: code, model, task, prompts, variants, settings.
        shards: pieces, in order.
        labels: name of each variant.
        prompts: id of each prompt.
    """

    config: Mapping[str, Any]
    shards: tuple[Shard, ...]
    labels: tuple[str, ...]
    prompts: tuple[str, ...]

    @classmethod
    def make(
        cls,
        config: Mapping[str, Any],
        units: Sequence[Unit],
        n_shards: int,
        labels: Sequence[str],
        prompts: Sequence[str],
    ) -> Plan:
        """Deal units into shards and name them.

        Raises:
            InterpError: E205 more shards than units.
        """
        config = plain({"schema": SCHEMA, **config})
        shards = tuple(Shard(shard_key(config, group), group) for group in deal(units, n_shards))
        return cls(config, shards, tuple(labels), tuple(prompts))

    @property
    def digest(self) -> str:
        """Of the question, whatever its shards."""
        return digest(encode_json(self.config))

    @property
    def cells(self) -> int:
        return len(self.labels) * len(self.prompts)

    def lines(self) -> Iterator[dict[str, Any]]:
        """One head line with the question, then one line a shard."""
        yield {"config": self.config, "labels": self.labels, "prompts": self.prompts}
        for shard in self.shards:
            rows = [min(unit.start for unit in shard.units), max(unit.stop for unit in shard.units)]
            yield {"key": shard.key, "rows": rows, "units": [unit.to_list() for unit in shard.units]}

    @classmethod
    def from_lines(cls, lines: Sequence[Mapping[str, Any]], where: str) -> Plan:
        """What `lines` gave, checked against its own keys.

        Raises:
            InterpError: E701 a key does not fit the question and its units.
        """
        head, *rest = lines
        shards = tuple(Shard(line["key"], tuple(Unit(*unit) for unit in line["units"])) for line in rest)
        if not shards or any(shard.key != shard_key(head["config"], shard.units) for shard in shards):
            raise InterpError(
                "E701",
                "plan.jsonl was changed: a key does not fit",
                where=where,
                fix="start the run anew, with --overwrite",
            )
        return cls(head["config"], shards, tuple(head["labels"]), tuple(head["prompts"]))


def shard_key(config: Mapping[str, Any], units: Sequence[Unit]) -> str:
    """SHA-256 of the canonical JSON of the question and the units."""
    return digest(encode_json({"config": config, "units": [unit.to_list() for unit in units]}))


def differences(planned: Any, found: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Fields in which two configurations differ: name, planned value, value found."""
    if isinstance(planned, Mapping) and isinstance(found, Mapping):
        names = sorted({*planned, *found})
        parts = [differences(planned.get(name), found.get(name), f"{path}.{name}".removeprefix(".")) for name in names]
        return [line for part in parts for line in part]
    return [] if planned == found else [(path, shown(planned), shown(found))]


def shown(value: Any, limit: int = 60) -> str:
    """A value as one short text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 12]}...{text[-9:]}"


def check_same(planned: Plan, found: Mapping[str, Any], where: str) -> None:
    """Raise E703, with every field that differs, unless a question is the planned one."""
    check_asked(planned.config, plain({"schema": SCHEMA, **found}), where)


def check_asked(planned: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """The same for two questions as plain data."""
    changed = differences(planned, found)
    if changed:
        listed = "; ".join(f"{name}: planned {was}, now {now}" for name, was, now in changed)
        raise InterpError(
            "E703",
            f"{len(changed)} settings differ from the plan: {listed}",
            where=where,
            fix="undo the change, or start over in another folder: interp resume FOLDER --new-run OTHER",
        )
