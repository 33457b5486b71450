"""Which trained adapter a user means to hand in, and everything about it that its records tell. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search import freeze_file, home, report_text, score_model
from search.errors import ConfigError, FreezeDiffers, SearchError
from search.report_run import Problems, RunRecord, read_run
from search.score_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FINAL, ScoredModel
from train import licences
from train.licences import BASE, Licence
from train.recipe import Recipe, RecipeError
from train.rundir import Damaged, Json, RunDir, taken
from train.shards import shapes_of


@dataclass(frozen=True)
class Subject:
    """A run with its adapter. `frozen` is what its final_run.py holds, for a final run whose file is there; `licences`
    those that are known, by `base` and the names of the data sources."""

    name: str
    run: RunDir
    recipe: Recipe
    model: ScoredModel
    record: RunRecord
    frozen: Json | None
    licences: Mapping[str, Licence]

    @property
    def adapter(self) -> Path:
        return self.run.adapter

    @property
    def is_final(self) -> bool:
        return self.run.path.resolve().name == FINAL


def find(argument: str | None) -> Subject:
    """The run that `argument` means: a run's folder, its adapter's, or a study, which means its final run.

    Raises SearchError where there is no adapter yet, with what makes it, or where a file of it is damaged.
    """
    path = _run_of(argument)
    model = score_model.find(str(path))
    if model.run is None or model.recipe is None:
        raise SearchError(f"{path} is an adapter without the records of a run; give a run's folder, or a study")
    if model.adapter is None:
        raise SearchError(f"{path} is the base model as it came, and has no adapter; give a trial's run or a final run")
    check_adapter(model.adapter)
    record = _record(model.run)
    frozen = _frozen(model.run)
    return Subject(
        name=f"{model.study.name if model.study else path.resolve().parent.name}-{path.resolve().name}",
        run=model.run,
        recipe=model.recipe,
        model=model,
        record=record,
        frozen=frozen,
        licences=_licences(model, frozen),
    )


def _record(run: RunDir) -> RunRecord:
    """The run's records. Raises SearchError where its result is damaged, whose figures go out with the model."""
    problems = Problems()
    record = read_run(run, None, problems)
    assert record is not None, run.path
    to_do = "put the file back from a copy, or make the run again"
    try:
        taken(run.result, training, to_do)
    except Damaged as error:
        raise SearchError(str(error)) from None
    if any(run.result.name in problem for problem in problems):
        raise SearchError(f"{run.result} is damaged, or of another version: {to_do}")
    return record


def training(result: Json) -> str:
    """What a card tells of training, from a run's result."""
    said = f"{result['examples']:,} examples in {result['steps']:,} steps"
    seconds = result["seconds"].get("train")  # none of a trial whose last attempt had nothing to train
    took = f", {report_text.duration(seconds)}" if seconds else ""
    best = result.get("back_to")  # of a final run alone
    kept = (
        f" What was learned up to step {best:,} was kept, since the held-out loss had risen after it." if best else ""
    )
    return f"{said}{took}.{kept}"


def _run_of(argument: str | None) -> Path:
    path = Path(argument) if argument is not None else None
    if path is not None and any((path / name).exists() for name in ("recipe.json", ADAPTER_CONFIG)):
        return path.parent if path.name == "adapter" and (path.parent / "recipe.json").exists() else path
    folder = home.folder(argument)
    final = RunDir(folder / FINAL)
    if not (final.adapter / ADAPTER_CONFIG).exists():
        raise SearchError(not_yet(folder))
    return final.path


def not_yet(folder: Path) -> str:
    """What a study without a trained final run needs next."""
    file, runs = folder / freeze_file.FILE, folder / "runs"
    if not file.exists():
        what, command = "no final run: freeze its best trial first", ["nightshift", "freeze", str(folder)]
    elif not (folder / FINAL / "recipe.json").exists():
        what, command = "no final run yet: make it", [home.python(), str(file)]
    else:
        what, command = "a final run that is not trained to its end: go on with it", [home.python(), str(file)]
    trained = sorted(config.parents[1] for config in runs.glob(f"[0-9]*/adapter/{ADAPTER_CONFIG}"))
    trial = f" (a trial's adapter: give its folder, such as {trained[-1]})" if trained else ""
    return f"{folder} has {what}: {shlex.join(command)}{trial}"


def check_adapter(adapter: Path) -> None:
    """Raise SearchError where the adapter's weights are not a whole safetensors file."""
    try:
        shapes_of([adapter / ADAPTER_WEIGHTS])
    except RecipeError as error:
        what = str(error).partition(";")[0]
        raise SearchError(
            f"the adapter is damaged: {what}; put the file back from a copy, or make the run again"
        ) from None


def _frozen(run: RunDir) -> Json | None:
    file = run.path.resolve().with_name(freeze_file.FILE)
    if run.path.resolve().name != FINAL or not file.exists():
        return None
    try:
        return freeze_file.constant(file)
    except FreezeDiffers:
        return None  # edited, or another version's: what it says is not what the run was made of


def _licences(model: ScoredModel, frozen: Json | None) -> dict[str, Licence]:
    """As the freeze recorded them, else as the study states, else as catalogue and cards say."""
    recipe = model.recipe
    assert recipe is not None
    if frozen is not None:
        return {name: Licence.model_validate(held) for name, held in frozen["rules"]["licences"].items()}
    found = {BASE: licences.of_base(recipe.base.model, model.facts.folder)}
    found |= {source.name: licences.of_source(source) for source in recipe.sources}
    found |= {name: licences.stated(text) for name, text in _stated(model).items() if name in found}
    return {name: licence for name, licence in found.items() if licence is not None}


def _stated(model: ScoredModel) -> Mapping[str, str]:
    from search import config

    try:
        return config.load(model.study / home.STUDY_FILE).final.licences if model.study else {}
    except ConfigError:
        return {}
