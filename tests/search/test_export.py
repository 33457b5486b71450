"""`nightshift export`: what it writes for a trial and for a final run, what its card says, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
import tiny_scored
from typer.testing import CliRunner

from search import export, export_card, export_subject
from search.cli import app
from search.errors import SearchError
from search.export_subject import Subject
from train import room
from train.licences import Licence
from train.recipe import RecipeError
from train.rundir import RunDir, read_json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one trial that was trained. Not to be changed."""
    tiny_scored.write_run(place := tmp_path_factory.mktemp("exported"))
    return place / "studies" / "tiny"


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "studies" / "tiny"))


@pytest.fixture
def trial(study: Path) -> Subject:
    return export_subject.find(str(study / "runs" / "003"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_adapter_is_exported_as_it_was_trained(trial: Subject) -> None:
    folder = export.export(trial, "adapter", None)
    assert folder == trial.run.path / "export" / "adapter"
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (trial.adapter / weights).read_bytes()
    assert read_json(folder / "adapter_config.json") == read_json(trial.adapter / "adapter_config.json")
    assert names(folder) >= {"README.md", "chat_template.jinja", "tokenizer.json"}
    assert "config.json" not in names(folder)
    assert (folder / "chat_template.jinja").read_text() == trial.recipe.chat_template


def test_an_exported_model_can_be_found_again(trial: Subject, tmp_path: Path) -> None:
    from search import score_model

    merged = export.export(trial, "merged", tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"merged", "studies"}
    found = score_model.find(str(merged))
    assert found.facts.parameters == trial.model.facts.parameters
    assert found.facts.sha256 != trial.model.facts.sha256
    assert found.facts.has_chat_template


def test_the_command_exports_a_run_and_says_where(study: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["export", str(study / "runs" / "003"), "--out", str(tmp_path / "out")])
    assert made.exit_code == 0, made.output
    assert f"wrote {tmp_path / 'out'}: read its README.md" in made.output.replace("\n", " ")


# GGUF, with a stand-in for llama.cpp's converter that takes its arguments

CONVERTER = """import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "auto"])
asked = parser.parse_args()
assert (asked.model / "config.json").exists() and (asked.model / "model.safetensors").exists()
{ending}
"""


def converter(folder: Path, ending: str) -> Path:
    folder.mkdir()
    (folder / export.CONVERTER).write_text(CONVERTER.format(ending=ending))
    return folder


def test_gguf_is_made_by_llama_cpps_converter(trial: Subject, tmp_path: Path) -> None:
    llama = converter(tmp_path / "llama.cpp", 'asked.outfile.write_bytes(b"GGUF")')
    folder = export.export(trial, "gguf", tmp_path / "out", llama)
    assert names(folder) == {"README.md", "tiny-003.gguf"}
    assert (folder / "tiny-003.gguf").read_bytes() == b"GGUF"
    assert names(tmp_path) == {"llama.cpp", "out", "studies"}


def test_without_the_converter_it_is_said_how_to_get_it(trial: Subject, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"clone ggml-org/llama\.cpp .+ and add --llama-cpp FOLDER"):
        export.export(trial, "gguf", tmp_path / "out")
    with pytest.raises(SearchError, match=r"there is no convert_hf_to_gguf\.py in it"):
        export.export(trial, "gguf", tmp_path / "out", tmp_path)


def test_a_converter_that_fails_is_told_and_leaves_nothing(trial: Subject, tmp_path: Path) -> None:
    llama = converter(tmp_path / "llama.cpp", 'raise SystemExit("no such architecture")')
    with pytest.raises(SearchError, match=r"converting failed \(exit code 1\):\nno such architecture"):
        export.export(trial, "gguf", tmp_path / "out", llama)
    assert names(tmp_path) == {"llama.cpp", "studies"}


# What is refused


def test_a_folder_that_holds_something_is_left_as_it_is(trial: Subject, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SearchError, match=r"out is not empty, and is left as it is: .+ --out, or remove it: rm -r "):
        export.export(trial, "adapter", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SearchError, match="file is a file, and is left as it is"):
        export.export(trial, "adapter", tmp_path / "file")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(trial: Subject, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "README.md" in names(export.export(trial, "adapter", tmp_path / "out"))


def test_a_folder_that_cannot_be_made_is_told(trial: Subject, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SearchError, match=r"cannot be made \(.+\); give another folder with --out"):
        export.export(trial, "adapter", tmp_path / "file" / "out")


def test_a_disk_too_small_is_told_beforehand(trial: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SPARE", 2**60)
    with pytest.raises(RecipeError, match=r"are needed in .+, .+ more than are free"):
        export.export(trial, "merged", tmp_path / "out")
    assert names(tmp_path) == {"studies"}


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole[:300]])
def test_a_damaged_adapter_is_told(study: Path, damage: object) -> None:
    weights = study / "runs" / "003" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))  # type: ignore[operator]
    with pytest.raises(
        SearchError, match=r"the adapter is damaged: .+; put the file back from a copy, or make the run again"
    ):
        export_subject.find(str(study / "runs" / "003"))


