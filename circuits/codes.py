"""Discrete codes of heads: which heads write something on clean prompts that they never write on corrupt ones.

The mean of what a head writes over a prompt is read by one small sparse autoencoder, shared by all heads, and its
strongest feature is the head's code on that prompt (O'Neill and Bui 2024, "Sparse Autoencoders Enable Scalable and
Reliable Circuit Identification in Language Models", arXiv 2405.12522). Nothing is ablated or patched, so this is a
baseline: it says what goes together with the task, not what causes it, and a causal method has to beat it.

Every score is a count over the whole set of prompts. There are none for single prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from interp.circuits.graph.graph import Graph, Scores
from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId, point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Vectors = Float[Tensor, "prompt head d_model"]
Codes = Int[np.ndarray, "prompt head"]

VARIANTS: Mapping[str, int] = {"paper": 0, "official-code": 1}
"""Axis of the decoder [d_model feature] that is kept at norm 1: each feature, or (as its authors' code does it, which
takes the encoder's last axis for both) what all features write into one dimension."""


@dataclass(frozen=True)
class CodeSettings:
    """How the autoencoder is trained; the defaults are those of the paper.

    Attributes:
        features: number of codes.
        sparsity: weight of the mean L1 norm of the features, beside the mean squared error.
        examples: prompts that it is trained on, half of them clean; all of them where there are fewer.
        steps, rate: of Adam, on all examples at once.
        unit_scale: divide all vectors by their root mean square over the examples. Not published, and not the default:
            the squared error grows with the square of what heads write and the L1 norm does not, so vectors that are
            small beside `sparsity` share few codes and their heads get no score. Without a divisor that is what keeps
            heads that write little out, and also what makes the scores depend on the size of a model's stream.
        variant: 'paper' or 'official-code', see `VARIANTS`.
    """

    features: int = 200
    sparsity: float = 0.02
    examples: int = 10
    steps: int = 500
    rate: float = 1e-3
    unit_scale: bool = False
    variant: str = "paper"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InterpError("E205", f"no variant {self.variant!r}", fix=f"one of {', '.join(VARIANTS)}")
        if self.examples < 2:
            raise InterpError("E205", "the autoencoder needs a clean and a corrupt prompt", fix="examples of 2 or more")


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """`x ~ decoder relu(encoder (x - bias) + offset) + bias`, made by `trained`.

    Attributes:
        scale: what vectors are divided by before they are read.
        losses: of every step of training, before it.
    """

    encoder: Float[Tensor, "feature d_model"]
    offset: Float[Tensor, " feature"]
    decoder: Float[Tensor, "d_model feature"]
    bias: Float[Tensor, " d_model"]
    scale: float
    losses: Float[np.ndarray, " step"]

    def codes(self, vectors: Vectors) -> Codes:
        """The strongest feature of each head on each prompt; 0 where all are silent."""
        found = _features(vectors / self.scale, self.encoder, self.offset, self.bias)
        return found.argmax(-1).cpu().numpy()


@dataclass(frozen=True, eq=False)
class HeadCodes:
    """Codes of all heads of the main tower on clean and corrupt prompts; made by `head_codes`.

    Attributes:
        heads: in order of layers.
        clean, corrupt: their codes.
        losses: of the autoencoder, step by step.
    """

    heads: tuple[HeadId, ...]
    clean: Codes
    corrupt: Int[np.ndarray, "other head"]
    losses: Float[np.ndarray, " step"]

    @property
    def counts(self) -> Int[np.ndarray, " head"]:
        """How many codes each head has on clean prompts and on no corrupt one."""
        return only_first(self.clean, self.corrupt)

    @property
    def head_scores(self) -> Float[np.ndarray, " head"]:
        """Softmax of `counts` over all heads, the score of the paper; it ranks as the counts do."""
        size = np.exp(self.counts - self.counts.max(initial=0).astype(np.float64))
        scores: np.ndarray = size / size.sum()
        return scores

    @property
    def pair_scores(self) -> Int[np.ndarray, "head other"]:
        """How many pairs of codes two heads have together on clean prompts and never on corrupt ones; 0 with itself."""
        n = 1 + max(self.clean.max(initial=0), self.corrupt.max(initial=0))
        rows = [
            only_first(self.clean[:, [head]] * n + self.clean, self.corrupt[:, [head]] * n + self.corrupt)
            for head in range(len(self.heads))
        ]
        table = np.stack(rows)
        np.fill_diagonal(table, 0)
        return table

    def edge_scores(self, graph: Graph) -> Scores:
        """The pair's score at every edge from head to head, queries, keys and values alike: it can't tell them apart.

        Keys and values that several heads share have the largest score of these. It knows no embeddings, MLPs, logits or
        positions: edges of the first three have 0, and every place has the same scores.
        """
        table, parts = self.pair_scores, [part for part in graph.writers if part.kind == "head"]
        assert [part.label for part in parts] == [head.label for head in self.heads], "a graph of another model"
        rows = [graph.writer_index[part.label] for part in parts]
        found = np.zeros(graph.exists.shape)
        for head, part in enumerate(parts):
            for reader in graph.inputs_of(part):
                found[rows, reader] = np.maximum(found[rows, reader], table[:, head])
        return np.repeat((found * graph.exists)[None], len(graph.places), 0)


def head_codes(
    model: HookedModel, clean: Batch, corrupt: Batch, *, seed: int = 0, settings: CodeSettings = CodeSettings()
) -> HeadCodes:
    """Codes of every head of the main tower.

    The autoencoder is trained on prompts drawn from both batches with `seed`, which also draws its first weights.

    Raises:
        InterpError: E403 where what heads write can't be read.
    """
    vectors = [mean_results(model, batch) for batch in (clean, corrupt)]
    draw = torch.Generator().manual_seed(seed)
    share = (settings.examples + 1) // 2, settings.examples // 2
    chosen = [one[torch.randperm(len(one), generator=draw)[:n]] for one, n in zip(vectors, share, strict=True)]
    encoder = trained(torch.cat(chosen), settings, draw)
    heads = [HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n)]
    codes = [encoder.codes(one) for one in vectors]
    return HeadCodes(tuple(heads), codes[0], codes[1], encoder.losses)


