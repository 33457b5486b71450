"""The files of a report: a page that needs nothing but itself, Markdown, a PDF, and nothing else is touched."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from told_report import SECTIONS, told

from search import report, service
from train.rundir import RunDir, read_json

PICTURES = 8
VOID = set("meta br wbr img link use path rect circle line polyline polygon stop image".split())


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if "td" in self._open or "th" in self._open:
            self.cells[-1] += data


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _written(finished: Path) -> None:
    report.write(finished)


def test_all_sections_and_pictures_are_there(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == SECTIONS
    assert text.count("<svg ") == PICTURES
    assert re.findall("Next: .*", page(finished).text) == [f"Next: nightshift export {finished} --format merged"]
    assert "cannot be told" not in page(finished).text
    shown = (finished / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", shown, flags=re.MULTILINE) == SECTIONS
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", shown)
    assert len(linked) == PICTURES
    for name in linked:
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    assert (finished / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_the_page_needs_nothing_but_itself(finished: Path) -> None:
    tags = page(finished).tags
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in tags}
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_id_is_there_once_and_every_reference_hits_one(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text)) | set(re.findall(r'aria-labelledby="([^"]*)"', text))
    assert used <= set(ids)


def test_pictures_take_their_colours_from_the_page(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#000000", "#ffffff"}
    assert "var(--accent)" in drawn
    assert "prefers-color-scheme:dark" in text


def test_axes_are_labelled_with_their_units(finished: Path) -> None:
    shown = page(finished).text
    for label in (
        "share of prompts followed",
        "probe (bits per byte)",
        "share of the horizon (%)",
        "SFT loss (nats per token)",
        "charged time (",
        "importance (share of all)",
        "share, search half",
        "share, sealed half",
    ):
        assert label in shown


def test_scores_are_those_that_were_recorded(finished: Path) -> None:
    cells = page(finished).cells
    final = read_json(RunDir(finished / "final").result)
    assert final is not None
    for key in ("scores", "base_scores"):
        for half in ("search", "sealed", "all"):
            for metric in ("prompt_strict", "clean", "prompt_loose", "instruction_strict", "instruction_loose"):
                measure = final[key][half][metric]
                assert f"{measure['value']:.3f} ± {measure['standard_error']:.3f}" in cells


def test_long_headings_may_go_on_in_another_line(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert '<table class="wide">' in text
    assert "learning_<wbr>rate</th>" in text


def test_a_reason_out_of_a_process_is_text(finished: Path) -> None:
    """The made failure's reason holds markup, and a made answer holds a script."""
    assert "TrainingFailed: loss nan with gradient norm 7.1 <b>&</b> | at step 3" in page(finished).cells
    assert "blue and\n<script>alert(1)</script>" in page(finished).text
    shown = (finished / "report.md").read_text(encoding="utf-8")
    assert r"\<b\>\&\</b\> \| at step 3" in shown


def test_a_report_changes_nothing_else(finished: Path) -> None:
    def others() -> dict[str, bytes]:
        paths = [
            path for path in finished.rglob("*") if path.is_file() and "report" not in str(path.relative_to(finished))
        ]
        return {str(path): path.read_bytes() for path in paths}

    before = others()
    told(finished)
    assert others() == before


def test_a_study_without_a_database_yet(tmp_path: Path) -> None:
    """Everything is written, twice the same, and in place of what was there."""
    with service.claim(tmp_path) as claim:
        claim.announce(trials_wanted=4, budget_s=60.0, until=None)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.glob("report*") if path.is_file()}

    report.write(tmp_path)
    first = files()
    assert sorted(first) == ["report.html", "report.md", "report.pdf", "report_answers.toml"]
    assert "There is no trial yet." in page(tmp_path).text
    (tmp_path / "report_files" / "stale.png").write_bytes(b"old")
    report.write(tmp_path)
    assert files() == first
    assert list((tmp_path / "report_files").iterdir()) == []


def test_importing_it_is_cheap() -> None:
    names = ("matplotlib", "torch", "fpdf")
    program = f"import sys, search.report; print(*[name in sys.modules for name in {names}])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False"] * len(names)
