from collections import Counter

import pytest
from transformers import AutoTokenizer

from interp.kernels.errors import InterpError
from interp.tasks.induction import Induction
from interp.tasks.ioi import TEMPLATES, Ioi
from interp.tasks.registry import list_tasks, task
from interp.tasks.split import in_test
from interp.zoo.registry import find


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(find("mini"))


class Bare:
    """A tokenizer of single characters that knows a few whole words, with no BOS."""

    bos_token_id = None
    all_special_ids = [0]
    words: tuple[str, ...] = (" Mary", " John", " Paul", " Anna", " Lisa", " Tom")

    def __call__(self, text, *, add_special_tokens=True):
        word = next((index for index, word in enumerate(self.words, start=200) if text == word), None)
        return {"input_ids": [ord(letter) % 200 for letter in text] if word is None else [word]}

    def decode(self, token_ids):
        return "".join(self.words[token - 200] if token >= 200 else chr(token) for token in token_ids)

    def __len__(self):
        return 200 + len(self.words)


def parts(example, which="clean"):
    text, spans = (example.clean, example.spans) if which == "clean" else (example.corrupt, example.corrupt_spans)
    return {role: text[start:end] for role, (start, end) in spans.items()}


def test_registry_knows_its_files():
    assert set(list_tasks()) == {
        "arithmetic", "bundled", "colored_objects", "docstring", "file", "greater_than", "induction", "ioi", "mcqa",
        "retrieval", "safety", "shapes",
    }  # fmt: skip
    assert task("ioi") == Ioi(n=64, seed=0)
    assert task("induction", n=3, seed=2, length=5) == Induction(n=3, seed=2, length=5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: task("iio"), "did you mean 'ioi'"),
        (lambda: task("../../ioi"), "E201"),
        (lambda: task("ioi", corruptoin="abc"), "did you mean 'corruption'"),
        (lambda: task("ioi", corruption="abd"), "did you mean 'abc'"),
        (lambda: task("ioi", split="tests"), "did you mean 'test'"),
        (lambda: task("ioi", template=len(TEMPLATES)), "templates are 0 to"),
        (lambda: task("ioi", n=0), "at least one"),
        (lambda: task("induction", length="16"), "int expected"),
        (lambda: task("ioi", n=True), "int expected"),
        (lambda: task("ioi", template="3"), "int . None expected"),
        (lambda: task("induction", length=8, repeat=8), "repeat from 1"),
        (lambda: task("induction", length=1), "from 2"),
    ],
)
def test_wrong_names_and_values_are_refused(call, message):
    with pytest.raises(InterpError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("made", [Ioi(n=16), Induction(n=16)])
def test_same_seed_same_questions_other_seed_other_questions(made, tokenizer):
    again, other = type(made)(n=16), type(made)(n=16, seed=1)
    assert made.examples(tokenizer) == again.examples(tokenizer)
    assert made.examples(tokenizer).examples[0].clean != other.examples(tokenizer).examples[0].clean
    assert len({example.id for example in made.examples(tokenizer).examples}) == 16


def test_the_record_of_a_task_is_json_ready():
    assert Ioi(n=5, seed=3).to_dict() == {
        "name": "ioi", "n": 5, "seed": 3, "metric": "logit_diff", "options": {"corruption": "abc", "split": "all", "template": None, "templates": "all"}
    }  # fmt: skip


def test_ioi_spans_say_what_they_name(tokenizer):
    for example in Ioi(n=200).examples(tokenizer).examples:
        found = parts(example)
        assert f" {found['io']}" == example.answer and f" {found['s1']}" == f" {found['s2']}" == example.distractor
        assert found["io"] != found["s1"] and found["end"] == "to" and example.clean.endswith(" to")
        first = "io" if example.id.endswith("abba") else "s1"
        assert min(example.spans, key=lambda role: example.spans[role]) == first
        assert Counter(example.clean.replace(",", "").split())[found["io"]] == 1


def test_ioi_abc_corruption_names_three_other_people(tokenizer):
    for example in Ioi(n=100).examples(tokenizer).examples:
        clean, corrupt = parts(example), parts(example, "corrupt")
        three = {corrupt["io"], corrupt["s1"], corrupt["s2"]}
        assert len(three) == 3 and not three & {clean["io"], clean["s1"]}


def test_ioi_s2_corruption_flips_the_answer(tokenizer):
    for example in Ioi(n=100, corruption="s2").examples(tokenizer).examples:
        clean, corrupt = parts(example), parts(example, "corrupt")
        assert (corrupt["io"], corrupt["s1"], corrupt["s2"]) == (clean["io"], clean["s1"], clean["io"])


def test_ioi_uses_every_template_and_both_orders_and_keeps_lengths(tokenizer):
    found = Ioi(n=400).examples(tokenizer)
    assert not found.drops and not found.notes
    assert Counter(example.id[-4:] for example in found.examples) == {"abba": 200, "baba": 200}
    openings = {template.split("[")[0] for template in TEMPLATES}
    assert {
        opening for example in found.examples for opening in openings if example.clean.startswith(opening)
    } == openings
    for example in found.examples:
        assert len(tokenizer(example.clean)["input_ids"]) == len(tokenizer(example.corrupt)["input_ids"])
    lengths = {
        len(tokenizer(example.clean)["input_ids"]) for example in Ioi(n=50, template=3).examples(tokenizer).examples
    }
    assert len(lengths) == 1


def test_ioi_test_questions_ask_about_test_pairs(tokenizer):
    for example in Ioi(n=100, split="test").examples(tokenizer).examples:
        assert in_test(*sorted((example.answer.strip(), example.distractor.strip())))
    for example in Ioi(n=100, split="train").examples(tokenizer).examples:
        assert not in_test(*sorted((example.answer.strip(), example.distractor.strip())))


def test_ioi_says_which_names_a_tokenizer_splits():
    found = Ioi(n=10).examples(Bare())
    assert {name for example in found.examples for name in (example.answer, example.distractor)} <= set(Bare.words)
    assert "Elizabeth" in found.notes[0] and "Mary" not in found.notes[0]
    assert len(found.examples) + len(found.drops) == 10 and all(drop.code == "E305" for drop in found.drops)


def test_ioi_refuses_a_tokenizer_without_names():
    class Letters(Bare):
        words: tuple[str, ...] = (" Mary", " John")

    with pytest.raises(InterpError, match="E311.*2 of"):
        Ioi().examples(Letters())


@pytest.mark.parametrize(("length", "repeat"), [(16, None), (6, 5), (2, 1)])
def test_induction_repeats_and_can_be_answered_only_from_the_clean_prompt(tokenizer, length, repeat):
    for example in Induction(n=50, length=length, repeat=repeat).examples(tokenizer).examples:
        assert isinstance(example.clean, tuple) and isinstance(example.corrupt, tuple)
        bos, other_bos = example.clean[0], example.corrupt[0]
        clean, corrupt = example.clean[1:], example.corrupt[1:]
        k = length // 2 if repeat is None else repeat
        assert bos == other_bos == tokenizer.bos_token_id and len(clean) == len(corrupt) == length + k
        assert len(set(clean)) == length and clean[length:] == clean[:k] == corrupt[length:]
        assert not set(clean) & set(corrupt[:length])
        assert example.answer == clean[k] and example.distractor in set(clean[:length]) - {example.answer}
        span = {role: example.clean[slice(*ends)] for role, ends in example.spans.items()}
        assert span == {"first": (example.answer,), "previous": (clean[-1],), "end": (clean[-1],)}
        assert example.spans["first"][0] == example.spans["previous"][1]


def test_induction_draws_ordinary_tokens_of_the_whole_vocabulary(tokenizer):
    drawn = Counter(token for example in Induction(n=500).examples(tokenizer).examples for token in example.clean[1:17])
    texts = [tokenizer.decode([token]) for token in drawn]
    assert not set(drawn) & set(tokenizer.all_special_ids) and all(
        "\ufffd" not in text and text.strip() for text in texts
    )
    assert len(drawn) > 600 and max(drawn.values()) < 40


def test_induction_without_bos_and_with_too_few_tokens():
    example = Induction(n=1, length=4).examples(Bare()).examples[0]
    assert len(example.clean) == 6 and example.spans["first"] == (2, 3)
    with pytest.raises(InterpError, match="E311.*ordinary tokens"):
        Induction(n=1, length=100).examples(Bare())
