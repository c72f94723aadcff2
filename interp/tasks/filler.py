"""Plain sentences of everyday words: what bundled models read beside their tasks, and what facts are hidden in."""

from __future__ import annotations

import random

from interp.tasks.words import (
    ACTIONS,
    ANIMALS,
    COLOURS,
    CONTACTS,
    DAYS,
    FOODS,
    NAMES,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    PLACES,
    QUALITIES,
    THINGS,
    TIMES,
)  # fmt: skip

LISTS = {
    "NAME": NAMES, "PLACE": PLACES, "OBJECT": OBJECTS, "PERSON": PEOPLE, "ANIMAL": ANIMALS, "THING": THINGS, "FOOD": FOODS,
    "COLOUR": COLOURS, "QUALITY": QUALITIES, "ACTION": ACTIONS, "CONTACT": CONTACTS, "DAY": DAYS, "NUMBER": NUMBERS, "TIME": TIMES,
}  # fmt: skip

PATTERNS = (
    "The [PERSON] [CONTACT] the [QUALITY] [THING].",
    "The [COLOUR] [ANIMAL] [ACTION] in the [PLACE].",
    "On [DAY], [NAME] [ACTION] near the [PLACE].",
    "It was a [QUALITY] [TIME], and the [PERSON] [ACTION].",
    "There were [NUMBER] cups on the [THING], and they were [COLOUR].",
    "My [PERSON] has a [QUALITY] [ANIMAL] and a [COLOUR] [THING].",
    "We ate [FOOD] and [FOOD] at the [PLACE] this [TIME].",
    "In the [TIME], [NAME] [CONTACT] a [QUALITY] [OBJECT] under the [THING].",
    "Every [DAY] the [PERSON] makes [FOOD] for the [PERSON].",
    "Is the [THING] [COLOUR] or [COLOUR]? It is [QUALITY].",
    "She said that the [ANIMAL] was [QUALITY], but he did not think so.",
    "Nobody knows why the [PERSON] [CONTACT] [NUMBER] of them before [DAY].",
    "You can put the [OBJECT] into the [THING] if you have time.",
    "They will come to the [PLACE] with their [PERSON] after [NUMBER] days.",
    "I do not know what [NAME] [CONTACT], but I know where.",
    "He would go to the [PLACE] because the [FOOD] there is very [QUALITY].",
)

MORE_WORDS = (
    "about above again all also always am an any are around ask away back be been being best better between both by call came "
    "could day did does done down each eat end even ever first from get give given gives go goes going gone got great had half "
    "has have head hear heard her here high him his home how into just keep knew know last later left less let life line little "
    "look made make many may me mean men might more most much must near never next no not nothing now of off often once only "
    "open other our out over own part people perhaps read right same say see seen send sent she should since some something "
    "soon still such take tell than thank thanks that their them then there these thing things think those through too took "
    "true try turn under until up us use used very want was way well went were what when which while who whole why will wish "
    "within without word words work world would write year years yes yet your hello name answer question number story city "
    "country money music light letter group point hand face eye eyes foot body heart mind side room order place"
).split()


def sentence(rng: random.Random) -> str:
    """One sentence."""
    text = rng.choice(PATTERNS)
    for key, words in LISTS.items():
        while f"[{key}]" in text:
            text = text.replace(f"[{key}]", rng.choice(words), 1)
    return text


def all_words() -> list[str]:
    """Every word that a sentence can hold and some more, as written (patterns keep their capitals)."""
    listed = [word for words in LISTS.values() for word in words]
    fixed = [word.strip(".,?") for pattern in PATTERNS for word in pattern.split() if "[" not in word]
    return [*listed, *fixed, *MORE_WORDS]
