"""The report of a study: what was recorded, as a page with pictures, as Markdown and as a PDF. Decides and changes
nothing.

    report.html            one self-contained page: pictures inside, no script, no network
    report.md              the same as Markdown, its pictures in report_files/
    report.pdf             the same on paper
    report_answers.toml    the questions that no record answers; written once, then the user's

Whatever is not recorded yet is named there, with the command that would record it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from search import report_answers
from search.report_pages import changed
from search.report_records import gather
from train.rundir import fsync_folder, write_atomic

HTML, MARKDOWN, PDF, PICTURES = "report.html", "report.md", "report.pdf", "report_files"


@dataclass(frozen=True)
class Written:
    """The files of a report, the keys of the questions in `answers` that are still open, and what could not be read."""

    files: tuple[Path, ...]
    answers: Path
    blanks: tuple[str, ...]
    problems: tuple[str, ...]


def write(folder: Path, into: Path | None = None, change: Callable[[str], str] = str) -> Written:
    """Write the report of the study in `folder`, into that folder or another one, replacing an earlier one.

    Every text of it goes through `change`. Raises SearchError where there is no study, or answers that cannot be read;
    StorageError where the database cannot.
    """
    records = gather(folder)
    from search import report_html, report_markdown, report_pdf, report_sections  # imported late: matplotlib

    place = into or folder
    document = changed(report_sections.document(records), change)
    html, markdown, pdf = (place / name for name in (HTML, MARKDOWN, PDF))
    _replace_pictures(place, {f"{picture.name}.png": picture.forms.png for picture in document.pictures()})
    write_atomic(html, report_html.to_html(document))
    write_atomic(markdown, report_markdown.to_markdown(document, PICTURES))
    _replace(pdf, report_pdf.to_pdf(document))
    report_answers.offer(folder)
    blanks = tuple(blank.key for blank in document.blanks())
    return Written((html, markdown, pdf), records.answers.path, blanks, tuple(records.problems))


def _replace(path: Path, data: bytes) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(data)
    os.replace(staged, path)
    fsync_folder(path.parent)


def _replace_pictures(folder: Path, files: Mapping[str, bytes]) -> None:
    staged, target = folder / f".{PICTURES}.tmp", folder / PICTURES
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, data in files.items():
        (staged / name).write_bytes(data)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staged, target)
    fsync_folder(folder)
