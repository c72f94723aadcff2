"""Padding changes no number: prompts of several lengths, padded on either side, give what each gives alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.batch import Batch, pad
from interp.hooks.interventions import Ablate
from interp.hooks.tiny import TINY
from interp.kernels.errors import InterpError

PROMPTS = [[11, 12, 13, 14, 15, 16, 17, 18, 19], [21, 22, 23], [31, 32, 33, 34, 35, 36]]
VISION_ONLY = ("vit", "dinov2_with_registers", "clip", "siglip")
TEXT = [name for name in TINY if name not in VISION_ONLY]
ABSOLUTE = 1e-5


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TEXT)
def test_padding_on_either_side_changes_no_number(name: str, side: str, hooked: Any) -> None:
    model = hooked(name)
    kinds = (
        ("hook_z", "hook_resid_post") if TINY[name].bypasses_registry else ("hook_z", "hook_resid_post", "hook_pattern")
    )
    names = [f"blocks.*{kind}" for kind in kinds]
    batch = model.batch(PROMPTS, padding_side=side)
    logits, cache = model.run_with_cache(batch, names)
    for row, prompt in enumerate(PROMPTS):
        alone_logits, alone = model.run_with_cache([prompt], names)
        real = batch.mask[row]
        torch.testing.assert_close(logits[row, real], alone_logits[0], atol=ABSOLUTE, rtol=0)
        for point, value in alone.items():
            padded = cache[point][row]
            own = padded[:, real][:, :, real] if point.endswith("pattern") else padded[real]
            torch.testing.assert_close(own, value[0], atol=ABSOLUTE, rtol=0, msg=point)
            if point.endswith("pattern"):
                assert not padded[:, real][:, :, ~real].any()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_an_edit_at_the_end_lands_on_the_last_real_token(name: str, side: str, hooked: Any) -> None:
    model = hooked(name)
    batch = model.batch(PROMPTS, padding_side=side)
    for operator in ("zero", "identity"):
        with model.edit(Ablate(["L0H1", "L1H2"], operator, positions="end")):
            together = model(batch)
            alone = [model([prompt])[0] for prompt in PROMPTS]
        for row, wanted in enumerate(alone):
            torch.testing.assert_close(together[row, batch.mask[row]], wanted, atol=ABSOLUTE, rtol=0)


def test_models_that_cannot_be_told_positions_refuse_left_padding() -> None:
    """RoBERTa counts positions from after its padding row; ids from 0 would shift every token."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    from interp.hooks.model import HookedModel

    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = RobertaConfig(vocab_size=64, max_position_embeddings=20, pad_token_id=1, **sizes)
    model = HookedModel.from_hf(RobertaForMaskedLM(config).eval())
    alone = model([[5, 6, 7]])
    torch.testing.assert_close(model([[5, 6, 7], [8, 9, 10, 11]])[0, :3], alone[0], atol=1e-5, rtol=0)
    with pytest.raises(InterpError, match="E205") as caught:
        model([[5, 6, 7], [8, 9, 10, 11]], padding_side="left")
    assert "right" in caught.value.fix
    assert torch.equal(model([[5, 6, 7]], padding_side="left"), alone)
    assert model.adapter.n_positions == 18
    model([list(range(4, 22))])
    with pytest.raises(InterpError, match="E309"):
        model([list(range(4, 23))])


def test_pad_keeps_every_token_and_counts_positions_from_the_first_real_one() -> None:
    left, right = pad(PROMPTS, 0, "left"), pad(PROMPTS, 0)
    assert left.input_ids.shape == right.input_ids.shape == (3, 9)
    for batch in (left, right):
        assert [row[keep].tolist() for row, keep in zip(batch.input_ids, batch.mask, strict=True)] == PROMPTS
        assert batch.lengths.tolist() == [9, 3, 6]
        assert not batch.input_ids[~batch.mask].any()
    assert left.first.tolist() == [0, 6, 3] and left.end.tolist() == [8, 8, 8]
    assert right.first.tolist() == [0, 0, 0] and right.end.tolist() == [8, 2, 5]
    assert left.inputs["position_ids"][1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert "position_ids" not in right.inputs and "position_ids" not in pad([[1, 2]], 0, "left").inputs


def test_rows_of_a_batch() -> None:
    batch = pad(PROMPTS, 0)
    batch = Batch(batch.inputs, batch.mask, (0, 1, 2), ("note",), spans={"a": ((0,), (1,), (2,))})
    part = batch.rows(1, 3)
    assert part.size == 2 and part.truncated == (1, 2) and part.spans == {"a": ((1,), (2,))}
    assert torch.equal(part.input_ids, batch.input_ids[1:]) and torch.equal(part.mask, batch.mask[1:])
    assert batch.rows(0, 3) is batch


def test_image_patches_without_a_row_for_each_prompt_cannot_be_cut() -> None:
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long), "pixel_values": torch.zeros(40, 5)}
    batch = Batch(inputs, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(InterpError, match="E205") as caught:
        batch.rows(0, 1)
    assert "pixel_values" in caught.value.what


def test_tokens_without_an_embedding(hooked: Any) -> None:
    """A tokenizer with more tokens than the model has embeddings: an error with the place; padding may be anything."""
    model = hooked("llama")
    with pytest.raises(InterpError, match="token id 128, but llama has embeddings for 128") as caught:
        model([[5, 6, 7], [5, 128, 7]])
    assert caught.value.code == "E312"
    assert caught.value.where == "prompt 1, token 1"
    padded, usual = pad([[5, 6, 7], [8, 9]], 500), pad([[5, 6, 7], [8, 9]], 0)
    assert torch.equal(model(padded), model(usual))