def test_a_study_without_a_final_run_says_what_comes_next(study: Path) -> None:
    said = r"has no final run: freeze its best trial first: nightshift freeze .+ such as .+/runs/003\)"
    with pytest.raises(SearchError, match=said):
        export_subject.find(str(study))
    (study / "final_run.py").write_text("")
    with pytest.raises(SearchError, match=r"has no final run yet: make it: .+ \S+final_run.py"):
        export_subject.find(str(study))
    RunDir(study / "final").create(RunDir(study / "runs" / "003").recipe())
    with pytest.raises(SearchError, match=r"is not trained to its end: go on with it: .+final_run.py"):
        export_subject.find(str(study))


def test_a_study_means_its_final_run(study: Path) -> None:
    shutil.copytree(study / "runs" / "003", study / "final")
    found = export_subject.find(str(study))
    assert (found.name, found.is_final) == ("tiny-final", True)


def test_an_adapter_without_the_records_of_a_run_is_refused(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "runs" / "003" / "adapter", tmp_path / "mine")
    with pytest.raises(SearchError, match="is an adapter without the records of a run"):
        export_subject.find(str(tmp_path / "mine"))


# The card


def front_of(card: str) -> dict[str, object]:
    """The front matter, whose values are JSON."""
    lines = card.split("---\n")[1].splitlines()
    pairs = (line.partition(": ") for line in lines)
    return {name: json.loads(value) if value[0] in '"[' else value for name, _, value in pairs}


def test_the_card_tells_what_the_records_tell(trial: Subject) -> None:
    card = export_card.card(trial, "adapter")
    assert front_of(card) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["nightshift", "qlora", "lora"],
    }
    assert "# tiny-003\n" in card
    assert trial.recipe.digest in card
    assert str(trial.model.facts.sha256) in card
    assert "| base model | MIT | keep notices and name the authors |" in card
    assert "| data plain | CC0-1.0 | nothing |" in card
    assert "| rank | 4 |" in card
    assert "Not scored." in card
    assert str(Path(trial.recipe.base.model).parent) not in card  # nobody's business


def test_the_card_names_no_data_that_had_no_part_in_the_training(trial: Subject) -> None:
    from dataclasses import replace

    (plain,) = trial.recipe.sources
    weightless = plain.model_copy(update={"name": "weightless", "weight": 0.0})
    pairs = plain.model_copy(update={"name": "pairs", "use": "preference"})
    subject = replace(trial, recipe=trial.recipe.model_copy(update={"sources": (plain, weightless, pairs)}))
    card = export_card.card(subject, "adapter")
    assert "| plain |" in card
    assert not [word for word in ("weightless", "pairs", "preferences", "dpo") if word in card]
    assert f"| examples, as planned | {trial.recipe.examples} |" in card


def test_a_base_of_the_hub_is_named_and_its_conditions_told(trial: Subject) -> None:
    from dataclasses import replace

    hub = trial.recipe.base.model_copy(update={"model": "meta-llama/Llama-3.1-8B"})
    facts = trial.model.facts.model_copy(update={"revision": "a" * 40})
    licence = Licence(licence="LicenseRef-Llama-3.1-Community", by="catalogue", terms="to be named Llama-...")
    subject = replace(
        trial,
        recipe=trial.recipe.model_copy(update={"base": hub}),
        model=replace(trial.model, facts=facts),
        licences={"base": licence},
    )
    card = export_card.card(subject, "merged")
    assert front_of(card)["base_model"] == "meta-llama/Llama-3.1-8B"
    assert front_of(card)["base_model_relation"] == "finetune"
    assert "Built with Llama" in card
    assert "| base model | LicenseRef-Llama-3.1-Community | to be named Llama-... |" in card
    assert "| data plain | not known | see its terms |" in card


def test_text_from_elsewhere_stays_text() -> None:
    table = export_card.table(("a",), [("x | y\n---\n<script>alert(1)</script> `rm` [z](javascript:0)",)])
    assert table.count("\n") == 2
    assert not re.search(r"(?<!\\)[<>`\[\]]", table)
    assert len(re.findall(r"(?<!\\)\|", table)) == 6
    assert "| final_run.py \\_it\\_ |" in export_card.table(("a",), [("final_run.py _it_",)])
    assert export_card.code("a`b") == "``a`b``"
    assert export_card.code("`") == "`` ` ``"


def test_files_can_be_read_as_far_as_the_users_mask_says(trial: Subject, tmp_path: Path) -> None:
    folder = export.export(trial, "adapter", tmp_path / "out")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1


def test_the_card_tells_what_was_gone_back_to() -> None:
    result = {"examples": 3360, "steps": 420, "seconds": {"train": 59.1}, "back_to": 326}
    said = "3,360 examples in 420 steps, 59.1 s. What was learned up to step 326 was kept"
    assert export_subject.training(result).startswith(said)
    assert export_subject.training({**result, "seconds": {}, "back_to": 0}) == "3,360 examples in 420 steps."
