"""The tables that `nightshift plan` prints, and the same as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.plan_study import GIB, Planned, StudyPlan
from search.progress import duration

PHASES = {  # of a step, in words
    "forward": "forward",
    "loss": "loss",
    "head": "backward, head",
    "top": "backward, last layer",
    "lowest whole": "backward, lowest un-checkpointed layer",
    "highest checkpointed": "backward, highest checkpointed layer",
    "bottom": "backward, first layer",
    "step": "optimizer's update",
}
STATES = ("adapters", "gradients", "optimizer")  # shown as one: what the adapters' training keeps


def render(study: StudyPlan, scored_s: Sequence[float] = ()) -> RenderableType:
    """Everything, for a terminal; `scored_s` are the seconds that scores took so far."""
    parts: list[RenderableType] = [Text(_head(study), style="bold"), Text(_context(study))]
    parts += ["", _recipes(study), "", _memory(study)]
    if study.corners:
        parts += ["", _corners(study)]
    if study.machine.limit_bytes:
        parts += ["", _room(study)]
    parts += [Text("\n".join(["", *lines])) for lines in (excluded(study), costs(study)) if lines]
    shown = "\n".join([*calculation(study), *scoring(study, scored_s)])
    parts += ["", _parameters(study.named[-1]), "", Text(shown), ""]
    return Group(*parts)


def as_json(study: StudyPlan, scored_s: Sequence[float] = ()) -> dict[str, Any]:
    """The same, complete, in bytes and seconds."""
    machine = study.machine
    return {
        "base": study.base,
        "parameters": study.facts.parameters,
        "device": machine.device,
        "card": machine.card,
        "limit_bytes": machine.limit_bytes,
        "context_bytes": machine.context_bytes,
        "context_measured": machine.context_measured,
        "recipes": [_one(planned) for planned in study.named],
        "corners": [_one(planned) for planned in study.corners],
        "generation": {"peak_bytes": study.generation_bytes, "answers_at_once": study.asked.at_once},
        "scoring": {
            "prompts": study.asked.prompts,
            "seconds_at_most": study.score_seconds.model_dump(mode="json") if study.score_seconds else None,
            "measured_seconds": list(scored_s),
        },
        "calculation": [*calculation(study), *scoring(study, scored_s)],
        "ruled_out": [asdict(each) for each in study.ruled_out],
        "trials": asdict(study.trials) if study.trials else None,
    }


def _one(planned: Planned) -> dict[str, Any]:
    recipe = planned.recipe
    chosen = (
        *("targets", "rank", "max_length", "batch_size", "micro_batch_size", "optimizer", "dropout", "dpo_share"),
        *("gradient_checkpointing", "uncheckpointed_layers"),
    )
    return {
        "name": planned.name,
        "recipe": {name: getattr(recipe, name) for name in chosen},
        "plan": planned.plan.model_dump(mode="json"),
        "seconds": planned.seconds.model_dump(mode="json") if planned.seconds else None,
        "fits": planned.fits,
        "largest": planned.room._asdict() if planned.room else None,
    }


def _head(study: StudyPlan) -> str:
    limit = f"{study.machine.limit_bytes / GIB:.2f} GiB" if study.machine.limit_bytes else "no limit"
    return f"{study.base}: {study.facts.parameters / 1e9:.2f} B parameters in NF4, on {study.machine.card}, {limit}"


def _context(study: StudyPlan) -> str:
    size = f"{study.machine.context_bytes / 2**20:.0f} MiB"
    source = "measured on this card" if study.machine.context_measured else "assumed; nothing was measured here"
    times = "Times are estimates, of a supervised step."
    return f"Memory in GiB at the peak of a step; the device's own {size} are {source}. {times}"


def _recipes(study: StudyPlan) -> Table:
    table = _table(f"The recipe{'' if study.is_one else 's'}; kept: layers that are not checkpointed")
    for head in ("recipe", "targets", "rank", "length", "kept", "trainable", "s/step", "tok/s"):
        table.add_column(head, justify="left" if head in ("recipe", "targets") else "right", no_wrap=True)
    for each in study.named:
        targets, rank, length, trainable = _what(each)
        kept = f"{_whole(each, study)} of {study.facts.layers}"
        cells = (each.name, targets, rank, length, kept, trainable, *_times(each))
        table.add_row(*cells, style="" if each.fits else "red")
    return table


def _whole(planned: Planned, study: StudyPlan) -> int:
    """How many layers keep their activations, instead of computing them again."""
    recipe, layers = planned.recipe, study.facts.layers
    return min(recipe.uncheckpointed_layers, layers) if recipe.gradient_checkpointing else layers


def _memory(study: StudyPlan) -> Table:
    whose = "Its" if study.is_one else "Their"
    table = _table(f"{whose} memory; training: adapters, gradients and the optimizer's states")
    for head in ("recipe", "weights", "training", "activ.", "work", "loss", "context", "PEAK", "fits"):
        table.add_column(head, justify="left" if head == "recipe" else "right", no_wrap=True)
    for each in study.named:
        memory = each.plan.memory
        states = sum(memory[name] for name in STATES if name in memory)
        sizes = (memory["weights"], states, memory["activations"], memory["workspace"], memory["loss"])
        cells = [_gib(size) for size in (*sizes, memory["context"], each.plan.peak_bytes)]
        table.add_row(each.name, *cells, _fits(each), style="" if each.fits else "red")
    return table


def _corners(study: StudyPlan) -> Table:
    table = _table("Corners of the space, all else at its dearest")
    for head in ("targets", "rank", "length", "trainable", "PEAK", "in", "s/step", "tok/s", "fits"):
        table.add_column(head, justify="left" if head in ("targets", "in") else "right", no_wrap=True)
    for each in study.corners:
        peak = _gib(each.plan.peak_bytes)
        table.add_row(
            *_what(each), peak, each.plan.peak_stage, *_times(each), _fits(each), style="" if each.fits else "red"
        )
    return table


def _room(study: StudyPlan) -> Table:
    table = _table('The largest that fits, each with the rest of its recipe as it is ("auto" leaves 5 % free)')
    for head in ("recipe", "micro_batch_size", "or max_length at 1", "or layers kept"):
        table.add_column(head, justify="left" if head == "recipe" else "right", no_wrap=True)
    for each in study.named:
        if each.room:
            layers = f"{each.room.uncheckpointed_layers} of {study.facts.layers}"
            whole = layers if each.recipe.gradient_checkpointing else "all are"
            table.add_row(each.name, _or_none(each.room.micro_batch_size), _or_none(each.room.max_length), whole)
    return table


def excluded(study: StudyPlan) -> list[str]:
    """What of the space never fits, and why."""
    limit = study.machine.limit_bytes
    if limit is None or study.is_one:
        return []
    if not study.ruled_out:
        return ["No value of the space, nor any two of them, are ruled out by the memory."]
    lines = (f"  {each.what} needs {_gib(each.needs_bytes)} GiB of {_gib(limit)}" for each in study.ruled_out)
    return ["Ruled out by the memory, whatever the rest of the recipe is:", *lines]


def costs(study: StudyPlan) -> list[str]:
    """What a trial costs and how many fit."""
    made = study.trials
    if made is None:
        return []
    how = f"learned from {made.learned_from} of this study" if made.learned_from else "estimated; no trial has run yet"
    lines = [f"A trial, from loaded model to score ({how}):"]
    for name, each in (("cheapest", made.cheapest), ("typical", made.typical), ("dearest", made.dearest)):
        parts = ", ".join(f"{cause} {duration(seconds)}" for cause, seconds in _largest(each.by_cause))
        lines.append(f"  {name:<12}{duration(each.seconds):>9}  {parts}")
    if made.fitting < made.sampled:
        lines.append(f"  {made.fitting} of {made.sampled} recipes drawn from the space fit the memory")
    if made.kept_s:
        kept = duration(made.kept_s)
        lines.append(f"  the final race of the best trials keeps back {kept} of the budget (finalists in [study])")
    if not made.race_known:
        lines.append("  what the final race will take is not known, as the prompts are not there: it is not taken off")
    lines.append(f"  the budget fits {made.in_budget} of them to their ends, more where some stop early")
    if made.tonight is not None and made.tonight_s is not None:
        lines.append(f"  tonight fits {made.tonight} of them: it ends in {duration(made.tonight_s)}")
    return lines + ([f"  {made.refusal}"] if made.refusal else [])


def _largest(by_cause: Mapping[str, float]) -> list[tuple[str, float]]:
    """The causes that matter, the largest first."""
    return sorted((each for each in by_cause.items() if each[1] >= 0.5), key=lambda each: -each[1])[:3]


def _parameters(planned: Planned) -> Table:
    table = _table(f"Trainable parameters, layer by layer: {planned.name}")
    for head in ("module", "inputs", "outputs", "rank", "each", "layers", "together"):
        table.add_column(head, justify="left" if head == "module" else "right")
    for layer in planned.plan.layers:
        numbers = (layer.inputs, layer.outputs, layer.rank, layer.parameters, layer.count)
        table.add_row(layer.module, *(f"{n:,}" for n in numbers), f"{layer.parameters * layer.count:,}")
    table.add_row("all", "", "", "", "", "", f"{planned.plan.trainable_parameters:,}", style="bold")
    return table


def calculation(study: StudyPlan) -> Iterator[str]:
    """How the dearest recipe's peak comes about, line by line."""
    each, facts = study.named[-1], study.facts
    recipe, made = each.recipe, each.plan
    dpo = made.peak_stage == "dpo"
    width = 2 if study.machine.device == "cuda" else 4
    rows = recipe.micro_batch_size * (2 if dpo else 1)
    length = min(recipe.max_length, facts.context)
    other = facts.parameters - facts.linear_parameters
    sides = sum((layer.inputs + layer.outputs) * layer.count for layer in made.layers)
    whole = _whole(each, study)
    lines = {
        "trainable": f"rank {recipe.rank} x {sides:,} inputs and outputs = {made.trainable_parameters:,}",
        "weights": f"{facts.linear_parameters:,} x (1/2 + 1/64 + 1/4096) in NF4 + {other:,} x {width}",
        "adapters": f"{made.trainable_parameters:,} x 4" + (", twice for DPO's reference" if dpo else ""),
        "gradients": f"{made.trainable_parameters:,} x 4, where they are there at the peak",
        "optimizer": f"{made.trainable_parameters:,} x {8 if recipe.optimizer == 'adamw' else '2.03'}",
        "activations": f"{rows} x {length:,} tokens: {facts.layers - whole} layers keep their input of "
        f"{width} x {facts.hidden:,} a token, {whole} all they need",
        "workspace": "one layer's temporaries, and what checkpointing computes again for it",
        "loss": "the head in tiles of 4,096 x 32,768",
        "context": "CUDA, its libraries and workspaces" if width == 2 else "interpreter and libraries",
    }
    which = "recipe" if study.is_one else "dearest recipe"
    yield f"The {which}, in its {made.peak_stage} stage ({PHASES[made.peak_phase]}), in GiB:"
    yield f"  {'trainable':<12}{'':>9}  {lines.pop('trainable')}"
    for name, how in lines.items():
        yield f"  {name:<12}{made.memory.get(name, 0) / GIB:>9.3f}  {how}"  # type: ignore[call-overload]
    yield f"  {'peak':<12}{made.peak_bytes / GIB:>9.3f}  GiB, the sum"


