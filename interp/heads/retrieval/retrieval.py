"""Retrieval heads: while the model writes out a fact, they look at the word of it that comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from interp.heads.retrieval.decoding import Decoded, decode
from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

FORMS = {"set": "paper", "count": "official-code"}


@dataclass(frozen=True, eq=False)
class Retrieval(Scorer):
    """Share of a needle's tokens that a head copies while the answer is decoded greedily.

    A head copies at a step if the key that gets most of it lies in the needle and holds the token that the model then
    emits. 'set' (the paper) counts every token of the needle once, so 1 is the most; 'count' (the published code) adds up
    steps, so a model that repeats its answer exceeds 1, and divides by the length of the needle. Trials whose answer holds
    no more than `recall` of the needle's tokens are left out, with the reason.

    Further ways in which the published code differs: it looks for the needle by overlap of sets of tokens and takes the
    first window that fits, where the task says here which tokens they are; it asks for more than half of the words'
    stems (ROUGE-1), here of the tokens; and trials in which the needle is not found count as 0 there.

    Attributes:
        form: 'set' or 'count'.
        needle: role of the tokens that count.
        steps: of decoding, at most; the end of the text ends it too.
        recall: share of the needle that the answer must exceed.

    Raises:
        InterpError: E201, another form; E205, no step, or a recall that is no share.
    """

    name: ClassVar[str] = "retrieval"
    source: ClassVar[str] = "Wu et al. 2024, arXiv 2404.15574, section 2; nightdessert/Retrieval_Head"
    says: ClassVar[str] = "it looks at the word of the needle that comes next"
    chance: ClassVar[str] = "a key drawn evenly at every step"
    task: ClassVar[str] = "retrieval"
    options: ClassVar[Mapping[str, Any]] = {"length": 128}

    form: str = "set"
    needle: str = "value"
    steps: int = 4
    recall: float = 0.5

    def __post_init__(self) -> None:
        self.check_choice("form", tuple(FORMS))
        if self.steps < 1 or not 0 <= self.recall < 1:
            what = f"{self.steps} steps, and a recall above {self.recall:g}"
            raise InterpError("E205", what, where="scorer retrieval", fix="steps=1 or more, 0 <= recall < 1")

    @property
    def variant(self) -> str:
        return FORMS[self.form]

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which one is a parameter here
        return (self.needle,)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        values, null = np.full((2, len(heads), len(pairs)), np.nan)
        left_out, kernels = dict[int, str](), dict[str, None]()
        stop = [model.tokenizer.eos_token_id] if getattr(model.tokenizer, "eos_token_id", None) is not None else []
        for start, end in batches(len(pairs), batch_size):
            batch = trimmed(pairs.clean.rows(start, end)).to(model.device)
            layers = sorted({head.layer for head in heads})
            decoded = decode(model, batch, batch.end, self.steps, layers, stop)
            kernels[decoded.kernel] = None
            for row in range(end - start):
                trial = Trial.of(decoded, row, batch.input_ids[row].tolist(), batch.spans[self.needle][row])
                if trial.recall <= self.recall:
                    left_out[start + row] = f"the answer holds no more than {self.recall:.0%} of the needle"
                    continue
                null[:, start + row] = trial.chance(self.form, int(batch.first[row]))
                for index, head in enumerate(heads):
                    looked = decoded.looked_at[head.layer][row, head.head].tolist()
                    values[index, start + row] = trial.score(looked, self.form)
        return Scores(values, null, ", ".join(kernels), left_out=left_out)


def trimmed(batch: Batch) -> Batch:
    """The prompts without the padding that others brought, so that one alone needs no mask of queries by keys."""
    if batch.mask is None:
        return batch
    width, stop = batch.mask.shape[1], int(batch.end.max()) + 1
    inputs = {
        name: value[:, :stop] if isinstance(value, torch.Tensor) and value.shape == batch.mask.shape else value
        for name, value in batch.inputs.items()
    }
    return batch if stop == width else replace(batch, inputs=inputs, mask=batch.mask[:, :stop])


@dataclass(frozen=True)
class Trial:
    """One needle and the steps of one answer.

    Attributes:
        needle: position -> token.
        steps: position of the query, and the token that came out.
    """

    needle: Mapping[int, int]
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, decoded: Decoded, row: int, ids: Sequence[int], span: Sequence[int]) -> Trial:
        pairs = zip(decoded.queries[row].tolist(), decoded.emitted[row].tolist(), strict=True)
        return cls({position: ids[position] for position in span}, tuple(pairs))

    @property
    def tokens(self) -> set[int]:
        return set(self.needle.values())

    @property
    def recall(self) -> float:
        """Share of the needle's different tokens that the answer holds."""
        return len(self.tokens & {token for _, token in self.steps}) / len(self.tokens)

    def score(self, looked: Sequence[int], form: str) -> float:
        """Of a head that looked at these keys."""
        copied = [token for (_, token), key in zip(self.steps, looked, strict=True) if self.needle.get(key) == token]
        return len(set(copied)) / len(self.tokens) if form == "set" else len(copied) / len(self.needle)

    def chance(self, form: str, first: int) -> float:
        """The same, expected of a key drawn evenly from `first` to the query."""
        hits: dict[int, list[float]] = {token: [] for token in self.tokens}
        for query, token in self.steps:
            if token in hits:
                hits[token].append(list(self.needle.values()).count(token) / (query - first + 1))
        if form == "count":
            return sum(map(sum, hits.values())) / len(self.needle)
        return sum(1 - float(np.prod([1 - share for share in shares])) for shares in hits.values()) / len(self.tokens)
