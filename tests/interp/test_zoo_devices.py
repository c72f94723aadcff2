"""Recipes on another device than the CPU. The device is a pretended one: shapes alone, and no operation mixes it with the CPU."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoTokenizer

from interp.zoo.language.model import LanguageModel
from interp.zoo.recipe import Training
from interp.zoo.registry import find, list_recipes

TRAINED = {name: recipe for name, recipe in list_recipes().items() if isinstance(recipe, Training)}
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXED = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._unsafe_index_put.default)


class Elsewhere(TorchDispatchMode):
    """Holds operations on the device `meta` to the rules of an accelerator, and makes up what has no shape there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = next((x for x in args if isinstance(x, torch.Tensor)), None)
        is_far = first is not None and first.is_meta
        used = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        if func in INDEXED and is_far:
            used = [x for x in used if x.dtype not in (torch.int64, torch.bool)]  # indices may stay on the CPU
        if func not in COPIES and len({x.is_meta for x in used}) > 1:
            raise RuntimeError(f"{func} on two devices: {[(x.device.type, tuple(x.shape)) for x in used]}")
        if func is ATEN._local_scalar_dense.default and is_far:
            return torch.ones((), dtype=first.dtype).item()
        if func is ATEN._to_copy.default and is_far and kwargs.get("device", first.device).type == "cpu":
            return torch.ones(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func is ATEN.index.Tensor and is_far and args[1][0].dtype == torch.bool:
            return first.new_empty((7, *first.shape[args[1][0].ndim :]))
        return func(*args, **kwargs)


def elsewhere(recipe):
    return recipe.build().to("meta")


def test_the_pretended_device_finds_what_a_real_one_refuses():
    far, near = torch.zeros(2, 3, device="meta"), torch.zeros(2, 3)
    with Elsewhere():
        assert (far + 1)[torch.tensor([0])].is_meta and float(far.sum()) == 1.0 and not far.cpu().is_meta
        for wrong in (
            lambda: far @ near.T,
            lambda: torch.where(near > 0, far, far),
            lambda: near[torch.zeros(2, dtype=torch.int64, device="meta")],
            lambda: torch.nn.functional.embedding(torch.tensor([0]), far),
        ):
            with pytest.raises(RuntimeError):
                wrong()


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_stays_on_the_device_of_the_model(name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the pretended device
    monkeypatch.setattr(
        LanguageModel, "tokenizer", AutoTokenizer.from_pretrained(find("mini"))
    )  # the same, made sooner
    recipe = TRAINED[name]
    model = elsewhere(recipe)
    with Elsewhere():
        recipe.backward(model, 0)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.is_meta for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in TRAINED if not name.startswith("mini")])
def test_progress_is_measured_on_the_device_of_the_model(name):
    recipe = replace(TRAINED[name], steps=1)
    model = elsewhere(recipe)
    with Elsewhere():
        assert recipe.progress(model)
