"""From the residual stream to the logits: final norm, output layer, and what is done to its numbers after it.

With the scale of a norm held at what it was in the run, everything here is affine, so a difference of two logits is an
inner product of the stream with one vector, plus constants. Nothing is taken from an architecture's name: which gain a
norm applies, whether it centres, and what follows the output layer are read from numbers and refused where they do not
come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

PROBES = 8

SAME = 0.05
"""A norm gives the same for twice the stream, but for what stands beside the variance in its root."""


def refused(model: HookedModel, reason: str, fix: str = "measure effects instead: interp.ablate") -> InterpError:
    """E403: what this model puts out is no sum of parts that we know."""
    return InterpError(
        "E403",
        f"{model.name} cannot be taken apart into what its parts write: {reason}",
        where=str(model.adapter.describe()["architecture"]),
        fix=fix,
    )


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference that is rounding in this dtype, as a share of the size of the numbers.

    For float64 it is far above the rounding of float64: RMSNorm of transformers computes in float32 whatever it is given.
    """
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 5e-2)


def is_close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Equal up to what rounding in this dtype does to numbers of this size."""
    size = torch.maximum(a.abs().max(), b.abs().max())
    return bool((a.double() - b.double()).abs().max() <= tolerance(dtype) * size)


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm or RMSNorm as `gain * (x - mean if centred) / scale + bias`; made by `Norm.of`.

    With `is_fixed` it is no norm but a constant factor for each dimension, and the scale is 1; made by `Norm.fixed`.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    is_fixed: bool = False

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, d_model: int, device: torch.device | None = None) -> Norm | None:
        """The norm that a module computes; None where it computes something else.

        `device` is for modules without parameters, which have none of their own.

        The gain is the module's weight, 1 + weight (Gemma) or 1: whichever gives what the module gives.
        """
        weight: Any = getattr(module, "weight", None)
        x = _probes(module, d_model, device)
        bias = module.forward(torch.zeros_like(x[:1]))[0].double()
        flat = module.forward(torch.ones_like(x[:1]))[0].double() - bias
        given = module.forward(x).double()
        if not bool((module.forward(2 * x).double() - given).abs().max() <= SAME * given.abs().max()):
            return None
        ones = torch.ones_like(bias)
        for gain in [ones] if weight is None else [weight.detach().double(), 1 + weight.detach().double()]:
            centred = bool(flat.abs().max() <= 0.1 * gain.abs().max())
            norm = cls(gain, bias, centred)
            scale = norm.scale(x.double(), given)
            if is_close(norm(x.double(), scale), given, x.dtype):
                return norm._dividing_by_size(x.double(), scale)
        return None

    @classmethod
    @torch.no_grad()
    def fixed(cls, module: nn.Module, d_model: int) -> Norm | None:
        """What a module that multiplies each dimension by a constant computes (DINOv2); None for another module."""
        x = _probes(module, d_model, None)
        bias = module.forward(torch.zeros_like(x[:1]))[0].double()
        found = cls(module.forward(torch.ones_like(x[:1]))[0].double() - bias, bias, centred=False, is_fixed=True)
        same = is_close(found(x.double(), torch.ones_like(x[:, :1])), module.forward(x).double(), x.dtype)
        return found if same else None

    def _dividing_by_size(self, x: Float[Tensor, "probe d_model"], scale: Float[Tensor, "probe 1"]) -> Norm:
        """The same with a gain by which it divides by the root mean square; any multiple of a gain fits as well."""
        times = float((scale / self.centre(x).pow(2).mean(-1, keepdim=True).sqrt()).median())
        return self if abs(times - 1) < 1e-2 else replace(self, gain=self.gain / times)

    def centre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x less its mean, where the norm takes it away."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(
        self, x: Float[Tensor, "*batch d_model"], given: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch 1"]:
        """What the norm divided by when it made `given` of x: the divisor that fits best, so eps need not be known."""
        if self.is_fixed:
            return torch.ones_like(x[..., :1])
        scaled = self.gain * self.centre(x)
        size = (scaled * scaled).sum(-1, keepdim=True)
        is_nothing = size == 0
        fitted = (
            (scaled * (given - self.bias)).sum(-1, keepdim=True).masked_fill(is_nothing, 1.0)
        )  # no 0 / 0, also behind
        return torch.where(is_nothing, torch.ones_like(size), size / fitted)

    def __call__(
        self, x: Float[Tensor, "*batch d_model"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The norm with this scale, which makes it affine."""
        return self.linear(x, scale) + self.bias

    def linear(
        self, x: Float[Tensor, "*batch d_model"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The same without the bias: what a summand of x becomes."""
        return self.gain * self.centre(x) / scale

    def fold(
        self, direction: Float[Tensor, "batch d_model"], scale: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch d_model"]:
        """The vector u with <u, x> = <direction, norm(x) - bias> for every x, at this scale."""
        return self.centre(direction * self.gain) / scale


def _probes(module: nn.Module, d_model: int, device: torch.device | None) -> Float[Tensor, "probe d_model"]:
    """Random rows for a module of one vector, where and as its parameters are."""
    like: Any = next(module.parameters(), torch.zeros((), device=device))
    draw = torch.Generator().manual_seed(0)
    return torch.randn(PROBES, d_model, generator=draw, dtype=torch.float64).to(like.device, like.dtype)


@dataclass
class Seen:
    """What the final norm and the output layer saw in one forward; filled by `watching`."""

    stream: Tensor | None = None
    normed: Tensor | None = None
    entering: Tensor | None = None
    raw: Tensor | None = None
    calls: dict[str, int] = field(default_factory=dict)

    def at(self, name: str, read_at: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """One of the tensors at one position of each prompt, in float64."""
        value: Tensor = getattr(self, name)
        return value[torch.arange(len(value), device=value.device), read_at.to(value.device)].double()


@dataclass(frozen=True, eq=False)
class Readout:
    """How a model turns its last residual stream into logits; made by `Readout.of`.

    Attributes:
        norm_module, norm: the final norm; None on models without one.
        head: the output layer, `weight` [d_vocab d_model] and perhaps `bias`.
        factor: what the output layer's numbers are multiplied by (Cohere, Granite); 1 elsewhere.
        cap: logits are cap * tanh(x / cap) of what they would be (Gemma 2); None elsewhere.
    """

    norm_module: nn.Module | None
    norm: Norm | None
    head: Any
    factor: float = 1.0
    cap: float | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel) -> Readout:
        """The readout of a model, proven on its probe input.

        Raises:
            InterpError: E403 with the reason, where its logits are something else.
        """
        owner = getattr(model.adapter, "model", None)
        if owner is None:
            raise refused(model, "it is a TransformerLens bridge; open the transformers model itself")
        head = owner.get_output_embeddings() if hasattr(owner, "get_output_embeddings") else None
        if head is None or model.adapter.output_name != "logits":
            raise refused(model, "it has no output layer over a vocabulary")
        norm_module = main_tower(model).final_norm
        norm = None if norm_module is None else Norm.of(norm_module, head.weight.shape[1], head.weight.device)
        if norm_module is not None and norm is None:
            raise refused(model, "its final norm is neither a LayerNorm nor an RMSNorm")
        bare = cls(norm_module, norm, head)
        with bare.watching() as seen:
            logits = model.adapter.plain_forward(model.adapter.probe_inputs)
        bare.check(model, seen)
        return bare._with_scaling(model, seen.raw, logits)

    def _with_scaling(self, model: HookedModel, raw: Any, logits: Tensor) -> Readout:
        """What stands between the output layer and the logits, as its numbers show it."""
        cap = getattr(model.adapter.config.get_text_config(), "final_logit_softcapping", None)  # type: ignore[attr-defined]
        raw = raw.double()
        factor = float((raw * logits).sum() / (raw * raw).sum())
        capped = [] if cap is None else [replace(self, cap=float(cap))]
        for readout in (*capped, self, replace(self, factor=factor)):
            if is_close(readout.scaled(raw), logits, model.dtype):
                return readout
        raise refused(model, "what it does to the output layer's numbers is neither a factor nor a soft cap")

    def scaled(self, raw: Tensor) -> Tensor:
        """Logits from what the output layer gives."""
        x = raw * self.factor
        return x if self.cap is None else self.cap * torch.tanh(x / self.cap)

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Records the final norm and the output layer during a forward."""
        seen = Seen()

        def note(names: tuple[str, str]) -> Any:
            def hook(_: nn.Module, args: Any, output: Tensor) -> None:
                seen.calls[names[0]] = seen.calls.get(names[0], 0) + 1
                for name, value in zip(names, (args[0], output), strict=True):
                    setattr(seen, name, value.detach())

            return hook

        handles = [self.head.register_forward_hook(note(("entering", "raw")))]
        if self.norm_module is not None:
            handles.append(self.norm_module.register_forward_hook(note(("stream", "normed"))))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def check(self, model: HookedModel, seen: Seen) -> None:
        """Raise E403 unless the output layer reads the final norm, or the bare stream where there is none."""
        if any(count != 1 for count in seen.calls.values()) or seen.entering is None:
            raise refused(model, "its final norm or output layer does not run once a forward")
        if self.norm_module is None:
            return
        if seen.normed is None:
            raise refused(model, "what was taken for its final norm did not run")
        if seen.normed.shape != seen.entering.shape or not is_close(seen.normed, seen.entering, model.dtype):
            raise refused(model, "something stands between its final norm and the output layer")

    def direction(
        self, answer: Int[Tensor, " batch"], distractor: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_model"]:
        """factor * (W_U[answer] - W_U[distractor]), in float64: what the normed stream is read along."""
        weight = self.head.weight.detach()
        return self.factor * (weight[answer].double() - weight[distractor].double())

    def fold(
        self, direction: Float[Tensor, "batch d_model"], seen: Seen, read_at: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch d_model"]]:
        """The last stream of this run, and the vector that `direction` becomes when it is read there."""
        if self.norm is None:
            return seen.at("entering", read_at), direction
        stream = seen.at("stream", read_at)
        return stream, self.norm.fold(direction, self.norm.scale(stream, seen.at("normed", read_at)))

    def constants(
        self,
        direction: Float[Tensor, "batch d_model"],
        answer: Int[Tensor, " batch"],
        distractor: Int[Tensor, " batch"],
    ) -> Iterator[tuple[str, Float[Tensor, " batch"]]]:
        """What the biases of the final norm and of the output layer add to the logit difference."""
        if self.norm is not None and bool(self.norm.bias.any()):
            yield "norm_bias", torch.einsum("bm,m->b", direction, self.norm.bias)
        bias = getattr(self.head, "bias", None)
        if bias is not None:
            yield "logit_bias", self.factor * (bias.detach()[answer].double() - bias.detach()[distractor].double())


def main_tower(model: HookedModel) -> Any:
    """The main stack of layers: its blocks, embeddings and final norm."""
    return model.adapter.towers[""]  # type: ignore[attr-defined]
