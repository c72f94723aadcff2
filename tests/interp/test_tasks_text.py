"""The generated tasks: what is asked has the stated answer, and the corrupt prompt takes it away."""

import random
import re
from collections import Counter

import pytest
from transformers import AutoTokenizer

from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError
from interp.tasks.registry import task
from interp.tasks.retrieval import VALUES
from interp.tasks.safety import HARMFUL, HARMLESS
from interp.tasks.split import draw_until, in_test
from interp.tasks.text import fill
from interp.tasks.words import COLOURS
from interp.zoo.registry import find

OPTIONS = [
    ("greater_than", {}),
    ("docstring", {"corruption": "both"}),
    ("docstring", {"corruption": "definition"}),
    ("docstring", {"corruption": "docstring"}),
    ("colored_objects", {"shots": 0}),
    ("colored_objects", {"shots": 2}),
    ("arithmetic", {"operation": "both"}),
    ("mcqa", {"letters": "abcd"}),
    ("mcqa", {"letters": "random", "corruption": "symbol"}),
    ("safety", {}),
    ("retrieval", {"length": 96}),
    ("retrieval", {"length": 96, "form": "key_value"}),
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(find("mini"))


def examples(tokenizer, name, n=60, notes=0, **options):
    found = task(name, n=n, **options).examples(tokenizer)
    assert not found.drops and len(found.notes) == notes
    return found.examples


def splitting(tokenizer, *split, pieces=2):
    """The tokenizer, for which each of these tokens is several."""

    class Splitting:
        bos_token_id, all_special_ids = tokenizer.bos_token_id, tokenizer.all_special_ids
        decode = tokenizer.decode

        def __call__(self, text, *, add_special_tokens=True):
            ids = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
            cut = {tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in split}
            return {"input_ids": [part for token in ids for part in ([0] * pieces if token in cut else [token])]}

        def __len__(self):
            return len(tokenizer)

    return Splitting()


def texts(example, side="clean"):
    text, spans = (example.clean, example.spans) if side == "clean" else (example.corrupt, example.corrupt_spans)
    return {role: text[start:stop] for role, (start, stop) in spans.items()}


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_questions_are_fit_for_every_operator(tokenizer, name, options):
    pairs = tokenise(
        tokenizer,
        examples(tokenizer, name, **options),
        needs=frozenset(("answer", "distractor", "corrupt")),
        limit=512,
    )
    assert len(pairs) == 60 and pairs.clean.input_ids.shape == pairs.corrupt.input_ids.shape
    assert pairs.clean.spans.keys() == pairs.corrupt.spans.keys() >= {"end"}
    assert (pairs.clean.input_ids != pairs.corrupt.input_ids).any(1).all()
    assert len({example.id for example in pairs.examples}) == 60


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_same_seed_same_questions(tokenizer, name, options):
    first = examples(tokenizer, name, n=5, **options)
    assert first == examples(tokenizer, name, n=5, **options)
    other = task(name, n=5, seed=1, **options).examples(tokenizer).examples
    assert [example.clean for example in first] != [example.clean for example in other]


@pytest.mark.parametrize("split", ["train", "test"])
def test_facts_of_a_split_stay_in_it(tokenizer, split):
    is_test = split == "test"
    for example in examples(tokenizer, "greater_than", split=split):
        found = texts(example)
        assert in_test(found["noun"], str(int(found["year"]))) == is_test
    for example in examples(tokenizer, "docstring", split=split):
        found = texts(example)
        assert in_test(found["a2"], found["a3"]) == is_test
    for example in examples(tokenizer, "colored_objects", split=split):
        found = texts(example)
        assert in_test(found["object"], found["color"]) == is_test
    for example in examples(tokenizer, "arithmetic", split=split, operation="both"):
        found = texts(example)
        assert in_test(found["operation"], *sorted((found["a"], found["b"]))) == is_test
    for example in examples(tokenizer, "retrieval", split=split, length=96):
        found = texts(example)
        assert in_test(found["key"], found["value"]) == is_test
    for example in examples(tokenizer, "safety", split=split):
        for found in (texts(example), texts(example, "corrupt")):
            assert in_test(found["verb"], found["thing"]) == is_test
    for example in examples(tokenizer, "mcqa", split=split):
        thing = re.match(r"The (\w+) is", example.clean).group(1)
        assert in_test(thing, texts(example)["fact"]) == is_test


def test_about_a_fifth_of_facts_is_test():
    found = [in_test("fact", str(number)) for number in range(5000)]
    assert 0.18 < sum(found) / 5000 < 0.22


def test_impossible_facts_are_refused_instead_of_sought_for_ever():
    with pytest.raises(InterpError, match="E311"):
        draw_until(lambda: random.random(), lambda _: False)


def test_a_template_says_where_its_values_are():
    text, spans = fill("[A] and [B]\nmore [A]", {"A": "xy", "B": "z"}, {"B": "second"})
    assert text == "xy and z\nmore xy" and spans == {"second": (7, 8), "end": (14, 16)}


def test_greater_than_counts_every_later_year(tokenizer):
    for example in examples(tokenizer, "greater_than"):
        year = int(texts(example)["year"])
        century = re.search(r"year (\d\d)\d\d to the year (\d\d)$", example.clean)
        assert century.group(1) == century.group(2) and 2 <= year <= 98
        assert [int(answer) for answer in example.answer] == list(range(year + 1, 100))
        assert [int(answer) for answer in example.distractor] == list(range(year + 1))
        assert texts(example, "corrupt")["year"] == "01"


@pytest.mark.parametrize("corruption", ["both", "definition", "docstring"])
def test_docstring_documents_in_order(tokenizer, corruption):
    for example in examples(tokenizer, "docstring", corruption=corruption):
        arguments = re.search(r"\(self, (.*)\)", example.clean).group(1).split(", ")
        documented = re.findall(r":param (\w+):", example.clean)
        place = arguments.index(documented[0])
        assert place == 2 and documented == arguments[2:4] and example.answer == f" {arguments[4]}"
        assert len(set(arguments)) == 6 and {f" {name}" for name in arguments} == {example.answer, *example.distractor}
        corrupt = re.search(r"\(self, (.*)\)", example.corrupt).group(1).split(", ")
        assert (corrupt == arguments) == (corruption == "docstring")
        assert (re.findall(r":param (\w+):", example.corrupt) == documented) == (corruption == "definition")


def test_colored_objects_flip_with_the_question(tokenizer):
    for example in examples(tokenizer, "colored_objects", shots=1):
        solved, question = example.clean.split("\n\n")
        scene = dict(re.findall(r"a (\w+) (\w+)[,.]", question))
        colour = {thing: color for color, thing in scene.items()}
        assert len(colour) == 3 and set(scene) <= set(COLOURS)
        assert example.answer == f" {colour[re.search(r'color is the (.*)[?]', question).group(1)]}"
        other = re.search(r"color is the (.*)[?]", example.corrupt.split("\n\n")[1]).group(1)
        assert example.distractor == f" {colour[other]}" != example.answer
        assert re.search(r"\nA: \w+$", solved)


@pytest.mark.parametrize("operation", ["plus", "minus", "both"])
def test_arithmetic_is_right(tokenizer, operation):
    seen: Counter[str] = Counter()
    for example in examples(tokenizer, "arithmetic", operation=operation):
        for text, answer in ((example.clean, example.answer), (example.corrupt, example.distractor)):
            a, sign, b = re.search(r"is (\d+) (plus|minus) (\d+)\?", text).groups()
            assert int(answer) == (int(a) + int(b) if sign == "plus" else int(a) - int(b))
            seen[sign] += 1
    assert set(seen) == ({"plus", "minus"} if operation == "both" else {operation})


@pytest.mark.parametrize("corruption", ["position", "symbol"])
@pytest.mark.parametrize("letters", ["abcd", "random"])
def test_mcqa_letters_stand_before_their_colours(tokenizer, letters, corruption):
    places: Counter[int] = Counter()
    for example in examples(tokenizer, "mcqa", letters=letters, corruption=corruption, n=200):
        for text, answer in ((example.clean, example.answer), (example.corrupt, example.distractor)):
            options = dict(re.findall(r"^([A-Z])\. (\w+)$", text, re.M))
            fact = re.match(r"The \w+ is (\w+)\.", text).group(1)
            assert len(options) == 4 and options[answer.strip()] == fact
            assert letters == "random" or corruption == "symbol" or list(options) == list("ABCD")
        places[list(dict(re.findall(r"^([A-Z])\. (\w+)$", example.clean, re.M))).index(example.answer.strip())] += 1
    assert min(places.values()) > 25 and len(places) == 4


def test_safety_twins_differ_in_the_verb_alone(tokenizer):
    for example in examples(tokenizer, "safety"):
        clean, corrupt = texts(example), texts(example, "corrupt")
        refuses = clean["verb"] in HARMFUL
        assert (example.answer, example.distractor) == ((" Sorry", " Sure") if refuses else (" Sure", " Sorry"))
        assert corrupt["verb"] in (HARMLESS if refuses else HARMFUL)
        assert example.clean.replace(clean["verb"], "V") == example.corrupt.replace(corrupt["verb"], "V")
    assert {example.answer for example in examples(tokenizer, "safety", ask="harmful")} == {" Sorry"}


@pytest.mark.parametrize(
    ("form", "length", "least"),
    [("needle", 64, 44), ("needle", 300, 280), ("key_value", 64, 55), ("key_value", 300, None)],
)
def test_retrieval_states_the_fact_once_at_its_depth(tokenizer, form, length, least):
    given = {"form": form, "length": length, "notes": int(least is None)}
    for index, example in enumerate(examples(tokenizer, "retrieval", n=33, **given)):
        found, corrupt = texts(example), texts(example, "corrupt")
        assert found["value"] == example.answer.strip() and corrupt["value"] == example.distractor.strip()
        assert example.clean.count(found["needle"]) == 1 and example.clean.count(found["query"]) == 2
        assert found["key"] in found["query"] and example.clean.endswith(found["query"])
        assert (least or 0) <= len(tokenizer(example.clean)["input_ids"]) <= length
        depth = int(example.id[-3:]) / 100
        room = len(example.clean) - len(found["query"])
        assert depth == pytest.approx((index % 11) / 10)
        assert abs(example.spans["needle"][0] / room - depth) < 0.35
    shallow = examples(tokenizer, "retrieval", depth=0.0, n=5, **given)
    assert all(example.spans["needle"][0] == 0 for example in shallow)


@pytest.mark.parametrize(("length", "notes"), [(160, 0), (211, 0), (220, 1), (400, 1)])
def test_a_list_that_ends_long_before_the_length_says_so(tokenizer, length, notes):
    found = task("retrieval", n=4, form="key_value", length=length).examples(tokenizer)
    (tokens,) = {len(tokenizer(example.clean)["input_ids"]) for example in found.examples}
    fact = len(tokenizer(" Amy: lamp,", add_special_tokens=False)["input_ids"])
    assert len(found.notes) == notes == int(length - tokens > 2 * fact)
    if notes:
        facts = found.examples[0].clean.count(",")
        assert facts == 3 * len(VALUES) // 4 and f"make {facts} facts" in found.notes[0]
        assert f"at most {tokens} tokens instead of {length}" in found.notes[0]


@pytest.mark.parametrize("form", ["needle", "key_value"])
def test_retrieval_names_the_words_that_a_tokenizer_splits(tokenizer, form):
    found = task("retrieval", n=30, form=form, length=96).examples(splitting(tokenizer, " Mary", " lamp"))
    assert len(found.notes) == 2 and all("because the tokenizer splits them" in note for note in found.notes)
    assert found.notes[0].endswith(": Mary.") and found.notes[1].endswith(": lamp.")
    assert not any("Mary" in texts(example)["key"] or "lamp" in example.answer for example in found.examples)
    fact = r"secret word of (\w+) is (\w+)\." if form == "needle" else r"(\w+): (\w+),"
    stated = {word for example in found.examples for pair in re.findall(fact, example.clean) for word in pair}
    assert len(stated) > 60 and not {"Mary", "lamp"} & stated


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("docstring", {"corruption": "bth"}, "did you mean 'both'"),
        ("colored_objects", {"shots": 9}, "give 0 to 4"),
        ("arithmetic", {"operation": "times"}, "E201"),
        ("mcqa", {"letters": "greek"}, "E201"),
        ("safety", {"ask": "harmfull"}, "did you mean 'harmful'"),
        ("retrieval", {"form": "haystack"}, "E201"),
        ("retrieval", {"length": 3}, "at least 32"),
        ("retrieval", {"depth": 1.5}, "from 0 to 1"),
        ("bundled", {"model": "minni"}, "E201"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(InterpError, match=f"(?s){message}"):
        task(name, **options)


@pytest.mark.parametrize("options", [{"facts": 20}, {"form": "key_value"}])
def test_facts_that_do_not_fit_are_refused(tokenizer, options):
    with pytest.raises(InterpError, match="do not fit into 32 tokens"):
        task("retrieval", length=32, **options).examples(splitting(tokenizer, ":", pieces=9))
