"""The report's sections on the search: its trials, how they raced, and what their scores depended on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search import report_figures as figures
from search import report_text as text
from search.report_canvas import picture
from search.report_pages import Block, Missing, Paragraph, Table
from search.report_ranks import rank_correlation
from search.report_records import LEAST_TRIALS, Records
from search.view import TrialView


def search(records: Records) -> Iterator[Block]:
    """Scores in the order of the trials, the race, the rungs, and what mattered."""
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
    yield from _race(study.trials)
    yield from _rungs(study.trials, study.best)
    yield from _probe(study.trials)
    yield from _importances(records)


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
    curves = [figures.Curve(f"trial {t.number}", sorted(t.rungs.items())) for t in trials if t.rungs]
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
        + ("With so few trials this is a hint, not a finding." if complete < 30 else ""),
        figures.importances(records.importances),
    )


def _estimates(behind: int) -> str:
    """How many of the values are not scores."""
    if not behind:
        return ""
    told = "was ended as behind: its value is an estimate" if behind == 1 else "were ended as behind: estimates"
    return f"({behind} of them {told}.) "


def trials(records: Records) -> Iterator[Block]:
    """Every trial: how it went, its hyperparameters, and why it has no score."""
    trials = records.study.trials
    if not trials:
        yield Missing("There is no trial yet.", text.start(records))
        return
    best = records.study.best
    strong = next((i for i, t in enumerate(trials) if best and t.number == best.number), None)
    fractions = sorted({fraction for t in trials for fraction in t.rungs})
    probes = [f"probe at {f:.0%}" for f in fractions]
    head = ("trial", "state", "score", "prompts asked", *probes, "GPU time", "attempts", "prior")
    rows = [_trial_row(t, fractions) for t in trials]
    caption = "How the trials went; the probe is in bits per byte, and a score with ≈ is an estimate."
    yield Table(head, rows, "rlrr" + "r" * len(fractions) + "rrl", strong=strong, caption=caption)
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    rows = [(str(t.number), *(text.value(t.params.get(name), digits=3) for name in names)) for t in trials]
    caption = "Their hyperparameters; a dash where one did not matter to the trial."
    yield Table(("trial", *names), rows, "r" * (1 + len(names)), strong=strong, caption=caption)
    reasons = [(str(t.number), text.state(t), t.reason) for t in trials if t.reason]
    if reasons:
        yield Table(("trial", "state", "reason"), reasons, "rll", caption="Why trials did not come to a whole score.")


def _trial_row(trial: TrialView, fractions: Sequence[float]) -> tuple[str, ...]:
    return (
        str(trial.number),
        text.state(trial),
        f"≈ {trial.value:.3f}" if trial.behind is not None and trial.value is not None else text.measure(trial.score),
        str(trial.asked) if trial.asked else "",
        *(f"{trial.rungs[f]:.3f}" if f in trial.rungs else "" for f in fractions),
        text.duration(trial.gpu_seconds) if trial.attempts else "",
        str(trial.attempts) if trial.attempts else "",
        trial.prior,
    )
