"""What the report says, section by section: records in, a document out. Nothing is estimated here.

Imports matplotlib through search.report_figures, so import it late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from objectives.score import Measure, Score
from search import budget
from search import report_figures as figures
from search.freeze import origins
from search.report_pages import Block, Code, Document, Fact, Missing, Mono, Paragraph, Section, Table
from search.report_records import LEAST_TRIALS, Records, RunRecord
from search.view import TrialView
from train.planning.plan import Plan
from train.rundir import Json

HALVES = {"search": "search half", "sealed": "sealed half", "all": "all prompts"}
METRICS = {
    "prompt_strict": "prompts, strict",
    "prompt_loose": "prompts, loose",
    "instruction_strict": "instructions, strict",
    "instruction_loose": "instructions, loose",
}
STATES = {"infeasible": "too large for the memory"}
SAMPLE_CHARACTERS = 600


def document(records: Records) -> Document:
    """The whole report."""
    study = records.study
    sections = [
        Section("Scores", list(_scores(records))),
        Section("The search", list(_search(records))),
        Section("Trials", list(_trials(records))),
        Section("The recipe", list(_recipe(records))),
        Section("Training", list(_training(records))),
        Section("Memory and parameters", list(_memory(records))),
        Section("Budget", list(_budget(records))),
        Section("Evaluation", list(_evaluation(records))),
        Section("Reproduce", list(_reproduce(records))),
    ]
    return Document(
        title=f"Study {study.name}",
        lead=_lead(records),
        facts=_facts(records),
        sections=sections,
        footer=Paragraph(
            "Written by Nightshift from what was recorded in ",
            Mono(str(study.folder)),
            ". Scores are proportions of IFEval prompts, ± their standard error, √(p (1 − p) / n).",
        ),
    )


def _lead(records: Records) -> Paragraph:
    study = records.study
    counts = Counter(t.state for t in study.trials)
    listed = ", ".join(f"{count} {STATES.get(state, state)}" for state, count in sorted(counts.items())) or "none yet"
    ended = f" It ended because {study.ending}." if study.ending and study.service_pid is None else ""
    model = records.config.base.model if records.config else None
    about = ["QLoRA on ", Mono(model), ". "] if model else []
    spent = f"{budget.hours(study.spent_s)} of {budget.hours(study.budget_s)} GPU-hours"
    return Paragraph(*about, f"{len(study.trials)} trials ({listed}) in {spent}.{ended}")


def _facts(records: Records) -> list[Fact]:
    study = records.study
    final = _final_result(records)
    facts = []
    if final:
        before, after = (_score(final, key, "sealed").prompt_strict for key in ("base_scores", "scores"))
        facts += [_fact("Base model", before, "unseen prompts"), _fact("Final run", after, "unseen prompts")]
    elif study.base:
        facts.append(_fact("Base model", study.base, "of the search's prompts"))
    if study.best and study.best.score:
        facts.append(_fact("Best trial", study.best.score, "of the search's prompts"))
    used = f"of {budget.hours(study.budget_s)} GPU-hours, in {len(records.attempts)} attempts"
    return [*facts, Fact("Search", _duration(study.spent_s), used)]


def _fact(label: str, measure: Measure, prompts: str) -> Fact:
    return Fact(label, f"{measure.value:.3f}", f"± {measure.standard_error:.3f}, {measure.n} {prompts}")


# Scores


def _scores(records: Records) -> Iterator[Block]:
    study, final = records.study, _final_result(records)
    subset = study.base or (study.best.score if study.best else None)
    yield Paragraph(
        "Share of IFEval prompts of which every instruction was followed, judged strictly. The search saw "
        + (f"{subset.n} prompts of one half" if subset else "a part of one half")
        + "; the sealed half was opened when the final run was done."
    )
    head = ("model", "search's subset", *HALVES.values())
    rows = [("base model", _text(study.base), *_halves(final, "base_scores"))]
    if study.best:
        rows.append((f"best trial ({_name(study.best)})", _text(study.best.score), "", "", ""))
    if final:
        rows.append(("final run", "", *_halves(final, "scores")))
    yield Table(head, rows, "lrrrr", strong=len(rows) - 1 if final else None)
    if final and records.final and final["outcome"] == "stopped":
        steps, all_steps = final["steps"], records.final.recipe.steps
        yield Paragraph(
            f"The hours of the final run ended at step {steps:,} of {all_steps:,} ({steps / all_steps:.0%}), before "
            "its schedule was through; another run ends where its own hours do, with another adapter."
        )
    if not study.base:
        yield Missing("The base model is not scored yet.", _start(records))
    if not study.best:
        yield Missing("No trial is complete yet.", _start(records))
    elif not final:
        yield _missing_final(records)


def _missing_final(records: Records) -> Missing:
    if records.frozen is None:
        what = records.frozen_problem or "The best trial is not frozen yet."
        return Missing(what, f"nightshift freeze {records.study.name}")
    started = "has not ended yet" if records.final else "has not been started"
    return Missing(f"The final run {started}.", f"python {records.study.folder / 'final_run.py'}")


def _halves(final: Json | None, key: str) -> tuple[str, str, str]:
    if not final:
        return "", "", ""
    search, sealed, everything = (str(_score(final, key, half).prompt_strict) for half in HALVES)
    return search, sealed, everything


# The search


def _search(records: Records) -> Iterator[Block]:
    study = records.study
    if not study.trials:
        yield Missing("There is no trial yet.", _start(records))
        return
    outcomes = [figures.Outcome(t.number, t.state, t.score) for t in study.trials]
    yield figures.picture(
        "history",
        "Score of each trial",
        "Complete trials with their standard error, the best so far, and the base model with its own.",
        figures.history(outcomes, study.base),
    )
    yield from _rungs(study.trials, study.best)
    yield from _importances(records)


def _rungs(trials: Sequence[TrialView], best: TrialView | None) -> Iterator[Block]:
    curves = [figures.Curve(f"trial {t.number}", sorted(t.rungs.items())) for t in trials if t.rungs]
    if not curves:
        yield Paragraph("No trial has reached its first rung.")
        return
    pruned = frozenset(f"trial {t.number}" for t in trials if t.state == "pruned")
    yield figures.picture(
        "rungs",
        "The probe at each rung",
        "Bits per byte of held-out answers, the same for all trials; lower is better. A trial that is behind at a rung "
        "is stopped there.",
        figures.rungs(curves, f"trial {best.number}" if best else None, pruned),
    )


def _importances(records: Records) -> Iterator[Block]:
    complete = sum(t.state == "complete" for t in records.study.trials)
    if not records.importances:
        yield Paragraph(
            f"Parameter importances need at least {LEAST_TRIALS} complete trials with different scores; "
            f"there are {complete}."
        )
        return
    yield figures.picture(
        "importances",
        "What the score depended on",
        f"PED-ANOVA over {complete} complete trials: how much each hyperparameter sets the good ones apart. "
        + ("With so few trials this is a hint, not a finding." if complete < 30 else ""),
        figures.importances(records.importances),
    )


# Trials


def _trials(records: Records) -> Iterator[Block]:
    trials = records.study.trials
    if not trials:
        yield Missing("There is no trial yet.", _start(records))
        return
    best = records.study.best
    strong = next((i for i, t in enumerate(trials) if best and t.number == best.number), None)
    fractions = sorted({fraction for t in trials for fraction in t.rungs})
    head = ("trial", "state", "score", *(f"probe at {f:.0%}" for f in fractions), "GPU time", "attempts", "prior")
    rows = [_trial_row(t, fractions) for t in trials]
    caption = "How the trials went; the probe is in bits per byte."
    yield Table(head, rows, "rlr" + "r" * len(fractions) + "rrl", strong=strong, caption=caption)
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    rows = [(str(t.number), *(_value(t.params.get(name)) for name in names)) for t in trials]
    caption = "Their hyperparameters; a dash where one did not matter to the trial."
    yield Table(("trial", *names), rows, "r" * (1 + len(names)), strong=strong, caption=caption)
    reasons = [(str(t.number), t.state, t.reason) for t in trials if t.reason]
    if reasons:
        yield Table(("trial", "state", "reason"), reasons, "rll", caption="Why trials did not come to a score.")


def _trial_row(trial: TrialView, fractions: Sequence[float]) -> tuple[str, ...]:
    return (
        str(trial.number),
        trial.state,
        _text(trial.score),
        *(f"{trial.rungs[f]:.3f}" if f in trial.rungs else "" for f in fractions),
        _duration(trial.gpu_seconds) if trial.attempts else "",
        str(trial.attempts) if trial.attempts else "",
        trial.prior,
    )


# The recipe


def _recipe(records: Records) -> Iterator[Block]:
    study = records.study
    if study.best is None or records.best is None:
        yield Missing("No trial is complete yet, so there is no recipe to show.", _start(records))
        return
    if records.frozen is None:
        yield _missing_final(records)
        record = next(r for r in records.records if r.number == study.best.number)
        recipe = records.best.recipe.model_dump(mode="json")
        values = origins(records.config, record) if records.config else {}
        yield _recipe_table(recipe, values, f"The recipe of trial {_name(study.best)}, as it was searched.")
        return
    frozen, origin = records.frozen, records.frozen["origin"]
    yield Paragraph(
        f"Frozen from trial {origin.get('trial')}, which scored ",
        str(Measure(**origin["score"])) if origin.get("score") else "nothing that was recorded",
        ". Its digest is ",
        Mono(frozen["recipe_sha256"]),
        ".",
    )
    changes = [
        (Mono(name), _value(c["from"]), _value(c["to"]), c["why"]) for name, c in origin.get("changes", {}).items()
    ]
    if changes:
        yield Table(("changed for the final run", "from", "to", "why"), changes, "lrrl")
    yield _recipe_table(frozen["recipe"], origin.get("values", {}), "The recipe of the final run.")
    if template := frozen["recipe"].get("chat_template"):
        yield Paragraph("Chat template:")
        yield Code(template.strip("\n"))


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
            rows.append((Mono(name), _value(value), values.get(name, "")))
    return Table(("hyperparameter", "value", "where from"), rows, "lll", caption=caption)


def _source_row(source: Json, values: Mapping[str, str]) -> tuple[str, str, str]:
    weight = f"weight.{source['name']}"
    text = f"{source['use']}, weight {_value(source['weight'])}: {_pinned(source['path'] or source['hub'], source)}"
    return Mono(f"sources.{source['name']}"), text, values.get(weight, values.get("sources", ""))


def _pinned(name: str, value: Json) -> str:
    pins = [f"{key} {value[key][:12]}" for key in ("revision", "sha256") if value.get(key)]
    return f"{name} ({', '.join(pins)})" if pins else name


# Training


def _training(records: Records) -> Iterator[Block]:
    runs: list[tuple[str, RunRecord]] = []
    if records.study.best and records.best:
        runs.append((f"trial {records.study.best.number}", records.best))
    if records.final:
        runs.append(("final run", records.final))
    panels = [
        ("SFT loss (nats per token)", [_losses(name, run, "sft") for name, run in runs]),
        ("DPO loss (nats per pair)", [_losses(name, run, "dpo") for name, run in runs]),
        ("probe (bits per byte)", [_probe(name, run) for name, run in runs]),
    ]
    shown = [(label, kept) for label, curves in panels if (kept := [curve for curve in curves if curve.points])]
    if not shown:
        yield Missing("No step of a complete trial is recorded yet.", _start(records))
        return
    yield figures.picture(
        "loss",
        "Training and held-out loss",
        "Over the share of the horizon, so that the short trial and the long final run can be compared; thin lines are "
        "single steps, thick ones a running mean over a twentieth of them.",
        figures.losses(shown),
    )
    yield _run_table(runs)
    yield from _data_table(*runs[-1])
    if records.final is None or not records.final.result:
        yield _missing_final(records)


def _losses(name: str, run: RunRecord, stage: str) -> figures.Curve:
    steps = {e["step"]: e["loss"] for e in run.events if e.get("event") == "step" and e.get("stage", "sft") == stage}
    return figures.Curve(name, [(step / run.recipe.steps, steps[step]) for step in sorted(steps)])


def _probe(name: str, run: RunRecord) -> figures.Curve:
    rungs = {e["fraction"]: e["bits_per_byte"] for e in run.events if e.get("event") == "rung"}
    return figures.Curve(name, sorted(rungs.items()))


def _run_table(runs: Sequence[tuple[str, RunRecord]]) -> Table:
    rows = []
    for name, run in runs:
        result = run.result or {}
        resumed = sum(e.get("event") == "resumed" for e in run.events)
        seconds = result.get("seconds", {}).get("train")
        rows.append(
            (
                name,
                result.get("outcome", "not ended"),
                *(_count(result.get(key)) for key in ("steps", "examples", "tokens")),
                str(run.recipe.steps),
                _duration(seconds) if seconds is not None else "",
                str(resumed),
            )
        )
    head = ("run", "outcome", "steps", "examples", "tokens", "steps of the horizon", "training time", "times resumed")
    return Table(head, rows, "llrrrrrr")


def _data_table(name: str, run: RunRecord) -> Iterator[Block]:
    """What became of the rows of each data source; nothing for a run that was made before this was recorded."""
    used = [event["sources"] for event in run.events if event.get("event") == "data"]
    if not used:
        return
    rows = []
    for source, use in used[-1].items():
        removed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(use["removed"].items()) if count)
        counts = (use["rows_read"], use["rows_held_out"], use["rows_too_long"], use["rows_used"], use["examples"])
        read, *others = (f"{count:,}" for count in counts)
        rows.append((Mono(source), read, removed or "none", *others))
    head = ("data", "rows", "filtered out", "held out", "too long", "distinct rows used", "examples")
    yield Table(head, rows, "lrlrrrr", caption=f"The data of the {name}. Of rows that are too long, those it came to.")


# Memory and parameters


def _memory(records: Records) -> Iterator[Block]:
    rows = []
    for name, run in (("best trial", records.best), ("final run", records.final)):
        if run is not None:
            result = run.result or {}
            planned = run.planned
            trainable = _count(planned.trainable_parameters if planned else None)
            peak = _bytes(planned.peak_bytes if planned else None)
            rows.append((f"{name}: trainable parameters", trainable, _count(result.get("trainable_parameters"))))
            rows.append((f"{name}: peak memory", peak, _bytes(result.get("peak_memory_bytes"))))
    if not rows:
        yield Missing("No trial is complete yet.", _start(records))
        return
    yield Table(("", "planned", "measured"), rows, "lrr")
    best = records.best
    if best is None or best.planned is None:
        yield Paragraph("The base model is not where the recipe says, so that its layers cannot be listed here.")
        return
    yield _layers(best.planned)
    yield _categories(best.planned)
    yield Paragraph("The categories are those of the moment at which a step needs most, and add up to its peak.")


def _layers(planned: Plan) -> Table:
    rows: list[Sequence[str]] = [
        (
            Mono(layer.module),
            f"{layer.inputs:,} × {layer.outputs:,}",
            str(layer.rank),
            f"{layer.parameters:,}",
            str(layer.count),
            f"{layer.parameters * layer.count:,}",
        )
        for layer in planned.layers
    ]
    rows.append(("together", "", "", "", "", f"{planned.trainable_parameters:,}"))
    head = ("module", "inputs × outputs", "rank", "parameters, rank × (inputs + outputs)", "layers", "trainable")
    return Table(head, rows, "lrrrrr", caption="Trainable parameters of the best trial.", strong=len(rows) - 1)


def _categories(planned: Plan) -> Table:
    rows: list[Sequence[str]] = [(name, _bytes(size)) for name, size in planned.memory.items() if size]
    rows.append((f"peak, in the {planned.peak_stage} stage", _bytes(planned.peak_bytes)))
    return Table(("memory of the best trial", "planned"), rows, "lr", strong=len(rows) - 1)


# Budget


def _budget(records: Records) -> Iterator[Block]:
    spent = records.spent_by_cause
    if not spent:
        yield Missing("Nothing is spent yet.", _start(records))
        return
    study = records.study
    lost = [a for a in records.attempts if a.outcome == "abandoned"]
    killed = "1 attempt was" if len(lost) == 1 else f"{len(lost)} attempts were"
    losses = f" {killed} killed; what had been paid for stays charged, as lost." if lost else ""
    yield Paragraph(
        f"{_duration(study.spent_s)} of {_duration(study.budget_s)} are charged to the search, in "
        f"{len(records.attempts)} attempts.{losses} The final run is not part of this budget."
    )
    yield figures.picture(
        "budget", "What the time went to", "Time charged by the ledger, by cause.", figures.spent(spent)
    )
    by_state: dict[str, list[TrialView]] = {}
    for trial in study.trials:
        by_state.setdefault(trial.state, []).append(trial)
    rows = [
        (state, str(len(trials)), _duration(sum(t.gpu_seconds for t in trials)))
        for state, trials in sorted(by_state.items())
    ]
    others = study.spent_s - sum(t.gpu_seconds for t in study.trials)
    rows.append(("no trial: the base model", "", _duration(max(0.0, others))))
    yield Table(("how the trial ended", "trials", "charged"), rows, "lrr")


# Evaluation


def _evaluation(records: Records) -> Iterator[Block]:
    final = _final_result(records)
    if final:
        yield _metrics(final)
        before, after = (_score(final, key, "all") for key in ("base_scores", "scores"))
        yield _by_type(before.by_type, after.by_type, "final run", "on all prompts")
        yield from _remarks(after)
        yield from _speed(final)
        yield from _samples(records.samples)
        return
    yield _missing_final(records) if records.study.best else Missing("No trial is complete yet.", _start(records))
    tuned = (records.best.result or {}).get("score") if records.best else None
    base = (records.base or {}).get("score")
    if tuned and base:
        yield _by_type(_parse(base).by_type, _parse(tuned).by_type, "best trial", "on the search's subset")


def _metrics(final: Json) -> Table:
    head = ["IFEval"]
    for half in HALVES:
        head += [f"{half}: base", f"{half}: final"]
    rows = []
    for metric, label in METRICS.items():
        scores = [_score(final, key, half) for half in HALVES for key in ("base_scores", "scores")]
        rows.append((label, *(str(getattr(score, metric)) for score in scores)))
    return Table(head, rows, "lrrrrrr")


def _by_type(before: Mapping[str, Measure], after: Mapping[str, Measure], name: str, where: str) -> Block:
    return figures.picture(
        "types",
        "By type of instruction",
        f"Share of instructions followed, strict, {where}; in brackets how many there are of each type.",
        figures.by_type(before, after, name),
    )


def _remarks(score: Score) -> Iterator[Block]:
    if not score.exact:
        yield Paragraph("Some instructions were judged by a fallback: nltk's punkt_tab is not installed.")
    yield Paragraph(f"{score.capped_share:.1%} of the answers were cut off by the length limit.")


def _speed(final: Json) -> Iterator[Block]:
    latency, size = final.get("latency"), final.get("size")
    if latency:
        rows = [
            ("time to the first token", *(f"{latency['first_token_s'][p]:.4f} s" for p in ("p50", "p95"))),
            ("time for each further token", *(f"{latency['per_token_s'][p]:.4f} s" for p in ("p50", "p95"))),
            ("tokens per second", *(f"{latency['tokens_per_s'][p]:.1f}" for p in ("p50", "p95"))),
        ]
        caption = (
            f"Latency on {latency['device']}: one prompt of {latency['prompt_tokens']} tokens at a time, "
            f"{latency['new_tokens']} new ones, {latency['runs']} runs."
        )
        yield Table(("", "median", "95th percentile"), rows, "lrr", caption=caption)
    if size:
        rows = [
            ("parameters, base model and adapter", _count(size["total_parameters"])),
            ("of them trainable", _count(size["trainable_parameters"])),
            ("adapter on disk", _bytes(size["adapter_bytes"])),
            ("weights in memory, 4 bits", _bytes(size["loaded_bytes"])),
        ]
        yield Table(("size", ""), rows, "lr")


def _samples(samples: Iterable[Json]) -> Iterator[Block]:
    for number, sample in enumerate(samples, start=1):
        verdict = "every instruction followed" if sample.get("strict") else "not every instruction followed"
        yield Paragraph(f"Answer {number}, {verdict}. Prompt: {_cut(str(sample.get('prompt', '')))}")
        yield Code(_cut(str(sample.get("response", ""))))


def _cut(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …"


# Reproduce


def _reproduce(records: Records) -> Iterator[Block]:
    study = records.study
    if records.frozen is None:
        yield _missing_final(records) if study.best else Missing("No trial is complete yet.", _start(records))
        return
    frozen = records.frozen
    yield Paragraph(
        "final_run.py holds the whole recipe. In another folder, on the same hardware and with the same versions, it "
        "gives the same adapter, bit for bit, where its hours reach the horizon (on a GPU, sums may differ)."
    )
    yield Code(f"python {study.folder / 'final_run.py'}\npython {study.folder / 'final_run.py'} --status")
    used = (_final_result(records) or {}).get("versions", {})
    rows = [(Mono(name), version, used.get(name, "")) for name, version in frozen["versions"].items()]
    yield Table(("library", "frozen with", "final run with"), rows, "lll")
    recipe = frozen["recipe"]
    pins = [("recipe", frozen["recipe_sha256"]), ("prompts", frozen["objective"]["prompts_sha256"])]
    pins += [("base model", recipe["base"]["sha256"] or recipe["base"]["revision"])]
    pins += [(f"data {s['name']}", s["sha256"] or s["revision"]) for s in recipe["sources"]]
    yield Table(("what", "SHA-256 or commit"), [(name, Mono(pin or "not pinned")) for name, pin in pins], "ll")


# Values as text


def _final_result(records: Records) -> Json | None:
    return records.final.result if records.final else None


def _score(final: Json, key: str, half: str) -> Score:
    return _parse(final[key][half])


def _parse(dumped: Json) -> Score:
    return Score.model_validate(dumped, strict=False)


def _start(records: Records) -> str:
    return f"nightshift start {records.study.folder / 'study.toml'}"


def _name(trial: TrialView) -> str:
    return f"{trial.number}, prior {trial.prior}" if trial.prior else str(trial.number)


def _text(measure: Measure | None) -> str:
    return str(measure) if measure else ""


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _bytes(size: int | None) -> str:
    if not size:
        return ""
    if size < 2**20:
        return f"{size / 2**10:,.1f} KiB"
    return f"{size / 2**30:.2f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"
