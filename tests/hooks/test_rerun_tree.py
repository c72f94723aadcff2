"""What prompts begin with alike runs once, and parts where they part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate
from interp.hooks.reference import mean_reference, paired_reference
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.tree import plant
from tests.cases.rerun import full_forwards, prompts, run


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_common_beginnings_run_once(hooked: Any, architecture: str) -> None:
    model = hooked(architecture)
    clean, corrupt = prompts(model, 4, common=20)
    source = paired_reference(model, [corrupt])
    chosen: list[Any] = [
        Ablate(heads=((0, 1),)),
        Ablate(heads=((0, 1),), positions=5),
        Ablate(heads=((0, 0),), operator="resample", reference=source),
        Ablate(heads=((0, 2),), operator="mean", reference=mean_reference(model, [clean])),
    ]
    want = full_forwards(model, clean, chosen, clean.end.cpu())
    shared = Rerun(model, clean, chosen, clean.end.cpu())
    alone = Rerun(model, clean, chosen, clean.end.cpu(), share=False)
    assert (run(shared) - want).abs().max() <= 1e-5
    assert (run(alone) - want).abs().max() <= 1e-5
    assert all(route.is_shared for route in shared.routes)
    assert not any(route.is_shared for route in alone.routes)
    assert shared.routes[0].flops < 0.6 * alone.routes[0].flops  # 20 + 28 tokens instead of 88


def test_prompts_that_part_in_their_edit_do_not_share(hooked: Any) -> None:
    model = hooked("llama")
    clean, _ = prompts(model, 4, common=20)
    _, corrupt = prompts(model, 4, common=0)
    ids = torch.randint(3, 100, clean.input_ids.shape, generator=torch.Generator().manual_seed(0))
    other = model.batch(Batch({**clean.inputs, "input_ids": torch.where(clean.mask, ids, 0)}, clean.mask))
    variant = Ablate(heads=((0, 1),), operator="resample", reference=paired_reference(model, [other]))
    engine = Rerun(model, clean, [variant], clean.end.cpu())
    assert not engine.routes[0].is_shared
    assert (run(engine) - full_forwards(model, clean, [variant], clean.end.cpu())).abs().max() <= 1e-5


def test_tree_of_common_beginnings() -> None:
    batch = pad([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6], [7, 2, 3]], 0)
    tree = plant(batch, batch.end, torch.arange(4).expand(4, 4), share=True)
    assert tree.size == 9  # 1, 2, 3, 4, 5, 6, 7, 2, 3
    assert tree.is_shared
    assert tree.path.tolist() == [[0, 1, 2, 3], [0, 1, 4, -1], [0, 1, 2, 5], [6, 7, 8, -1]]
    assert tree.read.tolist() == [3, 4, 5, 8]
    changed = np.zeros(9, dtype=bool)
    changed[2] = True
    assert np.flatnonzero(tree.below(changed)).tolist() == [2, 3, 5]
    assert [(branch.row, branch.start, branch.stop, branch.level) for branch in tree.branches] == [
        (0, 0, 2, 0),
        (0, 2, 3, 1),
        (0, 3, 4, 2),
        (1, 2, 3, 1),
        (2, 3, 4, 2),
        (3, 0, 3, 0),
    ]
    early = plant(batch, torch.tensor([1, 2, 1, 0]), torch.arange(4).expand(4, 4), share=True)
    assert early.size == 4  # tokens after the one that is read do not count
