"""Retrieval: a fact is stated somewhere in a long text; at the end it is asked for.

The needle-in-a-haystack and key-value tests of long-context work (Liu et al. 2023, arXiv 2307.03172; Wu et al. 2024,
arXiv 2404.15574) with this toolkit's own sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from interp.hooks.examples import Example, Span
from interp.kernels.errors import InterpError
from interp.tasks import filler
from interp.tasks.base import Task, TaskExamples, Tokenizer, check_choice, token_ids
from interp.tasks.split import SPLITS, belongs, draw_until
from interp.tasks.text import single_tokens, split_notes
from interp.tasks.words import ANIMALS, FOODS, NAMES, OBJECTS, THINGS

KEYS = NAMES
VALUES = tuple(dict.fromkeys((*ANIMALS, *FOODS, *THINGS, *OBJECTS)))
LISTS = {"keys": KEYS, "values": VALUES}
DEPTHS = 11
"""Depths at which the asked fact stands in turn, evenly from start to question."""

FORMS = {
    "needle": ("The secret word of [KEY] is", " [VALUE]."),
    "key_value": ("[KEY]:", " [VALUE],"),
}
"""Of each form, how a fact begins (and how it is asked for) and how it ends."""

SENTENCES = (
    FORMS["needle"],
    ("The hidden word of [KEY] is", " [VALUE]."),
    ("Today [KEY] has", " [VALUE]."),
    ("[KEY] is", " [VALUE]."),
)
"""Wordings of the form `needle`. Bundled models were trained on the first alone."""

Fact = tuple[str, str]


@dataclass(frozen=True)
class Retrieval(Task):
    """Which value was given for a key, among other keys and values; words that a tokenizer splits are not used.

    The corrupt prompt has the values of the asked key and of another one swapped; the distractor is that other value.
    Spans: `needle` (the fact), `key`, `value` (in the fact), `query` (the question) and `end`. Facts of the split are
    key and value.

    Attributes:
        form: `needle`, facts as sentences ("The secret word of Amy is lamp.") in plain filler text; `key_value`, a list
            of facts ("Amy: lamp,"). No key comes twice and a quarter of the values is left out, so a list has an end.
        template: number of the sentence that states a fact in the form `needle`, see `SENTENCES`.
        length: of the prompt in tokens, at most; the text is as long as whole sentences, or facts, allow. Lists that end
            before that say so in a note.
        facts: number of facts in the form `needle`.
        depth: where the asked fact stands, from 0 (start) to 1 (just before the question); None spreads it evenly.
        split: which facts are asked, see `interp.tasks.split`.
    """

    name: ClassVar[str] = "retrieval"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Retrieval: recall a fact from somewhere in a long text."

    form: str = "needle"
    template: int = 0
    length: int = 256
    facts: int = 4
    depth: float | None = None
    split: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "form", self.form, FORMS)
        check_choice(self.name, "split", self.split, SPLITS)
        if self.template not in range(len(SENTENCES) if self.form == "needle" else 1):
            fix = f"templates are 0 to {len(SENTENCES) - 1}, for the form needle"
            raise InterpError("E201", f"no template {self.template!r}", where="task retrieval", fix=fix)
        for option, value, least in (("length", self.length, 32), ("facts", self.facts, 2)):
            if value < least:
                raise InterpError("E205", f"{option} is {value}", where="task retrieval", fix=f"at least {least}")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise InterpError("E205", f"depth is {self.depth}", where="task retrieval", fix="from 0 to 1")

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`; ids say at which depth in percent the fact stands, notes what falls short.

        Raises:
            InterpError: E311, too few single-token words, or the facts do not fit into `length`.
        """
        words = {kind: single_tokens(tokenizer, listed) for kind, listed in LISTS.items()}
        keys, values = words["keys"], words["values"]
        if min(len(keys), len(values)) < self.facts:
            raise InterpError("E311", "this tokenizer splits too many names and nouns", where="task retrieval")
        rng = random.Random(f"retrieval/{self.seed}")
        begins = len(tokenizer("", add_special_tokens=True)["input_ids"])
        count = partial(count_tokens, tokenizer)
        room = self.length - begins
        examples = tuple(self._draw(rng, index, keys, values, room, count) for index in range(self.n))
        notes = split_notes(LISTS, words)
        if self.form == "key_value" and most_facts(keys, values) < self._fitting(keys, values, room, count):
            longest = begins + max(count(str(example.clean)) for example in examples)
            notes += (self._end_note(keys, values, longest),)
        return TaskExamples(examples, notes=notes)

    def _end_note(self, keys: tuple[str, ...], values: tuple[str, ...], longest: int) -> str:
        return (
            f"Texts have at most {longest} tokens instead of {self.length}, because the list ends: {len(keys)} keys and "
            f"three quarters of {len(values)} values make {most_facts(keys, values)} facts."
        )

    def _draw(
        self,
        rng: random.Random,
        index: int,
        keys: tuple[str, ...],
        values: tuple[str, ...],
        room: int,
        count: Callable[[str], int],
    ) -> Example:
        depth = (index % DEPTHS) / (DEPTHS - 1) if self.depth is None else self.depth
        facts, asked, other = draw_facts(rng, keys, values, self._n_facts(keys, values, room, count), self.split)
        parts, place = self._lay_out(rng, facts, asked, depth, room, count)
        swapped = {facts[asked]: (facts[asked][0], facts[other][1]), facts[other]: (facts[other][0], facts[asked][1])}
        clean, spans = self._render(parts, place, facts[asked][0])
        corrupt, corrupt_spans = self._render(
            [part if isinstance(part, str) else swapped.get(part, part) for part in parts], place, facts[asked][0]
        )
        identity = f"retrieval-{index:04d}-{round(100 * depth):03d}"
        answer, distractor = f" {facts[asked][1]}", f" {facts[other][1]}"
        return Example(identity, clean, answer, distractor, corrupt, spans, corrupt_spans)

    def _n_facts(self, keys: tuple[str, ...], values: tuple[str, ...], room: int, count: Callable[[str], int]) -> int:
        if self.form == "needle":
            return self.facts
        number = min(most_facts(keys, values), self._fitting(keys, values, room, count))
        if number < 2:
            raise self._no_room()
        return number

    def _fitting(self, keys: tuple[str, ...], values: tuple[str, ...], room: int, count: Callable[[str], int]) -> int:
        """Facts that fit beside the question; all are equally long, since all words are single tokens."""
        return room // count(" " + self._fact((keys[0], values[0]))) - 1

    def _fact(self, fact: Fact) -> str:
        begin, end = self._wording
        return (begin + end).replace("[KEY]", fact[0]).replace("[VALUE]", fact[1])

    def _lay_out(
        self,
        rng: random.Random,
        facts: list[Fact],
        asked: int,
        depth: float,
        room: int,
        count: Callable[[str], int],
    ) -> tuple[list[str | Fact], int]:
        """Filler sentences and facts in order, and where among them the asked fact is."""
        others: list[str | Fact] = [fact for index, fact in enumerate(facts) if index != asked]
        left = room - sum(count(" " + self._fact(fact)) for fact in facts) - count(" " + self._query(facts[asked][0]))
        if left < 0:
            raise self._no_room()
        if self.form == "needle":
            while (needed := count(" " + (sentence := filler.sentence(rng)))) <= left:
                others.append(sentence)
                left -= needed
        rng.shuffle(others)
        place = round(depth * len(others))
        return [*others[:place], facts[asked], *others[place:]], place

    def _no_room(self) -> InterpError:
        what = f"the facts do not fit into {self.length} tokens"
        return InterpError("E311", what, where="task retrieval", fix="fewer facts, or a greater length")

    def _query(self, key: str) -> str:
        return self._wording[0].replace("[KEY]", key)

    @property
    def _wording(self) -> tuple[str, str]:
        return SENTENCES[self.template] if self.form == "needle" else FORMS[self.form]

    def _render(self, parts: list[str | Fact], place: int, key: str) -> tuple[str, dict[str, Span]]:
        texts = [part if isinstance(part, str) else self._fact(part) for part in parts]
        start = sum(len(text) + 1 for text in texts[:place])
        needle, query = texts[place], self._query(key)
        text = " ".join([*texts, query])
        fact = parts[place]
        assert not isinstance(fact, str)
        at_key, at_value = start + needle.index(fact[0]), start + needle.rindex(fact[1])
        spans = {
            "needle": (start, start + len(needle)),
            "key": (at_key, at_key + len(fact[0])),
            "value": (at_value, at_value + len(fact[1])),
            "query": (len(text) - len(query), len(text)),
            "end": (text.rindex(" ") + 1, len(text)),
        }
        return text, spans


