import csv
import io
import json
import pickle

import numpy as np
import pytest

from interp.hooks.examples import Example
from interp.kernels.errors import InterpError, InterpErrors
from interp.tasks.file import FileTask, file_task
from interp.tasks.reading import MAX_BYTES
from interp.tasks.registry import task

GOOD = {
    "id": "a",
    "prompt": "The sky is",
    "corrupt": "The sea is",
    "answer": " blue",
    "distractor": " red",
    "roles": {"subject": [4, 7]},
}


class Characters:
    bos_token_id = None
    all_special_ids: list[int] = []

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def __len__(self):
        return 0x110000


TOKENIZER = Characters()


def write(tmp_path, content, name="my.jsonl"):
    path = tmp_path / name
    if isinstance(content, list):
        content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mistakes(path, **options):
    with pytest.raises(InterpErrors) as caught:
        file_task(path, **options)
    return caught.value.errors


def only(path):
    (error,) = mistakes(path)
    return error


def test_a_full_row_becomes_an_example(tmp_path):
    path = write(tmp_path, [{**GOOD, "corrupt_roles": {"subject": [4, 7]}, "meta": {"source": 1}}])
    found = file_task(path)
    assert found.examples(TOKENIZER).examples == (
        Example(
            "a", "The sky is", " blue", " red", "The sea is", {"subject": (4, 7)}, {"subject": (4, 7)}, f"{path}:1"
        ),
    )
    assert found.n == 1 and found.metric == "logit_diff" and not found.examples(TOKENIZER).notes


def test_a_row_may_hold_only_a_prompt_and_blank_lines_pass(tmp_path):
    path = write(tmp_path, '{"prompt": "one"}\n\n{"clean": [5, 6, 7], "roles": {"end": [2, 3]}, "answer": 9}')
    examples = file_task(path).examples(TOKENIZER).examples
    assert [(example.id, example.clean, example.answer) for example in examples] == [
        ("line-1", "one", None),
        ("line-3", (5, 6, 7), 9),
    ]
    assert examples[1].spans == {"end": (2, 3)} and examples[0].spans == {}


@pytest.mark.parametrize(
    ("dropped", "metric"), [((), "logit_diff"), (("distractor",), "log_prob"), (("answer", "distractor"), "kl")]
)
def test_default_metric_is_what_every_row_allows(tmp_path, dropped, metric):
    poor = {key: value for key, value in GOOD.items() if key not in (*dropped, "id")}
    assert file_task(write(tmp_path, [GOOD, {**poor, "prompt": "Another sky"}])).metric == metric


def test_byte_order_mark_and_crlf_are_accepted(tmp_path):
    path = write(
        tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + b'{"prompt": "\xc3\xbc\xe2\x80\xa8b"}\r\n'
    )
    assert [example.clean for example in file_task(path).examples(TOKENIZER).examples] == ["The sky is", "ü\u2028b"]


def test_csv_and_tsv(tmp_path):
    text = 'id,prompt,answer,distractor,roles\r\na,"The sky, today"," blue", red,"{""subject"": [4, 7]}"\r\n7,"two\nlines",,,\r\n'
    tabs = io.StringIO()
    csv.writer(tabs, delimiter="\t").writerows(csv.reader(io.StringIO(text, newline="")))
    for path in (write(tmp_path, text, "my.csv"), write(tmp_path, tabs.getvalue(), "my.tsv")):
        first, second = file_task(path).examples(TOKENIZER).examples
        assert (first.answer, first.distractor, first.id) == (" blue", " red", "a")
        assert (second.id, second.clean, second.answer, second.where) == ("7", "two\nlines", None, f"{path}:3")
    assert file_task(tmp_path / "my.csv").examples(TOKENIZER).examples[0].spans == {"subject": (4, 7)}


