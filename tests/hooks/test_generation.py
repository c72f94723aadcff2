"""Cached decoding with interventions, held against a loop of whole forwards, one prompt at a time, without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.batch import Batch, pad
from interp.hooks.generation.result import Generation
from interp.hooks.interventions import (
    Ablate,
    Blend,
    Intervention,
    Knockout,
    Patch,
    Redistribute,
    Scale,
    Steer,
)
from interp.hooks.model import HookedModel
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, mean_reference
from interp.hooks.swap import Swap
from interp.kernels.variants.clipped import Clipped
from interp.kernels.variants.sigmoid import Sigmoid
from interp.kernels.variants.window import Window

ARCHITECTURES = ("gpt2", "gpt_neox", "gemma2", "gemma3", "mixtral", "gpt_oss", "phi3")
LENGTHS = (9, 5, 7)
ROLES = {"subject": ((1, 2), (2,), (3, 4))}
STEPS = 3
TOLERANCE = 1e-4


def rows(seed: int = 0) -> list[list[int]]:
    ids = torch.randint(3, 100, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    return [row[:length].tolist() for row, length in zip(ids, LENGTHS, strict=True)]


def prompts(model: HookedModel, side: str = "right") -> Batch:
    """Prompts of several lengths with a role; left padding moves it."""
    batch = model.batch(pad(rows(), 0, side))
    moved = [max(LENGTHS) - length if side == "left" else 0 for length in LENGTHS]
    spans = {
        role: tuple(tuple(place + by for place in row) for row, by in zip(of_rows, moved, strict=True))
        for role, of_rows in ROLES.items()
    }
    return replace(batch, spans=spans)


Make = Callable[[int, int], Sequence[Intervention]]
"""The same edit for a whole forward of one prompt: number of the prompt, tokens by now."""


@torch.no_grad()
def loop(model: HookedModel, make: Make, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Greedy decoding by whole forwards: tokens [batch step] and logits [batch step d_vocab]."""
    tokens, logits = [], []
    for row, ids in enumerate(rows()):
        ids, of_row = list(ids), []
        for _ in range(steps):
            with model.edit(*make(row, len(ids))):
                of_row.append(model([ids])[0, -1])
            ids.append(int(of_row[-1].argmax()))
        tokens.append(torch.tensor(ids[-steps:]))
        logits.append(torch.stack(of_row))
    return torch.stack(tokens), torch.stack(logits)


def agree(found: Generation, tokens: Tensor, logits: Tensor, name: str) -> None:
    assert torch.equal(found.tokens, tokens), name
    assert found.logits is not None and float((found.logits - logits).abs().max()) <= TOLERANCE, name


def written(model: HookedModel, edits: Sequence[Intervention], side: str = "right", **options: Any) -> Generation:
    return model.generate(prompts(model, side), max_new_tokens=STEPS, edits=edits, stop=(), logits=True, **options)


@dataclass(frozen=True)
class Case:
    """An edit in generation, and the same edit spelled out for a whole forward."""

    edit: Intervention
    whole: Callable[[int, int], Intervention]


def everywhere(edit: Intervention) -> Case:
    return Case(edit, lambda row, now: edit)


def at(field: str, make: Callable[[Any], Intervention], value: Any) -> Case:
    """An edit somewhere: 'end', a role and numbers are written as the positions that they mean by then."""

    def whole(row: int, now: int) -> Intervention:
        if value == "end":
            return make(tuple(range(LENGTHS[row] - 1, now)))
        if value == "subject":
            return make(ROLES["subject"][row])
        return make(tuple(place for place in value if place < now))

    return Case(make(value), whole)


def head_cases(model: HookedModel) -> dict[str, Case]:
    mean = mean_reference(model, [prompts(model)])
    return {
        "zero": everywhere(Ablate("L0H1,L1H2", "zero")),
        "mean": everywhere(Ablate("L0H*", "mean", mean)),
        "scale": everywhere(Scale("L0H0,L0H3", 3.0)),
        "scale at end": at("positions", lambda p: Scale("L0H0,L1H1", -2.0, positions=p), "end"),
        "scale at role": at("positions", lambda p: Scale("L0H0", -2.0, positions=p), "subject"),
        "scale at prompt and beyond": at("positions", lambda p: Scale("L0H1,L1H0,L1H2", -2.0, positions=p), (1, 4, 9)),
        "patched z": everywhere(Patch("z", mean, heads="L1H0")),
    }


