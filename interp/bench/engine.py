"""The engine against full forwards: TransformerLens' loop, transformers' loop and ours, in one process, interleaved.

Random weights of GPT-2 small's shape: the arithmetic does not depend on their values. A loop's cost does not depend on
which head is edited, so each round times a few of its forwards, and scales them to the number of variants.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate, Intervention, Patch
from interp.hooks.model import HookedModel
from interp.hooks.reference import paired_reference
from interp.hooks.rerun.engine import BUDGET, Rerun
from interp.hooks.tiny import tiny_model

ANSWER, DISTRACTOR = 11, 12
DIFFERENCE = 1e-4
"""Largest difference of the metric to the loops' that is good enough, in logits."""

LOOPED = 3
"""Forwards of each loop in a round."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """One row of the table.

    Attributes:
        batch: prompts.
        variants: all that are run.
        bar: smallest ratio that is good enough: of the TransformerLens loop to ours, or where `unshared`, of our own
            engine without shared beginnings to it with them.
        unshared: compare with our own engine without shared beginnings.
    """

    name: str
    batch: Batch
    variants: tuple[Intervention, ...]
    bar: float
    unshared: bool = False


@dataclass(frozen=True)
class Row:
    """What was measured for one scenario; seconds are medians over rounds, for all variants.

    Attributes:
        ratio: TransformerLens loop / ours, median over rounds.
        transformers_ratio: the same for transformers' loop.
        predicted: from the plans' operations alone.
        difference: largest difference of the metric to the loops', over the variants that they ran.
        sharing: time without shared beginnings / with them; None where the scenario has none.
    """

    name: str
    variants: int
    ours: float
    ratio: float
    transformers_ratio: float
    predicted: float
    difference: float
    sharing: float | None
    bar: float

    @property
    def met(self) -> bool:
        """Fast enough, and the same numbers."""
        return (self.ratio if self.sharing is None else self.sharing) >= self.bar and self.difference <= DIFFERENCE


def build_model(device: str = "cpu") -> HookedModel:
    """GPT-2 small with random weights."""
    sizes: dict[str, Any] = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
    return HookedModel.from_hf(tiny_model("gpt2", **sizes).to(device), name="gpt2-small-shape")


def scenarios(model: HookedModel, rows: int, width: int, header: int) -> list[Scenario]:
    """The table's rows."""
    n_layers, n_heads = model.n_layers, model.heads[""][0]
    heads = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    batch, corrupt = tokens(model, rows, width), tokens(model, rows, width, seed=1)
    found = [
        Scenario("all positions", batch, tuple(Ablate(heads=(head,)) for head in heads), 3.0),
        Scenario("end position", batch, tuple(Ablate(heads=(head,), positions="end") for head in heads), 50.0),
    ]
    for at in (width // 4, width // 2, 3 * width // 4):
        other = joined(model, batch, corrupt, at)
        source = paired_reference(model, [other])
        bar = 0.75 * 3 * width / (width - at)
        resampled = tuple(Ablate(heads=(head,), operator="resample", reference=source) for head in heads)
        found.append(Scenario(f"pairs that differ from {at} on", batch, resampled, bar))
        if at == width // 2:
            patched = tuple(
                Patch("z", source, heads=((layer, 0),), positions=position)
                for layer in range(n_layers)
                for position in range(at, width)
            )
            found.append(Scenario(f"head x position, from {at} on", batch, patched, bar))
    common = tokens(model, 1, header, seed=2).input_ids.expand(rows, header)
    shared = model.batch(pad(torch.cat([common, batch.input_ids], 1).tolist(), 0))
    some = tuple(Ablate(heads=((layer, 0),)) for layer in range(n_layers))
    return [*found, Scenario(f"shared header of {header}", shared, some, 2.0, unshared=True)]


def tokens(model: HookedModel, rows: int, width: int, seed: int = 0) -> Batch:
    """Random prompts."""
    generator = torch.Generator().manual_seed(seed)
    return model.batch(pad(torch.randint(100, 50_000, (rows, width), generator=generator).tolist(), 0))


def joined(model: HookedModel, first: Batch, second: Batch, at: int) -> Batch:
    """Prompts of the first batch that go on as those of the second from a position on."""
    ids = torch.cat([first.input_ids[:, :at], second.input_ids[:, at:]], 1)
    return model.batch(pad(ids.tolist(), 0))


def logit_diff(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
    """The metric of all loops."""
    return logits[:, ANSWER] - logits[:, DISTRACTOR]


def ours(
    model: HookedModel, scenario: Scenario, budget: int, share: bool = True
) -> tuple[Float[Tensor, "variant batch"], float]:
    """The metric under every variant, and the predicted ratio."""
    columns = torch.tensor([ANSWER, DISTRACTOR])
    read_at = scenario.batch.end.cpu()
    engine = Rerun(model, scenario.batch, scenario.variants, read_at, columns=columns, share=share)
    plan = engine.plan(budget=budget)
    values = torch.empty(len(scenario.variants), scenario.batch.size)
    for chunk in plan.chunks:
        output = engine.run(chunk)
        values[list(chunk.variants)] = output[..., 0] - output[..., 1]
    return values, plan.naive_flops / plan.flops


@torch.no_grad()
def transformers_loop(model: HookedModel, scenario: Scenario, chosen: Sequence[int]) -> Float[Tensor, "chosen batch"]:
    """One full forward a variant, hooked through this toolkit."""
    found = []
    for index in chosen:
        with model.edit(scenario.variants[index]):
            found.append(logit_diff(model(scenario.batch)[:, -1].cpu()))
    return torch.stack(found)


@torch.no_grad()
def transformer_lens_loop(
    bridge: Any, model: HookedModel, scenario: Scenario, chosen: Sequence[int]
) -> Float[Tensor, "chosen batch"]:
    """The same as TransformerLens' patching tools do it: one forward with one hook on z a variant."""
    found = []
    for index in chosen:
        hooks = []
        for name, function in scenario.variants[index].hooks(model, scenario.batch):
            context = HookContext(model.adapter.available[name], scenario.batch)
            hooks.append((name, partial(_as_lens_hook, context, function)))
        found.append(logit_diff(bridge.run_with_hooks(scenario.batch.input_ids, fwd_hooks=hooks)[:, -1].cpu()))
    return torch.stack(found)


def _as_lens_hook(context: HookContext, function: HookFn, value: Tensor, hook: Any) -> Tensor | None:
    return function(value, context)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    found = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def measure(
    model: HookedModel, bridge: Any, scenario: Scenario, *, rounds: int, budget: int = BUDGET, looped: int = LOOPED
) -> Row:
    """Time all ways of doing one scenario, round by round, one after the other."""
    n = len(scenario.variants)
    chosen = [round(index * (n - 1) / max(1, looped - 1)) for index in range(looped)]
    times: dict[str, list[float]] = {"ours": [], "lens": [], "transformers": [], "unshared": []}
    difference, predicted = 0.0, 0.0
    ours(
        model, replace(scenario, variants=scenario.variants[:1]), budget
    )  # first calls are slower, and prove the model
    transformer_lens_loop(bridge, model, scenario, chosen[:1])
    for _ in range(rounds):
        elapsed, (values, predicted) = seconds(lambda: ours(model, scenario, budget))
        times["ours"].append(elapsed)
        for name, loop in (
            ("lens", lambda: transformer_lens_loop(bridge, model, scenario, chosen)),
            ("transformers", lambda: transformers_loop(model, scenario, chosen)),
        ):
            elapsed, found = seconds(loop)
            times[name].append(elapsed * n / len(chosen))
            difference = max(difference, float((found - values[chosen]).abs().max()))
        if scenario.unshared:
            times["unshared"].append(seconds(lambda: ours(model, scenario, budget, share=False))[0])
    return Row(
        scenario.name,
        n,
        statistics.median(times["ours"]),
        _ratio(times["lens"], times["ours"]),
        _ratio(times["transformers"], times["ours"]),
        predicted,
        difference,
        _ratio(times["unshared"], times["ours"]) if scenario.unshared else None,
        scenario.bar,
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