LINE_MISTAKES = [
    ("{'prompt': 1}", "E301", "not JSON"),
    ("[1, 2]", "E301", "not an object"),
    ("[" * 100_000, "E301", "recursion"),
    ('{"prompt": "a", "prompt": "b"}', "E303", "'prompt' appears twice"),
    ('{"answer": " a"}', "E303", "one of 'prompt' and 'clean'"),
    ('{"prompt": "a", "clean": "b"}', "E303", "one of 'prompt' and 'clean'"),
    ('{"prompt": 3}', "E303", "'prompt' holds int"),
    ('{"prompt": ["a"]}', "E303", "'prompt' holds list"),
    ('{"prompt": [1, -1]}', "E303", "'prompt' holds list"),
    ('{"prompt": "a", "answer": true}', "E303", "'answer' holds bool"),
    ('{"prompt": "a", "answer": ""}', "E303", "answer is empty"),
    ('{"prompt": "a", "answer": []}', "E303", "answer is empty"),
    ('{"prompt": "a", "answer": [" b", 1.5]}', "E303", "'answer' holds float"),
    ('{"prompt": "a", "answer": [" b", " c"], "distractor": [" d", " c"]}', "E307", "both ' c'"),
    ('{"prompt": "a", "id": ["x"]}', "E303", "id is"),
    ('{"prompt": "a", "corrupt": [1]}', "E303", "token ids"),
    ('{"prompt": "a", "distracter": " b"}', "E303", "'distracter'"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "E303", "'messages' is not supported"),
    ('{"prompt": "a", "roles": {"x": [0, "1"]}}', "E303", "'x' is"),
    ('{"prompt": "a", "roles": [0, 1]}', "E303", "roles is a list"),
    ('{"prompt": "a", "corrupt_roles": {"x": [0, 1]}}', "E303", "without 'corrupt'"),
    ('{"prompt": "a", "roles": {"x": [0, 2]}}', "E313", "length 1"),
    ('{"prompt": "abc", "roles": {"x": [2, 2]}}', "E313", "length 3"),
    ('{"prompt": ""}', "E304", "prompt is empty"),
    ('{"prompt": " \\t\\n"}', "E304", "white space"),
    ('{"prompt": []}', "E304", "prompt is empty"),
    ('{"prompt": "a", "corrupt": " "}', "E304", "corrupt is only white space"),
    ('{"prompt": "a", "answer": " b", "distractor": " b"}', "E307", "both ' b'"),
    ('{"prompt": "a\\ud800"}', "E302", "surrogate"),
]


@pytest.mark.parametrize(("line", "code", "message"), LINE_MISTAKES)
def test_each_mistake_has_its_code_and_line(tmp_path, line, code, message):
    error = only(write(tmp_path, [GOOD, line]))
    assert error.code == code and message in error.what and error.where.endswith("my.jsonl:2") and error.exit_code == 3


def test_all_mistakes_are_found_in_one_pass(tmp_path):
    path = write(tmp_path, [GOOD, *(line for line, _, _ in LINE_MISTAKES)])
    found = mistakes(path)
    assert [error.code for error in found] == [code for _, code, _ in LINE_MISTAKES]
    assert [error.where for error in found] == [f"{path}:{number + 2}" for number in range(len(LINE_MISTAKES))]


def test_bytes_that_are_not_utf8_are_named_by_line_and_offset(tmp_path):
    start = json.dumps(GOOD).encode() + b"\n"
    error = only(write(tmp_path, b"\xef\xbb\xbf" + start + b'{"prompt": "caf\xe9"}\n'))
    assert (
        error.code == "E302" and f"byte {3 + len(start) + 15} of the file" in error.what and error.where.endswith(":2")
    )
    assert "0xff at byte 0" in mistakes(write(tmp_path, "x".encode("utf-16")))[0].what


def test_a_cut_last_line_is_called_that(tmp_path):
    error = only(write(tmp_path, json.dumps(GOOD) + '\n{"prompt": "The s'))
    assert error.code == "E301" and "cut off" in error.what and error.where.endswith(":2")
    assert "cut off" not in only(write(tmp_path, [GOOD, '{"prompt": "The s'])).what


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    plain = {"prompt": "again"}
    found = file_task(write(tmp_path, [GOOD, plain, GOOD, plain, plain])).examples(TOKENIZER)
    assert [example.id for example in found.examples] == ["a", "line-2"]
    assert [(drop.id, drop.reason[-6:]) for drop in found.drops] == [
        ("line-3", "line 1"),
        ("line-4", "line 2"),
        ("line-5", "line 2"),
    ]


@pytest.mark.parametrize("second", [{**GOOD, "prompt": "The sun is"}, {"prompt": "x", "id": "line-3"}])
def test_one_id_with_two_contents_is_refused(tmp_path, second):
    error = only(write(tmp_path, [GOOD, second, {"prompt": "y"}]))
    assert error.code == "E308" and "also that of line" in error.what


