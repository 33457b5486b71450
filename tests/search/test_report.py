"""The report of real studies in every state: what is in it, what it says is missing, and that it needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import made_study
import pytest

from objectives.score import Measure
from search import freeze, report, service
from search.errors import SearchError
from train.recipe import Recipe
from train.rundir import RunDir, read_json, write_json

SECTIONS = [
    "Scores",
    "The search",
    "Trials",
    "The recipe",
    "Training",
    "Memory and parameters",
    "Budget",
    "Evaluation",
    "Reproduce",
]
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that is searched, frozen and trained, with its report written."""
    root = tmp_path_factory.mktemp("report")
    made = made_study.MadeStudy(made_study.write_study_file(root), root / "studies" / "tiny")
    frozen = freeze.constant(freeze.freeze(made.config, made.folder))
    made.finish(Recipe.model_validate_json(json.dumps(frozen["recipe"])))
    report.write(made.folder)
    return made.folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def test_all_sections_and_pictures_are_there(finished: Path) -> None:
    html, markdown = report.write(finished)
    text = html.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == SECTIONS
    assert text.count("<svg ") == 6
    assert "Next:" not in page(finished).text
    shown = markdown.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", shown, flags=re.MULTILINE) == SECTIONS
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", shown)
    assert len(linked) == 6
    for name in linked:
        assert (finished / name).read_bytes().startswith(b"\x89PNG")


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
        "share followed, search half",
        "share followed, sealed half",
    ):
        assert label in shown


def test_scores_are_those_that_were_recorded(finished: Path) -> None:
    cells = page(finished).cells
    final = read_json(RunDir(finished / "final").result)
    assert final is not None
    for key in ("scores", "base_scores"):
        for half in ("search", "sealed", "all"):
            for metric in ("prompt_strict", "clean", "instruction_loose"):
                measure = final[key][half][metric]
                assert f"{measure['value']:.3f} ± {measure['standard_error']:.3f}" in cells


def test_what_qualifies_a_score_is_told(study: Path) -> None:
    result = RunDir(study / "final").result
    final = read_json(result)
    assert final is not None
    for half in final["scores"].values():
        half |= {"exact": False, "halved": True, "looped": 3}
        for verdict in half["verdicts"][::10]:
            verdict["capped"] = True
    write_json(result, final)
    report.write(study)
    shown = page(study)
    row = shown.cells.index("ending in a loop")
    assert shown.cells[row : row + 7] == ["ending in a loop", "0.0%", "2.0%", "0.0%", "2.0%", "0.0%", "1.0%"]
    row = shown.cells.index("cut off by the length limit")
    assert shown.cells[row + 2] == "10.0%"
    assert "the score is not exact. Next: python -m nltk.downloader punkt_tab" in shown.text
    assert "went on with half the batch" in shown.text


