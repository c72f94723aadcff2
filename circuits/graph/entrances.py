"""`Entrance`: how gradients at the queries, keys and values of a layer come back to the stream that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readout import Norm
from interp.hooks.reads import Reads

Stream = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True, eq=False)
class Entrance:
    """Made by `Entrance.of`.

    Attributes:
        reads: the norm and the projections themselves.
        norm: the norm as numbers; None without one.
        weights: of all queries, keys and values in turn, with all of the norm that does not depend on the position.
    """

    reads: Reads
    norm: Norm | None
    weights: Float[Tensor, "reader d_head d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, reads: Reads) -> Entrance | None:
        """How a layer's stream is entered; None where what stands before its projections is no norm that we know."""
        weights = torch.cat([reads.weights[part].mT for part in "qkv"]).contiguous()
        if reads.norm is None:
            return cls(reads, None, weights)
        norm = Norm.of(reads.norm, weights.shape[-1], weights.device)
        if norm is None:
            return None
        norm = replace(norm, gain=norm.gain.to(weights.dtype), bias=norm.bias.to(weights.dtype))
        return cls(reads, norm, norm.centre(weights.mul_(norm.gain)))

    @torch.no_grad()
    def pull(
        self, gradients: Mapping[str, Float[Tensor, "batch pos head d_head"]], stream: Stream
    ) -> Float[Tensor, "batch pos reader d_model"]:
        """Gradients in the stream; in memory reader by reader, as products over positions want it.

        With y = gain * c / s + bias, c the stream less its mean (LayerNorm) or itself (RMSNorm) and s its root mean
        square, a gradient g at y is u - c <u, c> / (d s^2) at the stream, where u = C(gain * g) / s, C taking the mean
        away where the norm does.
        """
        given = torch.cat([gradients[part] for part in "qkv"], 2)
        if self.norm is None:
            return self._through(given)
        scale, centred = self.norm.scale(stream, self.reads.normed(stream)), self.norm.centre(stream)
        found = self._through(given / scale[:, :, None])
        along = torch.einsum("bprm,bpm->bpr", found, centred) / (centred.shape[-1] * scale**2)
        return found.addcmul_(centred[:, :, None], along[..., None], value=-1)

    def _through(self, given: Float[Tensor, "batch pos reader d_head"]) -> Float[Tensor, "batch pos reader d_model"]:
        """Through the weights."""
        batch, width = given.shape[:2]
        found = torch.bmm(given.permute(2, 0, 1, 3).flatten(1, 2), self.weights)
        return found.unflatten(1, (batch, width)).permute(1, 2, 0, 3)
