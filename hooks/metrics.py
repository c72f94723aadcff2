"""Metrics: one number a prompt from what the model puts out at the metric position. Higher is better in all of them.

An effect is metric(clean) - metric(edited), so that positive always means the part helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError, suggest

Need = Literal["answer", "distractor", "reference"]
Kind = Literal["logits", "embedding"]
Output = Float[Tensor, "batch d_vocab"]
Tokens = Int[Tensor, "batch _"]
Rows = Float[Tensor, " batch"]
Function = Callable[..., Rows]


@dataclass(frozen=True)
class Metric:
    """A metric as data, and callable.

    Attributes:
        name: key in `METRICS`.
        unit: of its values.
        description: one sentence with the formula.
        needs: which of answer, distractor and reference it reads.
        kind: `logits` for a model with a vocabulary, `embedding` for an encoder's pooled vector.
        function: of the output and of what is in `needs`, by name; call the metric itself, which checks them first.
        reads_all: False where it reads entries of answers and distractors alone, so that others need not be computed.
        higher_is_better: True in every metric of this file; kept so that records state it.
    """

    name: str
    unit: str
    description: str
    needs: frozenset[Need]
    kind: Kind
    function: Function
    reads_all: bool = True
    higher_is_better: bool = True

    def __call__(
        self,
        output: Output,
        answer: Int[Tensor, batch * option] | None = None,
        distractor: Int[Tensor, batch * option] | None = None,
        reference: Output | None = None,
    ) -> Rows:
        """One value a prompt, in float32 (float64 where the output is).

        Args:
            output: logits at the metric position, or pooled embeddings.
            answer: right token of each prompt, or several, with -1 where a prompt has fewer than others.
            distractor: wrong tokens, likewise.
            reference: output of the untouched model on the same prompts.

        Raises:
            InterpError: E303, something in `needs` was not given.
        """
        given = {
            "answer": _as_options(answer),
            "distractor": _as_options(distractor),
            "reference": None if reference is None else widen(reference),
        }
        missing = [need for need in given if need in self.needs and given[need] is None]
        if missing:
            what = f"metric {self.name!r} needs {' and '.join(missing)}"
            raise InterpError("E303", what, fix="choose another metric, or add the field to every prompt")
        return self.function(widen(output), **{need: given[need] for need in self.needs})


METRICS: dict[str, Metric] = {}


def metric(name: str | Metric) -> Metric:
    """The metric of this name.

    Raises:
        InterpError: E201, no such metric.
    """
    if isinstance(name, Metric):
        return name
    if name not in METRICS:
        raise InterpError("E201", f"no metric {name!r}", fix=suggest(name, METRICS))
    return METRICS[name]


def register(
    name: str, unit: str, description: str, kind: Kind = "logits", *, reads_all: bool = True
) -> Callable[[Function], Function]:
    """Enter the decorated function into `METRICS`; the names of its parameters say what it needs."""

    def enter(function: Function) -> Function:
        needs = frozenset(need for need in get_args(Need) if need in signature(function).parameters)
        METRICS[name] = Metric(name, unit, description, needs, kind, function, reads_all)
        return function

    return enter


def widen(output: Output) -> Output:
    """Half precision becomes float32: sums over a vocabulary lose digits below it."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _as_options(tokens: Tensor | None) -> Tokens | None:
    """One token a prompt is one option a prompt."""
    return tokens[:, None] if tokens is not None and tokens.ndim == 1 else tokens


def pick(values: Output, tokens: Tokens, absent: float) -> Float[Tensor, "batch option"]:
    """Entries of each row at its tokens; `absent` where a row has fewer of them."""
    found = values.gather(-1, tokens.long().clamp(min=0))
    return found.masked_fill(tokens < 0, absent)


@register(
    "logit_diff",
    "logits",
    "Logit of the answer minus logit of the distractor; the largest where several count.",
    reads_all=False,
)
def logit_diff(output: Output, answer: Tokens, distractor: Tokens) -> Rows:
    """`max output[answer] - max output[distractor]`."""
    best, other = (pick(output, tokens, -torch.inf).amax(-1) for tokens in (answer, distractor))
    return best - other


@register("log_prob", "nats", "Natural logarithm of the answer's probability.")
def log_prob(output: Output, answer: Tokens) -> Rows:
    """`log sum softmax(output)[answer]`."""
    return pick(output.log_softmax(-1), answer, -torch.inf).logsumexp(-1)


@register("prob_diff", "probability", "Probability of the answer minus that of the distractor.")
def prob_diff(output: Output, answer: Tokens, distractor: Tokens) -> Rows:
    """`sum softmax(output)[answer] - sum softmax(output)[distractor]`."""
    probability = output.softmax(-1)
    right, wrong = (pick(probability, tokens, 0.0).sum(-1) for tokens in (answer, distractor))
    return right - wrong


@register("kl", "nats", "Minus KL(reference || output): 0 where nothing changed, negative where something did.")
def kl(output: Output, reference: Output) -> Rows:
    """`-sum p (log p - log q)`, p of the reference and q of the output; terms with p = 0 are 0."""
    log_p, log_q = reference.log_softmax(-1), output.log_softmax(-1)
    p = log_p.exp()
    return -(p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum(-1)


@register("top1", "share", "1 where the answer has the largest logit of the whole vocabulary, else 0.")
def top1(output: Output, answer: Tokens) -> Rows:
    """`argmax(output) in answer`; nan where a logit is nan or +inf, which argmax alone would hide."""
    hit = output.argmax(-1, keepdim=True).eq(answer).any(-1).to(output.dtype)
    broken = (output.isnan() | output.isposinf()).any(-1)
    return hit.masked_fill(broken, float("nan"))


@register("cosine", "cosine", "Cosine of the angle to the untouched embedding; 1 where nothing changed.", "embedding")
def cosine(output: Output, reference: Output) -> Rows:
    """`<output, reference> / (|output| |reference|)`; nan where a vector is 0."""
    lengths: Tensor = torch.linalg.vector_norm(output, dim=-1) * torch.linalg.vector_norm(reference, dim=-1)
    return (output * reference).sum(-1) / lengths


@register(
    "closeness",
    "squared logits",
    "Minus the mean squared difference of the logits to the untouched model's; 0 where nothing changed.",
)
def closeness(output: Output, reference: Output) -> Rows:
    """`-mean (output - reference)^2` over the vocabulary. Its gradient is 0 at the untouched model."""
    return -(output - reference).square().mean(-1)
