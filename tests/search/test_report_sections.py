"""What each section of a report tells of a finished study, figure by figure."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import made_study
from told_report import change, row, rows, said, told

from objectives.score import Measure
from search.report_pages import Table
from search.report_trials import HALF, shown
from search.view import TrialView
from train.decisions import FILE, Decisions
from train.horizon import Decision
from train.rundir import RunDir, read_json, write_json


def test_trainable_parameters_are_added_up_layer_by_layer(finished: Path) -> None:
    document = told(finished)
    made = {each[0]: each for each in rows(document) if each[0].endswith("_proj")}
    assert len(made) == 7
    total = sum(int(each[-1].replace(",", "")) for each in made.values())
    for _, sides, rank, one, layers, every in made.values():
        inputs, outputs = (int(side.replace(",", "")) for side in sides.split(" × "))
        assert int(one.replace(",", "")) == int(rank) * (inputs + outputs)
        assert int(every.replace(",", "")) == int(one.replace(",", "")) * int(layers)
    assert row(document, "together")[-1] == f"{total:,}"
    assert "The final run itself counted as many." in said(document)


def test_a_count_that_differs_is_told(study: Path) -> None:
    change(study / "final" / "result.json", trainable_parameters=7)
    assert "The final run itself counted 7, which differs from the calculation." in said(told(study))


def test_costs_besides_training_and_scoring_are_told_by_cause(finished: Path) -> None:
    document = told(finished)
    assert row(document, "the probe at rungs")[-2:] == ("0.60 s", "0.60 s")
    assert row(document, "paid for and lost in kills")[-1] == "10.0 s"
    assert "1 attempt was killed; what had been paid for stays charged, as lost." in said(document)


def test_foretold_memory_is_beside_what_was_measured(finished: Path) -> None:
    from search.report_records import gather

    records = gather(finished)
    by_number = {each.number: each for each in records.foretold}
    for record in records.records:
        if "measured_peak_mib" in record.user_attrs:
            assert by_number[record.number].planned_bytes == record.user_attrs["planned_peak_mib"] * 2**20
            assert by_number[record.number].measured_bytes == record.user_attrs["measured_peak_mib"] * 2**20
    assert all(each.foretold_s and each.measured_s for each in records.foretold if each.measured_s is not None)
    assert "1 suggestion had to be turned down" in said(told(finished))


def test_interruptions_of_the_final_run_are_told_start_by_start(study: Path) -> None:
    """One start that was killed after a checkpoint, and one that went on from there."""
    events = RunDir(study / "final").events
    steps = [json.loads(line) for line in events.read_text().splitlines()]
    steps = [event for event in steps if event["event"] == "step"]
    first, second = steps[:9], steps[6:]
    lines = [
        {"event": "data", "sources": {}},
        *first[:6],
        {"event": "checkpoint", "step": 6, "seconds": 1.0},
        *first[6:],
    ]
    lines += [{"event": "data", "sources": {}}, {"event": "resumed", "step": 6}, *second]
    events.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"event": "completed", "step": len(steps)}]))
    write_json(RunDir(study / "final").clock, {"spent_s": 90.0})
    document = told(study)
    assert row(document, "1")[1:5] == ("0", "9", "3", "1")
    assert row(document, "1")[-1] == "ended without a word: killed, crashed, or a power cut"
    assert (row(document, "2")[1:5], row(document, "2")[-1]) == (
        ("6", str(len(steps)), "0", "0"),
        "reached the horizon",
    )
    shown = said(document)
    assert "in 2 starts, with 1 checkpoints. Interruptions cost 3 steps" in shown
    assert "stands at 90.0 s of 3.0 min (50.0%)" in shown


def test_an_end_that_was_decided_on_the_way_is_told(study: Path) -> None:
    run = RunDir(study / "final")
    decisions = Decisions(run.path / FILE, run.recipe())
    for decision in (Decision(0, 84, 140), Decision(28, 84, 150, "pace"), Decision(100, 84, 112, "turned")):
        decisions.append(decision, 1.0)
    document = told(study)
    assert ("100", "84", "112", "the held-out loss has turned") in rows(document)
    assert "The final run made 112 of 112 steps" in said(document)
    assert "held-out loss was lowest" not in said(document)
    write_json(run.result, {**(read_json(run.result) or {}), "back_to": 90})
    assert "held-out loss was lowest at step 90, and clearly higher at the end" in said(told(study))


def test_of_very_many_trials_the_newest_and_the_best_are_listed() -> None:
    trials = [TrialView(n, "complete", {}, {}, None, 1.0, 1, value=(n * 7 % 500) / 500) for n in range(500)]
    listed = [trial.number for trial in shown(trials)]
    assert listed == sorted(listed)
    assert listed[-HALF:] == list(range(500 - HALF, 500))
    best = sorted(trials, key=lambda trial: -(trial.value or 0.0))[:HALF]
    assert {trial.number for trial in best} <= set(listed)
    assert list(shown(trials[: 2 * HALF])) == trials[: 2 * HALF]


def test_rows_that_were_left_out_are_told(study: Path) -> None:
    run = RunDir(study / "final")
    use = {"rows_read": 50, "removed": {"overlap": 4, "refusals": 2}, "rows_held_out": 5, "rows_too_long": 1}
    run.append_event({"event": "data", "sources": {"clean": {**use, "rows_used": 32, "examples": 64}}})
    document = told(study)
    assert row(document, "clean")[1:] != ()
    assert ("clean", "50", "overlap 4, refusals 2", "5", "1", "32", "64", "2.00") in rows(document)
    assert "4 rows were left out because their prompt shares eight words in a row" in said(document)


def test_what_is_told_of_data_and_steps_is_what_was_made(study: Path) -> None:
    """The data were read for a run of three times the steps that were made."""
    run = RunDir(study / "final")
    recipe = run.recipe()
    made = [event for event in run.read_events() if event["event"] == "step"][:10]
    use = {"rows_read": 900, "removed": {}, "rows_held_out": 0, "rows_too_long": 0}
    examples = 10 * recipe.batch_size
    sources = {"plain": {**use, "rows_used": 700, "examples": 3 * examples}}
    lines = [{"event": "data", "sources": sources}, *({**step, "stage": "sft"} for step in made)]
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = told(study)
    assert ("plain", "900", "none", "0", "0", f"{examples}", f"{examples}", "1.00") in rows(document)
    assert "Examples are those of the 10 steps that it made" in said(document)
    assert f"where it ends, and made 10 steps, {examples} examples. The learning rate" in said(document)


def test_how_the_run_is_made_again_is_told(finished: Path) -> None:
    shown = said(told(finished))
    assert (
        f"python {finished}/final_run.py --replay {finished}/final/horizon.jsonl\nnightshift bundle {finished}" in shown
    )


def test_a_file_that_was_frozen_after_the_run_is_told(study: Path) -> None:
    assert "it has another recipe" not in said(told(study))
    write_json(RunDir(study / "final").clock, {"spent_s": 90.0})
    recipe = RunDir(study / "final").recipe_path
    write_json(recipe, {**(read_json(recipe) or {}), "rank": 3})
    shown = said(told(study))
    assert "is not the one that the final run was made with: it has another recipe" in shown
    assert "stands at 90.0 s." in shown


def test_licences_are_those_that_the_freeze_recorded(finished: Path) -> None:
    document = told(finished)
    assert row(document, "base model")[1:] == ("MIT", "keep notices and name the authors", "the study")
    assert ("plain", "CC0-1.0", "nothing", "the study") in rows(document)
    assert not {"base_licence", "data_licences"} & {blank.key for blank in document.blanks()}


def test_licences_that_nobody_knows_are_asked_for(study: Path) -> None:
    (study / "final_run.py").unlink()
    path = study / "study.toml"
    path.write_text(re.sub("(?m)^licences = .*$", "", path.read_text()))
    recipe = RunDir(study / "final").recipe_path
    held = json.loads(recipe.read_text())
    held["base"] = {"model": "meta-llama/Llama-3.1-8B"}
    held["sources"][0] |= {"path": None, "hub": "databricks/databricks-dolly-15k"}
    recipe.write_text(json.dumps(held))
    document = told(study)
    assert row(document, "base model")[1] == "LicenseRef-Llama-3.1-Community"
    assert (held["sources"][0]["name"], "CC-BY-SA-3.0") in [each[:2] for each in rows(document)]
    open_keys = [blank.key for blank in document.blanks()]
    assert "base_licence" not in open_keys
    assert "data_licences" in open_keys


def test_what_worked_is_set_beside_what_did_not(finished: Path) -> None:
    document = told(finished)
    (table,) = (
        block
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Table) and block.head[0] == "hyperparameter" and "importance" in block.head
    )
    assert table.head[1].startswith("the 2 best")
    shares = [float(each[3].rstrip("%") or 0) for each in table.rows]
    assert shares == sorted(shares, reverse=True)


def test_what_qualifies_a_score_is_told(study: Path) -> None:
    result = RunDir(study / "final").result
    final = read_json(result)
    assert final is not None
    for half in final["scores"].values():
        half |= {"exact": False, "halved": True, "looped": 3}
        for verdict in half["verdicts"][::10]:
            verdict["capped"] = True
    write_json(result, final)
    document = told(study)
    looped = ("ending in a loop", "0.0%", "2.0%", "0.0%", "2.0%", "0.0%", "1.0%")
    assert row(document, "ending in a loop") == looped
    assert row(document, "cut off by the length limit")[2] == "10.0%"
    assert "the score is not exact. Next: `python -m nltk.downloader punkt_tab`" in said(document)
    assert "went on with half the batch" in said(document)


def test_trials_that_were_ended_as_behind_are_told_apart(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="CCCCPCCB")
    subset = made.config.objective.subset
    document = told(made.folder)
    shown = said(document)
    assert "8 trials (1 ended as behind, 6 complete, 1 pruned)" in shown
    assert f"That saved {subset - subset // 2:,} of {7 * subset:,} answers." in shown
    assert "over the values of 7 trials" in shown
    assert "(1 of them was ended as behind: its value is an estimate.)" in shown
    probe = r"score over this study's 7 scored trials: (-?[01]\.\d\d), where -1 would be the same order"
    assert re.search(probe, shown)
    (row,) = (each[:4] for each in rows(document) if each[:2] == ("7", "behind") and len(each) > 3)
    assert re.fullmatch(rf"\d of {subset // 2}, ≈ 0.000", row[2])
    assert ("7", "behind", f"behind trial 0 after {subset // 2} of {subset} prompts") in rows(document)


def test_the_best_so_far_is_drawn_up_to_the_last_trial() -> None:
    from search.report_canvas import PAPER
    from search.report_figures import Outcome, history

    scores = [Measure.of([True, False]), Measure.of([False, False]), None, None]
    outcomes = [Outcome(n, "complete" if s else "pruned", s, None) for n, s in enumerate(scores)]
    (axes,) = history(outcomes, None)(PAPER).axes
    (line,) = (line for line in axes.lines if line.get_label() == "best so far")
    assert list(line.get_xdata()) == [0, 1, 3]
    assert list(line.get_ydata()) == [0.5, 0.5, 0.5]


def test_answers_that_were_ended_early_have_no_verdicts_by_type(study: Path) -> None:
    shutil.rmtree(study / "final")
    for path in (study / "runs").glob("*/result.json"):
        result = read_json(path)
        if result and result["score"]:
            ended = {"prompt_loose": None, "instruction_strict": None, "instruction_loose": None, "by_type": {}}
            write_json(path, {**result, "score": {**result["score"], **ended}})
    assert re.search(r"nightshift score \S+/runs/\d{3} --prompts search", said(told(study)))


def test_the_table_of_types_fits_a_page_and_what_was_never_asked_is_said(finished: Path) -> None:
    document = told(finished)
    tables = [block for section in document.sections for block in section.blocks if isinstance(block, Table)]
    table = next(each for each in tables if each.head[0] == "type of instruction")
    assert list(table.head) == [
        "type of instruction",
        *("search half: n", "base", "final"),
        *("sealed half: n", "base", "final"),
    ]
    assert all("±" not in row[2] + row[5] for row in table.rows)
    best = next(each for each in rows(document) if each[0].startswith("best trial (") and len(each) == 5)
    assert best[2:] == ("not asked",) * 3
