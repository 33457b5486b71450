"""What the files and the machine that a study names are like, before anything is started or written.

Imports no torch: models and data are read by train.planning.plan, the card is asked of NVIDIA's driver.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import train.card
from objectives import subset
from objectives.prompt_errors import grouped
from objectives.score import INSTRUCTIONS, ObjectiveError, Prompt
from search import checks, space, studyfile
from search.config import StudyConfig
from search.errors import MachineUnfit
from search.studyfile import nearest
from train.card import Card, NoCard
from train.planning import plan
from train.recipe import RecipeError

PROMPT_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
MOST_PROBLEMS = 5  # of a prompts file, told at once


@dataclass(frozen=True)
class Survey:
    """Facts about everything that a study is made of. `card` is None where trials run on the CPU."""

    base: plan.BaseFacts
    sources: Mapping[str, plan.SourceFacts]
    search_half: tuple[Prompt, ...]  # of the prompts: all that trials are ever asked
    prompts_sha256: str  # of the file with both halves
    card: Card | None


class Problems:
    """What is wrong with a study's files, each with the line of study.toml that names them."""

    def __init__(self, config: StudyConfig) -> None:
        self._file = studyfile.parse(config.path, config.text)
        self._unfit: MachineUnfit | None = None
        self._others = 0

    @contextmanager
    def noting(self, *loc: str | int) -> Iterator[None]:
        """Note what the block raises for a user, instead of raising it."""
        try:
            yield
        except (RecipeError, ValueError) as error:
            self._others += 1
            self._file.add(loc, str(error))
        except MachineUnfit as error:
            self._unfit = error
            self._file.add(loc, str(error))

    def raise_all(self) -> None:
        """Raise ConfigError with all of them, or MachineUnfit where the machine alone is at fault."""
        if self._unfit and not self._others:
            raise self._unfit
        self._file.raise_problems()


def survey(config: StudyConfig) -> Survey:
    """Look at the base model, the data, the prompts and the card, and write nothing.

    Raises ConfigError with the problems of all of them at once, or MachineUnfit if no card can be used.
    """
    problems = Problems(config)
    found: dict[str, Any] = {"card": None}
    with problems.noting("base", "model"):
        found["base"] = _base(config)
    if "base" in found:
        with problems.noting("space" if "targets" in config.space else "recipe", "targets"):
            targets: Any
            for targets in checks.values("targets", config.recipe, config.space):
                plan.targeted(found["base"].linears, targets)
    with problems.noting("objective", "prompts"):
        prompts, found["prompts_sha256"] = read_prompts(config.objective.prompts)
        found["search_half"] = _search_half(config.objective.prompts, prompts)
    found["sources"] = {}
    for number, source in enumerate(space.sources(config) if "search_half" in found else config.data):
        with problems.noting("data", number, "hub" if source.hub else "path"):
            found["sources"] |= plan.inspect_sources([source])
    if len(found["sources"]) == len(config.data):
        with problems.noting("data"):
            _check_probe(config, found["sources"])
    if "search_half" in found:
        with problems.noting("objective", "subset"):
            _check_subset(config.objective.subset, len(prompts), len(found["search_half"]))
    if config.machine.device == "cuda":
        with problems.noting("machine", "device"):
            found["card"] = card()
    problems.raise_all()
    return Survey(**found)


def card() -> Card:
    """The first card that NVIDIA's driver knows. Raises MachineUnfit where there is no driver or no card."""
    try:
        return train.card.card()
    except NoCard as reason:
        raise MachineUnfit(
            f'it is "cuda", but {reason}. Mend the driver (`nvidia-smi` has to list a card), '
            'or set device = "cpu", which suits small models only.'
        ) from None


