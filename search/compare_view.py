"""What `nightshift compare` shows. Only search.cli uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from objectives.compare import METHOD, Comparison, Paired
from search.score_records import Stored, unlike
from search.score_view import METRICS, share, table

MOST_KEYS = 20  # of prompts gained or lost
MOST_CHARACTERS = 1500  # of an answer that is shown


def render(a: Stored, b: Stored, made: Comparison, show: int) -> RenderableType:
    """The comparison for a terminal, and `show` prompts that one of the two alone follows, with both answers."""
    parts: list[RenderableType] = [Text(f"A: {a.name}\nB: {b.name}", style="bold"), ""]
    parts += [Text(line) for line in _basis(a, b, made)]
    parts += ["", _metrics(made), "", Text(_verdict(made)), Text(METHOD, style="dim"), ""]
    if any(one.difference for one in made.by_type.values()):
        parts += [_types(made), ""]
    parts += [Text(f"gained by B: {_keys(made.gained)}"), Text(f"lost by B: {_keys(made.lost)}"), ""]
    parts += list(_shown(a, b, made, show))
    return Group(*parts)


def _basis(a: Stored, b: Stored, made: Comparison) -> Iterator[str]:
    left = ", ".join(
        f"{count} that {who} alone was asked" for count, who in ((made.only_a, "A"), (made.only_b, "B")) if count
    )
    yield f"compared on the {made.n} prompts that both answered" + (f"; left out: {left}" if left else "")
    for name, (of_a, of_b) in unlike(a, b).items():
        detail = "" if name == "chat_template" else f": {_short(of_a, of_b)}"
        yield f"warning: {name.replace('_', ' ')} differ{'' if name == 'versions' else 's'}{detail}"
    for stored in (a, b):
        if stored.ended:
            yield (
                f"warning: {stored.name} was ended by the race for being behind on the prompts that it was asked, "
                "which tell trials apart: the difference looks larger and surer than it is"
            )
    if any(v.decided for one in (a, b) for v in one.score.verdicts):
        yield "some answers were ended once their strict verdict was decided, so that strict prompts alone are compared"


def _short(of_a: object, of_b: object) -> str:
    if isinstance(of_a, dict) and isinstance(of_b, dict):
        names = [name for name in {**of_a, **of_b} if of_a.get(name) != of_b.get(name)]
        return ", ".join(f"{name} {of_a.get(name)} and {of_b.get(name)}" for name in names)
    return f"{of_a} for A, {of_b} for B"


def _metrics(made: Comparison) -> Table:
    shown = table("Share followed ± standard error")
    for heading in ("", "A", "B", "B - A", "95 % interval"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, words in METRICS.items():
        if name in made.metrics:
            shown.add_row(words, *_cells(made.metrics[name]))
    return shown


def _cells(one: Paired) -> tuple[str, ...]:
    return share(one.a), share(one.b), f"{one.difference:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}"


def _verdict(made: Comparison) -> str:
    strict = made.metrics["prompt_strict"]
    gained, lost = len(made.gained), len(made.lost)
    counts = f"{gained} gained, {lost} lost, {made.both} followed by both, {made.neither} by neither; p = {made.p:.3g}"
    if strict.low > 0 or strict.high < 0:
        better, worse = ("B", "A") if strict.difference > 0 else ("A", "B")
        surely = "" if made.p < 0.05 else " (by the interval; the exact test is not sure)"
        return f"{counts}: {better} follows more prompts than {worse}{surely}"
    return f"{counts}: these prompts do not tell the two apart"


def _types(made: Comparison) -> Table:
    shown = table("Types that differ, strict")
    for heading in ("", "of", "A", "B", "B - A"):
        shown.add_column(heading, justify="right" if heading else "left")
    rows = sorted(made.by_type.items(), key=lambda item: (-item[1].difference, item[0]))
    for name, one in rows:
        if one.difference:
            followed = (str(round(side.value * side.n)) for side in (one.a, one.b))
            shown.add_row(name, str(one.a.n), *followed, f"{round(one.difference * one.a.n):+d}")
    return shown


def _keys(keys: tuple[int, ...]) -> str:
    more = f" and {len(keys) - MOST_KEYS} more, which --json names" if len(keys) > MOST_KEYS else ""
    return ", ".join(map(str, keys[:MOST_KEYS])) + more if keys else "none"


def _shown(a: Stored, b: Stored, made: Comparison, show: int) -> Iterator[RenderableType]:
    differing = [key for pair in _turns(made.gained, made.lost) for key in pair]
    known = [key for key in differing if key in a.samples and key in b.samples]
    if show and not known and differing:
        yield Text("no answers to show: score both with --save-samples")
    for key in known[:show]:
        yield Text(f"prompt {key}, {'gained' if key in made.gained else 'lost'} by B", style="bold")
        yield Text(_cut(a.samples[key].prompt))
        for who, stored in (("A", a), ("B", b)):
            yield Text.assemble((f"{who}: ", "bold"), _cut(stored.samples[key].response) or "(empty)")
        yield ""


def _turns(first: tuple[int, ...], second: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for place in range(max(len(first), len(second))):
        yield tuple(keys[place] for keys in (first, second) if place < len(keys))


def _cut(text: str) -> str:
    text = text.strip()
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}… ({more:,} characters more)"


def as_json(a: Stored, b: Stored, made: Comparison) -> dict[str, Any]:
    """The comparison as plain data."""
    sides = {who: {"name": s.name, "part": s.part, "prompts": len(s.score.verdicts)} for who, s in (("a", a), ("b", b))}
    differ = {name: list(pair) for name, pair in unlike(a, b).items()}
    return {**sides, "settings_that_differ": differ, "method": METHOD, **made.model_dump(mode="json")}
