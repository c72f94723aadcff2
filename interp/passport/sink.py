"""What `interp.sinks` says of one head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from interp.passport.reading import plain_number
from interp.sinks.places import RESTING, WORKING
from interp.sinks.tables import finite_mean

if TYPE_CHECKING:
    from interp.sinks.result import SinkReport

MISSING = float("nan")


@dataclass(frozen=True)
class SinkVerdict:
    """Where a head rests.

    Attributes:
        role: of the key that receives most.
        received, even: mean attention that it receives, and what even attention would give.
        written: length of what its value writes, relative to other keys.
        rests: share of queries that rest.
        resting, controls, working: change of the output without the head where it rests, without matched heads there,
            and without it where it works; nan where that was not tested.
        verdict: dormant, active, mixed, unclear, or not tested.
        criteria: those that could be judged, and what each says.
        disagreement: between them; '' where all say the same.
        is_sink: looks at a sink whose value is drained or whose stream is an outlier.
    """

    role: str
    received: float
    even: float
    written: float
    rests: float
    resting: float
    controls: float
    working: float
    verdict: str
    criteria: Mapping[str, bool] = field(default_factory=dict)
    disagreement: str = ""
    is_sink: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            name: plain_number(value) if isinstance(value, float) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SinkVerdict:
        """What `to_dict` gave, after a way through JSON, which writes missing numbers as null."""
        given: dict[str, Any] = {name: MISSING if value is None else value for name, value in data.items()}
        return cls(**given)


def sink_verdict(report: SinkReport, head: str) -> SinkVerdict:
    """One head of a report."""
    row, said = report.index(head), report.criteria[report.index(head)]
    at = report.roles.index(said.role)
    received, even, written = (float(report.mean(name)[row, at]) for name in ("received", "uniform", "written"))
    changes = (MISSING, MISSING, MISSING)
    if report.tested:
        rest, work = (report.domains.index(name) for name in (RESTING, WORKING))
        found = report.changes
        changes = float(found.mean[row, rest]), float(found.control[row]), float(found.mean[row, work])
    return SinkVerdict(
        said.role, received, even, written, float(finite_mean(report.rests[row], 0)), *changes, report.verdicts[row],
        said.named, said.disagreement, head in report.sink_heads,
    )  # fmt: skip
