"""The whole report: records in, a document out. Nothing is estimated here; each section has a module of its own.

Imports matplotlib through the sections' pictures, so import it late.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator

from objectives.score import Measure
from search import (
    budget,
    report_approaches,
    report_base,
    report_data,
    report_parameters,
    report_recipe,
    report_resources,
    report_scores,
    report_training,
    report_trials,
)
from search import report_text as text
from search.report_pages import Block, Document, Fact, Missing, Mono, Paragraph, Section
from search.report_records import Records

SECTIONS: dict[str, Callable[[Records], Iterator[Block]]] = {
    "(a) Base model selection": report_base.base_model,
    "(b) Data sets": report_data.data_sets,
    "(c) Training scheme": report_recipe.scheme,
    "(d) Trainable parameters": report_parameters.trainable,
    "(e) Approaches considered": report_approaches.approaches,
    "(f) Resource management": report_resources.resources,
    "(g) Training process": report_training.training,
    "(h) Evaluation": report_scores.evaluation,
    "Appendix: all trials": report_trials.trials,
    "Appendix: reproduce": report_recipe.reproduce,
}


def document(records: Records) -> Document:
    """The whole report."""
    return Document(
        title=f"Study {records.study.name}",
        lead=_lead(records),
        facts=_facts(records),
        front=_front(records),
        sections=[Section(title, _blocks(section, records)) for title, section in SECTIONS.items()],
        footer=Paragraph(
            "Written by Nightshift from what was recorded in ",
            Mono(str(records.study.folder)),
            ". Scores are proportions of IFEval prompts, ± their standard error, √(p (1 − p) / n). "
            "Beside 0 and 1 stands the end of Wilson's 95 % interval.",
        ),
    )


def _blocks(section: Callable[[Records], Iterator[Block]], records: Records) -> list[Block]:
    """What a section says; of records that another version wrote, as much as can be told."""
    blocks: list[Block] = []
    try:
        blocks.extend(section(records))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"The rest of this section cannot be told: its records are not what this version writes ({error!r})."
        blocks.append(Missing(what, shlex.join(["nightshift", "status", records.study.name])))
    return blocks


def _front(records: Records) -> list[Block]:
    """What a reader has to know of the report itself."""
    blocks: list[Block] = [records.answers.ask("authors")]
    if records.problems:
        blocks.append(Paragraph("Not all could be read: " + "; ".join(records.problems) + "."))
    return blocks


def _lead(records: Records) -> Paragraph:
    study = records.study
    states = Counter(text.state(t) for t in study.trials)
    counts = [f"{count} {text.STATES.get(state, state)}" for state, count in sorted(states.items())]
    ended = f" It ended because {study.ending}." if study.ending and study.service_pid is None else ""
    model = records.config.base.model if records.config else None
    about = ["QLoRA on ", Mono(model), ". "] if model else []
    spent = f"{budget.hours(study.spent_s)} of {budget.hours(study.budget_s)} GPU-hours"
    return Paragraph(*about, f"{len(study.trials)} trials ({', '.join(counts) or 'none yet'}) in {spent}.{ended}")


def _facts(records: Records) -> list[Fact]:
    study, final = records.study, records.final
    facts = []
    if final and "sealed" in final.scores and "sealed" in final.base_scores:
        before, after = (scores["sealed"].prompt_strict for scores in (final.base_scores, final.scores))
        facts += [_fact("Base model", before, "unseen prompts"), _fact("Final run", after, "unseen prompts")]
    elif study.base:
        facts.append(_fact("Base model", study.base, "of the search's prompts"))
    if study.best and study.best.score:
        facts.append(_fact("Best trial", study.best.score, "of the search's prompts"))
    used = f"of {budget.hours(study.budget_s)} GPU-hours, in {len(records.attempts)} attempts"
    return [*facts, Fact("Search", text.duration(study.spent_s), used)]


def _fact(label: str, measure: Measure, prompts: str) -> Fact:
    value, _, error = str(measure).replace(",", "").partition(" ")
    return Fact(label, value, f"{error}, {measure.n} {prompts}")
