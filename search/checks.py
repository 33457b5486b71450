"""What the sections of a study.toml say together: every recipe that the space can give has to be one that can run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from search.parameters import WEIGHT, Choice, Condition, Parameter, Value, condition, field_of
from search.sections import AUTO, FinalSection, Prior
from search.studyfile import Loc, StudyFile, nearest, spelled
from train.licences import BASE
from train.recipe import Probe, Source

_SEARCH_THAT = "search that too, or leave this out"

Space = Mapping[str, Parameter]
Fixed = Mapping[str, Any]


def check(
    file: StudyFile,
    data: tuple[Source, ...],
    probe: Probe | None,
    fixed: Fixed,
    space: Space,
    priors: tuple[Prior, ...],
    broken: frozenset[str],
) -> None:
    """Note in `file` everything that its valid sections contradict each other in.

    `broken` names the sections and keys that are not valid: what depends on them is not judged.
    """
    _names(file, "data", [source.name for source in data])
    _names(file, "prior", [prior.name for prior in priors])
    if "data" not in broken and not any(name.startswith(WEIGHT) for name in broken):
        _mixture(file, data, space)
    if "data" not in broken:
        _probe(file, data, probe)
    if not broken & {"data", "dpo_share"}:
        _preferences(file, data, fixed, space)
    _conditions(file, fixed, space, broken)
    if not broken & {"batch_size", "micro_batch_size", "examples"}:
        _batches(file, fixed, space)
    _prior_conditions(file, fixed, priors)
    if fixed.get("gradient_checkpointing") == AUTO and "uncheckpointed_layers" in fixed:
        file.add(("recipe", "uncheckpointed_layers"), f'gradient_checkpointing = "{AUTO}" chooses it; leave it out')
    if fixed.get("uncheckpointed_layers") and not fixed.get("gradient_checkpointing"):
        file.add(
            ("recipe", "uncheckpointed_layers"),
            "it changes nothing: no layer is checkpointed; set gradient_checkpointing = true, or leave this out",
        )


def check_licences(file: StudyFile, data: tuple[Source, ...], final: FinalSection | None) -> None:
    """Note licences in [final] of what the study has not, and a data source that has the base model's name there."""
    names = [BASE, *(source.name for source in data)]
    for number, name in enumerate(names[1:]):
        if name == BASE:
            file.add(("data", number, "name"), f"{BASE} is what the base model is called; name the data otherwise")
    for name in final.licences if final else ():
        if name not in names:
            file.add(("final", "licences", name), f"no data source has this name; {nearest(name, names)}")


def values(name: str, fixed: Fixed, space: Space) -> tuple[Value, ...]:
    """The values at the ends of what `name` can be in this study: searched, fixed, or Recipe's default."""
    if name in space:
        return space[name].ends
    return (fixed[name],) if name in fixed else (field_of(name).default,)


def _place(name: str, space: Space) -> Loc:
    return ("space" if name in space else "recipe", name)


def _names(file: StudyFile, section: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            second = [n for n, entry in enumerate(file.table[section]) if entry.get("name") == name][1]
            file.add((section, second, "name"), f"{count} entries have this name; give each its own")


def _mixture(file: StudyFile, data: tuple[Source, ...], space: Space) -> None:
    """Weights are shares: they need something to be a share of, and cannot all be 0."""
    for use in ("sft", "preference"):
        sources = [source for source in data if source.use == use]
        if sources and not any(_low_weight(source, space) > 0 for source in sources):
            searched = [WEIGHT + source.name for source in sources if WEIGHT + source.name in space]
            file.add(
                ("space", searched[0]) if searched else ("data",),
                f"the weights of all {use} data can be 0 together; give one source a weight or a low above 0",
            )
        if len(sources) == 1 and WEIGHT + sources[0].name in space:
            name = WEIGHT + sources[0].name
            file.add(("space", name), f"it changes nothing: {sources[0].name} is the only {use} data; leave it out")
    if data and not any(source.use == "sft" for source in data):
        file.add(("data",), 'no data set has use = "sft"; training begins with prompts and responses')


def _low_weight(source: Source, space: Space) -> float:
    parameter = space.get(WEIGHT + source.name)
    return min(map(float, parameter.ends)) if parameter else source.weight


def _probe(file: StudyFile, data: tuple[Source, ...], probe: Probe | None) -> None:
    names = [source.name for source in data if source.use == "sft"]
    for name in probe.sources if probe else ():
        if name not in names:
            file.add(("probe", "sources"), f'{name} is no data set with use = "sft"; {nearest(name, names)}')


def _preferences(file: StudyFile, data: tuple[Source, ...], fixed: Fixed, space: Space) -> None:
    """DPO needs preference pairs."""
    has_dpo = max(map(float, values("dpo_share", fixed, space))) > 0
    if has_dpo and not any(source.use == "preference" for source in data):
        file.add(
            _place("dpo_share", space),
            'it is above 0, but no [[data]] has use = "preference"; add one, or leave dpo_share out',
        )


def _conditions(file: StudyFile, fixed: Fixed, space: Space, broken: frozenset[str]) -> None:
    """What matters only where something else has a certain value needs that value to be possible."""
    for name in space:
        needed = condition(name)
        if needed is None or needed.on in broken:
            continue
        possible = values(needed.on, fixed, space)
        if not any(map(needed.holds, possible)):
            file.add(("space", name), f"it changes nothing, since {_not(needed, possible[0])}; {_SEARCH_THAT}")


def _not(needed: Condition, value: Value | None) -> str:
    """Why a condition does not hold."""
    return f"{needed.on} is {0 if needed.equal is None else spelled(value)}"


def _batches(file: StudyFile, fixed: Fixed, space: Space) -> None:
    micro, examples = fixed.get("micro_batch_size", 1), fixed.get("examples")
    sizes = _batch_sizes(fixed, space)
    at = _place("batch_size", space)
    if wrong := [size for size in sizes if size % micro]:
        file.add(at, f"{wrong[0]} is no multiple of micro_batch_size, which is {micro}")
    if examples is not None and max(sizes) > examples:
        file.add(at, f"a batch of {max(sizes)} is more than all {examples} examples of a trial")


def _batch_sizes(fixed: Fixed, space: Space) -> Iterable[int]:
    parameter = space.get("batch_size")
    if parameter is None or isinstance(parameter, Choice):
        return [int(value) for value in values("batch_size", fixed, space)]
    return range(int(parameter.ends[0]), int(parameter.ends[1]) + 1, int(getattr(parameter, "step", None) or 1))


def _prior_conditions(file: StudyFile, fixed: Fixed, priors: tuple[Prior, ...]) -> None:
    for number, prior in enumerate(priors):
        for name in prior.params:
            needed = condition(name)
            value = prior.params.get(needed.on, fixed.get(needed.on)) if needed else None
            if needed and value is not None and not needed.holds(value):
                file.add(("prior", number, name), f"it changes nothing, since {_not(needed, value)} here; leave it out")
