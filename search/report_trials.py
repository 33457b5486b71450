"""The report's table of all trials: how each went, with which values, and why it has no score."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from search import report_text as text
from search.report_pages import Block, Missing, Table
from search.report_records import Records
from search.view import TrialView

HALF = 100  # of very many trials, that many of the newest and of the best are listed


def shown(trials: Sequence[TrialView]) -> Sequence[TrialView]:
    """All of them, or, of very many, the newest and those with the highest scores, in their order."""
    if len(trials) <= 2 * HALF:
        return trials
    best = sorted((t for t in trials if t.value is not None), key=lambda t: (-(t.value or 0.0), t.number))[:HALF]
    kept = {t.number for t in (*best, *trials[-HALF:])}
    return [t for t in trials if t.number in kept]


def trials(records: Records) -> Iterator[Block]:
    """Every trial: how it went, its hyperparameters, and why it has no score."""
    everyone = records.study.trials
    if not everyone:
        yield Missing("There is no trial yet.", text.start(records))
        return
    trials = shown(everyone)
    if len(trials) < len(everyone):
        yield Missing(
            f"Of {len(everyone):,} trials, the {HALF} newest and the {HALF} with the highest scores are listed.",
            shlex.join(["nightshift", "status", records.study.name, "--json"]),
        )
    best = records.study.best
    strong = next((i for i, t in enumerate(trials) if best and t.number == best.number), None)
    fractions = sorted({fraction for t in trials for fraction in t.rungs})
    probes = [f"probe at {f:.0%}" for f in fractions]
    head = ("trial", "state", "score", "prompts asked", *probes, "GPU time", "attempts", "prior")
    rows = [_trial_row(t, fractions) for t in trials]
    caption = "How the trials went; the probe is in bits per byte, and what stands behind ≈ is the "
    caption += "estimate for a trial that was ended early."
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
        text.told_score(trial),
        str(trial.asked) if trial.asked else "",
        *(f"{trial.rungs[f]:.3f}" if f in trial.rungs else "" for f in fractions),
        text.duration(trial.gpu_seconds) if trial.attempts else "",
        str(trial.attempts) if trial.attempts else "",
        trial.prior,
    )