def test_trials_that_were_ended_as_behind_are_told_apart(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="CCCCPCCB")
    subset = made.config.objective.subset
    report.write(made.folder)
    shown = page(made.folder)
    assert "8 trials (1 ended as behind, 6 complete, 1 pruned)" in shown.text
    assert f"That saved {subset - subset // 2:,} of {7 * subset:,} answers." in shown.text
    assert "over the values of 7 trials" in shown.text
    assert "(1 of them was ended as behind: its value is an estimate.)" in shown.text
    probe = r"score over this study's 7 scored trials: (-?[01]\.\d\d), where -1 would be the same order"
    assert re.search(probe, shown.text)
    row = shown.cells.index("behind")
    assert shown.cells[row - 1 : row + 3] == ["7", "behind", "≈ 0.000", str(subset // 2)]
    assert f"behind trial 0 after {subset // 2} of {subset} prompts" in shown.cells


def test_the_best_so_far_is_drawn_up_to_the_last_trial() -> None:
    from search.report_canvas import PAPER
    from search.report_figures import Outcome, history

    scores = [Measure.of([True, False]), Measure.of([False, False]), None, None]
    outcomes = [Outcome(n, "complete" if s else "pruned", s, None) for n, s in enumerate(scores)]
    (axes,) = history(outcomes, None)(PAPER).axes
    (line,) = (line for line in axes.lines if line.get_label() == "best so far")
    assert list(line.get_xdata()) == [0, 1, 3]
    assert list(line.get_ydata()) == [0.5, 0.5, 0.5]


def test_long_headings_may_go_on_in_another_line(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert '<table class="wide">' in text
    assert "learning_<wbr>rate</th>" in text


def test_answers_that_were_ended_early_have_no_verdicts_by_type(study: Path) -> None:
    shutil.rmtree(study / "final")
    for path in (study / "runs").glob("*/result.json"):
        result = read_json(path)
        if result and result["score"]:
            ended = {"prompt_loose": None, "instruction_strict": None, "instruction_loose": None, "by_type": {}}
            write_json(path, {**result, "score": {**result["score"], **ended}})
    report.write(study)
    assert re.search(r"nightshift score \S+/runs/\d{3} --prompts search", page(study).text)


def test_a_reason_out_of_a_process_is_text(finished: Path) -> None:
    """The made failure's reason holds markup, and a made answer holds a script."""
    assert "TrainingFailed: loss nan with gradient norm 7.1 <b>&</b> | at step 3" in page(finished).cells
    assert "blue and\n<script>alert(1)</script>" in page(finished).text
    shown = (finished / "report.md").read_text(encoding="utf-8")
    assert r"\<b\>\&\</b\> \| at step 3" in shown


def test_writing_twice_gives_the_same_files(study: Path) -> None:
    def files() -> dict[str, bytes]:
        paths = [study / "report.html", study / "report.md", *(study / "report_files").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    report.write(study)
    first = files()
    (study / "report_files" / "stale.png").write_bytes(b"old")
    report.write(study)
    assert files() == first


def test_a_report_changes_nothing_else(study: Path) -> None:
    def others() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in study.rglob("*") if path.is_file() and "report" not in str(path)
        }

    before = others()
    report.write(study)
    assert others() == before


def test_without_a_final_run_the_command_is_named(study: Path) -> None:
    shutil.rmtree(study / "final")
    report.write(study)
    shown = page(study).text
    assert "The final run has not been started." in shown
    assert f"python {study / 'final_run.py'}" in shown
    assert "best trial" in shown


def test_a_final_run_under_way_is_told(study: Path) -> None:
    (study / "final" / "result.json").unlink()
    report.write(study)
    assert "The final run has not ended yet." in page(study).text


def test_without_a_freeze_the_command_is_named(study: Path) -> None:
    shutil.rmtree(study / "final")
    (study / "final_run.py").unlink()
    report.write(study)
    shown = page(study).text
    assert "The best trial is not frozen yet." in shown
    assert "nightshift freeze tiny" in shown
    assert "as it was searched" in shown


def test_an_edited_freeze_is_told(study: Path) -> None:
    shutil.rmtree(study / "final")
    with open(study / "final_run.py", "a") as file:
        file.write("\nprint()\n")
    report.write(study)
    assert "was edited, or is another version's" in page(study).text


def test_a_base_model_that_is_gone_leaves_out_the_layers(study: Path) -> None:
    path = study / "study.toml"
    path.write_text(path.read_text().replace('model = "model"', 'model = "elsewhere"'))
    for recipe in study.glob("**/recipe.json"):
        recipe.write_text(recipe.read_text().replace("/model", "/elsewhere"))
    report.write(study)
    assert "The base model is not where the recipe says" in page(study).text


def test_a_study_file_that_is_gone_is_no_obstacle(study: Path) -> None:
    (study / "study.toml").unlink()
    report.write(study)
    assert "Scores" in page(study).text


@pytest.mark.parametrize("states", ["", "P", "XX", "R", "C", "CCCCC"])
def test_a_study_that_has_hardly_begun(tmp_path: Path, states: str) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states=states)
    report.write(made.folder)
    shown = page(made.folder).text
    assert ("nightshift start" in shown) == ("C" not in states)
    assert "Parameter importances need at least 6 complete trials" in shown or not states


def test_a_study_without_a_database_yet(tmp_path: Path) -> None:
    with service.claim(tmp_path) as claim:
        claim.announce(trials_wanted=4, budget_s=60.0, until=None)
    report.write(tmp_path)
    assert "There is no trial yet." in page(tmp_path).text


def test_where_no_study_is_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="nightshift start"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_hours_ran_out_says_so(study: Path) -> None:
    result = RunDir(study / "final").result
    write_json(result, {**(read_json(result) or {}), "outcome": "stopped"})
    report.write(study)
    assert "stopped" in page(study).cells


def test_importing_it_is_cheap() -> None:
    program = "import sys, search.report; print(*[name in sys.modules for name in ('matplotlib', 'torch', 'numpy')])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == ["False", "False"]
