"""Docstring: which argument is documented next?

The task of Heimersheim and Janiak 2023 ("A circuit for Python docstrings in a 4-layer attention-only transformer") with
this toolkit's own word lists.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Example
from interp.tasks.base import check_choice
from interp.tasks.split import belongs, draw_until
from interp.tasks.text import TextTask, Words, fill

PATTERN = (
    "def [NAME](self, [R1], [R2], [A1], [A2], [A3], [S1]):\n"
    '    """[W1] [W2] [W3]\n\n'
    "    :param [D1]: [W4] [W5]\n"
    "    :param [D2]: [W6] [W7]\n"
    "    :param"
)
ARGUMENTS = tuple(
    """
    path name size value index count text data file mode level order type time state result source target node root
    left right first last start stop length width height depth color style title label group user code line page word
    """.split()
)
WORDS = tuple(
    """
    apple river stone window garden market bridge summer paper bottle silver letter animal dinner forest island doctor
    engine farmer flower friend hammer mirror orange pocket school shadow winter
    """.split()
)
FUNCTIONS = ("load", "save", "read", "write", "open", "close", "send", "find", "make", "move", "port", "sort")
CORRUPTIONS = ("both", "definition", "docstring")


@dataclass(frozen=True)
class Docstring(TextTask):
    """Three arguments of a definition are documented in their order; after two of them the third one is due.

    Distractors are all other arguments. Facts of the split are the second and third documented argument.

    Attributes:
        corruption: where random other arguments stand: in the `definition` for the three documented ones, in the
            `docstring` for the two already documented, or in `both`.
    """

    name: ClassVar[str] = "docstring"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Docstring: name the argument of a Python function that is documented next."
    lists: ClassVar[Words] = {"arguments": ARGUMENTS, "words": WORDS}

    corruption: str = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "corruption", self.corruption, CORRUPTIONS)

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`."""
        second, third = draw_until(
            lambda: rng.sample(words["arguments"], 2), lambda arguments: belongs(self.split, *arguments)
        )
        drawn = rng.sample([word for word in words["arguments"] if word not in (second, third)], 9)
        values = dict(zip(("R1", "R2", "A1", "S1"), drawn, strict=False))
        values |= {"NAME": rng.choice(FUNCTIONS), "A2": second, "A3": third, "D1": values["A1"], "D2": second}
        values |= {f"W{i}": word for i, word in enumerate(rng.sample(words["words"], 7), 1)}
        roles = {"A1": "a1", "A2": "a2", "A3": "a3", "D1": "d1", "D2": "d2"}
        clean, spans = fill(PATTERN, values, roles)
        other = dict(values)
        if self.corruption != "docstring":
            other |= dict(zip(("A1", "A2", "A3"), drawn[4:7], strict=True))
        if self.corruption != "definition":
            other |= dict(zip(("D1", "D2"), drawn[7:9], strict=True))
        corrupt, corrupt_spans = fill(PATTERN, other, roles)
        others = tuple(f" {values[key]}" for key in ("R1", "R2", "A1", "A2", "S1"))
        return Example(f"docstring-{index:04d}", clean, f" {third}", others, corrupt, spans, corrupt_spans)