def scoring(study: StudyPlan, scored_s: Sequence[float]) -> Iterator[str]:
    """What scoring takes, in memory and in time."""
    asked, limit = study.asked, study.machine.limit_bytes
    much = ""
    if limit and study.generation_bytes > limit:
        much = f", which is more than {limit / GIB:.2f}: lower batch_size in [objective]"
    answers = f"{asked.at_once} prompts of {asked.prompt_tokens} tokens at once, with keys and values kept{much}"
    yield f"  {'answering':<12}{study.generation_bytes / GIB:>9.3f}  GiB while it is scored: {answers}"
    if scored_s:
        took = f"the median of {len(scored_s)} scores of this study"
        yield f"  {'scoring':<12}{statistics.median(scored_s):>9.0f}  s, {took}"
    elif made := study.score_seconds:
        most = f"{asked.prompts} answers of {asked.new_tokens} tokens"
        how = f"{made.reading:.0f} reading, {made.writing:.0f} writing at {made.a_token:.3f} a token of a batch"
        yield f"  {'scoring':<12}{made.total:>9.0f}  s at most, {most}: {how}; estimated, not measured yet"
    else:
        yield f"  {'scoring':<12}{'':>9}  not measured yet"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _what(planned: Planned) -> tuple[str, ...]:
    targets, recipe = planned.recipe.targets, planned.recipe
    named = targets if isinstance(targets, str) else ",".join(targets)
    return named, str(recipe.rank), str(recipe.max_length), _count(planned.plan.trainable_parameters)


def _count(number: int) -> str:
    """In millions, where it is that large; the table of layers has it whole."""
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,}"


def _times(planned: Planned) -> tuple[str, str]:
    return (f"{planned.seconds.step:.1f}", f"{planned.seconds.tokens_per_second:,.0f}") if planned.seconds else ("", "")


def _fits(planned: Planned) -> str:
    return "yes" if planned.fits else "NO"


def _or_none(number: int) -> str:
    return f"{number:,}" if number else "none"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
