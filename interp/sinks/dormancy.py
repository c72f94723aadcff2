"""The fourth criterion, which alone is causal: does anything change when a head is taken away where it rests?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.controls import grouped, matched_controls
from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.naive import Progress, batches
from interp.hooks.names import parse_head, point_name
from interp.kernels.errors import InterpError
from interp.sinks.places import Places
from interp.sinks.settings import Settings
from interp.sinks.survey import Survey

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

NUMBERS, TOKENS = 2**25, 8192
"""Of outputs, and of tokens, in one forward."""

METRICS = {"logits": "kl", "last_hidden_state": "cosine"}


@dataclass(frozen=True, eq=False)
class Dormancy:
    """What taking heads away did.

    Attributes:
        metric: 'kl' (nats) or 'cosine' (1 - cosine of the hidden states).
        effects: change of the output when the head's z is zero at the queries of a domain: summed over all tokens, so
            that later ones count, for each query of the domain. Domains as in the places, and resting and working
            queries last. nan where a prompt has no such query.
        controls: mean of the same where the head rests, with matched heads taken away at the same queries instead.
        matched: labels of these heads.
        notes: on them.
    """

    metric: str
    effects: Float[np.ndarray, "head prompt domain"]
    controls: Float[np.ndarray, "head prompt"]
    matched: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def dormancy_metric(model: HookedModel) -> str:
    """How a change of this model's output is measured.

    Raises:
        InterpError: E402, an output layer that was never trained; E407, another output.
    """
    output = model.adapter.output_name
    if output not in METRICS:
        raise InterpError("E407", f"no measure of change for {output} of {model.name}", fix="dormancy=False")
    if output == "logits" and not model.has_trained_head:
        raise InterpError(
            "E402", f"the output layer of {model.name} is random", fix="open the encoder, or dormancy=False"
        )
    return METRICS[output]


@torch.no_grad()
def dormancy(
    model: HookedModel,
    batch: Batch,
    places: Places,
    seen: Survey,
    settings: Settings,
    progress: Progress | None = None,
) -> Dormancy:
    """Take each head away at the queries of each domain, and its matched heads where it rests."""
    metric = dormancy_metric(model)
    layers = [parse_head(head).layer for head in seen.heads]
    output = np.nan_to_num(seen.by_domain["output"][:, :, 0]).mean(1)
    found = matched_controls(output, np.array(layers), settings.n_controls)
    works = ~seen.resting & places.real[:, None] & ~seen.sinks[:, None]
    effects = np.full((len(seen.heads), batch.size, len(places.domains) + 2), np.nan)
    controls = np.full((len(seen.heads), batch.size), np.nan)
    spans = list(batches(batch.size, settings.batch_size))
    for number, (start, stop) in enumerate(spans):
        change = _Change(model, batch.rows(start, stop), metric)
        here, rests = places.queries[:, start:stop], seen.resting[start:stop]
        for index, head in enumerate(seen.heads):
            where = [*here, rests[:, index], works[start:stop, index]]
            others = [seen.heads[other] for other in found.indices[index]]
            rows = change([*[(head, one) for one in where], *[(other, rests[:, index]) for other in others]])
            effects[index, start:stop] = rows[: len(where)].T
            if others:
                controls[index, start:stop] = rows[len(where) :].mean(0)
            if progress is not None:
                progress(number * len(seen.heads) + index + 1, len(spans) * len(seen.heads))
    matched = tuple(tuple(seen.heads[other] for other in others) for others in found.indices)
    return Dormancy(metric, effects, controls, matched, grouped(zip(seen.heads, found.notes, strict=True)))


class _Change:
    """Change of the output of one batch when heads are taken away, each by itself, at some queries."""

    def __init__(self, model: HookedModel, batch: Batch, metric: str) -> None:
        self.model, self.batch, self.metric = model, batch, metric
        self.clean = model(batch)
        width, size = self.clean.shape[1:]
        self.rows = max(1, min(TOKENS, NUMBERS // size) // width)

    def __call__(self, asked: Sequence[tuple[str, Bool[Tensor, "batch pos"]]]) -> Float[np.ndarray, "asked batch"]:
        """For each query where a head is taken away; nan where a prompt has none."""
        rows = [(number, int(row)) for number, (_, where) in enumerate(asked) for row in where.any(-1).nonzero()]
        found = np.full((len(asked), self.batch.size), np.nan)
        for start in range(0, len(rows), self.rows):
            part = rows[start : start + self.rows]
            for (number, row), total in zip(part, self._totals(part, asked), strict=True):
                found[number, row] = total / int(asked[number][1][row].sum())
        return found

    def _totals(
        self, rows: Sequence[tuple[int, int]], asked: Sequence[tuple[str, Bool[Tensor, "batch pos"]]]
    ) -> list[float]:
        """Change of each row, summed over its real tokens; all rows in one forward."""
        prompts = torch.tensor([row for _, row in rows])
        hooks: dict[str, Zeroed] = {}
        for at, (number, row) in enumerate(rows):
            head = parse_head(asked[number][0])
            hook = hooks.setdefault(point_name("attn.hook_z", head.layer), Zeroed([]))
            hook.places.append((at, head.head, asked[number][1][row]))
        output = self.model.run_with_hooks(_picked(self.batch, prompts), hooks)
        assert self.batch.mask is not None
        kept = self.batch.mask[prompts.to(self.batch.mask.device)]
        return [
            self._total(self.clean[row][real], after[real])
            for (_, row), after, real in zip(rows, output, kept, strict=True)
        ]

    def _total(self, before: Tensor, after: Tensor) -> float:
        """One prompt at a time, since a vocabulary is wide."""
        if self.metric == "cosine":
            return float((1 - torch.cosine_similarity(before.double(), after.double(), dim=-1)).sum())
        log_p, log_q = before.double().log_softmax(-1), after.double().log_softmax(-1)
        return float((log_p.exp() * (log_p - log_q)).sum())


@dataclass
class Zeroed:
    """Hook on `attn.hook_z`: zero at (row, head, where)."""

    places: list[tuple[int, int, Bool[Tensor, " pos"]]]

    def __call__(self, z: Tensor, context: HookContext) -> Tensor:
        z = z.clone()
        for row, head, where in self.places:
            z[row, where.to(z.device), head] = 0
        return z


def _picked(batch: Batch, prompts: Tensor) -> Batch:
    """Some prompts, each as often as it is named."""
    assert batch.mask is not None
    at = prompts.to(batch.mask.device)
    inputs: Mapping[str, object] = {
        name: value[at] if isinstance(value, Tensor) else value for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=inputs, mask=batch.mask[at], truncated=(), spans={})
