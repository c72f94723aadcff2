"""Heads of the kind: looking at a name alone, it would write that name. Read off weights and the first layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.readout import Readout
from interp.heads.answers.copied import raised, share_by_row
from interp.heads.answers.places import Spots, find_places, some, standing
from interp.heads.answers.value_maps import ValueMaps
from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.interventions import Patch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

FORMS = ("official-code", "paper", "arena")
AFTER_FIRST, ENTERING = point_name("hook_resid_post", 0), point_name("hook_resid_pre", 0)


@dataclass(frozen=True, eq=False)
class IoiCopy(Scorer):
    """Share of a prompt's names that are among the k highest of what a head would write, looking at them alone.

    The names are the tokens of answer and distractor, wherever they stand. In all forms the output of the head is read out by the final norm and
    the output layer; they differ in what the head reads. 'official-code' (`check_copy_circuit`): the stream after the first
    layer, through the norm before attention of the second layer, whichever layer the head is in, then W_V with its bias.
    'paper', taken by its words: the same stream, W_V alone, no norm and no bias. 'arena' (ARENA 2.0): the embedding of
    the name and what the first MLP makes of it, without position or attention; W_V alone. By chance is the other name of
    the prompt in place of the own.

    Attributes:
        form: 'official-code', 'paper' or 'arena'.
        k: how many of the highest count.
        sign: -1 asks for the names that are lowered most, as negative name movers do.

    Raises:
        InterpError: E201, another form; E205, k under 1 or another sign; E313, the answer stands in no prompt; E403, a model
            whose values cannot be computed apart, or of one layer for 'official-code'.
    """

    name: ClassVar[str] = "ioi-copy"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.1; Easy-Transformer; ARENA 2.0"
    says: ClassVar[str] = "looking at a name alone, it would write that name"
    chance: ClassVar[str] = "the other name of the prompt in place of the own"
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor"})
    task: ClassVar[str] = "ioi"

    form: str = "official-code"
    k: int = 5
    sign: int = 1

    def __post_init__(self) -> None:
        self.check_choice("form", FORMS)
        if self.k < 1 or self.sign not in (1, -1):
            what = f"k={self.k}, sign={self.sign}"
            raise InterpError("E205", what, where="scorer ioi-copy", fix="k=1 or more, sign=1 or -1")

    @property
    def variant(self) -> str:
        return "paper" if self.form == "paper" else "official-code"

    @torch.no_grad()
    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        right = find_places(model, pairs, "", pairs.answer, "the answer")
        wrong = standing(model, pairs, pairs.distractor)
        readout, parts = Readout.of(model), []
        for start, stop in batches(len(pairs), batch_size):
            rows = some(pairs, range(start, stop))
            names = _names(rows, right.spots[start:stop], wrong[start:stop])
            parts.append(self._shares(model, readout, rows.clean.to(model.device), names, heads))
        values, null = torch.cat(parts, 2).numpy()
        values[:, list(right.left_out)] = np.nan
        return Scores(values, null, left_out=right.left_out)

    def _shares(
        self,
        model: HookedModel,
        readout: Readout,
        batch: Batch,
        names: Int[Tensor, "place four"],
        heads: Sequence[HeadId],
    ) -> Float[Tensor, "two head batch"]:
        """Of each head and prompt, the share of names that are raised, and that of the others in their places."""
        rows, places, own, other = names.T
        maps = ValueMaps.of(model, batch)
        read = self._read(maps, batch)[rows, places]
        found = []
        for head in heads:
            values = maps.values(head, read, bias=self.form == "official-code")
            for tokens in (own, other):
                hits = raised(model, readout, head, values, tokens[:, None], self.k, self.sign)
                found.append(share_by_row(hits, rows, batch.size))
        return torch.stack(found).unflatten(0, (-1, 2)).transpose(0, 1)

    def _read(self, maps: ValueMaps, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
        """What W_V reads at every place."""
        if self.form == "paper":
            return maps.model.run_with_cache(batch, AFTER_FIRST)[1][AFTER_FIRST]
        if self.form == "arena":
            return _first_mlp(maps.model, batch)
        if 1 not in maps.read:
            fix = "form='paper' or form='arena'"
            raise InterpError("E403", "there is no second layer of attention", where=maps.model.name, fix=fix)
        return maps.read[1]


def _names(pairs: Pairs, right: Spots, wrong: Spots) -> Int[Tensor, "place four"]:
    """Prompt, place, the token there and the other name's token, for every place of a name."""
    ids, found = pairs.clean.input_ids.tolist(), list[tuple[int, int, int, int]]()
    for spots, other in ((right, pairs.distractor), (wrong, pairs.answer)):
        assert other is not None
        first = other.reshape(len(pairs), -1)[:, 0].tolist()
        found += [(row, place, ids[row][place], first[row]) for row, places in enumerate(spots) for place in places]
    return torch.tensor(found, dtype=torch.long).reshape(-1, 4)


def _first_mlp(model: HookedModel, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
    """The stream after the first layer, of tokens without positions and without what attention writes."""
    added = [name for name in ("hook_pos_embed",) if name in model.adapter.available]
    attended = point_name("hook_attn_out", 0)
    _, cache = model.run_with_cache(batch, [ENTERING, attended, *added])
    tokens = cache[ENTERING] - sum(cache[name] for name in added)
    patches = ((ENTERING, "resid_pre", tokens), (attended, "attn_out", torch.zeros_like(cache[attended])))
    edits = [
        Patch(point, Reference({name: value}, "tokens alone", paired=True), layers=(0,))
        for name, point, value in patches
    ]
    with model.edit(*edits):
        return model.run_with_cache(batch, AFTER_FIRST)[1][AFTER_FIRST]
