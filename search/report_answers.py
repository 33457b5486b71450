"""What only a person can say: the questions of a report, and the file in a study's folder that answers them.

The file is written once, with every question and no answer. From then on it is the user's, and is only read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import SearchError
from search.report_pages import Blank, Words
from search.studyfile import nearest

FILE = "report_answers.toml"
QUESTIONS: Mapping[str, str] = {
    "authors": "Who hands this in, and for what?",
    "base_model": "Why this base model, and which others were considered?",
    "base_licence": "What is the licence of the base model, and may it be used for this?",
    "data_sets": "Why these data sets, and which others were considered?",
    "data_licences": "What are the licences of the data sets, and may they be used for this?",
    "training_scheme": "Why this training scheme, these hand-picked recipes and these ranges?",
    "approaches": "What else was considered or tried, outside of this study, and what came of it?",
    "training_process": "What happened during the nights and the final run that no record holds?",
    "conclusions": "What follows from the scores: what can the model do, what not, and what would come next?",
}
HEAD = """\
# What only you can say. `nightshift report` weaves your answers into the report, and never changes this file.
# An answer that is left empty is marked in the report as one to fill in. An empty line begins a new paragraph.
"""


@dataclass(frozen=True)
class Answers:
    """The answers in the file at `path`, by key, each as its paragraphs; keys without an answer are left out."""

    path: Path
    given: Mapping[str, tuple[str, ...]]

    def ask(self, key: str) -> Blank | Words:
        """The question with its answer, or the place for one."""
        if key in self.given:
            return Words(QUESTIONS[key], self.given[key])
        return Blank(key, QUESTIONS[key], self.path.name)


def read(folder: Path) -> Answers:
    """The answers that the study in `folder` has so far.

    Raises SearchError where the file is no TOML, or has a key that is no question or a value that is no text.
    """
    path = folder / FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Answers(path, {})
    except OSError as error:
        raise SearchError(f"{path} cannot be read ({error.strerror}); make it readable, or move it away") from None
    except ValueError as error:  # no TOML, or no UTF-8
        again = "correct it, or move it away, and `nightshift report` writes an empty one"
        raise SearchError(f"{path} is not valid TOML: {error}; {again}") from None
    if problems := [problem for key, value in table.items() if (problem := _problem(key, value))]:
        raise SearchError(f"{path}: " + "; ".join(problems))
    return Answers(path, {key: paragraphs for key, text in table.items() if (paragraphs := _paragraphs(text))})


def _problem(key: str, value: object) -> str:
    if key not in QUESTIONS:
        return f"{key} is no question of the report; {nearest(key, list(QUESTIONS))}"
    return "" if isinstance(value, str) else f"{key} has to be a text in quotes, or in three quotes for several lines"


def _paragraphs(text: str) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return tuple(part for part in parts if part)


def offer(folder: Path) -> None:
    """Write the file with empty answers, unless there is one."""
    parts = [HEAD, *(f'# {question}\n{key} = """\n"""\n' for key, question in QUESTIONS.items())]
    try:
        with open(folder / FILE, "x", encoding="utf-8") as file:
            file.write("\n".join(parts))
    except FileExistsError:
        return
