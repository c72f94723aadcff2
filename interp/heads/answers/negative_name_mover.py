"""Heads of the kind: it looks at the answer where it stands in the prompt, and writes against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from interp.heads.answers.name_mover import NameMover


@dataclass(frozen=True, eq=False)
class NegativeNameMover(NameMover):
    """As a name mover with all signs changed: how much the path lowers the logit difference, weighted by attention to the
    answer and by whether minus what the head writes from there has it among the k highest.
    """

    name: ClassVar[str] = "negative-name-mover"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.1, 'negative name mover heads'"
    says: ClassVar[str] = "it looks at the answer and writes against it"
    sign: ClassVar[int] = -1
