"""Forwards without waste: the output layer where it is read alone, and activations as one operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from interp.hooks.adapters.base import Adapter
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.batch import Batch
from interp.hooks.rerun.restart import FUSED, read_only_at, replaced, written_out

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@contextmanager
def lean(adapter: Adapter) -> Iterator[None]:
    """Activations that transformers writes out, step by step, run as one operation inside the block."""
    assert isinstance(adapter, HuggingFaceAdapter), "a graph is made of a transformers model"
    with ExitStack() as stack:
        for module in written_out(adapter):
            stack.enter_context(replaced(module, FUSED[type(module).__name__]))
        yield


@contextmanager
def reading_at(model: HookedModel, batch: Batch, read_at: Int[Tensor, " batch"] | None) -> Iterator[bool]:
    """The output layer runs at one position of each prompt alone inside the block, where there is one; whether it does."""
    adapter = model.adapter
    is_text = "input_ids" in batch.inputs and read_at is not None and bool((read_at >= 0).all())
    if isinstance(adapter, HuggingFaceAdapter) and is_text and adapter.output_name == "logits":
        assert read_at is not None
        with read_only_at(adapter, read_at):
            yield True
    else:
        yield False
