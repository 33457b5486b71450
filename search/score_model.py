"""Which model a user means: a base or merged model, an adapter, a trial's RunDir, a study's final run. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from search import home
from search.errors import SearchError
from search.home import STUDY_FILE
from train.planning import plan
from train.recipe import Base, Recipe, RecipeError
from train.rundir import Damaged, RunDir, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_RUN = "base"  # the RunDir of the untuned model
FINAL = "final"
KINDS = "a model's folder or hub id, an adapter's folder, a run (STUDY/runs/003) or STUDY/final"


@dataclass(frozen=True)
class ScoredModel:
    """A model that can be loaded: a base (or merged) model, and the adapter on it, if there is one.

    `base.sha256` and `adapter_sha256` say which files it is. `recipe` is that of the RunDir in or beside which the
    adapter lies, `study` the folder of the study that this RunDir belongs to.
    """

    name: str
    base: Base
    facts: plan.BaseFacts
    adapter: Path | None = None
    adapter_sha256: str | None = None
    recipe: Recipe | None = None
    run: RunDir | None = None
    study: Path | None = None

    @property
    def digests(self) -> dict[str, str | None]:
        """What has to be equal for two scores to be of the same weights."""
        return {"model_sha256": self.facts.sha256, "adapter_sha256": self.adapter_sha256}


def find(argument: str, revision: str | None = None) -> ScoredModel:
    """The model that `argument` means: a folder, or a hub id (at `revision`). Every file it needs is there and whole.

    Raises SearchError or RecipeError.
    """
    if not argument.strip():
        raise SearchError(f"the model's name is empty; give {KINDS}")
    path = Path(argument).expanduser()
    if (path / "recipe.json").is_file():
        return _of_run(RunDir(path))
    if (path / ADAPTER_CONFIG).is_file():
        beside = RunDir(path.absolute().parent)
        if path.name == "adapter" and beside.recipe_path.is_file():
            return _of_run(RunDir(path.parent))
        return _of_adapter(path, argument)
    if (path / STUDY_FILE).is_file():
        raise SearchError(f"{argument} is a study; {models_of(path)}")
    if not path.exists() and (problem := _misspelt(path)):
        raise SearchError(f"{argument}: {problem}")
    if revision is not None and path.is_dir():
        raise SearchError(f"--revision {revision} is for a model on the hub, and {argument} is a folder; leave it out")
    base = Base(model=argument, allow_instruct=True)
    facts = _facts(argument, revision)
    return ScoredModel(argument, _pinned(base, facts), facts)


def models_of(folder: Path) -> str:
    """Which models of the study in `folder` there are to choose from, as a piece of advice."""
    try:
        found = home.folder(str(folder / STUDY_FILE))
    except SearchError:  # its file is of no use; what lies beside it may be
        found = folder
    last = max((run for run in found.glob("runs/*") if run.name.isdecimal() and _holds_model(run)), default=None)
    final = found / FINAL if _holds_model(found / FINAL) else None
    named = [f"{last} for trial {int(last.name)}"] if last else []
    named += [f"{final} for the final run"] if final else []
    if not named:
        return f"it has no model yet: nightshift start {shlex.quote(str(folder / STUDY_FILE))}"
    return f"give one of its models: {', '.join(named)}"


def _holds_model(run: Path) -> bool:
    return (run / "adapter" / ADAPTER_CONFIG).is_file()


def _misspelt(path: Path) -> str:
    """What is wrong with a name that is none of a folder, and has not the form of a hub id; empty where nothing is."""
    if path.name.isdecimal() and (path.parent / f"{int(path.name):03d}").is_dir():
        return f"there is no such run; did you mean {path.parent / f'{int(path.name):03d}'}?"
    if path.parent.name == "runs" and path.parent.is_dir():
        last = max((run.name for run in path.parent.iterdir() if _holds_model(run)), default="none")
        return f"there is no such run; the last one that holds an adapter is {last}"
    if len(path.parts) > 1:
        return ""
    near = difflib.get_close_matches(path.name, [one.name for one in Path().iterdir() if one.is_dir()], n=1, cutoff=0.7)
    meant = f"did you mean {near[0]}? Else " if near else ""
    return f"there is no such folder, and a hub id has the form owner/name: {meant}give {KINDS}"


def _facts(model: str, revision: str | None, sha256: str | None = None) -> plan.BaseFacts:
    try:
        return plan.inspect_base(model, revision, sha256)
    except plan.NoEos as error:
        raise SearchError(
            f"the tokenizer in {error.folder} has no EOS token, so that answers would not end and could not be scored: "
            f"name the token that ends an answer in {error.folder / 'tokenizer_config.json'}, "
            'such as "eos_token": "</s>", whichever its tokenizer.json has'
        ) from None


def _pinned(base: Base, facts: plan.BaseFacts) -> Base:
    return base.model_copy(update={"revision": facts.revision, "sha256": facts.sha256, "allow_instruct": True})


def _of_run(run: RunDir) -> ScoredModel:
    try:
        recipe = run.recipe()
    except Damaged as error:
        raise SearchError(
            f"{run.recipe_path} is no recipe of this Nightshift ({error.wrong}); give its adapter's folder moved "
            "elsewhere, with --chat-template"
        ) from None
    if run.path.resolve().name != BASE_RUN and not (run.adapter / ADAPTER_CONFIG).is_file():
        raise SearchError(f"{run.path} holds no adapter{_why_not(run)}; give a run that was trained to its end")
    facts = _facts(recipe.base.model, recipe.base.revision, recipe.base.sha256)
    adapter = run.adapter if (run.adapter / ADAPTER_CONFIG).is_file() else None
    digest = _adapter_digest(adapter) if adapter else None
    base = _pinned(recipe.base, facts)
    return ScoredModel(str(run.path), base, facts, adapter, digest, recipe, run, _study(run))


def _why_not(run: RunDir) -> str:
    result = read_json(run.result)
    return f": it is {result['outcome']}" if result and result.get("outcome") else ": it is not done"


def _study(run: RunDir) -> Path | None:
    path = run.path.resolve()
    for folder in (path.parent, path.parent.parent):
        if (folder / STUDY_FILE).is_file():
            return folder
    return None


def _of_adapter(path: Path, name: str) -> ScoredModel:
    digest, config = _adapter_digest(path), _adapter_config(path)
    model, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(model, str) or not model:
        raise SearchError(f"{path / ADAPTER_CONFIG} names no base model (base_model_name_or_path); write it there")
    base = Base(model=model, allow_instruct=True)
    try:
        facts = _facts(model, revision if isinstance(revision, str) else None)
    except RecipeError as error:
        raise RecipeError(f"{path / ADAPTER_CONFIG} names its base model, and {error}") from None
    return ScoredModel(name, _pinned(base, facts), facts, path, digest)


def _adapter_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SearchError(f"{path / ADAPTER_CONFIG} cannot be read as JSON ({error}); save the adapter again") from None
    if not isinstance(config, dict):
        raise SearchError(f"{path / ADAPTER_CONFIG} holds no JSON object; save the adapter again")
    return config


def _adapter_digest(path: Path) -> str:
    """SHA-256 over the adapter's configuration and weights. Raises SearchError where there are no safe weights."""
    if not (path / ADAPTER_WEIGHTS).is_file():
        pickled = (path / "adapter_model.bin").exists()
        why = "only pickled weights (adapter_model.bin), which can run code" if pickled else f"no {ADAPTER_WEIGHTS}"
        raise SearchError(f"{path} holds {why}; save the adapter as safetensors (save_pretrained does)")
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        with open(path / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
