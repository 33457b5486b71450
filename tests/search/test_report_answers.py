"""The questions that no record answers, and the file that is the user's once it is there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from search import report_answers
from search.errors import SearchError
from search.report_pages import Blank, Words


def test_the_file_begins_with_every_question_and_no_answer(tmp_path: Path) -> None:
    report_answers.offer(tmp_path)
    text = (tmp_path / report_answers.FILE).read_text()
    held = tomllib.loads(text)
    assert list(held) == list(report_answers.QUESTIONS)
    assert not any(held.values())
    for question in report_answers.QUESTIONS.values():
        assert f"# {question}\n" in text
    assert report_answers.read(tmp_path).given == {}


def test_the_file_is_never_written_again(tmp_path: Path) -> None:
    path = tmp_path / report_answers.FILE
    path.write_text("# mine\n")
    report_answers.offer(tmp_path)
    assert path.read_text() == "# mine\n"


def test_an_answer_takes_the_place_of_its_question(tmp_path: Path) -> None:
    (tmp_path / report_answers.FILE).write_text('base_model = """\nIt fits\nthe card.\n\n\nAnd is open.\n"""\n')
    answers = report_answers.read(tmp_path)
    asked = answers.ask("base_model")
    assert asked == Words(report_answers.QUESTIONS["base_model"], ("It fits the card.", "And is open."))
    assert answers.ask("approaches") == Blank(
        "approaches", report_answers.QUESTIONS["approaches"], "report_answers.toml"
    )


def test_without_a_file_every_question_is_open(tmp_path: Path) -> None:
    answers = report_answers.read(tmp_path)
    assert all(isinstance(answers.ask(key), Blank) for key in report_answers.QUESTIONS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model = \n", r"is not valid TOML: .*line 1.*move it away, and `nightshift report` writes an empty one"),
        ("base_modl = 'x'\n", "base_modl is no question of the report; did you mean base_model?"),
        ("base_model = 3\napproaches = []\n", "base_model has to be a text in quotes.*; approaches has to be a text"),
        (b"base_model = '\xff'\n", "is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / report_answers.FILE).write_bytes(data)
    with pytest.raises(SearchError, match=message):
        report_answers.read(tmp_path)
    assert (tmp_path / report_answers.FILE).read_bytes() == data
