"""One line for each change of a study: for logs, and terminals that cannot be redrawn."""

from __future__ import annotations

from collections.abc import Iterator

from search.finals import Race
from search.progress import done, figure, score, spent
from search.view import ENDED, Activity, StudyView, TrialView


def changes(before: StudyView | None, now: StudyView) -> list[str]:
    """What happened between two looks at a study, one line each: for logs, and terminals that cannot be redrawn."""
    if before is None:
        return [f"{now.name}: {done(now)}, {spent(now)}"]
    lines = []
    if now.base and not before.base:
        lines.append(f"base model: {now.base}")
    old = {trial.number: trial for trial in before.trials}
    for trial in now.trials:
        lines += _trial_changes(old.get(trial.number), trial, now)
    if now.forecast and done(now) != done(before):
        lines.append(str(now.forecast))
    lines += _race_changes(before.race, now.race)
    return lines + _resumed(before.activity, now.activity)


def _race_changes(before: Race | None, now: Race | None) -> Iterator[str]:
    """Who races, who is out, and who won."""
    if now is None or now == before:
        return
    if before is None or not before.next:
        names = ", ".join(str(each.trial) for each in now.runners)
        what = f"the best {len(now.runners)} trials, {names}, race" if len(now.runners) > 1 else f"trial {names} races"
        yield f"final race: {what} on up to {now.prompts} fresh prompts"
    known = {each.trial: each.out for each in before.runners} if before else {}
    for each in now.runners:
        if each.out and each.out != known.get(each.trial):
            yield f"final race: trial {each.trial} is out, {each.out}"
    if not now.next:
        yield str(now)


def _resumed(before: Activity | None, now: Activity | None) -> list[str]:
    """From which step a trial goes on, once its worker has said so."""
    if before is None or now is None or now.resumed is None or before.resumed == now.resumed:
        return []
    return [f"trial {now.trial} goes on from step {now.resumed} of {now.steps}"]


def _trial_changes(before: TrialView | None, trial: TrialView, view: StudyView) -> Iterator[str]:
    name = f"trial {trial.number}"
    was = before.state if before else ""
    if trial.state != was and trial.state in ("running", "interrupted"):
        yield f"{name} {_beginning(trial)}"
    for fraction, bits in trial.rungs.items():
        if before is None or fraction not in before.rungs:
            yield f"{name}: {bits:.3f} bits per byte at {fraction:.0%}"
    if trial.state != was and trial.state in (*ENDED, "infeasible"):
        yield _ended(name, trial, view)


def _beginning(trial: TrialView) -> str:
    if trial.state == "interrupted":
        return "interrupted"
    params = ", ".join(f"{key} {figure(value)}" for key, value in trial.params.items())
    return "goes on" if trial.attempts > 1 else f"started: {params}"


def _ended(name: str, trial: TrialView, view: StudyView) -> str:
    best = "the best so far" if trial is view.best else ""
    reason = trial.reason if trial.behind is None else ""
    told = ", ".join(filter(None, [f"{name} {trial.state}", score(trial), best, reason]))
    return f"{told}; {done(view)}, {spent(view)}"
