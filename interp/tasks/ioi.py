"""Indirect object identification: "When Mary and John went to the store, John gave a book to" -> " Mary".

The task of Wang et al. 2022 (arXiv 2211.00593) with this toolkit's own templates and word lists.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Example, Span
from interp.kernels.errors import InterpError
from interp.tasks.base import check_choice
from interp.tasks.split import belongs, draw_until
from interp.tasks.text import TextTask, Words, fill
from interp.tasks.words import NAMES, OBJECTS, PLACES

# Every name follows a space, so that a name is the same token wherever it stands.
TEMPLATES = (
    "When [A] and [B] went to the [PLACE], [S] gave a [OBJECT] to",
    "Then, [A] and [B] met at the [PLACE], and [S] handed a [OBJECT] to",
    "After [A] and [B] left the [PLACE], [S] sold a [OBJECT] to",
    "While [A] and [B] were working at the [PLACE], [S] showed a [OBJECT] to",
    "Yesterday, [A] and [B] had lunch near the [PLACE], and [S] brought a [OBJECT] to",
    "As soon as [A] and [B] arrived at the [PLACE], [S] passed a [OBJECT] to",
    "Because [A] and [B] both liked the [PLACE], [S] sent a [OBJECT] to",
    "Last week, [A] and [B] were alone in the [PLACE], so [S] offered a [OBJECT] to",
    "Friends since school, [A] and [B] visited the [PLACE], where [S] lent a [OBJECT] to",
    "Once [A] and [B] got back from the [PLACE], [S] threw a [OBJECT] to",
    "The long talk between [A] and [B] at the [PLACE] was over when [S] returned a [OBJECT] to",
    "Today, [A] and [B] found the [PLACE] closed, and [S] gave a [OBJECT] back to",
)
CORRUPTIONS = ("abc", "s2")
HALVES = {"all": TEMPLATES, "first": TEMPLATES[: len(TEMPLATES) // 2], "rest": TEMPLATES[len(TEMPLATES) // 2 :]}
"""So that what is found on some templates can be tried on others."""


@dataclass(frozen=True)
class Ioi(TextTask):
    """Which of two people received something: the one who is not named again.

    Half of the questions name the receiver first (ABBA), half second (BABA); ids say which. Facts of the split are
    unordered pairs of names.

    Attributes:
        corruption: `abc` replaces the three name places by three different other names, so that no name repeats and
            neither answer is favoured; `s2` replaces only the second subject, by the indirect object, so that the
            answer flips: in the corrupt prompt the distractor is right and a logit difference changes its sign.
        template: number of the one template to use; all of them where it is None.
        templates: where no number is given, the `first` half of them, the `rest`, or `all`.
    """

    name: ClassVar[str] = "ioi"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Indirect object identification: of two people, name the one who was given something."
    lists: ClassVar[Words] = {"names": NAMES}

    corruption: str = "abc"
    template: int | None = None
    templates: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "corruption", self.corruption, CORRUPTIONS)
        check_choice(self.name, "templates", self.templates, HALVES)
        if self.template is not None and self.template not in range(len(TEMPLATES)):
            fix = f"templates are 0 to {len(TEMPLATES) - 1}"
            raise InterpError("E201", f"no template {self.template!r}", where="task ioi", fix=fix)

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`; even numbers are ABBA, odd ones BABA."""
        receiver, subject = draw_until(
            lambda: rng.sample(words["names"], 2), lambda names: belongs(self.split, *sorted(names))
        )
        order = ("abba", "baba")[index % 2]
        scene = {"PLACE": rng.choice(PLACES), "OBJECT": rng.choice(OBJECTS)}
        some = HALVES[self.templates] if self.template is None else TEMPLATES[self.template : self.template + 1]
        pattern = some[rng.randrange(len(some))]
        others = rng.sample([name for name in words["names"] if name not in (receiver, subject)], 3)
        clean, spans = render(pattern, order, receiver, subject, subject, scene)
        io, s1, s2 = others if self.corruption == "abc" else (receiver, subject, receiver)
        corrupt, corrupt_spans = render(pattern, order, io, s1, s2, scene)
        return Example(f"ioi-{index:04d}-{order}", clean, f" {receiver}", f" {subject}", corrupt, spans, corrupt_spans)


def render(pattern: str, order: str, io: str, s1: str, s2: str, scene: dict[str, str]) -> tuple[str, dict[str, Span]]:
    """A template filled in, with the character spans of io, s1, s2 and end (the last word)."""
    roles = {"A": "io", "B": "s1", "S": "s2"} if order == "abba" else {"A": "s1", "B": "io", "S": "s2"}
    names = {"io": io, "s1": s1, "s2": s2}
    return fill(pattern, {**scene, **{key: names[role] for key, role in roles.items()}}, roles)