def most_facts(keys: tuple[str, ...], values: tuple[str, ...]) -> int:
    """Facts that a list can have: one a key, and enough values left over for the last fact to be drawn from."""
    return min(len(keys), 3 * len(values) // 4)


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text without special tokens."""
    return len(token_ids(tokenizer, text))


def draw_facts(
    rng: random.Random, keys: tuple[str, ...], values: tuple[str, ...], number: int, split: str
) -> tuple[list[Fact], int, int]:
    """Facts with different keys and values, which one is asked, and the one it is swapped with.

    The asked fact is one of the split. All are, for `train`, so that no text for training states a test fact.
    """
    asked, other = rng.sample(range(number), 2)
    fact = draw_until(lambda: (rng.choice(keys), rng.choice(values)), lambda fact: belongs(split, *fact))
    facts: list[Fact] = []
    left = [value for value in values if value != fact[1]]
    for key in rng.sample([key for key in keys if key != fact[0]], number - 1):
        facts.append((key, _value(rng, key, left, split)))
        left.remove(facts[-1][1])
    facts.insert(asked, fact)
    return facts, asked, other


def _value(rng: random.Random, key: str, left: list[str], split: str) -> str:
    return draw_until(lambda: rng.choice(left), lambda value: split != "train" or belongs(split, key, value))
