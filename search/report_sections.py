"""The whole report: records in, a document out. Nothing is estimated here; the sections are in report_scores,
report_search, report_recipe and report_runs.

Imports matplotlib through search.report_figures, so import it late.
"""

from __future__ import annotations

from collections import Counter

from objectives.score import Measure
from search import budget, report_recipe, report_runs, report_scores, report_search
from search import report_text as text
from search.report_pages import Document, Fact, Mono, Paragraph, Section
from search.report_records import Records

SECTIONS = {
    "Scores": report_scores.scores,
    "The search": report_search.search,
    "Trials": report_search.trials,
    "The recipe": report_recipe.recipe,
    "Training": report_runs.training,
    "Memory and parameters": report_runs.memory,
    "Budget": report_runs.budget,
    "Evaluation": report_scores.evaluation,
    "Reproduce": report_recipe.reproduce,
}


def document(records: Records) -> Document:
    """The whole report."""
    return Document(
        title=f"Study {records.study.name}",
        lead=_lead(records),
        facts=_facts(records),
        sections=[Section(title, list(section(records))) for title, section in SECTIONS.items()],
        footer=Paragraph(
            "Written by Nightshift from what was recorded in ",
            Mono(str(records.study.folder)),
            ". Scores are proportions of IFEval prompts, ± their standard error, √(p (1 − p) / n).",
        ),
    )


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
    study = records.study
    final = text.final_result(records)
    facts = []
    if final:
        before, after = (text.final_score(final, key, "sealed").prompt_strict for key in ("base_scores", "scores"))
        facts += [_fact("Base model", before, "unseen prompts"), _fact("Final run", after, "unseen prompts")]
    elif study.base:
        facts.append(_fact("Base model", study.base, "of the search's prompts"))
    if study.best and study.best.score:
        facts.append(_fact("Best trial", study.best.score, "of the search's prompts"))
    used = f"of {budget.hours(study.budget_s)} GPU-hours, in {len(records.attempts)} attempts"
    return [*facts, Fact("Search", text.duration(study.spent_s), used)]


def _fact(label: str, measure: Measure, prompts: str) -> Fact:
    return Fact(label, f"{measure.value:.3f}", f"± {measure.standard_error:.3f}, {measure.n} {prompts}")
