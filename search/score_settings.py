"""Everything that decides a score, settled and checked before a process is started for it. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from objectives import positions, subset, template
from objectives.score import ObjectiveError, Prompt
from search import config, freeze_file
from search.errors import FreezeDiffers, MachineUnfit, SearchError
from search.home import STUDY_FILE
from search.score_engine import BATCH, OWN, Engine
from search.score_model import FINAL, ScoredModel
from search.survey import card, read_prompts
from train.base import own_chat_template
from train.environment import versions
from train.rundir import Json

Device = Literal["cpu", "cuda"]
Part = Literal["search", "sealed", "all"]
HALVES = ("search", "sealed")
PUBLISHED = "ifeval_input_data.jsonl"  # what the hub's data set google/IFEval calls its file
GET_PROMPTS = f"hf download google/IFEval {PUBLISHED} --repo-type dataset --local-dir ."
LENGTH = 1280  # new tokens, where neither a user nor a study says how many
LENGTHS = ("max_new_tokens", "batch_size")
EXAMPLE_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Prompts:
    """The file with the prompts, and which of its halves are asked."""

    path: Path
    sha256: str
    halves: Mapping[str, tuple[Prompt, ...]]

    @property
    def count(self) -> int:
        """How many prompts are asked."""
        return sum(map(len, self.halves.values()))


@dataclass(frozen=True)
class Machine:
    """Where a model is loaded and how: in NF4, or (`quantize` false) in float32 on the CPU, in bfloat16 on a card; and
    what has it answer."""

    device: Device
    name: str
    threads: int
    quantize: bool
    engine: Engine = OWN

    @property
    def facts(self) -> Json:
        """What of it decides the last bits of a result."""
        threads = {"threads": self.threads} if self.device == "cpu" else {}
        weights = "nf4" if self.quantize else "full"
        return {"device": self.name, **threads, "weights": weights, "engine": self.engine.name}


def machine(device: Device | None, quantize: bool, engine: Engine = OWN) -> Machine:
    """This machine: its card where it has one and nothing else is asked for; as many threads as OMP_NUM_THREADS says,
    else one for each core that may be used, for every model alike. Raises MachineUnfit."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))
    if device == "cpu":
        return Machine("cpu", "cpu", threads, quantize, engine)
    try:
        return Machine("cuda", card().name, threads, quantize, engine)
    except MachineUnfit:
        if device is None:
            return Machine("cpu", "cpu", threads, quantize, engine)
        raise MachineUnfit(
            "--device cuda: there is no NVIDIA card here that can be used (`nvidia-smi` has to list one); leave "
            "--device out to use the CPU"
        ) from None


def chat_template(model: ScoredModel, given: Path | None) -> str | None:
    """The template given, else the recipe's; None stands for the tokenizer's own. Raises SearchError without any, or
    where it would show no prompt."""
    text, whose = _chosen_template(model, given)
    folder = Path(model.facts.folder or "")
    own = None if text else own_chat_template(folder)
    if not text and not own:
        raise SearchError(
            f"{model.base.model} has no chat template, as base models often do: put one into a file, the one that it "
            "was or will be trained with, and add --chat-template FILE. A plain one, in Jinja:\n\n"
            f"    {EXAMPLE_TEMPLATE}\n"
        )
    try:
        template.Template(text or own or "", template.special_tokens(folder)).check()
    except ObjectiveError as error:
        raise SearchError(f"{whose} {error}") from None
    return text


def _chosen_template(model: ScoredModel, given: Path | None) -> tuple[str | None, str]:
    """The template given, or the recipe's; and where the one that is used comes from."""
    if given is None:
        recipes = model.recipe.chat_template if model.recipe else None
        return recipes, f"the chat template of {model.name if recipes else model.base.model}"
    try:
        return given.read_text(encoding="utf-8"), f"--chat-template {given}"
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SearchError(f"--chat-template {given} cannot be read ({why}); give a file with Jinja in it") from None


def refuse_ifbench(data: str) -> NoReturn:
    """Raise SearchError: IFBench's prompts can be read, but no package that can be used judges the answers to them."""
    raise SearchError(
        f"--ifbench {data}: nothing was generated, as nothing could judge it: IFBench's 58 checkers are in Ai2's "
        "ifbench, which pip does not find, and in evalscope and lighteval, which bring whole frameworks "
        "(docs/checking.md); leave --ifbench out"
    )


def is_trial(model: ScoredModel) -> bool:
    """Whether it is a trial of a search."""
    return model.study is not None and model.run is not None and model.run.path.resolve().name != FINAL


def part_of(model: ScoredModel, asked: Part | None) -> Part:
    """Which prompts are asked: a trial of a search is asked the search half unless something else is said, so that the
    other half stays unseen; any other model all of them."""
    return asked or ("search" if is_trial(model) else "all")


def opened(model: ScoredModel, part: Part) -> str:
    """What a user should know who asks a trial the sealed half; empty where nobody does."""
    if part == "search" or not is_trial(model):
        return ""
    return (
        f"warning: {model.name} is a trial, and the sealed half is for the final run: whoever picks a trial by it has "
        "no prompts left that had no part in the choice (docs/scoring.md)"
    )


