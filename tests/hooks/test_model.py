"""HookedModel leaves no trace: not in the model it was given, not in another one, not after an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.adapters.probe_inputs import probe_inputs
from interp.hooks.adapters.registry import SITES
from interp.hooks.architectures import sharp_model
from interp.hooks.interventions import Ablate, Intervention, Knockout, Scale
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 119, (2, 6), generator=torch.Generator().manual_seed(5))
NAMES = ("gpt2", "gemma2", "mixtral", "bert", "bloom", "clip", "llava", "qwen2_5_vl", "gemma3_vlm")


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a transformers model that hooks could leave behind, tensors as bytes."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    hooks = {
        name: tuple(len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
        for name, module in model.named_modules()
    }
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "storage": {name: value.data_ptr() for name, value in model.state_dict().items()},
        "grad": {name: (value.requires_grad, value.grad is None) for name, value in model.named_parameters()},
        "hooks": hooks,
        "attention": {key: config._attn_implementation for key, config in configs.items()},
        "config": model.config.to_json_string(),
        "training": {name: module.training for name, module in model.named_modules()},
        "classes": {name: type(module) for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    weights = [torch.equal(value, after["weights"][name]) for name, value in before["weights"].items()]
    return all(weights) and all(before[key] == after[key] for key in before if key != "weights")


def idle() -> bool:
    return all(site.fire is None and not site.kinds for site in SITES.values())


class Boom(Exception):
    pass


def explode(*_: Any) -> Tensor:
    raise Boom


@pytest.mark.parametrize("name", NAMES)
def test_the_model_given_is_untouched_by_opening_reading_and_editing(name: str) -> None:
    hf = sharp_model(name)
    with torch.no_grad():
        hf(**probe_inputs(hf))  # the first forward of some models installs transformers' own hooks, for good
    before = snapshot(hf)
    model = HookedModel.from_hf(hf)
    assert model.adapter.model is hf
    assert same(before, snapshot(hf))
    inputs = model.adapter.probe_inputs
    clean, _ = model.run_with_cache(inputs)
    assert same(before, snapshot(hf)) and idle()
    every = {name: lambda x, _: x + 1 for name, point in model.adapter.available.items() if "hook_scale" not in name}
    every = {name: hook for name, hook in every.items() if "hook_result" not in name}
    edited = model.run_with_hooks(inputs, every)
    assert same(before, snapshot(hf)) and idle() and not torch.equal(edited, clean)
    edits = [Ablate(HeadId(tower, 0, 1), "zero") for tower in model.heads]
    with model.edit(*edits):
        model(inputs)
        assert same(before, snapshot(hf))
    assert torch.equal(model.run_with_cache(inputs)[0], clean)
    assert same(before, snapshot(hf)) and idle()


FAILURES: dict[str, Callable[[HookedModel], Any]] = {
    "hook on z": lambda model: model.run_with_hooks(IDS, {"blocks.1.attn.hook_z": explode}),
    "hook on the pattern": lambda model: model.run_with_hooks(IDS, {"blocks.1.attn.hook_pattern": explode}),
    "hook on q": lambda model: model.run_with_hooks(IDS, {"blocks.0.attn.hook_q": explode}),
    "hook on the stream": lambda model: model.run_with_hooks(IDS, {"blocks.1.hook_resid_mid": explode}),
    "hook on the embedding": lambda model: model.run_with_hooks(IDS, {"hook_embed": explode}),
    "some hooks and then an unknown name": lambda model: model.run_with_hooks(
        IDS, {"blocks.0.attn.hook_pattern": lambda p, _: p, "blocks.9.attn.hook_z": explode}
    ),
    "wrong shape": lambda model: model.run_with_hooks(IDS, {"blocks.0.attn.hook_v": lambda v, _: v[:, :1]}),
    "token out of range": lambda model: model.run_with_cache(torch.tensor([[3, 4000]])),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_nothing_is_left_after_an_error(name: str, failure: str) -> None:
    hf = sharp_model(name)
    model = HookedModel.from_hf(hf)
    before, clean = snapshot(hf), model.run_with_cache(IDS)[0]
    with pytest.raises((Boom, InterpError, IndexError)):
        FAILURES[failure](model)
    assert same(before, snapshot(hf)) and idle()
    with pytest.raises((Boom, InterpError, IndexError)):
        with model.edit(Ablate("L0H0")):
            with model.edit(Ablate("L1H1", "uniform")):
                FAILURES[failure](model)
    assert same(before, snapshot(hf)) and idle() and model._edits == []
    assert torch.equal(model.run_with_cache(IDS)[0], clean)


def test_an_edit_that_fails_to_make_its_hooks_leaves_nothing(hooked: Any) -> None:
    model = hooked("llama")
    clean = model(IDS)

    class Broken(Intervention):
        hooks = explode  # type: ignore[assignment]

    with pytest.raises(Boom), model.edit(Ablate("L0H0"), Broken()):
        model(IDS)
    assert torch.equal(model(IDS), clean) and idle()


def test_an_error_inside_nested_edits_ends_them_from_the_inside_out(hooked: Any) -> None:
    model = hooked("llama")
    clean = model(IDS)
    with model.edit(Ablate("L0H0")):
        outer = model(IDS)
        with pytest.raises(Boom), model.edit(Scale("L1H1", 3.0)), model.edit(Ablate("L1H2", "identity")):
            raise Boom
        assert torch.equal(model(IDS), outer) and not torch.equal(outer, clean)
    assert torch.equal(model(IDS), clean)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_of_every_config_comes_back(attention: str) -> None:
    hf = sharp_model("gemma3_vlm", attn_implementation=attention)
    model = HookedModel.from_hf(hf)
    assert model.describe()["attention"] == [attention]
    configs = {id(module.config): module.config for module in hf.modules() if hasattr(module, "config")}.values()
    assert len(configs) >= 3
    during: list[set[str]] = []

    def look(pattern: Tensor, _: object) -> None:
        during.append({config._attn_implementation for config in configs})

    model.run_with_hooks(model.adapter.probe_inputs, {"blocks.0.attn.hook_pattern": look})
    assert during == [{"interp"}]
    assert {config._attn_implementation for config in configs} == {attention}


def test_edits_act_on_the_hooked_model_alone(hooked: Any) -> None:
    """Neither the transformers model called directly nor another opened model sees them."""
    one, other = HookedModel.from_hf(sharp_model("llama")), HookedModel.from_hf(sharp_model("llama"))
    clean = one(IDS)
    assert torch.equal(other(IDS), clean)
    with torch.no_grad(), one.edit(Ablate("L0H1"), Ablate("L1H0", "uniform")):
        edited = one(IDS)
        assert not torch.equal(edited, clean)
        assert torch.equal(other(IDS), clean)
        assert torch.equal(one.run_plain(IDS), clean)
        assert torch.equal(one.adapter.model(IDS).logits, clean)
        with other.edit(Ablate("L0H2", "identity")):
            both = other(IDS)
            assert torch.equal(one(IDS), edited)
            assert not torch.equal(both, clean) and not torch.equal(both, edited)


def test_two_models_run_inside_one_anothers_hooks() -> None:
    one, other = HookedModel.from_hf(sharp_model("gpt2")), HookedModel.from_hf(sharp_model("llama"))
    clean_one, clean_other = one(IDS), other(IDS)
    inside: list[Tensor] = []

    def run_other(pattern: Tensor, _: object) -> None:
        with other.edit(Ablate("L1H1", "uniform")):
            inside.append(other(IDS))

    found = one.run_with_hooks(IDS, {"blocks.0.attn.hook_pattern": run_other})
    torch.testing.assert_close(found, clean_one)
    with other.edit(Ablate("L1H1", "uniform")):
        assert torch.equal(other(IDS), inside[0])
    assert torch.equal(other(IDS), clean_other)


def test_one_transformers_model_may_be_opened_twice() -> None:
    hf = sharp_model("llama")
    one = HookedModel.from_hf(hf)
    clean = one(IDS)
    two = HookedModel.from_hf(hf)
    with one.edit(Ablate("L0H0", "identity")):
        edited = one(IDS)
        assert torch.equal(two(IDS), clean)
    with two.edit(Ablate("L0H0", "identity")):
        assert torch.equal(two(IDS), edited) and torch.equal(one(IDS), clean)


def test_hooks_see_where_they_stand(hooked: Any) -> None:
    model = hooked("llama")
    batch = model.batch([[5, 6, 7], [8]])
    seen: list[Any] = []
    model.run_with_hooks(batch, {"blocks.1.attn.hook_pattern": lambda p, context: seen.append(context)})
    (context,) = seen
    assert (context.name, context.point.layer, context.start) == ("blocks.1.attn.hook_pattern", 1, 0)
    assert context.batch.input_ids.equal(batch.input_ids)
    assert context.allowed[:, 0].tolist() == [
        [[True, False, False], [True, True, False], [True, True, True]],
        [[True, False, False]] * 3,
    ]


def test_several_hooks_at_one_point_run_in_order(hooked: Any) -> None:
    model = hooked("gpt2")
    seen: list[float] = []
    hooks = [lambda z, _: 0 * z, lambda z, _: seen.append(float(z.abs().max())), lambda z, _: z + 1]
    hooks.append(lambda z, _: seen.append(float(z.min())))
    model.run_with_hooks(IDS, {"blocks.0.attn.hook_z": hooks})
    assert seen == [0.0, 1.0]


def test_edits_come_before_hooks_and_captures(hooked: Any) -> None:
    model = hooked("gpt2")
    seen: list[Tensor] = []
    with model.edit(Ablate("L0H*")):
        model.run_with_hooks(IDS, {"blocks.0.attn.hook_z": lambda z, _: seen.append(z)})
    assert not seen[0].any()


def test_a_model_says_what_it_is(hooked: Any) -> None:
    about = hooked("llama").describe()
    assert about["name"] == "llama" and about["architecture"] == "LlamaForCausalLM" and about["n_layers"] == 2
    assert about["heads"] == {"": [4, 4]} and about["kv_heads"] == {"": [2, 2]} and about["dtype"] == "float32"
    assert "2 layers x 4 heads" in repr(hooked("llama"))


def test_knockouts_on_a_model_with_sinks_leave_the_sink(hooked: Any) -> None:
    model = hooked("gpt_oss")
    point = "blocks.1.attn.hook_pattern"
    clean = model.run_with_cache(IDS, point)[1][point][:, 0, 5]
    with model.edit(Knockout("L1H0", queries=(5,), keys=(5,))):
        rest = model.run_with_cache(IDS, point)[1][point][:, 0, 5]
    sink = 1 - clean.sum(-1, keepdim=True)
    assert bool((sink > 0).all())
    kept = clean.clone()
    kept[:, 5] = 0
    torch.testing.assert_close(rest, kept / (kept.sum(-1, keepdim=True) + sink))


def test_the_record_says_where_another_attention_stands_in() -> None:
    model = HookedModel.from_hf(sharp_model("llama"))
    assert model.describe()["attention"] == ["sdpa"]
    for site, _ in model.adapter.sites():
        site.native = "flash_attention_2"
    assert model.describe()["attention"] == ["flash_attention_2 (sdpa in forwards with a hooked attention call)"]
