"""A run on disk: a folder whose manifest is written last.

Every file is written to a temporary name in the same folder, flushed, renamed and made durable. `manifest.json` lists
the SHA-256 and size of every other file and carries its own digest, so a folder that opens is complete and unchanged.
Bytes depend on the content alone: saving the same result twice gives the same files.

A sweep's folder also holds its plan, its shards and what they were computed from (see `interp.sweeps`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.files import (
    SUBFOLDERS,
    decode_json,
    digest,
    encode_json,
    inside,
    not_written,
    plain,
    remove,
    write_atomic,
    write_inside,
)
from interp.circuits.results import SCHEMA, RunInfo, check_schema
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
REPORT = "report.html"
LOCK = ".lock"
PLAN = "plan.jsonl"
PARTS, FAILED, TENSORS = SUBFOLDERS
TEMPORARY = ".*.tmp"
SUFFIXES = (".parquet", ".json", ".safetensors")
"""Of files in the subfolders of a run."""


@dataclass
class RunWriter:
    """A run folder being written; made by `RunFolder.create`.

    Attributes:
        path: the folder.
        files: name -> SHA-256 and size in bytes of what was written so far.
    """

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file and note its digest."""
        assert name not in (MANIFEST, UNFINISHED, REPORT), f"{name} is not part of a run"
        write_inside(self.path, name, data)
        self.files[name] = {"sha256": digest(data), "bytes": len(data)}

    def adopt(self, name: str) -> None:
        """Note the digest of a file that is there already (E701)."""
        try:
            data = inside(self.path, name).read_bytes()
        except OSError as error:
            raise _damaged(inside(self.path, name), "is missing") from error
        self.files[name] = {"sha256": digest(data), "bytes": len(data)}

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one JSON object."""
        self.write_bytes(name, encode_json(data))

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line."""
        lines = (json.dumps(plain(record), sort_keys=True, allow_nan=False, ensure_ascii=False) for record in records)
        self.write_bytes(name, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))

    def write_rows(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table as parquet with page checksums; nan becomes a missing value."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        self.write_bytes(name, buffer.getvalue())

    def write_tensors(self, name: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        """Write arrays as safetensors; the metadata is one JSON text, because the order of several is not fixed."""
        from safetensors.numpy import save

        text = json.dumps(plain(metadata), sort_keys=True, allow_nan=False)
        self.write_bytes(name, save(dict(tensors), metadata={"interp": text}))

    def finish(self, kind: str, run: RunInfo, **content: Any) -> RunFolder:
        """Write the manifest: from now on the folder is a run of this kind.

        Args:
            content: further JSON-ready entries of the manifest.
        """
        body = {"schema": SCHEMA, "kind": kind, "run": run.to_dict(), "files": self.files, **content}
        write_atomic(self.path / MANIFEST, encode_json({**body, "digest": digest(encode_json(body))}))
        remove(self.path, [UNFINISHED])
        return RunFolder.open(self.path, kind)


@dataclass(frozen=True)
class RunFolder:
    """A complete run on disk; made by `RunFolder.open`, which checks every file.

    Attributes:
        path: the folder.
        manifest: schema, kind, run, files and the content its writer added.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def check(cls, path: str | Path, *, overwrite: bool = False) -> Path:
        """Refuse a path that `create` would refuse, before hours of work rather than after them.

        Raises:
            InterpError: E204 the folder holds something else, or a run and `overwrite` is False.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InterpError(
                "E204", f"{path.name!r} is a file, not a folder", where=str(path), fix="name a new folder"
            )
        present = _content(path)
        if present == [UNFINISHED]:  # a run that was ended before it wrote anything
            return path
        is_run = MANIFEST in present or UNFINISHED in present
        if present and not is_run:
            listed = ", ".join(present[:3]) + (", ..." if len(present) > 3 else "")
            raise InterpError("E204", f"folder holds other files: {listed}", where=str(path), fix="name a new folder")
        if is_run and not overwrite:
            state = "a run" if MANIFEST in present else "an interrupted run"
            finish = f"finish it (interp resume {path}), " if PLAN in present and MANIFEST not in present else ""
            raise InterpError(
                "E204",
                f"folder already holds {state}",
                where=str(path),
                fix=f"{finish}name a new folder, or add --overwrite",
            )
        return path

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> RunWriter:
        """Start a run in a new or empty folder.

        Args:
            overwrite: replace the run, finished or not, that the folder holds; its report goes too.

        Raises:
            InterpError: E204 where the folder holds something else, or a run and `overwrite` is False;
                E602 where it cannot be written.
        """
        path = cls.check(path, overwrite=overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error) from error
        cls.unfinish(path)
        remove(path, [REPORT, PLAN])
        for folder in (path / name for name in SUBFOLDERS if (path / name).is_dir()):
            remove(folder, [entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES])
        return RunWriter(path)

    @classmethod
    def unfinish(cls, path: Path) -> None:
        """Mark a run folder as being written; what a crash left half-written goes (E602)."""
        write_atomic(path / UNFINISHED, b"")
        for folder in (path, *(path / name for name in SUBFOLDERS if (path / name).is_dir())):
            remove(folder, [entry.name for entry in folder.glob(TEMPORARY)])
        remove(path, [MANIFEST])

    @classmethod
    def open(cls, path: str | Path, kind: str | None = None) -> RunFolder:
        """Open a run and check every file against the manifest.

        Args:
            kind: kind of result it must hold; None takes any.

        Raises:
            InterpError: E204 not a run folder, or an interrupted run; E701 a file is missing or changed, by name;
                E702 a schema or kind this version does not read.
        """
        folder = cls.unchecked(path, kind)
        for name in folder.manifest["files"]:
            folder.read_bytes(name)
        return folder

    @classmethod
    def unchecked(cls, path: str | Path, kind: str | None = None) -> RunFolder:
        """Open a run whose files are checked when they are read."""
        path = Path(path)
        if not (path / MANIFEST).is_file():
            what = "an interrupted run" if (path / UNFINISHED).is_file() else "not a run folder, or an interrupted run"
            fix = f"interp resume {path}" if (path / PLAN).is_file() else "name a folder that a run wrote"
            raise InterpError("E204", f"{what}: no {MANIFEST}", where=str(path), fix=fix)
        return cls(path, _read_manifest(path / MANIFEST, kind))

    def read_bytes(self, name: str) -> bytes:
        """Content of one file, checked (E701)."""
        expected = self.manifest["files"].get(name)
        path = inside(self.path, name)
        if expected is None or not path.is_file():
            raise _damaged(path, "is missing")
        if path.stat().st_size != expected["bytes"]:
            raise _damaged(path, f"has {path.stat().st_size} bytes, not {expected['bytes']}")
        data = path.read_bytes()
        if digest(data) != expected["sha256"]:
            raise _damaged(path, "was changed: its hash does not match")
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """One JSON object."""
        return decode_json(self.read_bytes(name))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """One JSON object a line."""
        return [json.loads(line) for line in self.read_bytes(name).splitlines()]

    def read_rows(self, name: str) -> pa.Table:
        """A table."""
        return read_parquet(self.read_bytes(name))

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Arrays by name."""
        from safetensors.numpy import load

        return load(self.read_bytes(name))

    @property
    def run(self) -> RunInfo:
        """Provenance of the run."""
        return RunInfo.from_dict(self.manifest["run"])


def read_parquet(data: bytes) -> pa.Table:
    """A table from the bytes of a parquet file, page checksums verified.

    Without threads: pyarrow's pool, when a process that also holds torch ends soon after, aborts it now and then.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False, page_checksum_verification=True)
    return file.read(use_threads=False)


def _content(path: Path) -> list[str]:
    """Names in a folder, without its lock and what a crash left half-written; none where there is no folder."""
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.name != LOCK and not entry.match(TEMPORARY))


def _read_manifest(path: Path, kind: str | None) -> dict[str, Any]:
    """The manifest, after its own digest was checked."""
    try:
        data = decode_json(path.read_bytes())
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(path, "was changed or cut: it is not what a run writes") from error
    check_schema(data, path, kind or str(data.get("kind")))
    body = {key: value for key, value in data.items() if key != "digest"}
    if data.get("digest") != digest(encode_json(body)):
        raise _damaged(path, "was changed: its digest does not match")
    return data


def _damaged(path: Path, what: str) -> InterpError:
    is_inner = path.parent.name in SUBFOLDERS
    folder = path.parent.parent if is_inner else path.parent
    can_resume = is_inner or (folder / PLAN).is_file()
    fix = f"interp resume {folder}" if can_resume else "run the command in the manifest again"
    return InterpError("E701", f"{path.name} {what}", where=str(path.parent), fix=fix)
