"""A shard as a parquet file: one row a prompt and variant, page checksums, and a digest of its own."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.files import digest, encode_json
from interp.circuits.runfolder import read_parquet
from interp.kernels.errors import InterpError
from interp.sweeps.compute import Outcome, pack, unpack
from interp.sweeps.plan import Plan, Shard
from interp.sweeps.work import Tables

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = b"interp"


@dataclass(frozen=True, eq=False)
class Part:
    """A stored shard.

    Attributes:
        values: one table a unit.
        about: attempts, seconds, peak memory and halvings of the shard.
    """

    shard: Shard
    values: Tables
    about: dict[str, Any]


def encode(plan: Plan, outcome: Outcome) -> bytes:
    """A finished shard as the bytes of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shard = outcome.shard
    about = {
        "key": shard.key,
        "plan": plan.digest,
        "values_sha256": digest(pack(outcome.values)),
        "attempts": outcome.attempts,
        "seconds": round(outcome.seconds, 4),
        "peak_bytes": outcome.peak_bytes,
        "halvings": outcome.halvings,
    }
    text = json.dumps({**about, "digest": digest(encode_json(about))}, sort_keys=True)
    table = pa.table(columns(plan, shard, outcome.values), metadata={ABOUT: text})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def columns(plan: Plan, shard: Shard, values: Tables) -> dict[str, Any]:
    """Rows of a shard; `variant` and `prompt` are places in the plan."""
    grids = [np.mgrid[unit.first : unit.last, unit.start : unit.stop].reshape(2, -1) for unit in shard.units]
    variant, prompt = np.concatenate(grids, axis=1)
    value = np.concatenate([table.ravel() for table in values])
    return {
        "variant": variant.astype(np.int32),
        "prompt": prompt.astype(np.int32),
        "label": [plan.labels[place] for place in variant],
        "prompt_id": [plan.prompts[place] for place in prompt],
        "value": value,
        "finite": np.isfinite(value),
    }


def decode(plan: Plan, shard: Shard, data: bytes, name: str) -> Part:
    """What `encode` was given, checked in every way there is.

    Raises:
        InterpError: E701 the bytes are damaged, or belong to something else.
    """
    import pyarrow as pa

    try:
        table = read_parquet(data)
        about = json.loads(table.schema.metadata[ABOUT])
        wrong = _what_is_wrong(plan, shard, table, about)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise damaged(name, "cannot be read") from error
    if wrong:
        raise damaged(name, wrong)
    return Part(shard, unpack(shard.units, _bytes(table)), about)


def _bytes(table: pa.Table) -> bytes:
    """The values of a part, as `pack` made them."""
    packed: bytes = table["value"].to_numpy().astype("<f8").tobytes()
    return packed


def _what_is_wrong(plan: Plan, shard: Shard, table: pa.Table, about: dict[str, Any]) -> str:
    """Why a table is not this shard; '' where it is."""
    if about.pop("digest") != digest(encode_json(about)):
        return "was changed: what it says of itself has another digest"
    if about["key"] != shard.key:
        return "holds another shard"
    if about["plan"] != plan.digest:
        return "belongs to another plan"
    if table.num_rows != shard.cells:
        return f"holds {table.num_rows} rows, planned were {shard.cells}"
    packed = _bytes(table)
    if digest(packed) != about["values_sha256"]:
        return "was changed: its digest does not match"
    expected = columns(plan, shard, unpack(shard.units, packed))
    if table.schema.names != list(expected):
        return "was changed: it has other columns"
    same = all(table[name].to_pylist() == list(expected[name]) for name in expected if name != "value")
    return "" if same else "holds rows of other prompts or variants"


def damaged(name: str, what: str) -> InterpError:
    return InterpError("E701", f"{name} {what}", fix="interp resume FOLDER computes it again")
