"""`nightshift plan`: what a study or a recipe will cost, without its model, its data or a network."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import made_study
import pytest
from typer.testing import CliRunner, Result

from search import config, finals_record, freeze, home
from search.budget import START_RESERVE_S
from search.cli import app
from search.forecast import Typical, fitting
from search.progress import duration
from storage import records
from train.rundir import RunDir

BASES = ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-7B")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no nvidia-smi
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)
    return str(home.write_preset("rtx-4070-ti", tmp_path))


def nightshift(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="nightshift")


def test_the_tables_say_what_fits_and_what_does_not(study: str) -> None:
    answer = nightshift("plan", study)
    assert answer.exit_code == 0, answer.output
    assert "Qwen/Qwen2.5-7B: 7.62 B parameters in NF4, on an RTX 4070 Ti, 11.50 GiB" in answer.output
    assert "486 MiB are assumed; nothing was measured here" in answer.output
    for title in (
        "The recipes",
        "Corners of the space",
        "The largest that fits",
        "Trainable parameters, layer by layer",
    ):
        assert title in answer.output
    lines = {line.split()[0]: line for line in reversed(answer.output.splitlines()) if line.strip()}
    assert "GiB, the sum" in lines["peak"]
    assert "322,961,408" in lines["all"]


def test_json_has_every_number_for_each_base_model(study: str) -> None:
    options = [part for base in BASES for part in ("--base", base)]
    answer = nightshift("plan", study, "--memory", "12", "--json", *options)
    assert answer.exit_code == 0, answer.output
    plans = json.loads(answer.stdout)
    assert [each["base"] for each in plans] == list(BASES)
    for each in plans:
        costs = [one["plan"]["trainable_parameters"] for one in each["recipes"]]
        assert costs[0] == min(costs)
        assert costs[-1] == max(costs)
        assert each["limit_bytes"] == 12 * 2**30
        for one in each["recipes"]:
            assert one["fits"] == (one["plan"]["peak_bytes"] <= each["limit_bytes"])
            assert sum(one["plan"]["memory"].values()) == one["plan"]["peak_bytes"]
        named = {one["name"]: one for one in each["recipes"]}
        assert named["qlora-paper"]["recipe"]["rank"] == 64
        assert named["qlora-paper"]["fits"]
        assert named["qlora-paper"]["largest"]["max_length"] >= 512
        assert each["scoring"]["seconds_at_most"]["total"] > 0
        assert each["scoring"]["measured_seconds"] == []


def test_the_plan_keeps_the_activations_of_as_many_layers_as_fit(study: str) -> None:
    def kept(gib: str) -> dict[str, int]:
        plans = json.loads(nightshift("plan", study, "--memory", gib, "--json").stdout)
        assert all(one["fits"] for one in plans[0]["recipes"])
        return {
            one["name"]: one["recipe"]["uncheckpointed_layers"] if one["recipe"]["gradient_checkpointing"] else 28
            for one in plans[0]["recipes"]
        }

    small, large, all_there_is = kept("11.5"), kept("16"), kept("80")
    assert small["cheapest"] == 28
    assert small["dearest"] == 0
    assert all(small[name] <= large[name] for name in small)
    assert small["qlora-paper"] < large["qlora-paper"]
    assert set(all_there_is.values()) == {28}


def test_without_a_choice_the_cheapest_and_the_dearest_are_the_ends_of_the_memory(study: str) -> None:
    text = Path(study).read_text(encoding="utf-8")
    Path(study).write_text(text.replace('gradient_checkpointing = "auto"', "gradient_checkpointing = true"), "utf-8")
    plans = json.loads(nightshift("plan", study, "--json").stdout)
    peaks = [one["plan"]["peak_bytes"] for one in plans[0]["recipes"]]
    corners = [one["plan"]["peak_bytes"] for one in plans[0]["corners"]]
    assert peaks[0] == min(peaks + corners)
    assert peaks[-1] == max(peaks + corners)


def test_a_folder_with_a_configuration_alone_can_be_planned(study: str, tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    config |= {"num_attention_heads": 16, "vocab_size": 32000, "max_position_embeddings": 4096}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    answer = nightshift("plan", study, "--base", str(tmp_path / "model"))
    assert answer.exit_code == 0, answer.output
    assert "0.20 B parameters" in answer.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "5.9"], "the largest batch that fits is micro_batch_size = 1 with max_length = "),
        (["--memory", "5.9"], "no recipe of this study fits Qwen/Qwen2.5-7B: the cheapest needs"),
        (
            ["--memory", "4"],
            "not even one short row fits; take a smaller base model, a lower rank, or a card with more",
        ),
        (["--memory", "0"], "0.0 is no number of GiB above 0"),
        (["--card", "RTX 4070Ti"], "--card RTX 4070Ti: the speed of this card is not known"),
        (["--base", "./nowhere"], "the base model's folder ./nowhere does not exist"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_message(study: str, arguments: list[str], said: str) -> None:
    answer = nightshift("plan", study, *arguments)
    assert answer.exit_code == 2
    assert said in " ".join(answer.stderr.replace("│", " ").split())
    assert "Traceback" not in answer.output


def test_without_a_limit_and_without_a_card_it_asks_for_one(study: str) -> None:
    path = Path(study)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("memory_gib")), encoding="utf-8")
    answer = nightshift("plan", study)
    assert answer.exit_code == 2
    assert "say what to plan for, like --memory 12" in answer.stderr
    assert nightshift("plan", study, "--memory", "12").exit_code == 0


def test_a_study_on_the_processor_is_planned_without_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    study = home.write_preset("rehearsal", tmp_path)
    base = ["--base", "Qwen/Qwen2.5-0.5B"]
    answer = nightshift("plan", str(study), *base, "--json")
    assert answer.exit_code == 0, answer.output
    assert all(one["seconds"] is None and one["fits"] for one in json.loads(answer.stdout)[0]["recipes"])
    assert nightshift("plan", str(study), *base).exit_code == 0


# One recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with three trials and a final_run.py, on the CPU."""
    root = tmp_path_factory.mktemp("made")
    file = made_study.write_study_file(root)
    folder = root / "studies" / "tiny"
    made_study.MadeStudy(file, folder, states="CCP")
    config, _ = home.study(str(file))
    freeze.freeze(config, folder)
    return folder


