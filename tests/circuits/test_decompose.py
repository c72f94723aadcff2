"""Direct logit attribution against sums, loops, gradients and TransformerLens."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.circuits.decompose import Decomposer, Decomposition, best_options, source_shares
from interp.circuits.readout import Norm, Readout
from interp.hooks.architectures import sharp_model
from interp.hooks.interventions import Ablate
from interp.hooks.model import HookedModel
from interp.hooks.tiny import LM
from interp.kernels.errors import InterpError

TEXT = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "olmo2", "phi3", "gemma2", "gemma3", "mistral", "mixtral",
        "gpt_oss", "bloom", "falcon", "gptj")  # fmt: skip
SEEING = ("llava", "qwen2_5_vl", "gemma3_vlm")
NO_DOUBLE = ("mixtral", "gpt_oss")  # torch has no grouped product of experts in float64
PROMPTS = [[11, 12, 13, 14, 15, 16], [21, 22, 23], [31, 32, 33, 34]]
ANSWER, DISTRACTOR = torch.tensor([5, 6, 7]), torch.tensor([50, 51, 52])


class DoubleRMSNorm(nn.Module):
    """An RMSNorm that keeps float64; those of transformers compute in float32 whatever they are given."""

    def __init__(self, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(gain), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


def disturbed(model: nn.Module) -> nn.Module:
    """Gains and biases away from 1 and 0, where they would hide a mistake."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw).to(parameter.dtype))
    return model


def in_double(model: nn.Module) -> nn.Module:
    """The model in float64, all of it."""
    model = model.double()
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            gain = 1 + module.weight.data if "Gemma" in type(module).__name__ else module.weight.data
            eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, DoubleRMSNorm(gain, eps))
    return model


@cache
def opened(name: str, double: bool = False) -> HookedModel:
    model = disturbed(sharp_model(name))
    return HookedModel.from_hf(in_double(model) if double else model, name=name)


