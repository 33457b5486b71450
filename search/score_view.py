"""What `nightshift score` shows: its progress, and the score as tables. Only search.cli uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from objectives.score import Measure, Score
from search.progress import duration
from search.screen import Quietable
from train.rundir import Json

PARTS = {"search": "search half", "sealed": "sealed half", "all": "all prompts"}
METRICS = {
    "prompt_strict": "prompts, strict",
    "clean": "prompts, strict, clean",
    "prompt_loose": "prompts, loose",
    "instruction_strict": "instructions, strict",
    "instruction_loose": "instructions, loose",
}


STEPS = {"start": "starting", "vllm": "trying vLLM beside the model itself on a few prompts"}


class Following:
    """Shows the events of the process that scores or measures: one line redrawn on a terminal, elsewhere a line for
    every tenth. On the standard error, so that the standard output has the result alone."""

    def __init__(self) -> None:
        self._console = Quietable(stderr=True, highlight=False)
        self._tenth: tuple[object, int] = ("", 0)
        self._open = False

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no line half written."""
        if self._open:
            self._console.print()

    def __call__(self, event: Json) -> None:
        """One event of search.scoring."""
        if "done" not in event:
            self._say(STEPS.get(event["event"]) or f"loading {event['model']}", lasting=True)
            return
        of = event.get("prompts") or event["of"]
        tenth = (event.get("part", ""), 10 * event["done"] // of)
        complete = event["done"] == of
        if self._console.is_terminal or tenth != self._tenth or complete:
            self._say(_progress(event), lasting=complete or not self._console.is_terminal)
        self._tenth = tenth

    def say(self, text: str) -> None:
        """A line that stays, where there is something to say."""
        if text:
            self._say(text, lasting=True)

    def _say(self, text: str, *, lasting: bool) -> None:
        if self._open:
            self._console.file.write("\r\x1b[2K")  # what is redrawn
        self._console.print(Text(text), end="\n" if lasting else "", soft_wrap=True)
        self._open = not lasting


def _progress(event: Json) -> str:
    if event["event"] == "run":
        return f"run {event['done']} of {event['of']}"
    kept = f", {event['kept']} of them by an earlier start" if event["kept"] else ""
    at = f", now in the {PARTS[event['part']]}" if event["part"] != "all" else ""
    line = f"{event['done']} of {counted(event['prompts'], 'prompt')} answered{kept}{at}"
    if not event["tokens"]:
        return line
    rate = f", {event['tokens'] / event['seconds']:,.0f} tokens/s" if event["seconds"] else ""
    return f"{line}; {event['tokens']:,} tokens in {spelled(event['seconds'])}{rate}"


def render(record: Json, scores: dict[str, Score], part: str, out: Path) -> RenderableType:
    """A stored score for a terminal: the parts that it has up to `part`, with the detail of that one."""
    names = [name for name in PARTS if name in scores and part in (name, "all")]
    shown = scores[part]
    parts: list[RenderableType] = [Text(_head(record), style="bold"), Text(_settings(record)), ""]
    parts += [_metrics({name: scores[name] for name in names}), ""]
    if shown.by_type:
        parts += [_types(shown), ""]
    parts += [Text(line) for line in (*_answers(shown), *_warnings(shown, record))]
    parts += ["", Text(f"kept in {out}; compare with another score: nightshift compare {out} OTHER"), ""]
    return Group(*parts)


def _head(record: Json) -> str:
    on = f" on {record['base']}" if record["adapter"] else ""
    return f"IFEval: {record['model']}{on}"


def _settings(record: Json) -> str:
    settings = record["settings"]
    weights = {"nf4": "in NF4", "full": "in full precision"}[settings["weights"]]
    threads = f", {counted(settings['threads'], 'thread')}" if "threads" in settings else ""
    by = f" by {engine}" if (engine := settings.get("engine", "nightshift")) != "nightshift" else ""
    return (
        f"{weights} on {settings['device']}{threads}, at most {settings['max_new_tokens']} new tokens, "
        f"{counted(settings['batch_size'], 'prompt')} at once{by}, prompts of {record['prompts']}"
    )


def counted(number: int, what: str) -> str:
    """1 thread, 2 threads."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def spelled(seconds: float) -> str:
    """Seconds as they are below a minute, in the units that read best above it."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def table(title: str = "") -> Table:
    """A table without lines."""
    return Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )


def share(measure: Measure | None) -> str:
    """A proportion as it is told everywhere: with its standard error, or at 0 and 1 with Wilson's bound."""
    return str(measure) if measure else "not known"


def _metrics(scores: dict[str, Score]) -> Table:
    """Without the clean metric, where no prompt is defective and it would repeat the official one."""
    made = table("Share followed ± standard error")
    made.add_column("")
    for name in scores:
        made.add_column(PARTS[name], justify="right")
    made.add_row("prompts asked", *(str(score.prompt_strict.n) for score in scores.values()), style="dim")
    defective = [score.prompt_strict.n - (score.clean.n if score.clean else 0) for score in scores.values()]
    if any(defective):
        made.add_row("of them defective", *map(str, defective), style="dim")
    for name, words in METRICS.items():
        if name != "clean" or any(defective):
            made.add_row(words, *(share(getattr(score, name)) for score in scores.values()))
    return made


def _types(score: Score) -> Table:
    made = table("By instruction type, strict")
    for heading in ("", "followed", "of", "share"):
        made.add_column(heading, justify="right" if heading else "left")
    for name, measure in sorted(score.by_type.items(), key=lambda item: (-item[1].value, item[0])):
        made.add_row(name, str(round(measure.value * measure.n)), str(measure.n), f"{measure.value:.2f}")
    return made


def _answers(score: Score) -> Iterator[str]:
    n = len(score.verdicts)
    capped = sum(verdict.capped for verdict in score.verdicts)
    yield (
        f"of {n} answers {capped} hit the length cap ({100 * capped / n:.1f} %), {score.looped} end in a loop "
        f"({100 * score.looped / n:.1f} %), {score.empty} are empty"
    )
    rate = f", {score.tokens / score.seconds:,.0f} tokens/s" if score.seconds > 0 else ""
    yield f"cost: {spelled(score.seconds)} for {score.tokens:,} tokens{rate}, checking included"


def _warnings(score: Score, record: Json) -> Iterator[str]:
    n = len(score.verdicts)
    if score.empty:
        yield f"warning: {counted(score.empty, 'answer')} without text, which follow nothing"
    if not score.exact:
        yield (
            "warning: nltk's punkt_tab is not installed, so that sentences were split by a fallback; fetch it once: "
            "python -m nltk.downloader punkt_tab"
        )
    if score.halved:
        yield "warning: memory ran out and the batch was halved on the way, so that scores may differ in a few answers"
    if record["fallback"]:
        yield f"warning: {record['fallback']}"
    if 2 * sum(verdict.capped for verdict in score.verdicts) > n:
        yield (
            "warning: most answers never ended: a model that was not taught to end its answers, or another chat "
            "template than it was trained with"
        )


def as_json(record: Json, out: Path) -> dict[str, Any]:
    """Everything that is stored, with the path of the folder."""
    return {"out": str(out), **record}
