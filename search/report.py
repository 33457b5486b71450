"""The report of a study: what was recorded, as a page with pictures and as Markdown. Decides and changes nothing.

    report.html     one self-contained page: pictures inside, no script, no network
    report.md       the same as Markdown, its pictures in report_files/

Whatever is not recorded yet is named there, with the command that would record it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from search.report_records import gather
from train.rundir import fsync_folder, write_atomic

HTML, MARKDOWN, PICTURES = "report.html", "report.md", "report_files"


def write(folder: Path) -> tuple[Path, Path]:
    """Write the report of the study in `folder`, replacing an earlier one; returns the paths of page and Markdown.

    Raises SearchError where there is no study, StorageError where its database cannot be read.
    """
    from search import report_html, report_markdown, report_sections  # imported late: matplotlib takes its time

    document = report_sections.document(gather(folder))
    html, markdown = folder / HTML, folder / MARKDOWN
    _replace_pictures(folder, {f"{picture.name}.png": picture.png for picture in document.pictures()})
    write_atomic(html, report_html.to_html(document))
    write_atomic(markdown, report_markdown.to_markdown(document, PICTURES))
    return html, markdown


def _replace_pictures(folder: Path, files: Mapping[str, bytes]) -> None:
    staged, target = folder / f".{PICTURES}.tmp", folder / PICTURES
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, data in files.items():
        (staged / name).write_bytes(data)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staged, target)
    fsync_folder(folder)
