"""Reference values against loops over prompts and positions; files and digests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.interventions import Ablate, Intervention
from interp.hooks.reference import Reference, mean_reference, paired_reference
from interp.kernels.errors import InterpError

PROMPTS = [[11, 12, 13, 14, 15], [21, 22, 23], [31, 32, 33, 34], [41, 42, 43, 44, 45, 46, 47]]
Z = "blocks.1.attn.hook_z"


def each_alone(model: Any, name: str) -> list[torch.Tensor]:
    return [model.run_with_cache([prompt], name)[1][name][0].double() for prompt in PROMPTS]


@pytest.mark.parametrize("side", ["right", "left"])
def test_mean_counts_real_tokens_alone_over_batches_of_any_width(side: str, hooked: Any) -> None:
    model = hooked("llama")
    parts = [model.batch(PROMPTS[:3], padding_side=side), model.batch(PROMPTS[3:], padding_side=side)]
    found = mean_reference(model, parts)
    assert set(found.values) == {"blocks.0.attn.hook_z", Z} and found.values[Z].dtype == torch.float32
    wanted = torch.cat(each_alone(model, Z)).mean(0)
    torch.testing.assert_close(found[Z].double(), wanted, atol=1e-6, rtol=0)


def test_mean_at_each_position_counts_the_prompts_that_reach_it(hooked: Any) -> None:
    model = hooked("llama")
    parts = [model.batch(PROMPTS[:2]), model.batch(PROMPTS[2:])]
    found = mean_reference(model, parts, Z, per_position=True)[Z].double()
    rows = each_alone(model, Z)
    assert found.shape == (7, 4, 16)
    for position in range(7):
        wanted = torch.stack([row[position] for row in rows if len(row) > position]).mean(0)
        torch.testing.assert_close(found[position], wanted, atol=1e-6, rtol=0)


def test_means_of_other_points_and_towers(hooked: Any) -> None:
    model = hooked("llama")
    found = mean_reference(model, [model.batch(PROMPTS)], ["*resid_pre", "*hook_v"])
    assert found["blocks.0.hook_resid_pre"].shape == (64,) and found["blocks.0.attn.hook_v"].shape == (2, 16)
    clip = hooked("clip")
    batch = clip.batch(clip.adapter.probe_inputs)
    names = ["blocks.0.attn.hook_z", "vision.blocks.0.attn.hook_z"]
    found = mean_reference(clip, [batch], names)
    _, cache = clip.run_with_cache(batch, names)
    for name in names:
        torch.testing.assert_close(found[name], cache[name].mean((0, 1)))


def test_values_that_are_not_finite_are_left_out(hooked: Any) -> None:
    model = hooked("llama", seed=7)
    batch = model.batch(PROMPTS[:2])
    rows = [row for row in each_alone(model, Z)[:2]]

    def broken(z: torch.Tensor, _: object) -> torch.Tensor:
        z = z.clone()
        z[0, 1, 2, 3], z[1, 0, 0, 0] = float("nan"), float("inf")
        return z

    class Break(Intervention):
        def hooks(self, model: Any, batch: Any) -> Any:
            return [(Z, broken)]

    with model.edit(Break()):
        found = mean_reference(model, [batch], Z)[Z].double()
    wanted = torch.cat([rows[0][[0, 2, 3, 4]], rows[1][1:]]).mean(0)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_paired_values_are_those_of_each_row(hooked: Any) -> None:
    model = hooked("gpt2")
    rows = torch.randint(3, 128, (5, 6), generator=torch.Generator().manual_seed(0))
    found = paired_reference(model, [model.batch(rows[:2]), model.batch(rows[2:])], Z)
    assert found.paired and found[Z].shape == (5, 6, 4, 16)
    torch.testing.assert_close(found[Z], model.run_with_cache(rows, Z)[1][Z])
    cut = found.rows(1, 3)
    assert torch.equal(cut[Z], found[Z][1:3]) and cut.paired
    with model.edit(Ablate("L1H*", "resample", cut)):
        edited = model.run_with_cache(rows.flip(0)[:2], Z)[1][Z]
    assert torch.equal(edited, found[Z][1:3])


def test_a_name_that_the_reference_lacks_is_said(hooked: Any) -> None:
    with pytest.raises(InterpError, match="E201") as caught:
        Reference({Z: torch.ones(4, 16)})["blocks.0.attn.hook_z"]
    assert Z in caught.value.fix


@pytest.mark.parametrize("paired", [True, False])
def test_files_read_back(paired: bool, tmp_path: Any) -> None:
    values = {Z: torch.randn(3, 4, 16).transpose(0, 1), "hook_embed": torch.randn(3, dtype=torch.float64)}
    written = Reference(values, "from here", paired)
    read = Reference.load(written.save(tmp_path / "reference.safetensors"))
    assert read == written and read.origin == "from here" and read.paired == paired


def test_digest_of_every_dtype_and_of_nothing() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        digests = {
            Reference({"a": torch.ones(2, dtype=dtype)}).digest,
            Reference({"a": torch.zeros(2, dtype=dtype)}).digest,
        }
        assert len(digests) == 2
    assert Reference({}).digest == Reference({}).digest != Reference({"a": torch.ones(())}).digest
