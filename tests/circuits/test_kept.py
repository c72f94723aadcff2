"""Copies of weights follow the weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.graph.flow import Flow
from interp.circuits.kept import Kept
from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from tests.cases.edges import contrasted, paired


def changed(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3).add_(0.05)


def put_anew(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach() * 1.3 + 0.05))


def read_back(model: nn.Module) -> None:
    model.load_state_dict({name: value * 1.3 + 0.05 for name, value in model.state_dict().items()})


CHANGES = {"in place": changed, "by others": put_anew, "from a file": read_back}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("olmo2", "in place"),
        ("falcon", "in place"),
        ("gpt2", "in place"),
        ("gpt2", "by others"),
        ("llama", "from a file"),
    ],
)
def test_scores_are_those_of_the_present_weights(name: str, change: str) -> None:
    model = HookedModel.from_hf(sharp_model(name))
    flow, clean, corrupt = paired(model, lengths=(6, 5))

    def scores(asked: Flow) -> Tensor:
        contrast = contrasted(asked, clean, corrupt)
        without = [
            asked.graph.full & (np.random.default_rng(seed).random(asked.graph.full.shape) < 0.7) for seed in (0, 1)
        ]
        found = METHODS["eap"].run(contrast, Settings()).scores
        return torch.cat([found.flatten(), MaskedRuns(contrast).values(without).flatten()])

    before = scores(flow)
    CHANGES[change](model.adapter.model)  # type: ignore[attr-defined]
    after, fresh = scores(flow), scores(Flow.of(model))
    assert (after - before)[-4:].abs().min() > 1e-3 and (after - before)[:-4].abs().max() > 1e-2
    assert torch.equal(after, fresh)


def test_nothing_is_made_again_without_need() -> None:
    module, made = nn.Linear(2, 2), []

    def make(layer: int) -> int:
        made.append(layer)
        return len(made)

    kept: Kept[int] = Kept({0: (module,), 1: ()}, make)
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: None, 1),
        (lambda: module(torch.ones(2)).sum().backward(), 1),
        (lambda: module.weight.requires_grad_(False), 1),
        (lambda: module.weight.zero_(), 2),
        (lambda: module.register_buffer("scale", torch.ones(2)), 3),
    ]
    for step, expected in steps:
        step()
        assert kept[0] == kept[0] == expected
    assert made == [0, 0, 0] and list(kept) == [0, 1] and len(kept) == 2
