"""Where a layer reads the residual stream: the norm before its projections, and the norm before its MLP.

Found in one forward by what goes in and comes out, not by names: the norm is the module that is given the stream and
whose output is what the projections, or the MLP, are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.hooks.adapters.projections import Projection
from interp.hooks.adapters.structure import Block

Reading = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Inlets:
    """How one layer reads the stream.

    Attributes:
        projections: 'q', 'k' and 'v' -> where they come out; empty where they were not found.
        attn_norm: the norm before the projections; None where they read the stream as it is.
        mlp: the first module of the MLP; None where there is none, or what it reads was not recognised.
        mlp_norm: the norm before it; None where it reads the stream as it is.
        dtype: of the stream.
    """

    projections: Mapping[str, Projection] = field(default_factory=dict)
    attn_norm: nn.Module | None = None
    mlp: nn.Module | None = None
    mlp_norm: nn.Module | None = None
    dtype: torch.dtype = torch.float32

    def weight(self, part: str) -> Float[Tensor, "head d_model d_head"]:
        """W_Q, W_K or W_V, head by head; of a plain layer a view, of others (quantised, adapted) what they compute."""
        projection = self.projections[part]
        return projection.view(self._linear(projection.module)[None])[0].transpose(0, 1)

    def bias(self, part: str) -> Float[Tensor, "head d_head"] | None:
        """Its bias."""
        projection = self.projections[part]
        bias: Any = getattr(projection.module, "bias", None)
        return None if bias is None else projection.view(bias.detach()[None, None])[0, 0]

    def _linear(self, module: nn.Module) -> Float[Tensor, "d_model width"]:
        weight: Any = getattr(module, "weight", None)
        if type(module).__name__ == "Conv1D":
            return weight.detach()
        if type(module) is nn.Linear:
            return weight.detach().T
        width: Any = module.in_features
        eye = torch.eye(width, dtype=self.dtype, device=weight.device)
        with torch.no_grad():  # without hooks: it may be asked for inside a forward
            return module.forward(eye) - module.forward(torch.zeros_like(eye[:1]))


@dataclass(frozen=True, eq=False)
class Call:
    """What a module was given and gave."""

    module: nn.Module
    given: Tensor
    gave: Tensor


class Calls:
    """The calls of all modules inside some blocks during one forward."""

    def __init__(self, stack: ExitStack, blocks: Mapping[Any, Block]) -> None:
        self.of: dict[Any, list[Call]] = {key: [] for key in blocks}
        for key, block in blocks.items():
            for module in block.module.modules():
                if module is not block.module:
                    stack.callback(module.register_forward_hook(partial(self._note, key), with_kwargs=True).remove)

    def _note(self, key: Any, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        gave = output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and isinstance(gave, Tensor):
            self.of[key].append(Call(module, given, gave))


def find_inlets(
    block: Block, calls: list[Call], projections: Mapping[str, Projection], entering: Tensor, between: Tensor
) -> Inlets:
    """How a block reads the stream.

    Args:
        calls: of the modules inside the block in one forward.
        projections: proven ones; empty where there are none.
        entering: the stream that enters the block [batch pos d_model].
        between: the stream that its MLP reads.
    """
    found, norm = dict(projections), None
    if found:
        given = next((call.given for call in calls if call.module is found["q"].module), None)
        norm = None if given is None else _before(calls, given, entering)
        if given is None or (norm is None and not _same(given, entering)):
            found = {}
    own = set(block.attn.modules())
    outside = [call for call in calls if call.module not in own]
    mlp, mlp_norm = next(_readers(outside, between), (None, None))
    return Inlets(found, norm.module if norm and found else None, mlp, mlp_norm, entering.dtype)


def _readers(calls: list[Call], stream: Tensor) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Modules that are given the stream or what a norm made of it, and are no norms themselves, with that norm."""
    norms = [call for call in calls if _is_norm(call) and _same(call.given, stream)]
    outermost = sorted(calls, key=lambda call: -sum(1 for _ in call.module.modules()))
    for norm in norms:
        for call in outermost:
            if call.module is not norm.module and not _is_norm(call) and _is(call.given, norm.gave):
                yield call.module, norm.module
    for call in outermost:
        if not _is_norm(call) and _same(call.given, stream) and any(True for _ in call.module.parameters()):
            yield call.module, None


def _before(calls: list[Call], given: Tensor, stream: Tensor) -> Call | None:
    """The norm that made `given` of the stream."""
    norms = (call for call in calls if _is_norm(call) and _is(given, call.gave) and _same(call.given, stream))
    return next(norms, None)


def _is_norm(call: Call) -> bool:
    """A module without children that keeps the shape, and whose parameters are vectors of the stream's width.

    Without parameters (OLMo) it must give vectors of mean square one, of others.
    """
    parameters = list(call.module.parameters())
    vectors = all(parameter.shape == call.given.shape[-1:] for parameter in parameters)
    keeps = call.given.shape == call.gave.shape and vectors and not list(call.module.children())
    if parameters or not keeps:
        return keeps
    is_unit = bool((call.gave.float().pow(2).mean(-1) - 1).abs().max() < 1e-2)
    return is_unit and not _same(call.gave, call.given)


def _is(one: Tensor, other: Tensor) -> bool:
    """One tensor, perhaps in another shape."""
    return one.numel() == other.numel() and (one.data_ptr() == other.data_ptr() or _same(one, other))


def _same(one: Tensor, other: Tensor) -> bool:
    """The same numbers, perhaps in another shape."""
    if one.numel() != other.numel() or one.shape[-1] != other.shape[-1]:
        return False
    scale = other.abs().max().clamp(min=1.0)
    return bool((one.reshape(other.shape) - other).abs().max() <= 1e-4 * scale)


class MlpEntry:
    """Hooks on what an MLP reads before its norm, which no module holds: the norm is computed anew on what they leave."""

    def __init__(self, stack: ExitStack, inlets: Inlets, fire: Reading) -> None:
        assert inlets.mlp is not None
        self.norm, self.fire = inlets.mlp_norm, fire
        self.stream: Tensor | None = None
        if self.norm is not None:
            stack.callback(self.norm.register_forward_pre_hook(self._remember).remove)
        stack.callback(inlets.mlp.register_forward_pre_hook(self._show, with_kwargs=True).remove)

    def _remember(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.stream = args[0]

    def _show(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        stream = given if self.norm is None else self.stream
        assert stream is not None, "the MLP ran before its norm"
        if torch.is_grad_enabled():
            stream = stream.view_as(stream)  # a tensor of its own, whose gradient is the MLP's alone
        new = self.fire(stream)
        if new is stream and not torch.is_grad_enabled():
            return None
        if self.norm is not None:
            new = self.norm.forward(new)
        new = new.view(given.shape)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})