def mean_results(model: HookedModel, batch: Batch) -> Vectors:
    """What each head writes, averaged over the real positions of each prompt; heads in order of layers, float32.

    The mean is taken before the output projection, so no position's result is ever made.
    """
    means: dict[str, Tensor] = {}

    def keep(z: Tensor, context: HookContext) -> None:
        weight = z.new_ones(z.shape[:2]) if batch.mask is None else batch.mask.to(z)
        means[context.name] = torch.einsum("bp,bphd->bhd", weight / weight.sum(1, keepdim=True), z)

    layers = [layer for layer, n in enumerate(model.heads[""]) if n]
    names = {layer: point_name("attn.hook_z", layer) for layer in layers}
    model.run_with_hooks(batch, dict.fromkeys(names.values(), keep))
    written = [torch.einsum("bhd,hdm->bhm", means[name], model.w_out(layer)) for layer, name in names.items()]
    return torch.cat(written, 1).float().cpu()


def trained(examples: Vectors, settings: CodeSettings, draw: torch.Generator) -> Autoencoder:
    """An autoencoder of these vectors, all heads and prompts alike.

    Encoder and decoder lose the part of their gradient that would change a norm, and are put back to norm 1 after each
    step of Adam, which does not keep to the gradient.
    """
    scale = float(examples.square().mean().sqrt()) if settings.unit_scale else 1.0
    x = (examples / (scale or 1.0)).flatten(0, 1)
    width, n, axis = x.shape[1], settings.features, VARIANTS[settings.variant]
    encoder = normalize(torch.randn(n, width, generator=draw), dim=1)
    offset = (2 * torch.rand(n, generator=draw) - 1) / width**0.5
    decoder = normalize(torch.randn(width, n, generator=draw), dim=axis)
    bias = torch.zeros(width)
    parameters = [one.requires_grad_() for one in (encoder, offset, decoder, bias)]
    adam, losses = torch.optim.Adam(parameters, lr=settings.rate), []
    for _ in range(settings.steps):
        with torch.enable_grad():
            features = _features(x, encoder, offset, bias)
            error = (features @ decoder.T + bias - x).square().mean()
            loss = error + settings.sparsity * features.abs().sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        _on_sphere(adam, ((encoder, 1), (decoder, axis)))
        losses.append(loss.item())
    for one in parameters:
        one.requires_grad_(False)
    return Autoencoder(encoder, offset, decoder, bias, scale or 1.0, np.array(losses))


def _features(x: Tensor, encoder: Tensor, offset: Tensor, bias: Tensor) -> Tensor:
    return torch.relu((x - bias) @ encoder.T + offset)


@torch.no_grad()
def _on_sphere(adam: torch.optim.Adam, spheres: tuple[tuple[Tensor, int], ...]) -> None:
    """One step that leaves these parameters at norm 1 along their axes."""
    for weight, axis in spheres:
        assert weight.grad is not None
        weight.grad -= (weight.grad * weight).sum(axis, keepdim=True) * weight
    adam.step()
    for weight, axis in spheres:
        weight.copy_(normalize(weight, dim=axis))


def only_first(
    first: Int[np.ndarray, "prompt column"], second: Int[np.ndarray, "other column"]
) -> Int[np.ndarray, " column"]:
    """Of each column, how many different values stand in the first table and not in the second."""
    marked = np.concatenate([2 * second, 2 * first + 1])
    marked.sort(axis=0)  # of equal values those of the second table come first
    value, is_first = marked >> 1, marked & 1
    starts = np.concatenate([np.ones_like(value[:1], dtype=bool), value[1:] != value[:-1]])
    counts: np.ndarray = (starts & (is_first == 1)).sum(0)
    return counts
