"""Indirect object identification: "When Mary and John went to the shop, John gave a book to" -> " Mary".

The task of Wang et al. 2022 (arXiv 2211.00593) with this toolkit's own templates and word lists.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Drop, Example, Span
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples, Tokenizer, check_choice, token_ids

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
NAMES = tuple(
    """
    Mary John Tom James Dan Martin Amy Alice Anna Kate Paul Mark Peter Simon Adam Ben Jack Luke Sam David Daniel
    Michael Robert William Thomas George Henry Charles Edward Richard Joseph Kevin Brian Jason Eric Scott Frank Ryan
    Aaron Nathan Justin Brandon Andrew Matthew Anthony Patrick Sarah Laura Emily Jessica Rachel Rebecca Jennifer
    Michelle Lisa Linda Susan Karen Nancy Helen Elizabeth Victoria Emma Julia Maria Diana Rose Grace Claire Jane
    Lucy Sara Ruth Alan Carl Chris Steve Tim Tony
    """.split()
)
PLACES = tuple(
    """
    store garden restaurant school hospital office house station park museum library beach hotel market church
    kitchen
    """.split()
)
OBJECTS = tuple(
    """
    ring kiss bone basketball computer necklace drink snack book letter ticket camera phone watch present key
    """.split()
)

CORRUPTIONS = ("abc", "s2")
SPLITS = ("all", "train", "test")
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Ioi(Task):
    """Which of two people received something: the one who is not named again.

    Half of the questions name the receiver first (ABBA), half second (BABA); ids say which.

    Attributes:
        corruption: `abc` replaces the three name places by three different other names, so that no name repeats and
            neither answer is favoured; `s2` replaces only the second subject, by the indirect object, so that the
            answer flips: in the corrupt prompt the distractor is right and a logit difference changes its sign.
        split: a fifth of all unordered pairs of names is `test`, the rest `train`; `all` takes both. Bundled models
            are trained on `train` pairs, so a `test` question asks about two names never seen together.
        template: number of the one template to use; all of them where it is None.
    """

    name: ClassVar[str] = "ioi"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Indirect object identification: of two people, name the one who was given something."

    corruption: str = "abc"
    split: str = "all"
    template: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "corruption", self.corruption, CORRUPTIONS)
        check_choice(self.name, "split", self.split, SPLITS)
        if self.template is not None and self.template not in range(len(TEMPLATES)):
            fix = f"templates are 0 to {len(TEMPLATES) - 1}"
            raise InterpError("E201", f"no template {self.template!r}", where="task ioi", fix=fix)

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`; names that are not one token after a space are not used, and a note lists them."""
        names = [name for name in NAMES if len(token_ids(tokenizer, f" {name}")) == 1]
        split_names = [name for name in NAMES if name not in names]
        if len(names) < 5 or not (pairs := name_pairs(names, self.split)):
            what = f"this tokenizer has {len(names)} of {len(NAMES)} names as single tokens; too few"
            raise InterpError("E311", what, where="task ioi")
        rng = random.Random(f"ioi/{self.seed}")
        kept, drops = [], []
        for index in range(self.n):
            example = draw(rng, index, names, pairs, self.corruption, self.template)
            lengths = len(token_ids(tokenizer, str(example.clean))), len(token_ids(tokenizer, str(example.corrupt)))
            if lengths[0] == lengths[1]:
                kept.append(example)
            else:
                drops.append(Drop(example.id, "E305", f"{lengths[0]} tokens clean, {lengths[1]} corrupt"))
        note = f"Names not used, because the tokenizer splits them: {', '.join(split_names)}."
        return TaskExamples(tuple(kept), tuple(drops), (note,) if split_names else ())


def in_test(first: str, second: str) -> bool:
    """Whether an unordered pair of names belongs to the test split, decided by a hash of the two names."""
    digest = hashlib.sha256("/".join(sorted((first, second))).encode()).digest()
    return int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32


def name_pairs(names: list[str], split: str) -> list[tuple[str, str]]:
    """Ordered pairs (receiver, subject) of a split."""
    pairs = [(a, b) for a in names for b in names if a != b]
    return pairs if split == "all" else [pair for pair in pairs if in_test(*pair) == (split == "test")]


def draw(
    rng: random.Random,
    index: int,
    names: list[str],
    pairs: list[tuple[str, str]],
    corruption: str = "abc",
    template: int | None = None,
) -> Example:
    """One question; even numbers are ABBA, odd ones BABA."""
    receiver, subject = rng.choice(pairs)
    order = ("abba", "baba")[index % 2]
    words = {"PLACE": rng.choice(PLACES), "OBJECT": rng.choice(OBJECTS)}
    pattern = TEMPLATES[rng.randrange(len(TEMPLATES)) if template is None else template]
    others = rng.sample([name for name in names if name not in (receiver, subject)], 3)
    clean, spans = render(pattern, order, receiver, subject, subject, words)
    io, s1, s2 = others if corruption == "abc" else (receiver, subject, receiver)
    corrupt, corrupt_spans = render(pattern, order, io, s1, s2, words)
    return Example(f"ioi-{index:04d}-{order}", clean, f" {receiver}", f" {subject}", corrupt, spans, corrupt_spans)


def render(pattern: str, order: str, io: str, s1: str, s2: str, words: dict[str, str]) -> tuple[str, dict[str, Span]]:
    """A template filled in, with the character spans of io, s1, s2 and end (the last word)."""
    roles = {"A": "io", "B": "s1", "S": "s2"} if order == "abba" else {"A": "s1", "B": "io", "S": "s2"}
    values = {"io": io, "s1": s1, "s2": s2}
    text, spans = "", {}
    for part in re.split(r"(\[[A-Z]+\])", pattern):
        key = part.strip("[]")
        if not part.startswith("["):
            text += part
        elif key in roles:
            spans[roles[key]] = (len(text), len(text) + len(values[roles[key]]))
            text += values[roles[key]]
        else:
            text += words[key]
    spans["end"] = (text.rindex(" ") + 1, len(text))
    return text, spans
