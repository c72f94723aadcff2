"""A backup head: it does the work of the first one where that one's result is missing or wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, parts
from interp.zoo.recipes.planted_copy import FILLERS, NAMES, ask_for_name, name_seen_from_end, write_copy_head
from interp.zoo.truth import Truth

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.zoo.planted.figures import Asked

PRIMARY, BACKUP = "L0H1", "L1H2"


@dataclass(frozen=True)
class PlantedBackup(PlantedPlain):
    """L0H1 copies the name into ANSWER. L1H2 copies a name that is not in ANSWER already; else it rests on BOS."""

    name: ClassVar[str] = "planted-backup"
    data: ClassVar[str] = "Written by hand, from no data: a copy head, and one that wakes where the first one fails."
    layers: ClassVar[int] = 2
    d_head: ClassVar[int] = len(NAMES) + 1

    @property
    def words(self) -> tuple[str, ...]:
        return FILLERS + NAMES

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, ANSWER=len(NAMES))

    def write(self, model: Any, part: dict[str, slice]) -> None:
        names, each = self.places(*NAMES), range(len(NAMES))
        write_copy_head(cleared(model, 0, 1), names, part)
        head, sharp = cleared(model, 1, 2), SHARPNESS * self.d_head**0.5
        head["q"][part["ONE"], each] = sharp
        head["q"][part["ONE"], len(NAMES)] = sharp / 2
        head["q"][part["ANSWER"], each] = -2 * sharp * torch.eye(len(NAMES))
        head["k"][names, each] = 1
        head["k"][0, len(NAMES)] = 1
        head["v"][names, each] = 1
        head["o"][each, part["ANSWER"]] = torch.eye(len(NAMES))
        model.lm_head.weight[names, range(part["ANSWER"].start, part["ANSWER"].stop)] = LOUD

    def question(self, rng: random.Random) -> Question:
        return ask_for_name(rng)

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        return {PRIMARY: name_seen_from_end(words), BACKUP: {len(words) - 1: 0}}

    def more(self, model: HookedModel, asked: Asked) -> dict[str, Any]:
        """What the backup looks at, and what is left of the answer, once the primary head is gone."""
        from interp.hooks.interventions import Ablate

        with model.edit(Ablate(heads=[PRIMARY])):
            logits, cache = model.run_with_cache(asked.clean, names="blocks.1.attn.hook_pattern")
        targets = [name_seen_from_end(words) for words in asked.words]
        awake = [
            float(pattern[2, query, key])
            for pattern, target in zip(cache["blocks.1.attn.hook_pattern"], targets, strict=True)
            for query, key in target.items()
        ]
        with model.edit(Ablate(heads=[PRIMARY, BACKUP])):
            neither = asked.logit_diff(model(asked.clean))
        return {
            "without_primary": {
                "attention_of_backup_to_name": round(sum(awake) / len(awake), 4),
                "logit_diff": round(asked.logit_diff(logits), 3),
                "logit_diff_without_both": round(neither, 3),
            }
        }

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        out = [f"{PRIMARY}->{BACKUP}.q", f"{PRIMARY}->logits"]
        into = [f"embed->{head}.{part}" for head in (PRIMARY, BACKUP) for part in "qkv"]
        edges = {"program": [*into, *out, f"{BACKUP}->logits"], "resample": out, "zero": out}
        scores = {"attention_to_name": {PRIMARY: 1.0, BACKUP: 0.0}, "attention_to_bos": {BACKUP: 1.0}}
        note = (
            f"Attention of both heads is stated for the last position. Zero-ablating {PRIMARY} costs nothing, because "
            f"{BACKUP} wakes; zero-ablating {BACKUP} costs nothing either, both together cost all. The single edge "
            f"{PRIMARY}->logits costs all under zero, because {BACKUP} still reads the answer; edges "
            f"into {PRIMARY} are repaired like the head. After resampling {PRIMARY} as a whole, the wrong and the right "
            "name stand side by side."
        )
        return Truth({PRIMARY: "copy", BACKUP: "backup copy"}, edges, scores, note)


RECIPES = (PlantedBackup(),)
