"""Figures of a bigram-backcopy model: what its one head does on triggers and off them, by attention, norm and ablation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.eager import attention_pattern, attention_scores

SINK = 0.3
"""A sequence has a sink where its mean attention to BOS is above this."""


@dataclass(frozen=True)
class Seen:
    """One forward of the one-layer model.

    Attributes:
        z: of the head, after whatever replaced it.
        loss: cross-entropy against the true distribution of the next token, nats.
    """

    pattern: Float[Tensor, "batch pos key_pos"]
    values: Float[Tensor, "batch pos d_head"]
    z: Float[Tensor, "batch pos d_head"]
    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Float[Tensor, "batch pos"]


@torch.no_grad()
def figures(
    model: Any,
    drawn: Int[Tensor, "batch pos"],
    expected: Float[Tensor, "batch pos d_vocab"],
    triggers: Bool[Tensor, "batch pos"],
) -> dict[str, float]:
    """All figures on these sequences; "on" is the mean over triggers, "off" over all other tokens but BOS.

    Args:
        expected: true distribution of the token after each one.
        triggers: which tokens are triggers.
    """
    ids, wanted, on = (value.to(model.device) for value in (drawn, expected, triggers))
    off = ~on & (ids != 0)
    plain = look(model, ids, wanted)
    without = look(model, ids, wanted, torch.zeros_like(plain.z))
    mean = plain.z.flatten(0, 1).mean(0).expand_as(plain.z)
    found = {
        "copy_accuracy": _over(on, (plain.logits.argmax(-1) == wanted.argmax(-1)).float()),
        "kl_off": _over(off, plain.loss - torch.special.entr(wanted).sum(-1)),
        **attention(plain, on, off),
        **norms(model, plain, on, off),
        **{f"zero_loss_{name}": _over(at, without.loss - plain.loss) for name, at in (("on", on), ("off", off))},
    }
    averaged = look(model, ids, wanted, mean).loss - plain.loss
    return found | {f"mean_loss_{name}": _over(at, averaged) for name, at in (("on", on), ("off", off))}


def attention(seen: Seen, on: Bool[Tensor, "batch pos"], off: Bool[Tensor, "batch pos"]) -> dict[str, float]:
    """Where the head looks, and how much mass its rows have."""
    before = torch.zeros_like(seen.pattern[..., 0])
    before[:, 1:] = seen.pattern.diagonal(offset=-1, dim1=1, dim2=2)
    bos, mass = seen.pattern[..., 0], seen.pattern.sum(-1)
    return {
        "attention_before_on": _over(on, before),
        "share_before_on": _over(on, before) / _over(on, mass),
        "attention_bos_on": _over(on, bos),
        "attention_bos_off": _over(off, bos),
        "mass_on": _over(on, mass),
        "mass_off": _over(off, mass),
        "sink_share": float((bos[:, 1:].mean(1) > SINK).float().mean()),
    }


def norms(model: Any, seen: Seen, on: Bool[Tensor, "batch pos"], off: Bool[Tensor, "batch pos"]) -> dict[str, float]:
    """Value drain of BOS, and the length of what the head writes (output bias left out)."""
    value = seen.values.norm(dim=-1)
    written = (seen.z @ model.model.layers[0].self_attn.o_proj.weight.T).norm(dim=-1)
    ratio = _over(off, written) / _over(on, written)
    return {"value_bos": float(value[:, 0].mean()) / _over(on | off, value), "output_off_to_on": ratio}


def look(
    model: Any,
    ids: Int[Tensor, "batch pos"],
    wanted: Float[Tensor, "batch pos d_letter"],
    instead: Float[Tensor, "batch pos d_head"] | None = None,
) -> Seen:
    """Run the model by hand, with its head's z replaced where `instead` is given; all tensors are on its device."""
    body, layer = model.model, model.model.layers[0]
    stream = body.embed_tokens(ids) + body.embed_positions(torch.arange(ids.shape[1], device=ids.device))
    normed = layer.input_layernorm(stream)
    attn = layer.self_attn
    q, k, values = attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
    hidden = q.new_full((ids.shape[1],) * 2, torch.finfo(q.dtype).min).triu(1)[None, None]
    scores = attention_scores(q[:, None], k[:, None], attn.head_dim**-0.5, mask=hidden)
    pattern = attention_pattern(scores, normaliser=model.config.normaliser)[:, 0]
    z = pattern @ values if instead is None else instead
    stream = stream + attn.o_proj(z)
    stream = stream + layer.mlp(layer.post_attention_layernorm(stream))
    logits = model.lm_head(body.norm(stream))
    surprise = -logits.log_softmax(-1)[..., : wanted.shape[-1]]
    return Seen(pattern, values, z, logits, (wanted * surprise).sum(-1))


def _over(at: Bool[Tensor, "batch pos"], values: Float[Tensor, "batch pos"]) -> float:
    return float(values[at].mean())