def own_difference(
    model: HookedModel, batch: Any, read_at: Tensor, answer: Tensor, distractor: Tensor, names: str = "*hook_z"
) -> Tensor:
    """Logit difference as the model gives it, before its soft cap.

    `names`: reading patterns takes the softmax of Gemma 2 from float32, where transformers has it, to the model's dtype.
    """
    rows = torch.arange(batch.size)
    logits = model.run_with_cache(batch, names)[0][rows, read_at].double()
    cap = getattr(model.adapter.config.get_text_config(), "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.atanh(logits / cap)
    return logits[rows, answer] - logits[rows, distractor]


def check(model: HookedModel, batch: Any, read_at: Tensor, bar: float, *, sources: bool) -> Decomposition:
    """Parts sum to the model's own difference, and keys to their head, to this bar."""
    answer, distractor = ANSWER[: batch.size], DISTRACTOR[: batch.size]
    found = Decomposer.of(model)(batch, read_at, answer, distractor, sources=sources)
    own = own_difference(model, batch, read_at, answer, distractor, "*hook_pattern" if sources else "*hook_z")
    assert float(own.abs().max()) > 0.1
    torch.testing.assert_close(found.values.sum(0), own, atol=bar, rtol=0)
    torch.testing.assert_close(found.logit_diff, own, atol=bar, rtol=0)
    if sources:
        heads = torch.stack([row for part, row in zip(found.parts, found.values, strict=True) if part.kind == "head"])
        assert found.sources is not None
        torch.testing.assert_close(found.sources.sum(-1), heads, atol=bar, rtol=0)
    return found


@pytest.mark.parametrize("name", TEXT)
def test_parts_sum_to_the_logit_difference(name: str) -> None:
    model = opened(name)
    batch = model.batch(PROMPTS)
    found = check(model, batch, batch.end, 1e-4, sources="blocks.0.attn.hook_pattern" in model.adapter.available)
    n_heads = sum(model.heads[""])
    assert [part.label for part in found.parts if part.kind == "head"] == [
        f"L{layer}H{head}" for layer, n in enumerate(model.heads[""]) for head in range(n)
    ]
    assert found.head_norms.shape == (n_heads, 3) and bool((found.head_norms > 0).all())
    assert {"embed", "mlp", "head"} <= {part.kind for part in found.parts}


@pytest.mark.parametrize("name", [name for name in TEXT if name not in NO_DOUBLE])
def test_in_float64_the_sum_is_exact(name: str) -> None:
    model = opened(name, double=True)
    batch = model.batch(PROMPTS)
    check(model, batch, batch.end, 1e-10, sources="blocks.0.attn.hook_pattern" in model.adapter.available)


def test_an_output_bias_before_a_norm_is_a_part() -> None:
    model = HookedModel.from_hf(in_double(disturbed(sharp_model("olmo2", attention_bias=True))), name="olmo2")
    batch = model.batch(PROMPTS)
    found = check(model, batch, batch.end, 1e-10, sources=True)
    biases = [row for part, row in zip(found.parts, found.values, strict=True) if part.kind == "bias"]
    assert len(biases) == 2 and float(torch.stack(biases).abs().min()) > 1e-4


@pytest.mark.parametrize("name", SEEING)
def test_models_that_see(name: str) -> None:
    model = opened(name)
    batch = model.batch(model.adapter.probe_inputs)
    check(model, batch, torch.full((batch.size,), batch.input_ids.shape[1] - 1), 1e-4, sources=True)


def test_any_position_can_be_read() -> None:
    model = opened("gpt2", double=True)
    batch = model.batch(PROMPTS)
    check(model, batch, torch.tensor([2, 1, 0]), 1e-10, sources=True)


def test_padding_changes_nothing() -> None:
    model, found = opened("gemma2"), []
    for side in ("right", "left"):
        batch = model.batch(PROMPTS, padding_side=side)
        result = Decomposer.of(model)(batch, batch.end, ANSWER, DISTRACTOR, sources=True)
        spans = [mask.nonzero()[:, 0] for mask in batch.mask]
        found.append((result.values, [result.sources[:, row, span] for row, span in enumerate(spans)]))
        outside = torch.stack([result.sources[:, row] * ~batch.mask[row] for row in range(3)])
        assert float(outside.abs().max()) == 0
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_shares_of_gpt2_are_what_loops_over_heads_and_keys_give() -> None:
    model = opened("gpt2", double=True)
    batch = model.batch([PROMPTS[0]])
    _, cache_ = model.run_with_cache(batch)
    w = {name: value.double() for name, value in model.adapter.model.state_dict().items()}
    end, d_head = len(PROMPTS[0]) - 1, 16
    stream = cache_["resid_post", 1][0, end]
    centred = stream - stream.mean()
    sigma = math.sqrt(float(centred.pow(2).mean()) + 1e-5)
    towards = w["lm_head.weight"][5] - w["lm_head.weight"][50]

    def share(vector: Tensor) -> float:
        normed = w["transformer.ln_f.weight"] * (vector - vector.mean()) / sigma
        return float(normed @ towards)

    wanted, by_key = {}, torch.zeros(8, end + 1, dtype=torch.float64)
    for layer in range(2):
        w_out = w[f"transformer.h.{layer}.attn.c_proj.weight"]
        for head in range(4):
            block = w_out[head * d_head : (head + 1) * d_head]
            wanted[f"L{layer}H{head}"] = share(cache_["z", layer][0, end, head] @ block)
            for key in range(end + 1):
                weight = cache_["pattern", layer][0, head, end, key]
                by_key[layer * 4 + head, key] = share(weight * cache_["v", layer][0, key, head] @ block)
        wanted[f"L{layer}.attn_bias"] = share(w[f"transformer.h.{layer}.attn.c_proj.bias"])
        wanted[f"M{layer}"] = share(cache_["mlp_out", layer][0, end])
    wanted["embed"] = share(w["transformer.wte.weight"][PROMPTS[0][end]])
    wanted["pos_embed"] = share(w["transformer.wpe.weight"][end])
    wanted["norm_bias"] = float(w["transformer.ln_f.bias"] @ towards)
    found = Decomposer.of(model)(batch, batch.end, ANSWER[:1], DISTRACTOR[:1], sources=True)
    given = {part.label: float(value) for part, value in zip(found.parts, found.values, strict=True)}
    assert given == pytest.approx(wanted, abs=1e-10)
    torch.testing.assert_close(found.sources[:, 0], by_key, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "llama"])
