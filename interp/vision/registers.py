"""Outlier tokens of vision towers: patches that a tower uses as registers, registers that it has, and what they are for.

Large towers turn a few patches without content into places for global information: their vectors get many times longer
than those of other patches, and other tokens look at them (Darcet et al. 2024, "Vision Transformers Need Registers",
arXiv 2309.16588). Registers of its own take this from the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.interventions import Patch
from interp.hooks.names import point_name
from interp.hooks.reference import mean_reference
from interp.kernels.errors import InterpError, suggest
from interp.kernels.statistics.received import Received
from interp.sinks.robust import outliers
from interp.vision.geometry import Geometry, geometry
from interp.vision.part import pictures_alone, seeing_part

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

RULES = ("robust", "absolute")
MAD, CUT = 10.0, 150.0
"""Of 'robust': above the median by this many median deviations. Of 'absolute': the cut for DINOv2-g."""


@dataclass(frozen=True, eq=False)
class OutlierTokens:
    """Lengths and received attention of every token, layer by layer.

    Attributes:
        where: which token shows which patch.
        rule: 'robust', or 'absolute'.
        norms: length of each token's vector behind each layer.
        is_outlier: tokens that are longer than the rule allows.
        received: mean attention that all tokens pay to each, mean over heads, as a multiple of even attention.
        is_sink: tokens that receive more than the robust rule allows.
    """

    where: Geometry
    rule: str
    norms: Float[Tensor, "layer image token"]
    is_outlier: Bool[Tensor, "layer image token"]
    received: Float[Tensor, "layer image token"]
    is_sink: Bool[Tensor, "layer image token"]

    def share(self, kind: str = "patch") -> Float[Tensor, " layer"]:
        """Share of the tokens of one kind that are outliers; 0 where there are none of the kind."""
        tokens = [token for token in range(self.where.n_tokens) if self.where.kind(token) == kind]
        return self.is_outlier[..., tokens].double().mean((1, 2)) if tokens else torch.zeros(len(self.norms)).double()

    @property
    def used_as_registers(self) -> Bool[Tensor, "layer image row col"]:
        """Patches that are outliers by length and by received attention in the layer behind."""
        both = self.is_outlier[:-1] & self.is_sink[1:]
        return self.where.on_grid(torch.cat([both, self.is_outlier[-1:] & False]))

    def __str__(self) -> str:
        lines = [f"layer  outliers among patches, {self.rule} rule; sinks among patches; longest token"]
        sinks = self.where.on_grid(self.is_sink).double().mean((1, 2, 3))
        for layer, (share, sink) in enumerate(zip(self.share(), sinks, strict=True)):
            longest = int(self.norms[layer].mean(0).argmax())
            lines.append(f"{layer:5d}  {share:8.1%}  {sink:8.1%}  {self.where.kind(longest)} (token {longest})")
        return "\n".join(lines)


@torch.no_grad()
def outlier_tokens(
    model: HookedModel, batch: Batch, *, rule: str = "robust", k: float = MAD, cut: float = CUT
) -> OutlierTokens:
    """Outlier tokens of the vision tower on the pictures of a batch.

    Args:
        rule: 'robust', above median + k MAD of the picture's tokens in the layer; or 'absolute', longer than `cut`, which
            fits the one model that it was read off.

    Raises:
        InterpError: E201 another rule; E403 a tower that attends window by window; what `geometry` raises.
    """
    if rule not in RULES:
        raise InterpError("E201", f"rule is {rule!r}", fix=suggest(rule, RULES))
    where, tower = geometry(model, batch), model.adapter.seeing_tower
    assert tower is not None
    layers = [layer for layer, n in enumerate(model.heads[tower]) if n]
    names = [point_name("hook_resid_post", layer, tower) for layer in layers]
    _, cache = model.run_with_cache(batch, names)
    norms = torch.stack([_by_image(cache[name], where).double().norm(dim=-1) for name in names]).cpu()
    _, found = model.run_with_statistics(batch, {"received": Received()}, layers=layers, tower=tower)
    received = torch.stack([found[layer]["received"].mean(1) for layer in layers]).double().cpu()
    return OutlierTokens(where, rule, norms, _found(norms, rule, k, cut), received, _found(received, "robust", k, cut))


def _by_image(stream: Tensor, where: Geometry) -> Tensor:
    """Pictures that run in one row of tokens, each by itself."""
    return stream.reshape(-1, where.n_tokens, stream.shape[-1])


def _found(values: Float[Tensor, "layer image token"], rule: str, k: float, cut: float) -> Tensor:
    if rule == "absolute":
        return values > cut
    flat = values.flatten(0, 1)
    return outliers(flat, torch.ones_like(flat, dtype=torch.bool), k)[1].unflatten(0, values.shape[:2])


@dataclass(frozen=True, eq=False)
class FixedTokens:
    """What is left of a model's output when some tokens hold their mean over pictures in every layer.

    Attributes:
        tokens: which ones.
        kept: cosine of each picture's output with what it was.
        controls: the same for as many patches, drawn at random.
    """

    tokens: tuple[int, ...]
    kept: Float[Tensor, " image"]
    controls: Float[Tensor, "draw image"]

    def __str__(self) -> str:
        few = f"{len(self.tokens)} tokens at their means: cosine {float(self.kept.mean()):.4f}"
        return f"{few}; as many random patches: {float(self.controls.mean()):.4f} (mean of {len(self.controls)} draws)"


@torch.no_grad()
def fix_at_mean(
    model: HookedModel, batch: Batch, tokens: Sequence[int] | None = None, *, draws: int = 10, seed: int = 0
) -> FixedTokens:
    """Registers set to their means over pictures behind every layer (Fix-Reg-Mean of Sun et al. 2024, arXiv 2402.17762).

    If the output stays, registers carry nothing of a single picture and act as biases. The output is the class token's
    vector, or the mean over patches, or class logits.

    Args:
        tokens: of the tower; by default its registers.
        draws: sets of as many random patches, none of them in `tokens`.

    Raises:
        InterpError: E205, a tower without registers, or fewer patches than tokens; E401 a tower that cannot run alone.
    """
    part, pictures = seeing_part(model), pictures_alone(batch)
    where = geometry(part, pictures)
    chosen = tuple(where.special.get("register", ()) if tokens is None else tokens)
    others = [token for token in where.patches if token not in chosen]
    if not chosen or len(chosen) > len(others):
        what = f"{len(chosen)} tokens to fix, {len(others)} patches to compare with"
        raise InterpError("E205", what, where=model.name, fix="name the tokens of patches that act as registers")
    layers = [layer for layer, n in enumerate(part.heads[""]) if n]
    means = mean_reference(part, [pictures], [point_name("hook_resid_post", i) for i in layers], per_position=True)
    clean = _summary(part(pictures), where)

    def kept(positions: Sequence[int]) -> Float[Tensor, " image"]:
        with part.edit(Patch("resid_post", means, layers=layers, positions=positions)):
            return torch.cosine_similarity(_summary(part(pictures), where), clean, dim=-1).cpu()

    draw = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(others), generator=draw)[: len(chosen)].tolist() for _ in range(draws)]
    controls = torch.stack([kept([others[index] for index in one]) for one in drawn])
    return FixedTokens(chosen, kept(chosen), controls)


def _summary(output: Tensor, where: Geometry) -> Float[Tensor, "image d_out"]:
    """What the tower says of each picture."""
    if output.ndim == 2:
        return output.double()
    tokens: Any = where.special.get("cls") or where.patches
    return output[:, list(tokens)].double().mean(1)
