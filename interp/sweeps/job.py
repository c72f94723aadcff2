"""`Job`: all that a worker needs besides the model's files, as one block of bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks import interventions
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.metrics import metric
from interp.hooks.reference import Reference
from interp.hooks.rerun.engine import BUDGET
from interp.kernels.errors import InterpError
from interp.sweeps.rerun import RerunWork
from interp.sweeps.work import NaiveWork

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

IDS = ("answer", "distractor")

ENGINES = {
    "rerun": "only what can change runs again, from a recorded run, to the same numbers",
    "forwards": "one full forward for each variant and batch",
}
MEMORY = BUDGET >> 20
"""MiB that a run of the engine may hold, where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Job:
    """Prompts, metric and variants of a sweep.

    Attributes:
        question: prompts and metric.
        variants: one row of the table each.
        batch_size: prompts in one unit.
        baseline: metric of the untouched model, by which a worker sees that it opened the same one.
        engine: a key of `ENGINES`.
        memory: MiB that a run of the engine may hold.
    """

    question: Question
    variants: tuple[Intervention, ...]
    batch_size: int
    baseline: Float[Tensor, " prompt"]
    engine: str = "rerun"
    memory: int = MEMORY

    def work(self, model: HookedModel) -> NaiveWork | RerunWork:
        """What fills in the table with this model."""
        return make_work(model, self.question, self.variants, self.batch_size, self.engine, self.memory)

    @property
    def references(self) -> dict[str, Reference]:
        """Reference values of all variants, by digest."""
        values = [getattr(variant, field.name) for variant in self.variants for field in fields(variant)]
        return {value.digest: value for value in values if isinstance(value, Reference)}

    def prompts_digest(self) -> str:
        """SHA-256 over everything the model and the metric read of the prompts."""
        sha = hashlib.sha256(json.dumps(self.question.batch.spans, sort_keys=True).encode())
        for name, tensor in sorted(self._question_tensors().items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def _question_tensors(self) -> dict[str, Tensor]:
        question = self.question
        found = {f"input.{name}": value for name, value in question.batch.inputs.items() if isinstance(value, Tensor)}
        given = {"mask": question.batch.mask, "read_at": question.read_at}
        given |= {name: getattr(question, name) for name in IDS}
        found |= {name: value for name, value in given.items() if value is not None}
        return {name: value.detach().cpu() for name, value in found.items()}

    def to_bytes(self) -> bytes:
        """Equal jobs give equal bytes.

        Raises:
            InterpError: E205 inputs that are no tensors.
        """
        from safetensors.torch import save

        batch = self.question.batch
        other = [name for name, value in batch.inputs.items() if not isinstance(value, Tensor)]
        if other:
            raise InterpError("E205", f"input {other[0]!r} is no tensor: such prompts cannot be stored with a run")
        tensors = {**self._question_tensors(), "baseline": self.baseline}
        for sha, reference in self.references.items():
            tensors |= {f"{sha}.{name}": value.detach().cpu() for name, value in reference.values.items()}
        about = {
            "metric": self.question.metric.name,
            "batch_size": self.batch_size,
            "engine": self.engine,
            "memory": self.memory,
            "tokenizer": batch.tokenizer,
            "spans": batch.spans,
            "variants": [variant.to_dict() for variant in self.variants],
            "references": {sha: [value.origin, value.paired] for sha, value in self.references.items()},
        }
        copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        return save(copies, metadata={"interp": json.dumps(about, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Job:
        from safetensors.torch import load

        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["interp"])
        tensors = load(data)
        inputs = {name.removeprefix("input."): value for name, value in tensors.items() if name.startswith("input.")}
        spans = {role: tuple(tuple(row) for row in rows) for role, rows in about["spans"].items()}
        batch = Batch(inputs, tensors.get("mask"), tokenizer=about["tokenizer"], spans=spans)
        ids = {name: tensors.get(name) for name in IDS}
        references = {
            sha: Reference(_named(tensors, sha), origin, paired)
            for sha, (origin, paired) in about["references"].items()
        }
        return cls(
            Question(batch, tensors["read_at"], metric(about["metric"]), **ids),
            tuple(_variant(data, references) for data in about["variants"]),
            about["batch_size"],
            tensors["baseline"],
            about["engine"],
            about["memory"],
        )


def make_work(
    model: HookedModel,
    question: Question,
    variants: Sequence[Intervention],
    batch_size: int,
    engine: str = "rerun",
    memory: int = MEMORY,
) -> NaiveWork | RerunWork:
    """What fills in the table of such a job."""
    if engine == "forwards":
        return NaiveWork(model, question, variants, batch_size)
    return RerunWork(model, question, variants, batch_size, memory << 20)


def _named(tensors: Mapping[str, Tensor], sha: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{sha}."): value for name, value in tensors.items() if name.startswith(f"{sha}.")}


def _variant(data: Mapping[str, Any], references: Mapping[str, Reference]) -> Intervention:
    """An intervention from what its `to_dict` gave, with its reference values."""
    chosen: type[Intervention] = getattr(interventions, data["kind"])
    given = {name: value for name, value in data.items() if name != "kind"}
    stored = {name: references[value["sha256"]] for name, value in given.items() if _is_reference(value)}
    return chosen(**{**given, **stored})


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and "sha256" in value
