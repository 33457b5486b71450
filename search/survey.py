"""What the files and the machine that a study names are like, before anything is started or written.

Imports no torch: models and data are read by train.planning.plan, the card is asked of NVIDIA's driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train.card
from objectives import positions, prompt_file, subset, template
from objectives.score import ObjectiveError, Prompt
from search import checks, space, studyfile
from search.config import StudyConfig
from search.errors import MachineUnfit
from train.base import own_chat_template
from train.card import Card, NoCard
from train.planning import plan
from train.recipe import RecipeError


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
        except (RecipeError, ObjectiveError, ValueError) as error:
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
        if "base" in found:
            _check_lengths(problems, config, found["base"], found["search_half"])
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
    if not facts.has_chat_template and not config.recipe.get("chat_template"):
        raise RecipeError(
            f"{config.base.model} has no chat template, as base models often do; give one as chat_template in [recipe] "
            "(`nightshift init --preset rtx-4070-ti` writes a file with one)"
        )
    _check_template(config, facts)
    return facts


def _check_template(config: StudyConfig, facts: plan.BaseFacts) -> None:
    """Raise RecipeError where the template, the recipe's or the tokenizer's own, would not show a prompt."""
    given = config.recipe.get("chat_template")
    text, folder = _template(config, facts)
    try:
        template.Template(text or "", template.special_tokens(Path(folder or ""))).check()
    except ObjectiveError as error:
        whose = "chat_template in [recipe]" if given else f"the chat template of {config.base.model}"
        raise RecipeError(f"{whose} {error}") from None


def _template(config: StudyConfig, facts: plan.BaseFacts) -> tuple[str | None, Path | None]:
    """The chat template, and the folder with the tokenizer; None for what is not known."""
    folder = Path(facts.folder or config.base.model).expanduser()
    given = config.recipe.get("chat_template")
    if not folder.is_dir():
        return (str(given) if given else None), None
    return str(given) if given else own_chat_template(folder), folder


def _check_probe(config: StudyConfig, sources: Mapping[str, plan.SourceFacts]) -> None:
    names = config.probe.sources or [source.name for source in config.data if source.use == "sft"]
    if names and all(sources[name].rows < 2 for name in names):
        raise RecipeError(
            f"{', '.join(names)}: fewer than two different rows, so that nothing could be held out for the probe; "
            "add rows"
        )


def look_at_prompts(config: StudyConfig, facts: plan.BaseFacts | None) -> int:
    """How many prompts the search half has, 0 where they are not there: for those who only plan.

    `facts` are those of the study's own base model; None where another one is planned for. Raises ConfigError where the
    prompts cannot be asked as the study says.
    """
    if not config.objective.prompts.exists():
        return 0
    problems = Problems(config)
    with problems.noting("objective", "prompts"):
        prompts, _ = read_prompts(config.objective.prompts)
        half = _search_half(config.objective.prompts, prompts)
        with problems.noting("objective", "subset"):
            _check_subset(config.objective.subset, len(prompts), len(half))
        if facts:
            _check_lengths(problems, config, facts, half)
    problems.raise_all()
    return len(half)


def _check_lengths(problems: Problems, config: StudyConfig, facts: plan.BaseFacts, half: tuple[Prompt, ...]) -> None:
    """Note where a prompt and its answer are more than the model's positions: of the search half in the search, of all
    prompts in the final run."""
    text, folder = _template(config, facts)
    keys = {prompt.key for prompt in half}
    for section, length, asked in (
        ("objective", config.objective.max_new_tokens, keys),
        ("final", config.final.max_new_tokens, None),
    ):
        with problems.noting(section, "max_new_tokens"):
            positions.check_file(
                config.objective.prompts, folder, text, facts.context, length, "lower max_new_tokens", asked
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
    """The prompts of a file in IFEval's format, and the SHA-256 of its bytes. Raises ValueError.

    The checkers themselves are tried when the first model is scored; what they need is known here.
    """
    try:
        file = prompt_file.read(path)
        return file.prompts(between=" "), file.sha256
    except ObjectiveError as error:
        raise ValueError(str(error)) from None
