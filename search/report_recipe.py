"""The report's sections on the training scheme: the method, each value and where it came from; and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from objectives.score import Measure
from search import report_text as text
from search.freeze_origins import origins
from search.report_pages import Block, Code, Heading, Missing, Mono, Paragraph, Table
from search.report_records import Records
from train import decisions
from train.recipe import Recipe
from train.rundir import Json


def scheme(records: Records) -> Iterator[Block]:
    """The method, the frozen recipe with the origin of each value, and how the values were found."""
    yield records.answers.ask("training_scheme")
    if records.study.best is None or records.best is None:
        yield Missing("No trial is complete yet, so there is no recipe to show.", text.start(records))
        return
    if records.frozen is None:
        yield text.missing_final(records)
        yield from _method(records.best.recipe)
        yield from _searched(records, records.best.recipe)
    else:
        yield from text.frozen_anew(records)
        yield from _method(_frozen_recipe(records) or records.best.recipe, _made(records))
        yield from _frozen(records.frozen)
    yield Heading("How the values were found")
    yield from _found(records)


def _frozen_recipe(records: Records) -> Recipe | None:
    try:
        return Recipe.model_validate_json(json.dumps((records.frozen or {})["recipe"]))
    except ValueError:
        return None  # of another version


def _made(records: Records) -> str:
    """That the steps of a frozen recipe are planned, and how many the final run made."""
    final, told = records.final, ", as planned by the freeze; the final run decides on the way where it ends"
    if final is None or records.frozen_anew or not final.steps:
        return told
    made = max(final.steps)
    return f"{told}, and made {made:,} steps, {made * final.recipe.batch_size:,} examples"


def _method(recipe: Recipe, made: str = "") -> Iterator[Block]:
    """What is done with the values, in words; `made` says more of the number of steps."""
    variant = "DoRA" if recipe.use_dora else "LoRA"
    scaled = "alpha / √rank" if recipe.use_rslora else "alpha / rank"
    stages = "one stage, supervised fine-tuning (SFT) on answers"
    if recipe.dpo_steps:
        stages = (
            f"two stages, supervised fine-tuning (SFT) for {recipe.sft_steps:,} steps, then preference optimization "
            f"(DPO, {recipe.dpo_loss} loss) for {recipe.dpo_steps:,}"
        )
    yield Paragraph(
        f"QLoRA: the base model is held in 4 bits (NF4, double quantization) and stays as it is; {variant} adapters in "
        f"float32 are learned beside its linear layers, scaled by {scaled}. Training has {stages}: "
        f"{recipe.steps:,} optimizer steps of {recipe.batch_size} examples, {recipe.examples:,} in all{made}. "
        f"The learning rate rises over the first {recipe.warmup:.1%} of a stage and then follows the schedule "
        f"{recipe.schedule}; schedules are fractions of the horizon."
    )


def _searched(records: Records, recipe: Recipe) -> Iterator[Block]:
    best = records.study.best
    assert best is not None
    record = next((r for r in records.records if r.number == best.number), None)
    values = origins(records.config, record) if records.config and record else {}
    caption = f"The recipe of trial {text.trial_name(best)}, as it was searched."
    yield _recipe_table(recipe.model_dump(mode="json"), values, caption)
    yield from _template(recipe.chat_template)


def _frozen(frozen: Json) -> Iterator[Block]:
    origin = frozen["origin"]
    race = origin.get("race")
    yield Paragraph(
        f"Frozen from {origin.get('picked', 'a recipe that no study found')}. On the search's prompts it scored ",
        str(Measure(**origin["score"])) if origin.get("score") else "nothing that was recorded",
        f", on fresh ones {Measure(**race['fresh'])}" if race else "",
        ". The recipe's digest is ",
        Mono(frozen["recipe_sha256"]),
        ".",
    )
    changes = [
        (Mono(name), text.value(c["from"]), text.value(c["to"]), c["why"])
        for name, c in origin.get("changes", {}).items()
    ]
    if changes:
        yield Table(("changed for the final run", "from", "to", "why"), changes, "lrrl")
    yield _recipe_table(
        frozen["recipe"], origin.get("values", {}), "The recipe of the final run; its examples are planned ones."
    )
    yield from _template(frozen["recipe"].get("chat_template"))


def _template(template: str | None) -> Iterator[Block]:
    if template:
        yield Paragraph("Chat template:")
        yield Code(template.strip("\n"))


def _found(records: Records) -> Iterator[Block]:
    """By whom, and judged by what."""
    config, trials = records.config, records.study.trials
    picked = sum(bool(trial.prior) for trial in trials)
    yield Paragraph(
        f"{len(trials)} trials, {picked} of them picked beforehand; the others were suggested by a Gaussian process "
        "over recipes, by expected improvement, from what the trials before them had shown. A trial is a short run of "
        "the same training, judged by the share of IFEval prompts that its model follows."
    )
    if config is None:
        return
    objective, pruner = config.objective, config.pruner
    rungs = ", ".join(f"{rung:.0%}" for rung in config.study.rungs)
    if pruner.kind == "none":
        stopped = "No trial was stopped for it."
    else:
        share = "half" if pruner.kind == "median" else f"{pruner.percentile:g}%"
        stopped = f"A trial that is not among the best {share} at a rung is stopped there."
    yield Paragraph(
        f"At {rungs} of the horizon the loss on held-out answers is measured (the probe). {stopped} Scoring asks "
        f"{objective.subset} prompts of the half that the search may see; a trial that falls behind the best so far is "
        "asked no more."
    )
    searched = [(Mono(name), str(parameter)) for name, parameter in config.space.items()]
    if searched:
        yield Table(("searched", "range"), searched, "ll", caption="What was searched; all else was fixed.")


def _recipe_table(recipe: Json, values: Mapping[str, str], caption: str) -> Table:
    rows: list[tuple[str, str, str]] = []
    for name, value in recipe.items():
        if name == "chat_template":
            rows.append((Mono(name), "the tokenizer's own" if value is None else "see below", values.get(name, "")))
        elif name == "sources":
            rows += [_source_row(source, values) for source in value]
        elif name == "base":
            rows.append((Mono(name), _pinned(value["model"], value), values.get(name, "")))
        elif name == "probe":
            where = ", ".join(value["sources"]) or "all sft data"
            rows.append((Mono(name), f"{value['rows']} rows of {where}", values.get(name, "")))
        elif name == "rows":
            rows.append((Mono(name), "all" if value is None else f"{value:,}", values.get(name, "")))
        else:
            rows.append((Mono(name), text.value(value), values.get(name, "")))
    return Table(("hyperparameter", "value", "where from"), rows, "lll", caption=caption)


def _source_row(source: Json, values: Mapping[str, str]) -> tuple[str, str, str]:
    weight = f"weight.{source['name']}"
    pinned = _pinned(source["path"] or source["hub"], source)
    shown = f"{source['use']}, weight {text.value(source['weight'])}: {pinned}"
    return Mono(f"sources.{source['name']}"), shown, values.get(weight, values.get("sources", ""))


def _pinned(name: str, value: Json) -> str:
    pins = [f"{key} {value[key][:12]}" for key in ("revision", "sha256") if value.get(key)]
    return f"{name} ({', '.join(pins)})" if pins else name


def reproduce(records: Records) -> Iterator[Block]:
    """Commands, versions and digests of the final run."""
    study = records.study
    if records.frozen is None:
        yield text.missing_final(records) if study.best else Missing("No trial is complete yet.", text.start(records))
        return
    frozen = records.frozen
    yield Paragraph(
        "final_run.py holds the whole recipe. Where a run ends is decided on its way, by the pace of its machine. In "
        "another folder, on the same hardware and with the same versions, it gives the same adapter, bit for bit, with "
        "the decisions of this run (--replay; on a GPU, sums may differ). A bundle holds all that this needs, and a "
        "script that does it and compares."
    )
    command = shlex.join(["python", str(study.folder / "final_run.py")])
    decided = shlex.quote(str(study.folder / "final" / decisions.FILE))
    bundle = shlex.join(["nightshift", "bundle", str(study.folder)])
    yield Code(f"{command} --status\n{command} --replay {decided}\n{bundle}")
    yield from _locked(records.lock)
    used = (text.final_result(records) or {}).get("versions", {})
    rows = [(Mono(name), version, used.get(name, "")) for name, version in frozen["versions"].items()]
    yield Table(("library", "frozen with", "final run with"), rows, "lll")
    pinned = frozen["recipe"]
    pins = [("recipe", frozen["recipe_sha256"]), ("prompts", frozen["objective"]["prompts_sha256"])]
    pins += [("base model", pinned["base"]["sha256"] or pinned["base"]["revision"])]
    pins += [(f"data {s['name']}", s["sha256"] or s["revision"]) for s in pinned["sources"]]
    yield Table(("what", "SHA-256 or commit"), [(name, Mono(pin or "not pinned")) for name, pin in pins], "ll")


def _locked(lock: Json | None) -> Iterator[Block]:
    """What the lock file holds, and on which machine it was written."""
    if lock is None:
        return
    python, machine = lock["python"], lock["machine"]
    gpu = f", {machine['gpu']['name']}" if machine.get("gpu") else ""
    yield Paragraph(
        f"Its lock file names {len(lock['packages'])} packages with a digest of each, and digests of the files of the "
        f"base model, the data and the prompts. It was frozen with {python['implementation']} {python['version']} on "
        f"{machine['system']} {machine['architecture']}, {machine['libc']}, {machine['processor']}{gpu}."
    )
