"""Pattern override: attention of another run, or of another model, in place of a model's own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.circuits.transfer import attention_transfer
from interp.hooks.architectures import sharp_model
from interp.hooks.interventions import Patch
from interp.hooks.model import HookedModel
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

PROMPTS = [[11, 12, 13, 14, 15, 16], [21, 22, 23], [31, 32, 33, 34]]
OTHERS = [[61, 62, 63, 64, 65, 66], [71, 72, 73], [81, 82, 83, 84]]


@cache
def opened(name: str, seed: int = 0, **overrides: Any) -> HookedModel:
    return HookedModel.from_hf(sharp_model(name, seed=seed, **overrides), name=f"{name}-{seed}")


def by_hand(model: HookedModel, batch: Any, layer: int, patterns: Tensor) -> Tensor:
    """What attention of one layer writes when its queries look as `patterns` says: loops over heads and queries."""
    _, cache_ = model.run_with_cache(batch, [f"blocks.{layer}.attn.hook_v"])
    v, w_out = cache_["v", layer], model.w_out(layer)
    n_batch, n_heads, n_pos, _ = patterns.shape
    out = torch.zeros(n_batch, n_pos, w_out.shape[-1])
    bias = model.adapter.block(layer).out.bias
    for row in range(n_batch):
        for head in range(n_heads):
            kv_head = head * v.shape[2] // n_heads
            for query in range(n_pos):
                z = sum(patterns[row, head, query, key] * v[row, key, kv_head] for key in range(n_pos))
                out[row, query] += z @ w_out[head]
    return out if bias is None else out + bias


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_oss", "gpt_neox"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_pattern_of_another_run_decides_where_values_come_from(name: str, side: str) -> None:
    """With grouped-query attention, sinks and padding: attention writes what loops over the given pattern write."""
    model = opened(name)
    batch, others = (model.batch(prompts, padding_side=side) for prompts in (PROMPTS, OTHERS))
    _, clean = model.run_with_cache(batch, "*hook_pattern")
    _, source = model.run_with_cache(others, "*hook_pattern")
    patch = Patch("pattern", Reference(source, "other prompts", paired=True), heads="L0H*")
    with model.edit(patch):
        _, edited = model.run_with_cache(batch, ["*hook_pattern", "*hook_attn_out"])
    assert float((source["pattern", 0] - clean["pattern", 0]).abs().max()) > 0.1
    assert torch.equal(edited["pattern", 0], source["pattern", 0])
    wanted = by_hand(model, batch, 0, source["pattern", 0])
    torch.testing.assert_close(edited["attn_out", 0][batch.mask], wanted[batch.mask], atol=1e-5, rtol=0)


def test_one_head_gets_it_and_the_others_keep_theirs() -> None:
    model = opened("llama")
    batch = model.batch(PROMPTS)
    _, clean = model.run_with_cache(batch, "*hook_pattern")
    _, source = model.run_with_cache(model.batch(OTHERS), "*hook_pattern")
    with model.edit(Patch("pattern", Reference(source, paired=True), heads="L0H2", positions="end")):
        _, edited = model.run_with_cache(batch, "*hook_pattern")
    for row in range(3):
        for head in range(4):
            for query in range(int(batch.lengths[row])):
                given = source if head == 2 and query == int(batch.end[row]) else clean
                assert torch.equal(edited["pattern", 0][row, head, query], given["pattern", 0][row, head, query])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_patterns_of_another_model_of_the_same_shape_arrive(name: str) -> None:
    model, other = opened(name), opened(name, seed=1)
    prompts = model.batch(PROMPTS)
    source = attention_transfer(model, other, PROMPTS)
    assert source.paired and source.origin == f"attention of {name}-1"
    _, theirs = other.run_with_cache(prompts, "*hook_pattern")
    own, _ = model.run_with_cache(prompts, "*hook_pattern")
    with model.edit(Patch("pattern", source, heads="all")):
        logits, edited = model.run_with_cache(prompts, ["*hook_pattern", "*hook_z"])
    for layer in range(2):
        assert torch.equal(edited["pattern", layer], theirs["pattern", layer])
    assert float((logits - own)[prompts.mask].abs().max()) > 0.05
    with model.edit(Patch("pattern", attention_transfer(model, model, PROMPTS), heads="all")):
        same = model(prompts)
    torch.testing.assert_close(same[prompts.mask], own[prompts.mask], atol=1e-6, rtol=0)


def test_single_prompts_and_batches_agree() -> None:
    model, other = opened("llama"), opened("llama", seed=1)
    whole = attention_transfer(model, other, PROMPTS, padding_side="left")
    batch = model.batch(PROMPTS, padding_side="left")
    with model.edit(Patch("pattern", whole, heads="all")):
        together = model(batch)[:, -1]
    for row, prompt in enumerate(PROMPTS):
        with model.edit(Patch("pattern", attention_transfer(model, other, [prompt]), heads="all")):
            alone = model([prompt])[0, -1]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


def test_query_heads_map_to_query_heads_whatever_the_key_value_heads() -> None:
    model, other = opened("llama"), opened("llama", num_key_value_heads=4)
    assert model.kv_heads != other.kv_heads
    source = attention_transfer(model, other, PROMPTS)
    batch = model.batch(PROMPTS)
    with model.edit(Patch("pattern", source, heads="L0H*")):
        _, edited = model.run_with_cache(batch, ["*hook_attn_out"])
    wanted = by_hand(model, batch, 0, source["blocks.0.attn.hook_pattern"])
    torch.testing.assert_close(edited["attn_out", 0][batch.mask], wanted[batch.mask], atol=1e-5, rtol=0)


def refusal(model: HookedModel, other: HookedModel, code: str, prompts: Any = None) -> str:
    with pytest.raises(InterpError) as error:
        attention_transfer(model, other, prompts or PROMPTS)
    assert error.value.code == code
    return str(error.value)


def test_what_does_not_map_is_refused() -> None:
    llama = opened("llama")
    text = refusal(llama, opened("llama", num_hidden_layers=3), "E206")
    assert "2 layers of 4 heads" in text and "3 layers of 4 heads" in text
    refusal(llama, opened("llama", num_attention_heads=8), "E206")
    refusal(llama, opened("falcon"), "E403")
    refusal(opened("falcon"), llama, "E403")


def test_a_pattern_that_looks_where_this_model_cannot_is_refused() -> None:
    """Into the future, or beyond a window; the other way round it is fine."""
    llama, bert, windowed = opened("llama"), opened("bert"), opened("mistral")
    assert "hides" in refusal(llama, bert, "E205")
    long = [list(range(11, 21))]
    assert "hides" in refusal(windowed, llama, "E205", long)
    attention_transfer(llama, windowed, long)
    attention_transfer(windowed, llama, [[11, 12, 13]])


def test_tokenizers_must_agree() -> None:
    import interp

    mini, planted = interp.load("mini"), interp.load("planted-copy")
    assert "different tokens" in refusal(mini, planted, "E312", "Mary")
    source = attention_transfer(mini, mini, "When Mary and John went to the store")
    assert set(source.values) == {f"blocks.{layer}.attn.hook_pattern" for layer in range(4)}