@pytest.mark.parametrize("name", ["runs/000", "runs/000/recipe.json", "final_run.py"])
def test_a_recipe_is_planned_wherever_it_is_written_down(
    made: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    answer = nightshift("plan", str(made / name), "--json")
    assert answer.exit_code == 0, answer.output
    (planned,) = json.loads(answer.stdout)
    (one,) = planned["recipes"]
    recipe = RunDir(made / "runs" / "000").recipe()
    assert planned["base"] == recipe.base.model
    assert planned["device"] == "cpu"
    assert planned["corners"] == []
    assert one["recipe"]["batch_size"] == recipe.batch_size
    assert one["fits"]
    text = nightshift("plan", str(made / name)).output
    assert "The recipe;" in text
    assert "The recipe, in its" in text
    assert "Corners" not in text


def test_the_plan_of_a_study_tells_how_long_its_scores_took(made: Path) -> None:
    (planned,) = json.loads(nightshift("plan", str(made), "--json").stdout)
    assert planned["scoring"]["measured_seconds"] == [2.4, 2.4, 2.1]
    assert planned["calculation"][-1].split(maxsplit=2) == ["scoring", "2", "s, the median of 3 scores of this study"]


def test_a_recipe_that_lies_alone_is_planned_for_a_card(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text((made / "runs" / "000" / "recipe.json").read_text("utf-8"), "utf-8")
    arguments = ("plan", str(tmp_path / "mine.json"), "--base", "Qwen/Qwen2.5-7B", "--memory")
    answer = nightshift(*arguments, "12", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)[0]["device"] == "cuda"
    assert json.loads(answer.stdout)[0]["recipes"][0]["seconds"]["step"] > 0
    refused = nightshift(*arguments, "4")
    assert refused.exit_code == 2
    assert "the recipe does not fit Qwen/Qwen2.5-7B: it needs" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("recipe.json", "{", "recipe.json holds no recipe of this version: Invalid JSON"),
        ("recipe.json", '{"base": {"model": "x"}}', "holds no recipe of this version: sources: Field required"),
        ("recipe.json", "[]", "holds no recipe of this version: Input should be an object"),
        ("final_run.py", "print('hello')", "is no final_run.py of Nightshift"),
        ("final_run.py", None, "final_run.py does not exist; give a study.toml, a recipe.json or a final_run.py"),
        ("recipe.json", None, "recipe.json does not exist; give a study.toml, a recipe.json or a final_run.py"),
    ],
)
def test_what_is_no_recipe_is_told_in_one_message(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    answer = nightshift("plan", str(tmp_path / name))
    assert answer.exit_code == 2
    assert said in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.output


# What trials cost, and what is ruled out


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_a_study_is_told_what_its_trials_cost_and_how_many_fit(study: str) -> None:
    (plan,) = json.loads(nightshift("plan", study, "--json").stdout)
    trials = plan["trials"]
    assert trials["cheapest"]["seconds"] <= trials["typical"]["seconds"] <= trials["dearest"]["seconds"]
    assert trials["in_budget"]["trials"] == pytest.approx(8 * 3600 / trials["expected"]["seconds"], abs=1)
    assert 0 < trials["tonight_s"] <= 86400
    assert trials["refusal"] == ""
    assert plan["ruled_out"] == []


def test_what_never_fits_is_ruled_out_and_a_budget_below_one_trial_is_told_the_least_that_is_enough(study: str) -> None:
    path = Path(study)
    path.write_text(path.read_text("utf-8").replace("budget_hours = 8.0", "budget_hours = 0.02"), "utf-8")
    said = squeezed(nightshift("plan", study, "--memory", "8").output)
    assert "whatever the rest of the recipe is: targets all-linear with rank 128 needs 9.5" in said
    assert "GiB of 8.00" in said
    assert "of 200 recipes drawn from the space fit the memory" in said
    for part in (
        "estimated; no trial has run yet",
        "cheapest",
        "typical",
        "dearest",
        "the budget fits",
        "tonight fits",
    ):
        assert part in said
    assert re.search(
        r"the budget of 0\.02 GPU-hours leaves 72 s, and scoring the base model and the cheapest trial may take \d+ s.*"
        r"The minimum is [\d.]+ GPU-hours: raise budget_hours in \[study\], or run `nightshift start \S+ --budget ",
        said,
    )


def test_the_costs_are_learned_from_the_studys_own_trials(made: Path) -> None:
    (plan,) = json.loads(nightshift("plan", str(made), "--json").stdout)
    assert plan["trials"]["learned_from"] == 3
    (elsewhere,) = json.loads(nightshift("plan", str(made), "--memory", "4", "--json").stdout)
    assert elsewhere["trials"]["learned_from"] == 0


def test_what_the_final_race_will_need_is_kept_back_before_trials_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "180")
    file = made_study.write_study_file(tmp_path, finalists=3)
    loaded = config.load(file)
    (plan,) = json.loads(nightshift("plan", str(file), "--json").stdout)
    trials, subset = plan["trials"], loaded.objective.subset
    prompt_s = trials["typical"]["by_cause"]["score"] / subset
    least_s = 3 * (12 - subset) * finals_record.MARGIN * prompt_s + START_RESERVE_S
    assert least_s < trials["kept_s"] < least_s + 20  # and loading, and the turns
    left_s = 3600 * loaded.study.budget_hours - trials["kept_s"]
    assert trials["in_budget"] == asdict(fitting(Typical(**trials["expected"]), left_s))
    told = f"keeps back {duration(trials['kept_s'])} of the budget (finalists in [study])"
    assert told in nightshift("plan", str(file)).output

    made = made_study.MadeStudy(file, tmp_path / "home" / "studies" / "tiny", states="CC")
    (plan,) = json.loads(nightshift("plan", str(file), "--json").stdout)
    held = records.read(made.folder / "study.db")
    kept_s = finals_record.needed_s(loaded, made.folder / "runs", held.trials, 12)
    assert plan["trials"]["kept_s"] == kept_s
    file.write_text(file.read_text().replace("budget_hours = 0.2", f"budget_hours = {held.spent_s / 3600 + 0.0001}"))
    (plan,) = json.loads(nightshift("plan", str(file), "--json").stdout)
    refusal = plan["trials"]["refusal"]
    assert f"beside {kept_s:.0f} s for the final race" in refusal
    least = float(re.search(r"The minimum is ([\d.]+) GPU-hours", refusal)[1])
    assert 3600 * least > held.spent_s + kept_s
    file.write_text(file.read_text().replace("trials = 4", "trials = 2"))
    (plan,) = json.loads(nightshift("plan", str(file), "--json").stdout)
    assert plan["trials"]["refusal"] == ""  # none is to come
    loaded.objective.prompts.rename(tmp_path / "elsewhere.jsonl")
    told = squeezed(nightshift("plan", str(file)).output)
    assert "what the final race will take is not known, as the prompts are not there" in told
    (tmp_path / "elsewhere.jsonl").rename(loaded.objective.prompts)

    file.write_text(file.read_text().replace("finalists = 3", "finalists = 0"))
    (plan,) = json.loads(nightshift("plan", str(file), "--json").stdout)
    assert plan["trials"]["kept_s"] == 0.0
    assert "final race" not in nightshift("plan", str(file)).output


def test_a_study_that_could_not_be_started_is_not_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    file = made_study.write_study_file(tmp_path)
    text = file.read_text()
    for old, new, said in (
        ("subset = 8", "subset = 10000", "[objective] subset: it is 10000; the file holds 24 prompts"),
        ("max_new_tokens = 8", "max_new_tokens = 250", "256 positions: lower max_new_tokens to 2"),
    ):
        file.write_text(text.replace(old, new))
        answer = nightshift("plan", str(file))
        assert answer.exit_code == 2, answer.output
        assert said in " ".join(answer.stderr.split())
