"""The one entry point: attention by any operator, and what is wanted to be known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.base import Answer, Asked
from interp.kernels.backends.choice import Choice, choose
from interp.kernels.callable import make_callable
from interp.kernels.errors import InterpError, suggest
from interp.kernels.inputs import check_inputs
from interp.kernels.problem import Problem
from interp.kernels.statistics import statistic
from interp.kernels.statistics.base import Statistic
from interp.kernels.variants import variant as variant_of
from interp.kernels.variants.base import Variant


@dataclass(kw_only=True)
class Found:
    """What is known of some heads' attention.

    Attributes:
        lse: `log sum_j exp(s_ij)` over the keys seen, natural logarithm, float32 or better; -inf for padding queries;
            None where an operator or the backend of the call gives none.
        statistics: by name. Row statistics are [batch head query_pos ...], NaN for padding queries (-1 where they are
            indices of keys); column statistics [batch head key_pos ...]. Each class says what it is.
        choices: which backend ran which heads, and why.
        notes: what else backends had to say.
    """

    lse: Float[Tensor, "batch head query_pos"] | None
    statistics: dict[str, Tensor]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """The backend that ran, or all of them."""
        return ", ".join(dict.fromkeys(choice.backend for choice in self.choices))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.statistics:
            raise InterpError("E201", f"{name!r} was not asked for", fix=suggest(name, self.statistics))
        return self.statistics[name]


@dataclass(kw_only=True)
class AttentionOutput(Found):
    """Attention and what was asked of it.

    Attributes:
        output: in the dtype of v; 0 for padding queries.
    """

    output: Float[Tensor, "batch head query_pos d_value"]


def attention(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch kv_head key_pos d_head"],
    v: Float[Tensor, "batch kv_head key_pos d_value"],
    variant: str | Variant | Sequence[str | Variant] = "softmax",
    statistics: Sequence[str | Statistic] | Mapping[str, str | Statistic] = (),
    backend: str = "auto",
    *,
    scale: float | None = None,
    key_mask: Bool[Tensor, "batch key_pos"] | None = None,
    documents: Int[Tensor, "batch key_pos"] | None = None,
    mask: Bool[Tensor, "#batch #head query_pos key_pos"] | None = None,
    bias: Float[Tensor, "#batch #head query_pos key_pos"] | None = None,
    heads: Sequence[int] | None = None,
) -> AttentionOutput:
    """Attention without a stored pattern, and statistics of it.

    Query i stands where key `i + key_pos - query_pos` stands (bottom right). Query head h reads kv head
    `h // (head / kv_head)`.

    Args:
        variant: an operator or its name, for all heads, or a list with one for each head.
        statistics: operators on the pattern, or their names; a dict gives them other names.
        backend: 'auto' takes the fastest that can and says which; a name never falls back.
        scale: of the scores, `d_head ** -0.5` by default.
        key_mask: False at padding. Queries that stand at padding give 0, and NaN in statistics of rows.
        documents: a number for each key's document; packed documents give what they give alone.
        mask: what may be seen at all, beside the operator's own rule.
        bias: added to scores after scale and softcap, for operators that have scores.
        heads: which heads to run, in this order; all of them by default. Nothing is computed for the others.

    Raises:
        InterpErrors, InterpError: E206 shapes and dtypes, E207 numbers that are not finite (all at once); E201 unknown
            names; E205 a backend that can't run this, a statistic or problem that an operator does not have, a query
            that sees no key, one name for two statistics; E503 a self-check of the numbers failed.
    """
    check_inputs(q, k, v, key_mask=key_mask, documents=documents, mask=mask, bias=bias)
    chosen_heads = _chosen(heads, q.shape[1])
    problem = Problem(
        q, k, v, q.shape[3] ** -0.5 if scale is None else scale, key_mask, documents, mask, bias,
        head_index=tuple(range(q.shape[1])), n_heads=q.shape[1],
    ).of_heads(chosen_heads)  # fmt: skip
    asked = _labelled(statistics)
    groups = _groups(variant, problem.heads)
    answers: list[Answer] = []
    choices: list[Choice] = []
    for operator, members in groups:
        part = problem.of_heads(members, aligned=operator.aligned)
        _check(part, operator, asked)
        chosen, reasons = choose(backend, part, operator, asked)
        answer = chosen.run(part, operator, asked)
        _verify(answer, part, operator, asked)
        answers.append(answer)
        choices.append(Choice(part.head_index, operator.name, chosen.name, reasons))
    joined = answers[0] if len(answers) == 1 else _joined(answers, [members for _, members in groups])
    return AttentionOutput(
        output=joined.output,
        lse=joined.lse,
        statistics=joined.statistics,
        choices=tuple(choices),
        notes=joined.notes,
    )


def _chosen(heads: Sequence[int] | None, n: int) -> list[int]:
    if heads is None:
        return list(range(n))
    wrong = [head for head in heads if not 0 <= head < n]
    if wrong or len(set(heads)) != len(heads) or not heads:
        raise InterpError("E203", f"heads={list(heads)} of {n} heads", fix=f"each once, from 0 to {n - 1}")
    return list(heads)


def _labelled(statistics: Sequence[str | Statistic] | Mapping[str, str | Statistic]) -> Asked:
    if isinstance(statistics, str):
        raise InterpError("E205", "statistics is a single text", fix=f"statistics=[{statistics!r}]")
    if isinstance(statistics, Mapping):
        return {label: statistic(given) for label, given in statistics.items()}
    asked: dict[str, Statistic] = {}
    for given in statistics:
        made = statistic(given)
        if made.name in asked:
            raise InterpError(
                "E205", f"two statistics are called {made.name!r}", fix="hand over a dict: {name: statistic}"
            )
        asked[made.name] = made
    return asked


def _groups(given: str | Variant | Sequence[str | Variant], heads: int) -> list[tuple[Variant, list[int]]]:
    """Operators and the heads that each runs; equal ones run together."""
    if isinstance(given, str | Variant):
        return [(variant_of(given), list(range(heads)))]
    if len(given) != heads:
        raise InterpError("E205", f"{len(given)} variants for {heads} heads", fix="one for all heads, or one each")
    groups: dict[object, tuple[Variant, list[int]]] = {}
    for head, each in enumerate(given):
        key = each if isinstance(each, str) else id(each)
        groups.setdefault(key, (variant_of(each), []))[1].append(head)
    return list(groups.values())


def _check(problem: Problem, operator: Variant, asked: Asked) -> None:
    unbiased = problem.bias is not None and not operator.takes_bias
    reasons = [
        "it has no scores that a bias could be added to" if unbiased else None,
        operator.check(problem),
        *(each.check(problem, operator) for each in asked.values()),
    ]
    wrong = [InterpError("E205", reason, where=operator.name) for reason in reasons if reason]
    if wrong:
        raise wrong[0]


def _verify(answer: Answer, problem: Problem, operator: Variant, asked: Asked) -> None:
    """The self-checks that always run; they cost what reading the answer costs."""
    blind = _blind(answer, problem, operator)
    if blind is not None and bool(blind.any()):
        batch, head, query = blind.nonzero()[0].tolist()
        raise InterpError(
            "E205",
            f"query {query} of prompt {batch} sees no key",
            where=f"head {problem.head_index[head]}, {operator.name}",
            fix="leave each query one key, or mark it as padding in key_mask",
        )
    for label, each in asked.items():
        each.verify(answer.statistics[label].detach(), problem)


def _blind(answer: Answer, problem: Problem, operator: Variant) -> Bool[Tensor, "batch head query_pos"] | None:
    """Real queries that see no key. Without an lse only a mask can hide every key: operators let a query see itself."""
    real = problem.real_queries[:, None]
    if answer.lse is not None:
        return (answer.lse == float("-inf")) & real
    if problem.mask is None:
        return None
    view = problem.view()
    seen = view.open & view.past if operator.causal else view.open
    return (~seen.any(-1) & real).expand(-1, problem.heads, -1)


def _joined(answers: list[Answer], members: list[list[int]]) -> Answer:
    """Answers of groups of heads as one, heads in their order."""
    order = torch.tensor([head for group in members for head in group]).argsort()

    def join(pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces, dim=1)[:, order.to(pieces[0].device)]

    lses = [answer.lse for answer in answers]
    return Answer(
        join([answer.output for answer in answers]),
        None if any(lse is None for lse in lses) else join([lse for lse in lses if lse is not None]),
        {label: join([answer.statistics[label] for answer in answers]) for label in answers[0].statistics},
        tuple(note for answer in answers for note in answer.notes),
    )


make_callable(__name__)
