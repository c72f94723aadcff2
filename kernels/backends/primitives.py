"""What the fused kernels compute: one request, one answer, the same for every kernel.

A fused kernel knows no variant and no statistic by name. It gets attention whose every query sees an interval of keys
and a prefix of keys, and answers with a few numbers a row from which the statistics follow (`kernels/statistics/`).

All but the output speak of the *pattern*, rows that sum to 1: `p_ij = f(s_ij) / sum_j f(s_ij)` with f = exp for the
rule 'softmax' and f = sigmoid for the rule 'sigmoid'.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

RULES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Rows:
    """The keys that each query sees: `low <= j < high`, and `first <= j < stop` too; counted from 0, int32.

    The two may overlap (each key counts once). `high <= low` and `stop <= first` are empty.
    """

    low: Int[Tensor, "#batch #head query_pos"]
    high: Int[Tensor, "#batch #head query_pos"]
    first: Int[Tensor, "#batch #head query_pos"]
    stop: Int[Tensor, "#batch #head query_pos"]


@dataclass(frozen=True)
class Request:
    """Attention, and what is wanted to be known of it.

    Scores: `s_ij = cap(scale <q_i, k_j>) - slope |i + key_pos - query_pos - j| + shift_i`, where
    `cap(x) = softcap * tanh(x / softcap)` where a softcap is given.

    Attributes:
        q: queries. k, v: keys and values; query head h reads kv head `h // (head / kv_head)`.
        rows: which keys each query sees.
        slopes: ALiBi's, one a head. shift: added to the scores of a row (the sigmoid's `-log n`).
        rule: 'softmax' gives `output = p v`; 'sigmoid' gives `output = f(s) v`, rows of any mass.
        output: False leaves the output out (statistics alone).
        entropy, largest, squares: which numbers of a row.
        functionals: numbers a key whose mean under the pattern is wanted.
        band: weights by distance `i + key_pos - query_pos - j` = 0, 1, ...; nothing beyond the last.
        columns: query weights; each gives one sum a key, `sum_i w_i p_ij`.
    """

    q: Float[Tensor, "batch head query_pos d_head"]
    k: Float[Tensor, "batch kv_head key_pos d_head"]
    v: Float[Tensor, "batch kv_head key_pos d_value"]
    scale: float
    rows: Rows
    softcap: float | None = None
    slopes: Float[Tensor, " head"] | None = None
    shift: Float[Tensor, "#batch #head query_pos"] | None = None
    rule: str = "softmax"
    output: bool = True
    entropy: bool = False
    largest: bool = False
    squares: bool = False
    functionals: Float[Tensor, "#batch #head key_pos functional"] | None = None
    band: Float[Tensor, "band distance"] | None = None
    columns: Float[Tensor, "#batch #head weighting query_pos"] | None = None


@dataclass
class Primitives:
    """Answer to a `Request`; float32 whatever the inputs' dtype, but for the output. None where it was not asked.

    Rows that see no key: output 0, lse -inf, everything else 0 (argmax -1).

    Attributes:
        output: in the dtype of v.
        lse: `log sum_j f(s_ij)`, natural logarithm.
        entropy: of the pattern, in nats.
        largest, argmax: the largest pattern entry of a row and its key, the lowest of equals.
        squares: `sum_j p_ij^2`.
    """

    output: Float[Tensor, "batch head query_pos d_value"] | None
    lse: Float[Tensor, "batch head query_pos"]
    entropy: Float[Tensor, "batch head query_pos"] | None = None
    largest: Float[Tensor, "batch head query_pos"] | None = None
    argmax: Int[Tensor, "batch head query_pos"] | None = None
    squares: Float[Tensor, "batch head query_pos"] | None = None
    functionals: Float[Tensor, "batch head query_pos functional"] | None = None
    band: Float[Tensor, "batch head query_pos band"] | None = None
    columns: Float[Tensor, "batch head weighting key_pos"] | None = None
    notes: tuple[str, ...] = field(default=())
