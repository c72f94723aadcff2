"""Prompts, random variants and full forwards for the tests of the engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate, Intervention, Knockout, Patch, Redistribute, Scale, Steer
from interp.hooks.names import point_name
from interp.hooks.reference import Reference, mean_reference, paired_reference
from interp.hooks.rerun.engine import Rerun

CAUSAL = (
    "gpt2",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "olmo2",
    "phi3",
    "gemma2",
    "gemma3",
    "mistral",
    "mixtral",
    "gpt_oss",
)

RESTARTED = ("bert", "bloom", "falcon", "gptj")

STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")

LENGTHS = (9, 12, 7)


def prompts(model: Any, seed: int, side: str = "right", common: int = 0) -> tuple[Batch, Batch]:
    """Prompts of several lengths that begin alike for `common` tokens, and others that part from them after three."""
    draw = random.Random(seed)
    head = [draw.randrange(3, 100) for _ in range(common)]
    rows = [head + [draw.randrange(3, 100) for _ in range(length)] for length in LENGTHS]
    others = [row[: common + 3] + [draw.randrange(3, 100) for _ in row[common + 3 :]] for row in rows]
    found = [model.batch(pad(part, 0, side)) for part in (rows, others)]
    return found[0], found[1]


def variants(model: Any, clean: Batch, corrupt: Batch, seed: int, n: int = 24) -> list[Any]:
    """Random interventions of every kind that the model allows, one by one and together."""
    draw = random.Random(f"variants/{seed}")
    mean, other = mean_reference(model, [clean]), paired_reference(model, [corrupt], "*")
    width = clean.input_ids.shape[1]
    open_points = model.adapter.available

    def positions() -> Any:
        return draw.choice((None, None, "end", draw.randrange(width), tuple(draw.sample(range(width), 3))))

    def heads() -> Any:
        layer = draw.randrange(model.n_layers)
        count = model.heads[""][layer]
        return draw.choice(
            ((layer, draw.randrange(count)), tuple((layer, h) for h in draw.sample(range(count), 2)), "all")
        )

    def one() -> Intervention:
        layer, head = draw.randrange(model.n_layers), heads()
        makers: list[Callable[[], Intervention]] = [
            lambda: Ablate(heads=head, positions=positions()),
            lambda: Ablate(heads=head, operator="mean", reference=mean, positions=positions()),
            lambda: Ablate(heads=head, operator="resample", reference=other, positions=positions()),
            lambda: Scale(heads=head, factor=draw.choice((-1.0, 0.5, 3.0)), positions=positions()),
            lambda: Patch("z", other, heads=head, positions=positions()),
        ]
        if point_name("attn.hook_pattern", 0) in open_points:
            at = (layer, draw.randrange(model.heads[""][layer]))
            makers += [
                lambda: Ablate(heads=(at,), operator=draw.choice(("uniform", "identity", "to-sink"))),
                lambda: Patch("pattern", other, heads=(at,), positions=positions()),
                lambda: Patch("v", other, kv_heads=((layer, 0),), positions=positions()),
                lambda: Knockout(heads=(at,), queries="end", keys=1),
                lambda: Redistribute(heads=(at,), take=0, give=1),
            ]
        makers += [
            lambda point=point: Patch(point, other, layers=[layer], positions=positions())  # type: ignore[misc]
            for point in STREAM
            if point_name(f"hook_{point}", layer) in open_points
        ]
        name = point_name("hook_resid_pre", layer)
        if name in open_points:
            vector = torch.randn(other[name].shape[-1], generator=torch.Generator().manual_seed(layer))
            makers.append(lambda: Steer(layer, Reference({name: vector}), 0.5, positions=positions()))
        return draw.choice(makers)()

    return [one() if draw.random() < 0.75 else [one(), one()] for _ in range(n)]


@torch.no_grad()
def full_forwards(model: Any, batch: Batch, chosen: list[Any], read_at: torch.Tensor) -> torch.Tensor:
    """The oracle: one full forward a variant."""
    found = []
    for variant in chosen:
        with model.edit(*([variant] if isinstance(variant, Intervention) else variant)):
            found.append(model(batch)[torch.arange(batch.size), read_at])
    return torch.stack(found)


def run(engine: Rerun, **options: Any) -> torch.Tensor:
    """Outputs of all variants, in their order."""
    plan = engine.plan(**options)
    values = torch.full((len(engine.variants), *engine.clean.shape), float("nan"))
    for chunk in plan.chunks:
        values[list(chunk.variants)] = engine.run(chunk)
    return values
