"""What the bundled language models read: never a test fact as a question, and every token a target of the right weight."""

import random
import re

import numpy as np
import pytest
import torch

from interp.tasks import filler
from interp.tasks.safety import BELONGINGS, HARMFUL, HARMLESS
from interp.tasks.split import in_test
from interp.zoo.language import reading
from interp.zoo.language.model import DOCUMENTS
from interp.zoo.language.vocabulary import PRE_TOKENIZER
from interp.zoo.recipes.mini import Mini


@pytest.fixture(scope="module")
def tokenizer():
    return Mini().tokenizer


def text_of(document):
    return "".join(text for text, _ in document)


def test_no_question_states_a_test_fact():
    rng = random.Random(0)
    for _ in range(300):
        text = text_of(reading.mcqa(rng))
        facts = re.findall(r"The (\w+) is (\w+)\. What", text)
        assert facts and not any(in_test(*fact) for fact in facts)
        pairs = re.findall(r"How much is (\d+) (plus|minus) (\d+)", text_of(reading.arithmetic(rng)))
        assert pairs and not any(in_test(sign, *sorted((a, b))) for a, sign, b in pairs)
        words = re.findall(r"\w+", text_of(reading.safety(rng)).split("\n")[0])
        requests = [
            (verb, thing)
            for verb in {*HARMFUL, *HARMLESS}.intersection(words)
            for thing in BELONGINGS
            if thing in words
        ]
        assert requests and not any(in_test(*request) for request in requests)
        noun, year = re.match(r"The (\w+) lasted from the year \d\d(\d\d)", text_of(reading.greater_than(rng))).groups()
        assert not in_test(noun, str(int(year)))


def test_answers_weigh_one_and_the_rest_little():
    rng = random.Random(0)
    for make in DOCUMENTS.values():
        document = make(rng)
        heavy = [text for text, weight in document if weight == 1.0]
        assert {weight for _, weight in document} <= {1.0, reading.CONTEXT}
        assert bool(heavy) == (make is not reading.plain)
        assert all(len(PRE_TOKENIZER.pre_tokenize_str(text)) == 1 for text in heavy)


def test_segments_are_tokenised_as_the_whole_text_is(tokenizer):
    rng = random.Random(1)
    for make in DOCUMENTS.values():
        for _ in range(30):
            document = make(rng)
            ids, weights = reading.encode(document, tokenizer, 10_000)
            assert ids[1:-1] == tokenizer(text_of(document), add_special_tokens=False)["input_ids"]
            assert len(ids) == len(weights) and (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_every_piece_of_every_document_is_one_token(tokenizer):
    rng = random.Random(2)
    for make in DOCUMENTS.values():
        text = text_of(make(rng))
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(PRE_TOKENIZER.pre_tokenize_str(text))
    for _ in range(200):
        sentence = filler.sentence(rng)
        assert "[" not in sentence
        assert len(tokenizer(sentence, add_special_tokens=False)["input_ids"]) == len(
            re.findall(r"\w+|[.,?]", sentence)
        )


def test_verdicts_are_single_tokens_with_and_without_a_space(tokenizer):
    for word in reading.VERDICTS:
        assert len(tokenizer(word)["input_ids"]) == len(tokenizer(f" {word}")["input_ids"]) == 2  # BOS is one of them


def test_documents_end_and_padding_has_no_weight(tokenizer):
    rows = reading.text_rows([[("Mary", 1.0)], [("Mary and John went", 1.0)]], tokenizer, 128)
    assert rows.ids[0, -1] == tokenizer.pad_token_id and rows.weights[0, -1] == 0
    assert rows.ids[1, -1] == tokenizer.eos_token_id and rows.weights[1, -1] == np.float32(reading.CONTEXT)
    assert reading.text_rows([[("Mary and John went", 1.0)]], tokenizer, 3).ids.shape == (1, 3)


@pytest.mark.parametrize("ambiguous", [0.0, 1.0])
def test_repeated_sequences_repeat_and_only_repeats_are_targets(tokenizer, ambiguous):
    rows = reading.repeats(random.Random(0), tokenizer, 32, 400, ambiguous)
    assert (rows.ids[:, 0] == tokenizer.bos_token_id).all()
    for ids, weights in zip(rows.ids, rows.weights, strict=True):
        period = int((weights == 0).sum()) - 1
        assert reading.LEAST <= period <= 16 and (ids[1 + period :] == ids[1:-period]).all()
        assert (len(set(ids[1 : 1 + period])) == period) == (not ambiguous) or period <= 4
        assert (weights[1 + period :] == np.float32(reading.REPEATED)).all()
    if not ambiguous:
        assert len(set(rows.ids[:, 1:].flatten())) > 0.9 * len(tokenizer)


def test_facts_are_asked_with_their_values():
    rng = random.Random(3)
    for sentences in (0, 5):
        for _ in range(50):
            document = reading.facts(rng, 6, sentences, 3)
            asked = [(document[i][0], document[i + 1][0]) for i in range(1, len(document), 3)]
            assert len(asked) == 3 and all(weight == 1.0 for _, weight in document[2::3])
            for query, value in asked:
                assert query.strip() + value in document[0][0]
                assert not in_test(query.strip().removesuffix(" is").removesuffix(":").split()[-1], value.strip())


def test_the_loss_is_the_weighted_sum_of_next_token_losses(tokenizer):
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(0)))

        def forward(self, input_ids, use_cache):
            return type("Output", (), {"logits": self.table.expand(*input_ids.shape, -1)})

    rows = reading.text_rows([[("Mary and", 0.5), (" John", 1.0)], [("Anna", 0.25)]], tokenizer, 16)
    model = Constant()
    logs = model.table.detach().log_softmax(-1)
    expected = -sum(w * logs[i] for i, w in zip(rows.ids[:, 1:].flatten(), rows.weights[:, 1:].flatten(), strict=True))
    assert reading.weighted_loss(model, rows).item() == pytest.approx(float(expected), rel=1e-5)