def test_skipping_bad_lines_keeps_them_beside_the_file(tmp_path):
    bad = ["{", b'{"prompt": "\xff"}'.decode("latin-1")]
    content = json.dumps(GOOD).encode() + b"\r\n{\r\n" + b'{"prompt": "\xff"}\n' + b'{"prompt": "last"}\n'
    path = write(tmp_path, content)
    found = file_task(path, skip_bad_lines=True).examples(TOKENIZER)
    assert [example.id for example in found.examples] == ["a", "line-4"]
    assert [(drop.id, drop.code) for drop in found.drops] == [("line-2", "E301"), ("line-3", "E302")]
    assert (tmp_path / "my.jsonl.bad").read_bytes() == "\n".join([*bad, ""]).encode("latin-1")
    assert "2 lines" in found.notes[0] and path.read_bytes() == content


def test_skipped_csv_rows_keep_their_header(tmp_path):
    path = write(tmp_path, "prompt,answer\nfine, a\ntoo,many,cells\n", "my.csv")
    assert file_task(path, skip_bad_lines=True).n == 1
    assert (tmp_path / "my.csv.bad").read_text() == "prompt,answer\ntoo,many,cells\n"


def test_csv_mistakes_have_line_numbers(tmp_path):
    text = b'prompt,roles\n"ok",\n"bad" quote,\nx,y,z\ncaf\xe9,\nw,{no}\n"never closed,\n'
    found = mistakes(write(tmp_path, text, "my.csv"))
    assert [(error.code, error.where[-2:]) for error in found] == [
        ("E301", ":3"),
        ("E301", ":4"),
        ("E302", ":5"),
        ("E303", ":6"),
        ("E301", ":7"),
    ]


@pytest.mark.parametrize(
    ("header", "message"), [("text;answer", "no column 'prompt'"), ("prompt,prompt", "appears twice")]
)
def test_csv_header_is_checked(tmp_path, header, message):
    assert message in mistakes(write(tmp_path, f"{header}\na,b\n", "my.csv"))[0].what


@pytest.mark.parametrize("skip", [False, True])
def test_nothing_left_is_an_error(tmp_path, skip):
    assert [error.code for error in mistakes(write(tmp_path, "\n"), skip_bad_lines=skip)] == ["E311"]
    assert [error.code for error in mistakes(write(tmp_path, "{\n"), skip_bad_lines=skip)] == ["E301", "E311"]


def test_pickles_are_refused_by_name_and_by_content(tmp_path):
    for name in ("graph.pt", "x.pkl", "x.NPY", "pytorch_model.bin"):
        assert only(write(tmp_path, "harmless", name)).code == "E310"
    for protocol in range(2, 6):
        assert only(write(tmp_path, pickle.dumps([GOOD], protocol), "my.jsonl")).code == "E310"
    np.save(tmp_path / "a.npy", np.array([GOOD], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy").rename(tmp_path / "a.csv")
    assert only(tmp_path / "a.csv").code == "E310"


def test_paths_that_cannot_be_read(tmp_path):
    assert "no such file" in only(tmp_path / "none.jsonl").what
    assert "not a file" in only(tmp_path).what
    assert "'.txt'" in only(write(tmp_path, "a", "a.txt")).what
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert f"the limit is {MAX_BYTES}" in only(large).what


def test_unknown_columns_are_noted_and_rows_can_be_limited(tmp_path):
    path = write(tmp_path, [{**GOOD, "source": "x"}, {"prompt": "b"}, {"prompt": "c"}])
    found = task("file", path=str(path), n=2)
    assert isinstance(found, FileTask) and found.n == 2
    assert "source" in found.examples(TOKENIZER).notes[0] and "first 2 of 3" in found.examples(TOKENIZER).notes[1]


def test_a_side_file_that_cannot_be_written_is_an_error(tmp_path):
    path = write(tmp_path, [GOOD, "{"])
    (tmp_path / "my.jsonl.bad").mkdir()
    with pytest.raises(InterpError, match="E602"):
        file_task(path, skip_bad_lines=True)


def test_the_record_names_the_file_by_hash(tmp_path):
    path = write(tmp_path, [GOOD])
    first = file_task(path).to_dict()
    assert first["options"] == {"path": str(path), "skip_bad_lines": False} and json.dumps(first)
    write(tmp_path, [GOOD, {"prompt": "b"}])
    assert file_task(path).to_dict()["sha256"] != first["sha256"]
    with pytest.raises(InterpError, match="nothing is drawn"):
        task("file", path=str(path), seed=1)
    with pytest.raises(InterpError, match="no path"):
        task("file")


def test_a_question_may_have_several_answers(tmp_path):
    path = write(tmp_path, '{"prompt": "a", "answer": [" b", 7], "distractor": " c"}')
    (example,) = file_task(path).content.examples
    assert example.answer == (" b", 7) and example.distractor == " c"