def test_shares_are_gradients_of_the_model_with_frozen_scales(name: str) -> None:
    """z times the gradient of the difference at z, through the model's own projection, with norms that do not move."""
    model = opened(name, double=True)
    batch = model.batch([PROMPTS[0]])
    _, cache_ = model.run_with_cache(batch)
    core, end = model.adapter.model, len(PROMPTS[0]) - 1

    def frozen(norm: Any, x: Tensor) -> Tensor:
        return norm.weight * x / (x.detach().pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()

    zs = [cache_["z", layer][0, end].clone().requires_grad_() for layer in range(2)]
    mlps = [cache_["mlp_out", layer][0, end].clone().requires_grad_() for layer in range(2)]
    stream = cache_["resid_pre", 0][0, end]
    for layer, block in enumerate(core.model.layers):
        out = block.self_attn.o_proj(zs[layer].flatten())
        stream = stream + (frozen(block.post_attention_layernorm, out) if name != "llama" else out) + mlps[layer]
    logits = core.lm_head(frozen(core.model.norm, stream))
    grads = torch.autograd.grad(logits[5] - logits[50], [*zs, *mlps])
    heads = torch.cat([(z * grad).sum(-1) for z, grad in zip(zs, grads[:2], strict=True)])
    written = torch.stack([(mlp * grad).sum() for mlp, grad in zip(mlps, grads[2:], strict=True)])
    found = Decomposer.of(model)(batch, batch.end, ANSWER[:1], DISTRACTOR[:1], sources=True)
    for kind, wanted in (("head", heads), ("mlp", written)):
        given = [row for part, row in zip(found.parts, found.values, strict=True) if part.kind == kind]
        torch.testing.assert_close(torch.stack(given)[:, 0], wanted.detach(), atol=1e-10, rtol=0)


def test_heads_agree_with_transformer_lens() -> None:
    model = opened("gpt2")
    prompts = torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]])
    bridge = model.to_transformer_lens()
    bridge.enable_compatibility_mode(fold_value_biases=False)
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(prompts)
    with torch.no_grad():
        stack = theirs.stack_head_results(layer=-1, pos_slice=-1)
        wanted = theirs.logit_attrs(stack, ANSWER[:2], DISTRACTOR[:2], pos_slice=-1)
    batch = model.batch(prompts.tolist())
    found = Decomposer.of(model)(batch, batch.end, ANSWER[:2], DISTRACTOR[:2])
    given = torch.stack([row for part, row in zip(found.parts, found.values, strict=True) if part.kind == "head"])
    assert float(wanted.abs().max()) > 0.05
    torch.testing.assert_close(given.float(), wanted, atol=2e-6, rtol=0)


