"""Visual sinks: image tokens with a few huge entries in the stream, which attract attention and say little.

Kang et al. 2025, See What You Are Told: Visual Attention Sink in Large Multimodal Models, arXiv 2503.03321.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.sinks.robust import massive, outliers
from interp.vision.pictures import image_tokens

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ROBUST = 10.0
"""Median absolute deviations over the median from which a token, or a dimension, is an outlier."""

PAPER_TAU, PAPER_WIDTH = 20.0, 4096
"""The paper's cut, and the width it was made for: one dimension holds a tenth of the squared length of the token's stream.
phi is at most the root of the width, so that narrow models never reach it."""

EPS = 1e-6

KNOWN_DIMENSIONS: Mapping[str, tuple[int, ...]] = {"llama-2-7b": (2533, 1415), "llama-2-13b": (2100, 4743)}
"""What the published code writes down for two language models (seilk/VisAttnSink)."""


@dataclass(frozen=True, eq=False)
class Sinks:
    """Sinks of some prompts.

    Attributes:
        dimensions: of the stream, in which sinks have huge entries.
        tokens: layer -> where sinks stand, text and image alike.
        image: which tokens are the picture's.
    """

    dimensions: tuple[int, ...]
    tokens: Mapping[int, Bool[Tensor, "batch pos"]]
    image: Bool[Tensor, "batch pos"]

    def visual(self, layer: int) -> Bool[Tensor, "batch pos"]:
        """Sinks of a layer among the picture's tokens."""
        return self.tokens[layer] & self.image


def streams(model: HookedModel, batch: Batch, layers: Sequence[int]) -> dict[int, Float[Tensor, "batch pos d_model"]]:
    """What enters each layer."""
    names = [point_name("hook_resid_pre", layer) for layer in layers]
    _, cache = model.run_with_cache(batch, names)
    return {layer: cache[name].float() for layer, name in zip(layers, names, strict=True)}


def phi(stream: Float[Tensor, "batch pos d_model"], dimensions: Sequence[int]) -> Float[Tensor, "batch pos"]:
    """`max_{d in D} |x_d| / rms(x)`, the published code's sink value; at most the root of the width."""
    if not dimensions:
        return torch.zeros(stream.shape[:2], device=stream.device)
    scale = (stream.square().mean(-1) + EPS).sqrt()
    return stream[..., list(dimensions)].abs().amax(-1) / scale


def sink_dimensions(
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]], real: Bool[Tensor, "batch pos"], k: float = ROBUST
) -> tuple[int, ...]:
    """Dimensions with huge entries in a few tokens, found by a robust rule instead of being written down for a model.

    Of each layer's stream over its rms, tokens are taken whose largest entry is an outlier in their prompt (median + k
    MAD), and of these the dimensions whose mean size is an outlier among all. A dimension counts when a layer shows it
    in at least half of the prompts that have such tokens.
    """
    found: set[int] = set()
    for stream in streams.values():
        unit = stream / (stream.square().mean(-1, keepdim=True) + EPS).sqrt()
        _, _, tokens = massive(unit, real, k, "robust")
        rows = [unit[row, here].abs().mean(0) for row, here in enumerate(tokens & real) if bool(here.any())]
        if not rows:
            continue
        sizes = torch.stack(rows)
        _, large = outliers(sizes, torch.ones_like(sizes, dtype=torch.bool), k)
        found |= set(large.double().mean(0).ge(0.5).nonzero().flatten().tolist())
    return tuple(sorted(found))


def find_sinks(
    model: HookedModel,
    batch: Batch,
    *,
    layers: Sequence[int] | None = None,
    dimensions: Sequence[int] | None = None,
    tau: float | None = None,
) -> Sinks:
    """Sinks of these prompts, layer by layer, under the interventions in force.

    Args:
        dimensions: where sinks are known to stand out; None finds them in these prompts.
        tau: a token with phi above it is a sink. None takes outliers of each prompt whose phi is above the paper's cut, made
            to fit the width.

    Raises:
        InterpError: E314, prompts without a picture; E403, a model whose stream can't be read.
    """
    image = image_tokens(batch)
    assert batch.mask is not None
    seen = streams(model, batch, range(model.n_layers) if layers is None else layers)
    real = batch.mask.to(model.device)
    chosen = sink_dimensions(seen, real) if dimensions is None else tuple(dimensions)
    tokens = {}
    for layer, stream in seen.items():
        value = phi(stream, chosen)
        found = outlying(value, real, stream.shape[-1]) if tau is None else value > tau
        tokens[layer] = (found & real).cpu() if chosen else torch.zeros_like(batch.mask).cpu()
    return Sinks(chosen, tokens, image.cpu())


def outlying(
    value: Float[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], width: int
) -> Bool[Tensor, "batch pos"]:
    """Tokens whose phi is an outlier of their prompt, and above the paper's cut at this width."""
    return outliers(value, real, ROBUST)[1] & (value > PAPER_TAU * (width / PAPER_WIDTH) ** 0.5)
