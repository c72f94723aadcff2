"""Clean/corrupt pairs: what is kept, what is refused, and what the message shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.hooks.examples import Example
from interp.hooks.pairs import span_tokens, tokenise
from interp.hooks.prompts import encode_text
from interp.kernels.errors import InterpError, InterpErrors

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
GOOD = Example("good", CLEAN, " Mary", " John", CORRUPT)


def problem(tokenizer: Any, example: Example, **options: Any) -> InterpError:
    with pytest.raises(InterpErrors) as caught:
        tokenise(tokenizer, [example], **options)
    (error,) = caught.value.errors
    return error


def test_a_good_pair_is_what_the_tokenizer_says(bpe: Any) -> None:
    pairs = tokenise(bpe, [GOOD])
    (clean,), (corrupt,) = pairs.clean.input_ids.tolist(), pairs.corrupt.input_ids.tolist()
    assert clean == bpe(CLEAN)["input_ids"] and corrupt == bpe(CORRUPT)["input_ids"]
    assert pairs.answer.tolist() == bpe(" Mary", add_special_tokens=False)["input_ids"]
    assert pairs.distractor.tolist() == bpe(" John", add_special_tokens=False)["input_ids"]
    assert pairs.read_at.tolist() == [len(clean) - 1]
    assert "".join(pairs.tokens[0]) == "<s>" + CLEAN
    assert len(pairs) == 1 and pairs.drops == () and pairs.warnings == ()


def test_rows_are_padded_to_one_width_on_both_sides_of_the_pair(bpe: Any) -> None:
    short = Example("short", "The cat sat", " on", " to", "The cat sat")
    pairs = tokenise(bpe, [GOOD, short])
    assert pairs.clean.input_ids.shape == pairs.corrupt.input_ids.shape
    assert torch.equal(pairs.clean.mask, pairs.corrupt.mask)
    assert pairs.read_at.tolist() == pairs.clean.end.tolist()


def test_misaligned_pairs_show_both_tokenisations_and_the_first_difference(bpe: Any) -> None:
    error = problem(bpe, Example("x", "When Mary sat", corrupt="When Mary and John sat", where="my.jsonl:3"))
    assert error.code == "E305" and error.where == "my.jsonl:3"
    left, right = bpe("When Mary sat")["input_ids"], bpe("When Mary and John sat")["input_ids"]
    first = next(index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    assert f"clean has {len(left)} tokens, corrupt {len(right)}" in error.what
    assert f"first differ at token {first}" in error.what
    for ids in (left, right):
        assert "|".join(bpe.decode([index]) for index in ids) in error.what


def test_a_pair_that_differs_only_at_its_end_names_the_end(bpe: Any) -> None:
    error = problem(bpe, Example("x", "The cat", corrupt="The cat sat"))
    n = len(bpe("The cat")["input_ids"])
    assert f"first differ at token {n}" in error.what


def test_answers_of_several_tokens_show_their_pieces(bpe: Any) -> None:
    error = problem(bpe, Example("x", CLEAN, " Mary John"))
    assert error.code == "E306" and "' Mary' + ' John'" in error.what and "--first-token" in error.fix
    assert error.where == "x"


def test_a_missing_leading_space_is_suggested(bpe: Any) -> None:
    error = problem(bpe, Example("x", CLEAN, "Mary"))
    assert error.code == "E306" and "write ' Mary' with its leading space" in error.fix


def test_the_first_token_of_an_answer_is_taken_only_when_asked(bpe: Any) -> None:
    pairs = tokenise(bpe, [Example("x", CLEAN, " Mary John", " Paul")], first_token=True)
    assert pairs.answer.tolist() == bpe(" Mary", add_special_tokens=False)["input_ids"]
    error = problem(bpe, Example("x", CLEAN, " Mary John", " Mary Paul"), first_token=True)
    assert error.code == "E307"


def test_an_answer_that_is_its_own_distractor_is_refused(bpe: Any) -> None:
    error = problem(bpe, Example("x", CLEAN, " Mary", " Mary"))
    assert error.code == "E307" and "' Mary'" in error.what
    assert problem(bpe, Example("x", (5, 6, 7), 9, 9)).code == "E307"


@pytest.mark.parametrize(
    ("example", "options", "code"),
    [
        (Example("x", "  ", " Mary"), {}, "E304"),
        (Example("x", CLEAN, " Mary", corrupt=""), {}, "E304"),
        (Example("x", ()), {}, "E304"),
        (Example("x", CLEAN), {"needs": frozenset({"answer"})}, "E303"),
        (Example("x", CLEAN, " Mary"), {"needs": frozenset({"distractor"})}, "E303"),
        (Example("x", CLEAN, " Mary"), {"needs": frozenset({"corrupt"})}, "E303"),
        (Example("x", CLEAN), {"limit": 5}, "E309"),
        (Example("x", CLEAN, spans={"subject": (900, 904)}), {}, "E313"),
        (Example("x", CLEAN, spans={"subject": (4, 4)}), {}, "E313"),
        (Example("x", CLEAN, corrupt=CORRUPT, corrupt_spans={"subject": (900, 904)}), {}, "E313"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_mistake_has_its_code(bpe: Any, example: Example, options: dict[str, Any], code: str) -> None:
    assert problem(bpe, example, **options).code == code


def mixture() -> list[Example]:
    return [
        GOOD,
        Example("long answer", CLEAN, " Mary John", " Paul", CORRUPT, where="f:2"),
        Example("misaligned", CLEAN, " Mary", " John", "When Mary sat", where="f:3"),
        Example("no token", CLEAN, " Mary", " John", CORRUPT, spans={"subject": (900, 904)}, where="f:4"),
        Example("empty", "", " Mary", " John", CORRUPT, where="f:5"),
        Example("twin", CLEAN, " Mary", " Mary", CORRUPT, where="f:6"),
    ]


def test_all_mistakes_are_told_in_one_pass(bpe: Any) -> None:
    with pytest.raises(InterpErrors) as caught:
        tokenise(bpe, mixture())
    found = [(error.code, error.where) for error in caught.value.errors]
    assert found == [("E306", "f:2"), ("E305", "f:3"), ("E313", "f:4"), ("E304", "f:5"), ("E307", "f:6")]
    assert all(f"INTERP-{code}" in str(caught.value) for code, _ in found) and caught.value.exit_code == 3


def test_without_strict_they_are_dropped_with_their_reason(bpe: Any) -> None:
    pairs = tokenise(bpe, mixture(), strict=False)
    assert [example.id for example in pairs.examples] == ["good"] and pairs.clean.size == 1
    assert [(drop.id, drop.code) for drop in pairs.drops] == [
        ("long answer", "E306"),
        ("misaligned", "E305"),
        ("no token", "E313"),
        ("empty", "E304"),
        ("twin", "E307"),
    ]
    assert all(drop.reason for drop in pairs.drops)


def test_where_nothing_is_left_the_reasons_are_said(bpe: Any) -> None:
    with pytest.raises(InterpError, match="E311") as caught:
        tokenise(bpe, mixture()[4:5], strict=False)
    assert "empty prompt" in caught.value.fix
    with pytest.raises(InterpError, match="E311"):
        tokenise(bpe, [])


def test_truncation_is_counted_and_moves_the_reading_position(bpe: Any) -> None:
    pairs = tokenise(bpe, [Example("x", CLEAN)], limit=6, truncate=True)
    assert pairs.clean.input_ids.tolist() == [bpe(CLEAN)["input_ids"][:6]]
    assert pairs.read_at.tolist() == [5] and "cut to 6 tokens" in pairs.warnings[0]
    inside, outside = CLEAN.index("Mary"), CLEAN.index("drink")
    spans = {"subject": (inside, inside + 4)}
    assert tokenise(bpe, [Example("x", CLEAN, spans=spans)], limit=6, truncate=True).clean.spans["subject"]
    cut_off = Example("x", CLEAN, spans={"object": (outside, outside + 5)})
    assert problem(bpe, cut_off, limit=6, truncate=True).code == "E313"


def test_roles_are_found_by_their_characters(bpe: Any) -> None:
    start = CLEAN.index("John")
    spans = {"subject": (start, start + 4), "place": (CLEAN.index("the store"), CLEAN.index(","))}
    pairs = tokenise(bpe, [Example("x", CLEAN, corrupt=CORRUPT, spans=spans, corrupt_spans={"subject": (5, 9)})])
    pieces = pairs.tokens[0]
    assert [pieces[index] for index in pairs.clean.spans["subject"][0]] == [" John"]
    assert "".join(pieces[index] for index in pairs.clean.spans["place"][0]) == " the store"
    (corrupt,) = pairs.corrupt.spans["subject"]
    assert [bpe.decode([pairs.corrupt.input_ids[0, index]]) for index in corrupt] == [" Mary"]
    assert "place" not in pairs.corrupt.spans


def test_a_span_inside_a_token_takes_that_token(bpe: Any) -> None:
    encoded = encode_text(bpe, CLEAN)
    whole = span_tokens(encoded, (5, 9), "subject")
    assert span_tokens(encoded, (6, 7), "subject") == whole and len(whole) == 1
    touching = span_tokens(encoded, (5, 10), "subject")  # the space before the next word is part of its token
    assert touching[0] == whole[0] and len(touching) <= 2


def test_roles_that_only_some_prompts_have_are_left_out(bpe: Any) -> None:
    one, two = Example("1", CLEAN, spans={"a": (5, 9), "b": (0, 4)}), Example("2", CORRUPT, spans={"a": (5, 9)})
    assert set(tokenise(bpe, [one, two]).clean.spans) == {"a"}


def test_token_id_prompts_need_no_tokenizer_and_count_spans_in_tokens() -> None:
    pairs = tokenise(None, [Example("x", (5, 6, 7, 8), 9, 10, (5, 6, 6, 8), spans={"a": (1, 3)})])
    assert pairs.clean.input_ids.tolist() == [[5, 6, 7, 8]] and pairs.answer.tolist() == [9]
    assert pairs.clean.spans["a"] == ((1, 2),) and pairs.tokens == (("5", "6", "7", "8"),)
    assert problem(None, Example("x", (5, 6), " Mary")).code == "E201"
    assert problem(None, Example("x", CLEAN)).code == "E201"


def test_masked_language_models_answer_at_the_mask(wordpiece: Any) -> None:
    pairs = tokenise(wordpiece, [Example("x", "Mary went to the [MASK].", "store", "mat")], at_mask=True)
    assert pairs.clean.input_ids[0, pairs.read_at[0]] == wordpiece.mask_token_id
    assert pairs.answer.tolist() == [wordpiece.convert_tokens_to_ids("store")]
    for text in ("Mary went to the store.", "[MASK] went to the [MASK]."):
        error = problem(wordpiece, Example("x", text), at_mask=True)
        assert error.code == "E303" and "[MASK]" in error.what


def test_an_answer_that_is_one_token_only_as_a_continuation_is_taken() -> None:
    """SentencePiece-like tokenizers put a space before every text, so a comma alone is two tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(["\u2581", ",", "a", "\u2581a", "b"])}
    core = Tokenizer(models.BPE(vocab, [("\u2581", "a")]))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    spaced = PreTrainedTokenizerFast(tokenizer_object=core)
    assert spaced(",")["input_ids"] == [0, 1]
    assert tokenise(spaced, [Example("x", "a a", ",")]).answer.tolist() == [1]
    assert problem(spaced, Example("x", "a a", ",b")).code == "E306"


def test_an_answer_outside_the_vocabulary_is_refused(wordpiece: Any) -> None:
    error = problem(wordpiece, Example("x", "Mary went to the [MASK].", "zebra", "store"), at_mask=True)
    assert error.code == "E306" and "vocabulary" in error.what


def test_special_tokens_in_a_prompt_are_reported_once(bpe: Any) -> None:
    examples = [Example(str(index), f"The cat {index} </s> sat") for index in range(3)]
    assert len(tokenise(bpe, examples).warnings) == 1
