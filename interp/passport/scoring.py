"""All scores of a passport: what shares prompts shares forwards, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from interp.heads.attention import AttentionScorer
from interp.heads.run import Scoring
from interp.heads.scorer import Scorer
from interp.heads.weights.base import WeightScorer
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError
from interp.passport.families import family, reads
from interp.passport.reading import Reading, of_scores
from interp.passport.settings import Setting
from interp.report.text import visible

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

MISFITS = ("2", "3", "4")
"""First digits of errors that say that a scorer does not fit: its arguments, its data, or the model."""

NOTHING_LEFT = "E311"
"""Code of errors that say under `fix` why every prompt was dropped."""

WIDTH = 120


@dataclass
class Scored:
    """What came of all scorers.

    Attributes:
        readings: of each head, setting by setting.
        left_out: scorer -> why it has no reading at all, or under which setting it has none.
    """

    readings: dict[str, list[Reading]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def misfit(error: InterpError) -> str:
    """Why something does not fit, in a line.

    Raises:
        InterpError: the same, where it says something else: a machine without memory, a failed self-check.
    """
    if error.code[1] not in MISFITS:
        raise error
    why = error.fix.partition(";")[0] if error.code == NOTHING_LEFT else error.where
    return f"{error.code}: {error.what}" + (f" ({visible(why, WIDTH)})" if why else "")


@dataclass(frozen=True, eq=False)
class Scores:
    """The scorers of passports of heads of one tower.

    Attributes:
        n: prompts that scorers draw of tasks of their own.
    """

    model: HookedModel
    heads: tuple[HeadId, ...]
    n: int | None
    batch_size: int
    truncate: bool

    def run(self, scorers: Sequence[Scorer], settings: Sequence[Setting]) -> Scored:
        """Readings of these heads from the scores of all; scorers that do not fit the first setting are not tried again."""
        done = Scored({head.label: [] for head in self.heads})
        fitting = [one for one in scorers if not self._is_elsewhere(one, done)]
        for place, setting in enumerate(settings):
            chosen = [one for one in fitting if one.name not in done.left_out and (not place or _again(one, setting))]
            own = [one for one in chosen if not reads(one, settings[0].task.name)]
            given = [one for one in chosen if reads(one, settings[0].task.name)]
            for group, task in ((given, setting.task), (own, None)):
                scoring = Scoring(
                    self.model, task, self._tower, self.n, self.batch_size, setting.seed, self.truncate, ""
                )
                self._read(scoring, group, setting, done, first=not place)
        return done

    @property
    def _tower(self) -> str:
        """All heads that these are ranked among."""
        return f"{self.heads[0].tower}.all" if self.heads[0].tower else "all"

    def _is_elsewhere(self, scorer: Scorer, done: Scored) -> bool:
        """Whether it is about heads of another tower."""
        if scorer.sees == bool(self.heads[0].tower):
            return False
        done.left_out[scorer.name] = f"it is about heads that read {'pictures' if scorer.sees else 'text'}"
        return True

    def _read(self, scoring: Scoring, group: Sequence[Scorer], setting: Setting, done: Scored, *, first: bool) -> None:
        """One forward a batch for those that read attention, the others one by one."""
        looking = [one for one in group if isinstance(one, AttentionScorer)]
        try:
            found = scoring.results(looking) if looking else {}
        except InterpError as error:  # one of them does not fit: which one is seen when each is asked by itself
            misfit(error)
            found = {}
        for one in group:
            name = one.name
            try:
                result = found[name] if name in found else scoring.results([one])[name]
            except InterpError as error:
                done.left_out[name if first else f"{name}, {setting.name}"] = misfit(error)
                continue
            for label, readings in done.readings.items():
                readings.append(of_scores(result, label, family(one), setting.name))


def _again(scorer: Scorer, setting: Setting) -> bool:
    """Whether another way of drawing prompts can change a score."""
    if isinstance(scorer, WeightScorer):
        return False
    return setting.redraws or reads(scorer, setting.task.name)
