"""Word lists that several tasks draw from."""

from __future__ import annotations

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
PEOPLE = tuple(
    "teacher doctor farmer sailor painter singer nurse baker child woman man girl boy friend brother sister mother father king queen".split()
)
ANIMALS = tuple("dog cat horse bird fish cow sheep lion mouse fox rabbit bear duck frog".split())
THINGS = tuple(
    "table chair window door car boat bike tree river mountain road bridge garden lamp bed cup plate knife box bag hat coat shoe shirt".split()
)
FOODS = tuple("bread milk cheese rice soup cake apple fruit meat sugar salt tea coffee water".split())
COLOURS = tuple("red blue green yellow black white brown purple pink gray".split())
QUALITIES = tuple(
    "old new big small long short warm cold quiet loud happy sad fast slow heavy light clean dirty young strong good bad".split()
)
ACTIONS = tuple("walked ran slept sang waited smiled cried danced worked played swam laughed".split())
CONTACTS = tuple(
    "saw found liked needed wanted bought lost kept carried painted cleaned remembered forgot opened watched followed".split()
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
NUMBERS = tuple("one two three four five six seven eight nine ten".split())
TIMES = tuple("morning evening afternoon night summer winter spring autumn".split())