def look_cases(model: HookedModel) -> dict[str, Case]:
    return {
        "uniform": everywhere(Ablate("L0H1", "uniform")),
        "identity": everywhere(Ablate("L1H1", "identity")),
        "to-sink": everywhere(Ablate("L0H2,L1H0", "to-sink")),
        "uniform at end": at("positions", lambda p: Ablate("L0H1", "uniform", positions=p), "end"),
        "blend": everywhere(Blend("L0H1,L1H3", 0.6)),
        "blend uniform at end": at("queries", lambda p: Blend("all", 0.5, "uniform", queries=p), "end"),
        "knockout": at("keys", lambda p: Knockout("L1H1", None, p), (1,)),
        "knockout of a role": at("keys", lambda p: Knockout("L0H*", None, p), "subject"),
        "knockout from end": Case(
            Knockout("L0H*", "end", "subject"),
            lambda row, now: Knockout("L0H*", tuple(range(LENGTHS[row] - 1, now)), ROLES["subject"][row]),
        ),
        "redistribute": Case(
            Redistribute("L1H*", take=(0, 1), share=0.7), lambda row, now: Redistribute("L1H*", take=(0, 1), share=0.7)
        ),
        "redistribute to a role": Case(
            Redistribute("L0H2", take=(2,), give=(4, 9), queries="end"),
            lambda row, now: Redistribute(
                "L0H2",
                take=(2,),
                give=tuple(place for place in (4, 9) if place < now),
                queries=tuple(range(LENGTHS[row] - 1, now)),
            ),
        ),
    }


def value_cases(model: HookedModel) -> dict[str, Case]:
    """One value for every position, at each point that the model has."""
    found = {}
    for point in ("q", "k", "v", "rot_q", "rot_k"):
        name = point_name(f"attn.hook_{point}", 1)
        if name in model.adapter.available:
            by = {"heads": "L1H1"} if "q" in point else {"kv_heads": ((1, 0),)}
            mean = mean_reference(model, [prompts(model)], name)
            found[point] = everywhere(Patch(point, mean, **by))
            found[f"{point} at end"] = at(
                "positions", lambda p, a=(point, mean), b=by: Patch(*a, **b, positions=p), "end"
            )
    for point in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        name = point_name(f"hook_{point}", 1)
        if name in model.adapter.available:
            mean = mean_reference(model, [prompts(model)], name)
            found[point] = at("positions", lambda p, a=(point, mean): Patch(*a, layers=[1], positions=p), "end")
    early = mean_reference(model, [prompts(model)], "blocks.0.hook_mlp_out")
    found["role"] = at("positions", lambda p: Patch("mlp_out", early, layers=[0], positions=p), "subject")
    vector = torch.randn(64, generator=torch.Generator().manual_seed(3))
    steer = Reference({point_name("hook_resid_pre", 1): vector})
    found["steer"] = at("positions", lambda p: Steer(1, steer, 0.7, positions=p), "end")
    return found


def operator_cases(model: HookedModel) -> dict[str, Case]:
    return {
        "clipped": everywhere(Swap("L0H1,L1H1", Clipped(gamma=-0.1))),
        "window": everywhere(Swap("L1H*", Window(size=3))),
        "sigmoid": everywhere(Swap("all", Sigmoid())),
        "two at once": Case(Swap("L0H0", Window(size=2)), lambda row, now: Swap("L0H0", Window(size=2))),
    }


def check(model: HookedModel, cases: dict[str, Case], *, clean: Tensor | None = None) -> None:
    """Every case agrees with its whole forwards, fires in every step, and changes what is written later."""
    for name, case in cases.items():
        tokens, logits = loop(model, lambda row, now, case=case: [case.whole(row, now)])
        found = written(model, [case.edit])
        agree(found, tokens, logits, name)
        assert found.method == "cached"
        assert [step.kind for step in found.steps] == ["prefill", *["decode"] * (STEPS - 1)]
        assert all(step.fired == found.steps[0].fired and step.fired[0] > 0 for step in found.steps), name
        if clean is not None:
            assert float((logits - clean)[:, 1:].abs().max()) > 1e-3, f"{name} changes no later token"


@pytest.mark.parametrize("kind", [head_cases, look_cases, value_cases, operator_cases])
def test_edits_act_in_every_step_as_in_whole_forwards(hooked: Any, kind: Any) -> None:
    model = hooked("llama")
    _, clean = loop(model, lambda row, now: [])
    check(model, kind(model), clean=clean)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edits_of_many_kinds_together_on_every_architecture(hooked: Any, architecture: str) -> None:
    """Learned positions, parallel blocks, windows, soft caps, experts, sink logits, fused projections."""
    model = hooked(architecture)
    several = list({**look_cases(model), **head_cases(model)}.values())
    streams = [case for name, case in value_cases(model).items() if name not in ("v", "rot_k")]
    for cases in (several, streams, list(operator_cases(model).values())[:2]):
        tokens, logits = loop(model, lambda row, now, cases=cases: [case.whole(row, now) for case in cases])
        agree(written(model, [case.edit for case in cases]), tokens, logits, architecture)
