"""Routers of mixture-of-experts models: what they chose, and experts kept from being chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.circuits.readout import main_tower
from interp.heads.parts import ExpertId
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def routers(model: HookedModel) -> dict[int, Any]:
    """Layer -> its router: the module that gives (logits, weights, numbers) of the experts that it chose for each token.

    Raises:
        InterpError: E407, no layer has routed experts.
    """
    tower = main_tower(model)
    layers = model.adapter.model.get_submodule(tower.path)  # type: ignore[attr-defined]
    found = {layer: one for layer, child in enumerate(layers) for one in child.modules() if _is_router(one)}
    if not found:
        raise InterpError("E407", f"{model.name} has no routed experts", fix="this is for mixture-of-experts models")
    return found


def _is_router(module: nn.Module) -> bool:
    return (
        type(module).__name__.lower().endswith("router") and hasattr(module, "num_experts") and hasattr(module, "top_k")
    )


def experts_of(model: HookedModel) -> tuple[ExpertId, ...]:
    """Every routed expert, layer by layer."""
    return tuple(ExpertId("", layer, n) for layer, router in routers(model).items() for n in range(router.num_experts))


@torch.no_grad()
def routed(model: HookedModel, batch: Batch) -> dict[int, Float[Tensor, "batch pos expert"]]:
    """Layer -> weight of each expert at each token, 0 where it was not chosen.

    Raises:
        InterpError: E403, a router that gives something else; E404, one that did not run.
    """
    found: dict[int, Tensor] = {}

    def note(layer: int) -> Any:
        def hook(module: Any, _: Any, output: Any) -> None:
            _, weights, numbers = checked(module, output)
            every = torch.zeros(len(weights), module.num_experts, dtype=torch.float64, device=weights.device)
            found[layer] = every.scatter_add(1, numbers, weights.double()).unflatten(0, batch.input_ids.shape)

        return hook

    watched = routers(model)
    with attached({router: note(layer) for layer, router in watched.items()}):
        model(batch)
    return found


@contextmanager
def suppressed(model: HookedModel, experts: Iterable[ExpertId]) -> Iterator[None]:
    """Some experts get no weight inside the block, and what they had goes to the others that were chosen, in proportion.

    As in Mixture of Tunable Experts (Dahlke et al. 2025, arXiv 2502.11096): no other expert is drawn in their place. A token
    all of whose experts are suppressed gets nothing from this layer's routed experts. There is no hook point on routers, so
    these are hooks on the modules themselves; they are gone after the block, also after an error.

    Raises:
        InterpError: E203, an expert that the model does not have; E404, no forward ran, or one did not reach a router.
    """
    by_layer: dict[int, list[int]] = {}
    for expert in experts:
        by_layer.setdefault(expert.layer, []).append(expert.head)
    known = routers(model)
    for layer, numbers in by_layer.items():
        if layer not in known or not all(0 <= one < known[layer].num_experts for one in numbers):
            what = f"no such expert in layer {layer}: {', '.join(map(str, numbers))}"
            raise InterpError("E203", what, fix=f"layers with experts: {', '.join(map(str, known))}")

    def without(numbers: list[int]) -> Any:
        def hook(module: Any, _: Any, output: Any) -> tuple[Tensor, Tensor, Tensor]:
            logits, weights, chosen = checked(module, output)
            gone = torch.isin(chosen, torch.tensor(numbers, device=chosen.device))
            left = weights.masked_fill(gone, 0)
            rest, total = left.sum(-1, keepdim=True), weights.sum(-1, keepdim=True)
            return logits, torch.where(rest > 0, left * (total / rest), left), chosen

        return hook

    with attached({known[layer]: without(numbers) for layer, numbers in by_layer.items()}):
        yield


def checked(module: Any, output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output of a router: logits, weights and numbers of the chosen experts (E403)."""
    fits = isinstance(output, tuple) and len(output) == 3 and output[1].shape == output[2].shape
    if not fits or output[1].shape[-1] != module.top_k or output[2].is_floating_point():
        raise InterpError("E403", f"{type(module).__name__} does not give weights and numbers of experts")
    return output


@contextmanager
def attached(hooks: dict[Any, Any]) -> Iterator[None]:
    """Forward hooks on modules, each of which must have fired (E404)."""
    fired = dict.fromkeys(hooks, 0)

    def counting(module: Any, hook: Any) -> Any:
        def run(*given: Any) -> Any:
            fired[module] += 1
            return hook(*given)

        return run

    handles = [module.register_forward_hook(counting(module, hook)) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not all(fired.values()):
        raise InterpError("E404", "a router did not run", fix="run the model inside the block")
