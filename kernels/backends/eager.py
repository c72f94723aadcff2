"""Softmax attention written out: scores, pattern, z. Every other way of computing attention is held against this one.

The order of operations is that of the plain implementations in transformers (scale after the product, soft cap, mask,
sink column, softmax in float32 or better), so that results agree to the last bit with the models' own eager code; in
float64 they are those of SDPA, since the eager code rounds its softmax to float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError, suggest

NORMALISERS = ("softmax", "relu", "sigmoid")


def repeat_kv(
    x: Float[Tensor, "batch kv_head key_pos d_head"], n_rep: int
) -> Float[Tensor, "batch head key_pos d_head"]:
    """Each key/value head once for every query head that reads it: query head h uses kv head h // n_rep."""
    return x if n_rep == 1 else x.repeat_interleave(n_rep, dim=1)


def attention_scores(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch head key_pos d_head"],
    scaling: float,
    *,
    mask: Float[Tensor, "#batch #head query_pos key_pos"] | None = None,
    softcap: float | None = None,
    bias: Float[Tensor, "#batch #head query_pos key_pos"] | None = None,
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Scores before the softmax: `softcap * tanh(q k^T scaling / softcap) + bias + mask`, each part where it is given."""
    scores = torch.matmul(q, k.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    return scores if mask is None else scores + mask


def attention_pattern(
    scores: Float[Tensor, "batch head query_pos key_pos"],
    *,
    sink: Float[Tensor, " head"] | None = None,
    normaliser: str = "softmax",
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Pattern from scores over keys, in float32 or better.

    Args:
        scores: after the mask.
        sink: a learned logit a head, with which it may leave mass unspent: rows then sum to under 1.
        normaliser: 'softmax'; 'relu', relu(score) / n, or 'sigmoid', sigmoid(score - log n), where n is the number of
            keys that the query sees (Guo et al. 2024, arXiv 2410.13835; Ramapuram et al. 2024, arXiv 2409.04431).
            Rows of the last two sum to anything.

    Raises:
        InterpError: E201, unknown normaliser; E205, a sink with another one than 'softmax', whose rows leave mass
            unspent by themselves.
    """
    if normaliser not in NORMALISERS:
        raise InterpError("E201", f"no normaliser {normaliser!r}", fix=suggest(normaliser, NORMALISERS))
    if normaliser != "softmax":
        if sink is not None:
            raise InterpError(
                "E205", f"a sink has no meaning with normaliser {normaliser!r}", fix="leave out one of them"
            )
        return _unnormalised_pattern(scores, normaliser)
    if sink is None:
        wide = torch.promote_types(scores.dtype, torch.float32)
        return torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)
    column = sink.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], -1)
    padded = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    padded = padded - padded.max(dim=-1, keepdim=True).values
    return torch.softmax(padded, dim=-1, dtype=padded.dtype)[..., :-1]


def _unnormalised_pattern(scores: Tensor, normaliser: str) -> Tensor:
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    visible = (scores > torch.finfo(scores.dtype).min / 2).sum(-1, keepdim=True).clamp(min=1).to(wide.dtype)
    pattern = torch.relu(wide) / visible if normaliser == "relu" else torch.sigmoid(wide - visible.log())
    return pattern.to(scores.dtype)


def z_from_pattern(
    pattern: Float[Tensor, "batch head query_pos key_pos"], v: Float[Tensor, "batch head key_pos d_head"]
) -> Float[Tensor, "batch query_pos head d_head"]:
    """Pattern-weighted sum of values, with the head axis next to d_head as transformers expects it back."""
    return torch.matmul(pattern.to(v.dtype), v).transpose(1, 2).contiguous()