def test_source_shares_are_loops() -> None:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    pattern, values, w_out, direction = random(2, 4, 3), random(2, 3, 2, 5), random(4, 5, 6), random(2, 6)
    found = source_shares(pattern, values, w_out, direction)
    for head in range(4):
        for row in range(2):
            for key in range(3):
                written = pattern[row, head, key] * values[row, key, head // 2] @ w_out[head]
                assert float(found[head, row, key]) == pytest.approx(float(written @ direction[row]), abs=1e-12)


def test_of_several_options_the_largest_logit_counts_as_in_the_metric() -> None:
    from interp.hooks.metrics import METRICS

    model = opened("llama")
    batch = model.batch(PROMPTS)
    answer = torch.tensor([[5, 6, 7], [8, 9, -1], [10, -1, -1]])
    distractor = torch.tensor([[50, 51, -1], [52, -1, -1], [53, 54, 55]])
    logits = model(batch)[torch.arange(3), batch.end]
    found = Decomposer.of(model)(batch, batch.end, answer, distractor)
    wanted = METRICS["logit_diff"](logits, answer, distractor)
    torch.testing.assert_close(found.logit_diff.float(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.values.sum(0).float(), wanted, atol=1e-5, rtol=0)
    best = best_options(logits, answer)
    for row, options in enumerate([[5, 6, 7], [8, 9], [10]]):
        assert int(best[row]) == max(options, key=lambda token, row=row: float(logits[row, token]))


def test_edits_in_force_are_explained_with_the_run() -> None:
    model = opened("gpt_neox", double=True)
    batch = model.batch(PROMPTS)
    split = Decomposer.of(model)
    with model.edit(Ablate("L1H2")):
        found = split(batch, batch.end, ANSWER, DISTRACTOR)
        logits = model(batch)[torch.arange(3), batch.end]
    values = {part.label: row for part, row in zip(found.parts, found.values, strict=True)}
    assert float(values["L1H2"].abs().max()) == 0 and float(values["L1H1"].abs().max()) > 1e-3
    own = logits.gather(1, ANSWER[:, None]) - logits.gather(1, DISTRACTOR[:, None])
    torch.testing.assert_close(found.values.sum(0), own[:, 0], atol=1e-10, rtol=0)


def test_half_precision_is_summed_and_its_rounding_shown() -> None:
    model = HookedModel.from_hf(disturbed(sharp_model("llama")).to(torch.bfloat16), name="llama")
    batch = model.batch(PROMPTS)
    found = Decomposer.of(model)(batch, batch.end, ANSWER, DISTRACTOR)
    exact = Decomposer.of(opened("llama"))(batch, batch.end, ANSWER, DISTRACTOR)
    assert 0 < float(found.remainder.abs().max()) < 0.05 * float(found.values.abs().sum(0).max())
    assert float((found.values - exact.values).abs().max()) < 0.1


def special(model: str, config: str, **settings: Any) -> HookedModel:
    """Other architectures, made as the tiny ones are."""
    import transformers

    torch.manual_seed(0)
    core = getattr(transformers, model)(getattr(transformers, config)(**{**LM, **settings})).eval()
    with torch.no_grad():
        for parameter in core.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.15 / parameter.std())
    return HookedModel.from_hf(disturbed(core), name=model)


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        (lambda: special("CohereForCausalLM", "CohereConfig", logit_scale=0.25), 0.25),
        (lambda: special("GraniteForCausalLM", "GraniteConfig", logits_scaling=8.0, embedding_multiplier=12.0), 1 / 8),
    ],
    ids=["cohere", "granite"],
)
def test_logit_factors_are_measured(model: Callable[[], HookedModel], factor: float) -> None:
    hooked = model()
    assert Readout.of(hooked).factor == pytest.approx(factor, rel=1e-5)
    batch = hooked.batch(PROMPTS)
    found = Decomposer.of(hooked)(batch, batch.end, ANSWER, DISTRACTOR)
    own = own_difference(hooked, batch, batch.end, ANSWER, DISTRACTOR)
    torch.testing.assert_close(found.values.sum(0), own, atol=1e-5, rtol=0)


def test_the_soft_cap_is_found_and_taken_off() -> None:
    assert Readout.of(opened("gemma2")).cap == 30.0
    assert Readout.of(opened("llama")).cap is None