def prompts(model: ScoredModel, part: Part, file: Path | None) -> Prompts:
    """The prompts of `part`, of the file given or of the one that the model's study or frozen recipe names.

    Raises SearchError or ObjectiveError where it is not known, not there, not what was frozen or no file of prompts.
    """
    path, digest = (file, None) if file else _prompts_of(model)
    try:
        read, sha256 = read_prompts(path)
    except ValueError as error:
        raise ObjectiveError(str(error)) from None
    if digest not in (None, sha256):
        raise ObjectiveError(
            f"{path} is not the file that was frozen with {model.name} (its sha256 is {sha256}, not {digest}): put "
            f"that one back, or say that this one is meant with --file {path}"
        )
    return Prompts(path, sha256, _parts(path, read, part))


def _parts(path: Path, read: tuple[Prompt, ...], part: Part) -> dict[str, tuple[Prompt, ...]]:
    """The halves that are asked; or all prompts as they are, where they are meant and cannot be halved."""
    try:
        halves = dict(zip(HALVES, subset.halves(read), strict=True))
    except ObjectiveError as error:
        if part == "all":
            return {"all": read}
        raise ObjectiveError(f"{path}: {error}, or ask all of them with --prompts all") from None
    return {half: halves[half] for half in HALVES if part in (half, "all")}


@dataclass(frozen=True)
class Known:
    """How the study or the frozen file asks a run. `sha256` is None where the prompts are not pinned."""

    path: Path
    sha256: str | None
    lengths: Mapping[str, int]
    source: Path


def known(model: ScoredModel) -> Known | None:
    """How a run of a study is asked, or a final run; None for a model that belongs to none.

    Raises SearchError where the frozen file was edited, ConfigError where the study cannot be read.
    """
    if model.run is not None and model.run.path.resolve().name == FINAL:
        frozen = model.run.path.resolve().with_name(freeze_file.FILE)
        if frozen.is_file():
            return _frozen(frozen)
    if model.study is None:
        return None
    objective = config.load(model.study / STUDY_FILE).objective
    lengths = {name: getattr(objective, name) for name in LENGTHS}
    return Known(objective.prompts, None, lengths, model.study / STUDY_FILE)


def _frozen(path: Path) -> Known:
    try:
        objective = freeze_file.constant(path)["objective"]
    except FreezeDiffers:
        raise SearchError(
            f"{path} was edited, so that its prompts and the length of answers are not known: add --file PATH, "
            "--max-new-tokens N and --batch-size N"
        ) from None
    lengths = {name: objective[name] for name in LENGTHS}
    return Known(Path(path.parent, objective["prompts"]), objective["prompts_sha256"], lengths, path)


def _prompts_of(model: ScoredModel) -> tuple[Path, str | None]:
    """The file of prompts where no one says which, and the digest that it has to have."""
    if (found := known(model)) is not None:
        return found.path, found.sha256
    if Path(PUBLISHED).is_file():
        return Path(PUBLISHED), None
    raise SearchError(
        f"which prompts? There is no {PUBLISHED} here, and {model.name} belongs to no study that names a file: give "
        f"one with --file PATH, or get IFEval's 541 (Apache-2.0) once, with a network:\n\n    {GET_PROMPTS}\n"
    )


def lengths(
    model: ScoredModel, max_new_tokens: int | None, batch_size: int | None, engine: str
) -> tuple[dict[str, int], str]:
    """The most new tokens and the prompts at once: as asked, else as the study or the frozen file has them, else
    LENGTH and what the engine takes; and where they are from, in words."""
    asked = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    chosen = {"max_new_tokens": LENGTH, "batch_size": BATCH[engine]}
    source = ""
    if None in asked.values() and (found := known(model)) is not None:
        own = found.lengths if engine == OWN.name else {"max_new_tokens": found.lengths["max_new_tokens"]}
        chosen |= own
        names = [name for name in own if asked[name] is None]
        source = f"{' and '.join(f'{name} {own[name]}' for name in names)} as in {found.source}" if names else ""
    return {name: chosen[name] if value is None else value for name, value in asked.items()}, source


def check_lengths(model: ScoredModel, asked: Prompts, template: str | None, max_new_tokens: int) -> None:
    """Raise ObjectiveError where a prompt that is asked and its answer are more than the model's positions."""
    folder = Path(model.facts.folder or "")
    keys = {prompt.key for half in asked.halves.values() for prompt in half}
    shown = template or own_chat_template(folder)
    positions.check_file(asked.path, folder, shown, model.facts.context, max_new_tokens, "lower --max-new-tokens", keys)


def out_folder(model: ScoredModel, given: Path | None) -> Path:
    """Where a score is kept: as asked, in the RunDir, or under ./scores by the model's name."""
    if given is not None:
        return given
    if model.run is not None:
        return model.run.path / "scores"
    return Path("scores") / (Path(model.name).resolve() if Path(model.name).exists() else Path(model.name)).name


def texts(prompts: Prompts) -> dict[str, str]:
    """The digest of each prompt's text, by key: two scores are compared only where these agree."""
    return {str(p.key): text_digest(p.prompt) for half in prompts.halves.values() for p in half}


def text_digest(text: str) -> str:
    """A short digest of one prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings(
    model: ScoredModel, machine: Machine, prompts: Prompts, template: str | None, **lengths: int
) -> dict[str, Any]:
    """Everything that decides the answers, in the order in which it is shown; equal settings give equal answers."""
    return {
        **model.digests,
        "prompts_file_sha256": prompts.sha256,
        "chat_template": template,
        **lengths,
        **machine.facts,
        "versions": versions(),
    }
