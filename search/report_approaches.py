"""The report's section on what was tried: how trials went, what scores depended on, what worked and what did not."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from search import report_figures as figures
from search import report_text as text
from search.parameters import Value
from search.report_canvas import Curve, picture
from search.report_pages import Block, Heading, Missing, Mono, Paragraph, Table
from search.report_ranks import rank_correlation
from search.report_records import LEAST_TRIALS, Records
from search.view import TrialView

MANY = 30  # trials from which on importances are more than a hint


def approaches(records: Records) -> Iterator[Block]:
    """What was considered, how it went, and what mattered."""
    yield records.answers.ask("approaches")
    study = records.study
    if not study.trials:
        yield Missing("There is no trial yet.", text.start(records))
        return
    outcomes = [figures.Outcome(t.number, text.state(t), t.score, t.value) for t in study.trials]
    yield picture(
        "history",
        "Score of each trial",
        "Complete trials with their standard error, the best so far, and the base model with its own.",
        figures.history(outcomes, study.base),
    )
    yield _ways(study.trials)
    yield from _race(study.trials)
    yield from _priors(study.trials)
    yield Heading("What the scores depended on")
    yield from _importances(records)
    yield from _worked(records)
    yield Heading("The race at the rungs")
    yield from _rungs(study.trials, study.best)
    yield from _probe(study.trials)


WAYS = {
    "complete": "whole horizon, asked all prompts",
    "behind": "whole horizon, then worse than the best so far on the prompts asked",
    "pruned": "stopped at a rung, as worse than others there",
    "infeasible": "never started: by the plan it does not fit the memory",
    "failed": "came to nothing; the appendix has each reason",
    "running": "at work now",
    "interrupted": "goes on at the next start",
    "waiting": "not begun",
}


def _ways(trials: Sequence[TrialView]) -> Table:
    """How many trials ended in which way."""
    rows = []
    for state, meaning in WAYS.items():
        found = [t for t in trials if text.state(t) == state]
        if found:
            rows.append((text.STATES.get(state, state), str(len(found)), meaning))
    return Table(("trials", "number", "how they went"), rows, "lrl")


def _priors(trials: Sequence[TrialView]) -> Iterator[Block]:
    """How recipes that were picked beforehand did."""
    rows = [(t.prior, str(t.number), text.told_state(t), text.told_score(t)) for t in trials if t.prior]
    if rows:
        yield Table(("picked beforehand", "trial", "state", "score"), rows, "lrlr", caption="Recipes picked by hand.")


def _worked(records: Records) -> Iterator[Block]:
    """The values of the trials that did best, beside those of all others that got as far as a rung."""
    trials = [t for t in records.study.trials if text.state(t) in ("complete", "behind", "pruned")]
    scored = sorted((t for t in trials if t.value is not None and t.state == "complete"), key=lambda t: -(t.value or 0))
    if len(scored) < LEAST_TRIALS:
        return
    best = scored[: max(2, len(scored) // 4)]
    others = [t for t in trials if t not in best]
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    names.sort(key=lambda name: -records.importances.get(name, 0.0))
    rows = [
        (Mono(name), _typical(best, name), _typical(others, name), _share(records.importances, name)) for name in names
    ]
    head = ("hyperparameter", f"the {len(best)} best", f"the {len(others)} others", "importance")
    caption = (
        "Typical values (the median, or what most had, with how many those are): of the trials that scored "
        "best, and of all others that were scored or stopped at a rung."
    )
    yield Table(head, rows, "lrrr", caption=caption)


def _share(importances: Mapping[str, float], name: str) -> str:
    return f"{importances[name]:.0%}" if name in importances else ""


def _typical(trials: Sequence[TrialView], name: str) -> str:
    values: list[Value] = [t.params[name] for t in trials if name in t.params]
    if not values:
        return "–"
    value, count = Counter(values).most_common(1)[0]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or 2 * count > len(values):
        return f"{text.value(value, digits=3)} ({count} of {len(values)})"
    middle = float(statistics.median(numbers))
    return f"{middle:,.0f}" if middle.is_integer() else f"{middle:.3g}"


def _race(trials: Sequence[TrialView]) -> Iterator[Block]:
    """How much was asked, where trials were ended as behind."""
    behind, asked = [t for t in trials if t.behind is not None], [t.asked for t in trials if t.asked]
    if behind:
        whole = max(asked) * len(asked)
        yield Paragraph(
            f"{len(behind)} of the {len(asked)} trials that were scored were ended as behind: on the prompts asked so "
            f"far, each was worse than the best trial before it. That saved {whole - sum(asked):,} of {whole:,} "
            "answers. The value of such a trial is an estimate, and it cannot be picked."
        )


def _rungs(trials: Sequence[TrialView], best: TrialView | None) -> Iterator[Block]:
    curves = [Curve(f"trial {t.number}", sorted(t.rungs.items())) for t in trials if t.rungs]
    if not curves:
        yield Paragraph("No trial has reached its first rung.")
        return
    pruned = frozenset(f"trial {t.number}" for t in trials if t.state == "pruned")
    yield picture(
        "rungs",
        "The probe at each rung",
        "Bits per byte of held-out answers, the same for all trials; lower is better. A trial that does worse than "
        "others at a rung is stopped there.",
        figures.rungs(curves, f"trial {best.number}" if best else None, pruned),
    )


def _probe(trials: Sequence[TrialView]) -> Iterator[Block]:
    """How well the probe's last measurement ranks the trials that were scored; nothing where they are too few."""
    last = max((fraction for t in trials for fraction in t.rungs), default=0.0)
    complete = [t for t in trials if t.state == "complete" and last in t.rungs]
    scored = [(t.rungs[last], t.value) for t in complete if t.value is not None]
    correlation = rank_correlation(scored)
    if correlation is not None:
        yield Paragraph(
            "The probe is a gate, not the objective: rank correlation of its bits per byte with the score over this "
            f"study's {len(scored)} scored trials: {correlation:.2f}, where -1 would be the same order."
        )


def _importances(records: Records) -> Iterator[Block]:
    complete = sum(t.state == "complete" for t in records.study.trials)
    behind = sum(t.behind is not None for t in records.study.trials)
    if not records.importances:
        yield Paragraph(
            f"Parameter importances need at least {LEAST_TRIALS} complete trials with different scores; "
            f"there are {complete}."
        )
        return
    yield picture(
        "importances",
        "What the score depended on",
        f"PED-ANOVA over the values of {complete} trials: how much each hyperparameter sets the good ones apart. "
        + _estimates(behind)
        + ("With so few trials this is a hint, not a finding." if complete < MANY else ""),
        figures.importances(records.importances),
    )


def _estimates(behind: int) -> str:
    """How many of the values are not scores."""
    if not behind:
        return ""
    told = "was ended as behind: its value is an estimate" if behind == 1 else "were ended as behind: estimates"
    return f"({behind} of them {told}.) "
