"""Attention written as loops over batch, head, query and key, and what every operator must do that says so of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import logsumexp
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant

B, H, KV, D, DV = 2, 4, 2, 3, 5

Row = Callable[[list[float], list[int], int, int, int], list[float]]


def softmax_row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
    total = float(logsumexp(scores))
    return [float(torch.tensor(score - total, dtype=torch.float64).exp()) for score in scores]


@dataclass(frozen=True)
class Case:
    """An operator, and what it is, position by position.

    `make` is handed the position of each token [batch key] in its document, -1 at padding. `sees(i, j, h, n)` and
    `score(s, i, j, h, n)` speak of positions in a document of n tokens; `row(scores, keys, i, h, n)` makes weights of
    what is seen.
    """

    make: Callable[[Tensor], Variant]
    sees: Callable[[int, int, int, int], bool]
    score: Callable[[float, int, int, int, int], float] = lambda s, i, j, h, n: s
    row: Row = softmax_row
    sizes: tuple[int, int, int] = (1, 7, 17)


def tensors(n: int, n_queries: int | None = None, *, batch: int = B, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    q, k, v = 2 * draw(batch, H, n, D), draw(batch, KV, n, D), draw(batch, KV, n, DV)
    return q[:, :, n - (n_queries or n) :], k, v


def positions(*documents: int, batch: int = B, left: int = 0) -> Tensor:
    """Positions of packed documents of these lengths, after `left` tokens of padding."""
    row = [-1] * left + [position for length in documents for position in range(length)]
    return torch.tensor(row).expand(batch, -1)


def loops(case: Case, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Weights [batch head query key] of one document a prompt."""
    batch, heads, n_queries, width = q.shape
    n, group = k.shape[2], heads // k.shape[1]
    found = torch.zeros(batch, heads, n_queries, n, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for row in range(n_queries):
                i = row + n - n_queries
                keys = [j for j in range(n) if case.sees(i, j, h, n)]
                scores = []
                for j in keys:
                    product = sum(float(q[b, h, row, d]) * float(k[b, h // group, j, d]) for d in range(width))
                    scores.append(case.score(scale * product, i, j, h, n))
                for j, weight in zip(keys, case.row(scores, keys, i, h, n), strict=True):
                    found[b, h, row, j] = weight
    return found


def problem_of(q: Tensor, k: Tensor, v: Tensor, variant: Variant | None = None, **given: Tensor) -> Problem:
    problem = Problem(q, k, v, q.shape[3] ** -0.5, **given, head_index=tuple(range(q.shape[1])), n_heads=q.shape[1])
    return problem.of_heads(range(q.shape[1]), aligned=variant is None or variant.aligned)


def weights(variant: Variant, q: Tensor, k: Tensor, v: Tensor, **given: Tensor) -> Tensor:
    return variant.weights(problem_of(q, k, v, variant, **given).view()).values


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(H // KV, 1)


def close(found: Tensor, wanted: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


def is_that_of_loops(case: Case, n: int) -> None:
    """Weights, output (at once and in blocks), any slice of heads and rows, and the last queries alone."""
    q, k, v = tensors(n)
    variant, wanted = case.make(positions(n)), loops(case, q, k, D**-0.5)
    problem = problem_of(q, k, v)
    assert variant.check(problem) is None
    close(variant.weights(problem.view()).values, wanted)
    for backend in ("eager", "blockwise"):
        close(attention(q, k, v, variant, backend=backend).output, wanted @ repeated(v))
    heads, rows = slice(1, 3), slice(n // 2, n)
    close(variant.weights(problem.view(heads, rows)).values, wanted[:, heads, rows])
    chosen = attention(q, k, v, variant, heads=[2, 0], backend="eager")
    close(chosen.output, (wanted @ repeated(v))[:, [2, 0]])


def decodes(case: Case) -> None:
    """The last queries alone, with all keys, give what they give among all queries."""
    n = case.sizes[2]
    q, k, v = tensors(n)
    variant = case.make(positions(n))
    close(weights(variant, q[:, :, n - 3 :], k, v), weights(variant, q, k, v)[:, :, n - 3 :])


def ignores_padding(case: Case) -> None:
    """Prompts with padding on the left or right give what they give alone, whatever stands there."""
    n, pad = case.sizes[2], 4
    q, k, v = tensors(n + pad)
    for left in (pad, 0):
        real = slice(left, left + n)
        mask = torch.zeros(B, n + pad, dtype=torch.bool)
        mask[:, real] = True
        where = torch.full((B, n + pad), -1)
        where[:, real] = positions(n)
        padded = weights(case.make(where), q, k, v, key_mask=mask)
        alone = weights(case.make(positions(n)), q[:, :, real], k[:, :, real], v[:, :, real])
        close(padded[:, :, real, real], alone)
        padded[:, :, real, real] = 0
        assert not bool(padded.any())


def keeps_documents_apart(case: Case, lengths: tuple[int, int]) -> None:
    """Packed documents give what they give alone."""
    first, second = lengths
    q, k, v = tensors(first + second)
    packed = weights(
        case.make(positions(first, second)), q, k, v, documents=positions(first, second).eq(0).long().cumsum(-1)
    )
    for piece in (slice(0, first), slice(first, first + second)):
        alone = weights(case.make(positions(piece.stop - piece.start)), q[:, :, piece], k[:, :, piece], v[:, :, piece])
        close(packed[:, :, piece, piece], alone)
        packed[:, :, piece, piece] = 0
    assert not bool(packed.any())


def moved_by_later_tokens(variant: Variant, n: int) -> bool:
    """Whether other tokens from the middle on change any earlier output."""
    (q, k, v), (q2, k2, v2) = tensors(n), tensors(n, seed=1)
    half = n // 2
    changed = [torch.cat([old[:, :, :half], new[:, :, half:]], 2) for old, new in ((q, q2), (k, k2), (v, v2))]
    before = attention(q, k, v, variant, backend="eager").output[:, :, :half]
    return not torch.equal(before, attention(*changed, variant, backend="eager").output[:, :, :half])


def is_what_its_flags_say(case: Case) -> None:
    n = case.sizes[2]
    q, k, v = tensors(n)
    variant = case.make(positions(n))
    found = weights(variant, q, k, v)
    mass = found.sum(-1)
    assert variant.normalised == torch.allclose(mass, torch.ones_like(mass), atol=1e-12, rtol=0)
    assert variant.non_negative == (float(found.min()) >= 0)


def is_wide(case: Case) -> None:
    """bf16 is computed in float32: only the inputs and the output are rounded."""
    n = case.sizes[2]
    rough = [x.bfloat16() for x in tensors(n)]
    variant = case.make(positions(n))
    found = attention(*rough, variant, backend="eager").output
    wanted = attention(*(x.float() for x in rough), variant, backend="eager").output
    assert found.dtype == torch.bfloat16
    close(found, wanted.bfloat16(), atol=0)


def has_gradients(variant: Variant, n: int = 4) -> None:
    inputs = [x.requires_grad_() for x in tensors(n, batch=1)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, variant, backend="eager").output, inputs)


def random_problem(seed: int, n: int) -> dict[str, Tensor]:
    """Documents of random lengths and padding at either end."""
    made = torch.Generator().manual_seed(seed)
    cut = int(torch.randint(1, n, (1,), generator=made))
    left, right = (int(x) for x in torch.randint(0, n // 3, (2,), generator=made))
    mask = torch.ones(B, n, dtype=torch.bool)
    mask[0, :left] = False
    mask[1, n - right :] = False
    given = {"key_mask": mask}
    if seed % 2:
        given["documents"] = (torch.arange(n) >= cut).long().expand(B, -1)
    return given


def inside(rows: Rows, n: int) -> Tensor:
    """Intervals as a mask."""
    key = torch.arange(n)
    near = (key >= rows.low[..., None]) & (key < rows.high[..., None])
    return near | ((key >= rows.first[..., None]) & (key < rows.stop[..., None]))


def has_the_span_it_says(make: Callable[[Tensor], Variant], n: int = 17, seeds: Sequence[int] = range(6)) -> None:
    """The intervals for fused kernels are what the operator lets be seen."""
    for seed in seeds:
        for n_queries in (n, 4):
            q, k, v = tensors(n, n_queries)
            problem = problem_of(q, k, v, **random_problem(seed, n))
            variant = make(torch.where(problem.real_keys, problem.key_at, -1))
            rows = variant.rows(problem)
            assert isinstance(rows, Rows), rows
            shape = (B, H, n_queries, n)
            found, wanted = inside(rows, n).expand(shape), variant.allowed(problem.view()).expand(shape)
            assert torch.equal(found, wanted)


def answered(request: Request) -> tuple[Tensor, Tensor]:
    """Output and lse of a request as its formula says, dense."""
    n_queries, n = request.q.shape[2], request.k.shape[2]
    scores = torch.matmul(request.q, repeated(request.k).transpose(2, 3)) * request.scale
    if request.softcap is not None:
        scores = request.softcap * torch.tanh(scores / request.softcap)
    if request.slopes is not None:
        away = (torch.arange(n_queries)[:, None] + n - n_queries - torch.arange(n)).abs()
        scores = scores - request.slopes[:, None, None] * away
    if request.shift is not None:
        scores = scores + request.shift[..., None]
    scores = scores.masked_fill(~inside(request.rows, n), float("-inf"))
    if request.rule == "sigmoid":
        found = torch.sigmoid(scores)
        return found @ repeated(request.v), found.sum(-1).log()
    return scores.softmax(-1).nan_to_num(0) @ repeated(request.v), scores.logsumexp(-1)


def asks_for_itself(case: Case) -> None:
    """What a fused kernel is asked for, times the factor, is the operator's output."""
    for seed in range(4):
        n = case.sizes[2]
        q, k, v = tensors(n)
        problem = problem_of(q, k, v, **random_problem(seed, n))
        variant = case.make(torch.where(problem.real_keys, problem.key_at, -1))
        request = variant.request(problem)
        assert isinstance(request, Request), request
        output, lse = answered(request)
        factor = variant.factor(problem, lse)
        output = output if factor is None else output * factor[..., None]
        close(output, variant.weights(problem.view()).values @ repeated(v))
