"""The plain sweep against a loop over single prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.interventions import Ablate, Scale
from interp.hooks.naive import plain_outputs, read_output, sweep
from interp.hooks.reference import paired_reference

PROMPTS = [[11, 12, 13, 14, 15], [21, 22, 23], [31, 32, 33, 34], [41, 42, 43, 44, 45, 46], [51, 52]]
WIDTH = 6


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_sweep_is_a_loop_over_variants_and_prompts(batch_size: int, hooked: Any) -> None:
    model = hooked("llama")
    batch = model.batch(PROMPTS)
    other = model.batch([[token + 40 for token in prompt] for prompt in PROMPTS])
    paired = paired_reference(model, [other], "*hook_z")
    variants = [Ablate("L0H1"), Scale("L1H2", 2.0), Ablate("L0H3", "resample", paired), Ablate("L1H*", positions="end")]
    read_at = batch.end
    answers = torch.tensor([7, 8, 9, 10, 11])
    steps: list[tuple[int, int]] = []

    def measure(output: Tensor, start: int, stop: int) -> Tensor:
        assert output.shape == (stop - start, 128)
        return output.gather(1, answers[start:stop, None])[:, 0]

    found = sweep(
        model, batch, variants, read_at, measure, batch_size=batch_size, progress=lambda *step: steps.append(step)
    )
    for index, variant in enumerate(variants):
        for row, prompt in enumerate(PROMPTS):
            padded = model.batch(PROMPTS).rows(row, row + 1)
            with model.edit(variant.rows(row, row + 1)):
                logits = model(padded)[0, len(prompt) - 1]
            assert float(found[index, row]) == pytest.approx(float(logits[answers[row]]), abs=1e-5)
    forwards = len(variants) * -(-len(PROMPTS) // batch_size)
    assert steps == [(done, forwards) for done in range(1, forwards + 1)]
    assert torch.equal(model(batch), model(batch)) and model._edits == []


def test_plain_outputs_ignore_edits(hooked: Any) -> None:
    model = hooked("llama")
    batch = model.batch(PROMPTS)
    clean = plain_outputs(model, batch, batch.end, 2)
    with model.edit(Ablate("L0H*")):
        assert torch.equal(plain_outputs(model, batch, batch.end, 2), clean)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(clean[row], model([prompt])[0, -1], atol=1e-5, rtol=0)


def test_what_a_metric_reads_of_each_kind_of_output(hooked: Any) -> None:
    model = hooked("bert")
    batch = model.batch(PROMPTS)
    hidden = torch.randn(5, WIDTH, 8)
    at = torch.tensor([0, 1, 2, 3, 1])
    assert torch.equal(read_output(hidden, batch, at), torch.stack([hidden[row, at[row]] for row in range(5)]))
    pooled = read_output(hidden, batch, torch.full((5,), -1))
    wanted = torch.stack([hidden[row, : len(prompt)].mean(0) for row, prompt in enumerate(PROMPTS)])
    torch.testing.assert_close(pooled, wanted)
    classes = torch.randn(5, 3)
    assert read_output(classes, batch, at) is classes
    image = hooked("vit").batch({"pixel_values": torch.zeros(5, 3, 32, 32)})
    torch.testing.assert_close(read_output(hidden, image, at), hidden.mean(1))