def _base(config: StudyConfig) -> plan.BaseFacts:
    facts = plan.inspect_base(config.base.model, config.base.revision)
    plan.check_is_base(config.base, facts)
    if template := config.recipe.get("chat_template"):
        _check_template(str(template))
    if not facts.has_chat_template and not config.recipe.get("chat_template"):
        raise RecipeError(
            f"{config.base.model} has no chat template, as base models often do; give one as chat_template in [recipe] "
            "(`nightshift init --preset rtx-4070-ti` writes a file with one)"
        )
    return facts


def _check_template(template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError  # as transformers renders them

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        raise RecipeError(f"chat_template in [recipe] is no Jinja template: line {error.lineno}: {error}") from None
    if "messages" not in template:
        raise RecipeError("chat_template in [recipe] never mentions messages, so it could show no chat; correct it")


def _check_probe(config: StudyConfig, sources: Mapping[str, plan.SourceFacts]) -> None:
    names = config.probe.sources or [source.name for source in config.data if source.use == "sft"]
    if names and all(sources[name].rows < 2 for name in names):
        raise RecipeError(
            f"{', '.join(names)}: fewer than two different rows, so that nothing could be held out for the probe; "
            "add rows"
        )


def _check_subset(asked: int, prompts: int, half: int) -> None:
    if asked > half:
        raise ValueError(
            f"it is {asked}; the file holds {prompts} prompts and the search sees one half of them, "
            f"so it must be from 1 to {half}"
        )


def _search_half(path: Path, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """The half that the search sees, in a fixed order."""
    try:
        return subset.halves(prompts)[0]
    except ObjectiveError as error:
        raise ValueError(f"{path}: {error}") from None


def read_prompts(path: Path) -> tuple[tuple[Prompt, ...], str]:
    """The prompts of a file in IFEval's format, and the SHA-256 of its bytes.

    Raises ValueError. That the checkers take the kwargs is seen when the base model is scored.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give the path of a JSONL file of IFEval prompts") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    read = [(number, *_prompt(line)) for number, line in lines]
    prompts = {number: prompt for number, prompt, _ in read if prompt is not None}
    wrong = [(f"line {number}", problem) for number, _, problems in read for problem in problems] or _repeated(prompts)
    if wrong:
        raise ValueError(f"{path} is no file of IFEval prompts: " + "; ".join(grouped(wrong, MOST_PROBLEMS)))
    if not lines:
        raise ValueError(f"{path} is empty; it needs one JSON object a line with {', '.join(PROMPT_FIELDS)}")
    return tuple(prompts.values()), hashlib.sha256(data).hexdigest()


def _prompt(line: str) -> tuple[Prompt | None, list[str]]:
    """The prompt of one line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, ["not JSON"]
    if not isinstance(row, dict):
        return None, ["no JSON object"]
    if missing := [field for field in PROMPT_FIELDS if field not in row]:
        return None, [f"lacks {', '.join(missing)}; it has {', '.join(sorted(row)) or 'nothing'}"]
    try:
        prompt = Prompt.model_validate_json(json.dumps({field: row[field] for field in PROMPT_FIELDS}))
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"{'.'.join(map(str, first['loc']))}: {first['msg']}"]
    unknown = sorted(set(prompt.instruction_id_list) - INSTRUCTIONS)
    if unknown:
        known = sorted(INSTRUCTIONS)
        return None, [f"{name} is no instruction type of IFEval; {nearest(name, known)}" for name in unknown]
    if len(prompt.kwargs) != len(prompt.instruction_id_list):
        return None, [f"{len(prompt.kwargs)} kwargs for {len(prompt.instruction_id_list)} instructions"]
    return prompt, []


def _repeated(prompts: Mapping[int, Prompt]) -> list[tuple[str, str]]:
    """Verdicts are kept by key, so a key that two lines have is an error: (place, problem) for each."""
    first: dict[int, int] = {}
    return [
        (
            f"line {number}",
            f"key {prompt.key} is already that of line {first[prompt.key]}; give every prompt its own key",
        )
        for number, prompt in prompts.items()
        if first.setdefault(prompt.key, number) != number
    ]
