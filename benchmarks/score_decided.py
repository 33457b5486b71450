"""Decided rows: how much generation stops early on published answers of three models, and with no verdict changed.

The answers (NIGHTSHIFT_SHARED/data/ifeval_responses_three_models.jsonl.gz) are replayed as if they were being
generated: a token is 4.3 characters, the length cap cuts, and every 16 tokens objectives.decided is asked. Every answer
that it stops is judged by lm-eval's checkers twice, where it stopped and as it would have become.

    NIGHTSHIFT_SHARED=... python benchmarks/score_decided.py
"""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from table import Figure

from objectives.decided import Decider, followed
from objectives.ifeval import IFEval, load_prompts
from objectives.score import Answer, Prompt

CHARACTERS = 4.3  # of a token
EVERY = 16  # tokens between two looks
CAPS = (1280, 512)  # tokens: in a final score, in the search
SAVED = 0.30
SECONDS = 0.2e-3  # of processor time for a look, on average
MOST = 20  # rules to print


@dataclass
class Saving:
    """What the answers of one model cost to generate, in tokens, with and without stops."""

    tokens: int = 0
    generated: int = 0
    stopped: int = 0
    wrong: int = 0
    looks: int = 0
    seconds: float = 0.0
    rules: Counter[str] = field(default_factory=Counter)  # tokens saved, by what had decided

    @property
    def saved(self) -> float:
        """Share of the tokens that were not generated."""
        return 1 - self.generated / self.tokens

    def __add__(self, other: Saving) -> Saving:
        names = ("tokens", "generated", "stopped", "wrong", "looks", "seconds", "rules")
        return Saving(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Stop:
    """Where an answer stops: after `tokens`, with the instructions' verdicts so far."""

    tokens: int
    verdicts: tuple[bool | None, ...]


def recorded() -> dict[str, list[tuple[Prompt, str]]]:
    """For each model its prompts and answers, those with an older wording of the prompt left out; {} without data."""
    root = os.environ.get("NIGHTSHIFT_SHARED")
    data = Path(root) / "data" if root else None
    if data is None or not data.is_dir():
        return {}
    prompts = {prompt.key: prompt for prompt in load_prompts(data / "ifeval_input_data.jsonl")}
    answers: dict[str, list[tuple[Prompt, str]]] = {}
    with gzip.open(data / "ifeval_responses_three_models.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["prompt_matches"]:
                answers.setdefault(row["model"], []).append((prompts[row["key"]], row["response"]))
    return answers


def replay(answers: Sequence[tuple[Prompt, str]], cap: int) -> Saving:
    """The saving on these answers, cut at `cap` tokens."""
    saving, stopped = Saving(), []
    for prompt, response in answers:
        text = response[: int(cap * CHARACTERS)]
        tokens = math.ceil(len(text) / CHARACTERS)
        stop = _generate(prompt, text, tokens, saving)
        saving.tokens += tokens
        saving.generated += stop.tokens if stop else tokens
        if stop:
            saving.stopped += 1
            saving.rules += Counter({_by(prompt, stop): tokens - stop.tokens})
            stopped.append((prompt, text, stop))
    saving.wrong = sum(_wrong(stopped)) if stopped else 0
    return saving


def _generate(prompt: Prompt, text: str, tokens: int, saving: Saving) -> Stop | None:
    """Where the answer stops, None where it goes on to its end; adds the looks at it to `saving`."""
    decider = Decider(prompt)
    for looked in range(EVERY, tokens, EVERY):
        started = time.process_time()
        stops = decider.stops(text[: int(looked * CHARACTERS)])
        saving.seconds += time.process_time() - started
        saving.looks += 1
        if stops:
            return Stop(looked, decider(text[: int(looked * CHARACTERS)]))
    return None


def _by(prompt: Prompt, stop: Stop) -> str:
    """What decided: the first instruction that is broken, or all of them followed."""
    names = [name for name, verdict in zip(prompt.instruction_id_list, stop.verdicts, strict=True) if verdict is False]
    return f"{names[0]} broken" if names else f"{'; '.join(sorted(prompt.instruction_id_list))} followed"


def _wrong(stopped: Sequence[tuple[Prompt, str, Stop]]) -> Iterator[bool]:
    """For each stopped answer whether the checkers judge it, or what it would have become, otherwise than was said."""
    objective = IFEval([prompt for prompt, _, _ in stopped])
    cuts, wholes = (
        objective.check([Answer(text=text, tokens=1, capped=False) for text in texts]).verdicts
        for texts in (
            [text[: int(stop.tokens * CHARACTERS)] for _, text, stop in stopped],
            [text for _, text, _ in stopped],
        )
    )
    for (_, _, stop), cut, whole in zip(stopped, cuts, wholes, strict=True):
        yield {all(cut.strict), all(whole.strict)} != {followed(stop.verdicts)}


def figures() -> list[Figure]:
    """The share saved and the verdicts changed, for each model and in all, and what a look costs; [] without data."""
    answers, made = recorded(), []
    if not answers:
        print("no published answers: what decided rows save is left out (set NIGHTSHIFT_SHARED)")
        return []
    for cap in CAPS:
        savings = {model: replay(rows, cap) for model, rows in answers.items()}
        total = sum(savings.values(), Saving())
        for model, saving in savings.items():
            made.append(_figure(f"generation saved by decided rows, cap {cap}, {model}", saving, to_reach="-"))
        made.append(_figure(f"generation saved by decided rows, cap {cap}, in all", total, to_reach=f"{SAVED:.0%}"))
        look = total.seconds / total.looks
        name = f"a look at an answer in the making, cap {cap}, mean of {total.looks}"
        made.append(Figure(name, f"{look * 1e3:.3f} ms", "-", f"{SECONDS * 1e3} ms", look <= SECONDS))
        print(f"What saved most of all tokens, cap {cap}:")
        print("\n".join(f"{tokens / total.tokens:7.2%} | {rule}" for rule, tokens in total.rules.most_common(MOST)))
    return made


def _figure(name: str, saving: Saving, *, to_reach: str) -> Figure:
    reached = not saving.wrong and (to_reach == "-" or saving.saved >= SAVED)
    measured = f"{saving.saved:.1%}, {saving.wrong} wrong of {saving.stopped} stopped"
    return Figure(name, measured, "0", f"{to_reach}, 0 wrong", reached)


if __name__ == "__main__":
    for figure in figures():
        print(figure.line)
