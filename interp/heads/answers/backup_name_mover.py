"""Heads of the kind: it writes the answer where the name movers are gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.circuits.controls import norm_distance
from interp.circuits.decompose import Decomposer
from interp.heads.answers.effects import LEAST
from interp.heads.answers.held_norm import HeldShares, held_shares
from interp.heads.answers.movers import check_movers, find_movers, labels_of
from interp.heads.answers.places import every_head, some
from interp.heads.scorer import Scorer, Scores
from interp.hooks.interventions import Ablate
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.hooks.reference import paired_reference

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

OPERATORS = ("zero", "resample")
Heads = tuple[HeadId, ...]


@dataclass(frozen=True, eq=False)
class BackupNameMover(Scorer):
    """Direct effect on the logit difference with the name movers ablated, less that with all heads; in logits.

    Direct effects are shares of the logit difference at the norms of the clean run, so that heads which cannot know of the
    ablation have exactly 0. Chance is the same for matched heads: each name mover is replaced by the head of its layer that
    writes most nearly as much and is no mover, in two sets without a common head. Heads that are ablated themselves have
    no score in that prompt, and prompts without a name mover have none at all.

    Attributes:
        movers: labels of the name movers, with commas between them; '' finds them prompt by prompt.
        most: name movers of one prompt, at most.
        ablation: 'zero', or 'resample' from the corrupt prompt.
        io: role of the tokens that hold the answer, for finding movers; '' as there.

    Raises:
        InterpError: E201, another ablation; E202, E203, names of movers; E205, no mover; E313, the answer stands in no
            prompt.
    """

    name: ClassVar[str] = "backup-name-mover"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.3; McGrath et al. 2023, arXiv 2307.15771"
    says: ClassVar[str] = "it writes the answer where name movers are ablated"
    chance: ClassVar[str] = "the same with matched heads ablated, and a hundredth of the logit difference at least"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "ioi"

    movers: str = ""
    most: int = 3
    ablation: str = "zero"
    io: str = ""

    def __post_init__(self) -> None:
        check_movers(self.name, self.movers, self.most)
        self.check_choice("ablation", OPERATORS)

    @property
    def operator(self) -> str:  # type: ignore[override]  # which one is a parameter here
        return self.ablation

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]  # which one is a parameter here
        return (self.io,) if self.io else ()

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        movers = find_movers(model, pairs, labels_of(self.movers), self.most, batch_size, io=self.io)
        decomposer, every = Decomposer.of(model), every_head(model)
        norms = _norms(model, decomposer, pairs, every, batch_size)
        values, null = np.full((2, len(heads), len(pairs)), np.nan)
        for found, rows in movers.groups.items():
            for sets, same in _by_controls(found, every, norms, rows).items():
                for start, stop in batches(len(same), batch_size):
                    some_rows = same[start:stop]
                    shares = self._shares(model, decomposer, some(pairs, some_rows), heads, (found, *sets))
                    values[:, some_rows], null[:, some_rows] = _gains(shares, heads, (found, *sets))
        return Scores(values, null, notes=movers.notes, left_out=movers.left_out)

    def _shares(
        self, model: HookedModel, decomposer: Decomposer, pairs: Pairs, heads: Sequence[HeadId], sets: Sequence[Heads]
    ) -> HeldShares:
        """Shares of heads in the clean run, and without each set of heads."""
        reference = None
        if self.ablation == "resample":
            assert pairs.corrupt is not None
            reference = paired_reference(model, [pairs.corrupt])
        edits = [Ablate(heads=one, operator=self.ablation, reference=reference) for one in sets]
        return held_shares(model, decomposer, pairs, heads, edits)


def _norms(
    model: HookedModel, decomposer: Decomposer, pairs: Pairs, heads: Sequence[HeadId], batch_size: int
) -> Float[np.ndarray, "head prompt"]:
    """How much each head writes where the answer is read."""
    parts = [
        held_shares(model, decomposer, some(pairs, range(*span)), heads, ()).norms
        for span in batches(len(pairs), batch_size)
    ]
    return torch.cat(parts, 1).numpy()


def _by_controls(
    movers: Heads, every: Sequence[HeadId], norms: Float[np.ndarray, "head prompt"], rows: Sequence[int]
) -> dict[tuple[Heads, ...], list[int]]:
    """The prompts of each choice of control sets."""
    layers = np.array([head.layer for head in every])
    groups: dict[tuple[Heads, ...], list[int]] = {}
    for row in rows:
        sets = tuple(_control_sets([every.index(head) for head in movers], norms[:, row], layers))
        groups.setdefault(tuple(tuple(every[index] for index in one) for one in sets), []).append(row)
    return groups


def _control_sets(
    movers: Sequence[int], norms: Float[np.ndarray, " head"], layers: Int[np.ndarray, " head"]
) -> Iterator[tuple[int, ...]]:
    """Two sets of heads like the movers, none of them in both: of their layers, or the nearest with heads left."""
    taken = set(movers)
    for _ in range(2):
        chosen: list[int] = []
        for mover in movers:
            steps, distance = np.abs(layers - layers[mover]), norm_distance(norms, mover)
            free = [index for index in np.lexsort((distance, steps)).tolist() if index not in taken]
            chosen += free[:1]
            taken.update(free[:1])
        if len(chosen) == len(movers):
            yield tuple(chosen)


def _gains(
    shares: HeldShares, heads: Sequence[HeadId], sets: Sequence[Heads]
) -> tuple[Float[np.ndarray, "head batch"], Float[np.ndarray, "head batch"]]:
    """What each head gains where the first set is ablated, and chance; nan for heads that are ablated themselves."""
    gains = (shares.edited - shares.clean).numpy()
    for number, one in enumerate(sets):
        gains[number, [index for index, head in enumerate(heads) if head in one]] = np.nan
    kept = np.isfinite(gains[1:])
    control = np.where(kept, gains[1:], 0).sum(0) / np.maximum(kept.sum(0), 1)
    return gains[0], np.maximum(control, LEAST * np.abs(shares.logit_diff.numpy()))