class Mixer(nn.Module):
    """A layer without attention, on both sides of those that have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states + self.mix(hidden_states)


@pytest.mark.parametrize(
    ("mixers", "others"),
    [((1,), ["L1.other"]), ((0, 3), ["L0.other", "L3.other"]), ((1, 2), ["L1-2.other"])],
)
def test_layers_without_attention_are_a_part_of_their_own(mixers: tuple[int, ...], others: list[str]) -> None:
    core: Any = in_double(disturbed(sharp_model("llama", num_hidden_layers=4)))
    torch.manual_seed(0)
    for layer in mixers:
        core.model.layers[layer] = Mixer(64).double()
    model = HookedModel.from_hf(core, name="mixed")
    batch = model.batch(PROMPTS)
    found = check(model, batch, batch.end, 1e-10, sources=True)
    assert [part.label for part in found.parts if part.kind == "other"] == others
    for part, row in zip(found.parts, found.values, strict=True):
        assert part.kind != "other" or float(row.abs().min()) > 1e-3


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(InterpError) as error:
        call()
    assert error.value.code == "E403"
    return str(error.value)


def test_what_is_no_such_sum_is_refused_with_the_reason() -> None:
    assert "post-norm" in refusal(lambda: Decomposer.of(opened("bert")))
    assert "no output layer over a vocabulary" in refusal(lambda: Decomposer.of(opened("vit")))
    normed = HookedModel.from_hf(sharp_model("bloom", apply_residual_connection_post_layernorm=True))
    assert "do not add up" in refusal(lambda: Decomposer.of(normed))
    bridge = HookedModel.from_transformer_lens(opened("gpt2").to_transformer_lens())
    assert "TransformerLens bridge" in refusal(lambda: Decomposer.of(bridge))


def test_patterns_that_are_hidden_refuse_sources_alone() -> None:
    model = opened("falcon")
    batch = model.batch(PROMPTS)
    split = Decomposer.of(model)
    assert "hook_pattern" in refusal(lambda: split(batch, batch.end, ANSWER, DISTRACTOR, sources=True))


class Tanh(nn.Module):
    """A final norm that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.weight


class Twice(nn.Module):
    """An output layer that does something to its numbers."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    @property
    def weight(self) -> Tensor:
        return self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x))


def test_a_final_norm_or_output_layer_that_is_not_affine_is_refused() -> None:
    core = sharp_model("llama")
    core.model.norm = Tanh()
    core.model.norm.eps = 1e-6
    model = HookedModel.from_hf(core, name="bent")
    assert "neither a LayerNorm nor an RMSNorm" in refusal(lambda: Decomposer.of(model))
    core = sharp_model("llama")
    core.lm_head = Twice(core.lm_head)
    model = HookedModel.from_hf(core, name="bent")
    batch = model.batch(PROMPTS)
    assert "unexplained" in refusal(lambda: Decomposer.of(model)(batch, batch.end, ANSWER, DISTRACTOR))


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False), nn.RMSNorm(6)])
def test_norms_are_measured(norm: nn.Module) -> None:
    norm = norm.double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    found = Norm.of(norm, 6)
    assert found is not None and found.centred == isinstance(norm, nn.LayerNorm)
    x = torch.randn(3, 6, dtype=torch.float64)
    scale = found.scale(x, norm(x).detach())
    squares = (x - x.mean(-1, keepdim=True) if found.centred else x).pow(2).mean(-1, keepdim=True)
    eps = norm.eps if norm.eps is not None else torch.finfo(torch.float64).eps
    torch.testing.assert_close(scale, (squares + eps).sqrt(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found(x, scale), norm(x).detach(), atol=1e-12, rtol=0)
    direction = torch.randn(3, 6, dtype=torch.float64)
    folded = (found.fold(direction, scale) * x).sum(-1)
    torch.testing.assert_close(folded, (direction * (norm(x) - found.bias)).sum(-1).detach(), atol=1e-12, rtol=0)
    assert Norm.of(nn.Tanh(), 6) is None
