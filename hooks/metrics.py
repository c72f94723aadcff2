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
Tokens = Int[Tensor, " batch"]
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
        higher_is_better: True in every metric of this file; kept so that records state it.
    """

    name: str
    unit: str
    description: str
    needs: frozenset[Need]
    kind: Kind
    function: Function
    higher_is_better: bool = True

    def __call__(
        self,
        output: Output,
        answer: Tokens | None = None,
        distractor: Tokens | None = None,
        reference: Output | None = None,
    ) -> Rows:
        """One value a prompt, in float32 (float64 where the output is).

        Args:
            output: logits at the metric position, or pooled embeddings.
            answer: right token of each prompt.
            distractor: wrong token of each prompt.
            reference: output of the untouched model on the same prompts.

        Raises:
            InterpError: E303, something in `needs` was not given.
        """
        given = {
            "answer": answer,
            "distractor": distractor,
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


def register(name: str, unit: str, description: str, kind: Kind = "logits") -> Callable[[Function], Function]:
    """Enter the decorated function into `METRICS`; the names of its parameters say what it needs."""

    def enter(function: Function) -> Function:
        needs = frozenset(need for need in get_args(Need) if need in signature(function).parameters)
        METRICS[name] = Metric(name, unit, description, needs, kind, function)
        return function

    return enter


def widen(output: Output) -> Output:
    """Half precision becomes float32: sums over a vocabulary lose digits below it."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def pick(values: Output, token: Int[Tensor, " batch"]) -> Rows:
    """Entry of each row at its token."""
    return values.gather(-1, token.long()[:, None])[:, 0]


@register("logit_diff", "logits", "Logit of the answer minus logit of the distractor.")
def logit_diff(output: Output, answer: Tokens, distractor: Tokens) -> Rows:
    """`output[answer] - output[distractor]`."""
    return pick(output, answer) - pick(output, distractor)


@register("log_prob", "nats", "Natural logarithm of the answer's probability.")
def log_prob(output: Output, answer: Tokens) -> Rows:
    """`log softmax(output)[answer]`."""
    return pick(output.log_softmax(-1), answer)


@register("prob_diff", "probability", "Probability of the answer minus that of the distractor.")
def prob_diff(output: Output, answer: Tokens, distractor: Tokens) -> Rows:
    """`softmax(output)[answer] - softmax(output)[distractor]`."""
    probability = output.softmax(-1)
    return pick(probability, answer) - pick(probability, distractor)


@register("kl", "nats", "Minus KL(reference || output): 0 where nothing changed, negative where something did.")
def kl(output: Output, reference: Output) -> Rows:
    """`-sum p (log p - log q)`, p of the reference and q of the output; terms with p = 0 are 0."""
    log_p, log_q = reference.log_softmax(-1), output.log_softmax(-1)
    p = log_p.exp()
    return -(p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum(-1)


@register("top1", "share", "1 where the answer has the largest logit of the whole vocabulary, else 0.")
def top1(output: Output, answer: Tokens) -> Rows:
    """`argmax(output) == answer`; nan where a logit is nan or +inf, which argmax alone would hide."""
    hit = output.argmax(-1).eq(answer).to(output.dtype)
    broken = (output.isnan() | output.isposinf()).any(-1)
    return hit.masked_fill(broken, float("nan"))


@register("cosine", "cosine", "Cosine of the angle to the untouched embedding; 1 where nothing changed.", "embedding")
def cosine(output: Output, reference: Output) -> Rows:
    """`<output, reference> / (|output| |reference|)`; nan where a vector is 0."""
    lengths: Tensor = torch.linalg.vector_norm(output, dim=-1) * torch.linalg.vector_norm(reference, dim=-1)
    return (output * reference).sum(-1) / lengths
