"""Checking alone: CPU seconds for recorded answers of three models to IFEval's 541 prompts, and lm-eval's verdicts.

The answers are those of NIGHTSHIFT_SHARED/data/ifeval_responses_three_models.jsonl.gz. The peer is lm-eval's own two
functions, strict and loose, on the same answers and with the same checkers.

    python -m benchmarks.score_check
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import langdetect
from table import Figure

from objectives import checkers
from objectives.ifeval import IFEval, load_prompts
from objectives.score import Answer, Prompt, Verdict
from objectives.sentences import punkt_available

SECONDS = 2.0
TURNS = 3  # of which the median counts


def recorded() -> dict[str, list[tuple[Prompt, str]]]:
    """By model, each prompt with its answer; {} without data."""
    folder = Path(os.environ.get("NIGHTSHIFT_SHARED", ""), "data")
    path = folder / "ifeval_responses_three_models.jsonl.gz"
    if not path.is_file():
        return {}
    prompts = {prompt.key: prompt for prompt in load_prompts(folder / "ifeval_input_data.jsonl")}
    answers: dict[str, list[tuple[Prompt, str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            answers.setdefault(row["model"].split("__")[1], []).append((prompts[row["key"]], row["response"]))
    return answers


def figures() -> list[Figure]:
    """Seconds of one check of all answers, by model; [] without data."""
    return [figure for model, rows in recorded().items() for figure in _figures(model, rows)]


def _figures(model: str, rows: list[tuple[Prompt, str]]) -> list[Figure]:
    objective = IFEval([prompt for prompt, _ in rows])
    answers = [Answer(text=text, tokens=1, capped=False) for _, text in rows]
    ours, score = _timed(lambda: objective.check(answers))
    peer, verdicts = _timed(lambda: _by_lm_eval(rows))
    same = sum(_both(ours) == theirs for ours, theirs in zip(score.verdicts, verdicts, strict=True))
    name = f"checking {len(rows)} recorded answers, {model}"
    return [
        Figure(name, f"{ours:.2f} s", f"{peer:.2f} s", f"{SECONDS:g} s", ours <= SECONDS),
        Figure(f"{name}: same verdicts", str(same), "lm-eval's", str(len(rows)), same == len(rows)),
    ]


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The median CPU seconds of a few turns, and what the last one gave."""
    seconds = []
    for _ in range(TURNS):
        began = time.process_time()
        made = run()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds), made


Judged = tuple[tuple[bool, ...], tuple[bool, ...]]


def _by_lm_eval(rows: list[tuple[Prompt, str]]) -> list[Judged]:
    """Strict and loose verdicts by lm-eval's functions as they come, but seeded, and with our fallback where needed."""
    from lm_eval.tasks.ifeval import instructions_registry, utils

    registry, before = instructions_registry.INSTRUCTION_DICT, dict(instructions_registry.INSTRUCTION_DICT)
    if not punkt_available():
        registry.update(checkers.FALLBACKS)
    langdetect.DetectorFactory.seed = 0
    logging.disable()  # a line for every answer without a language
    try:
        return [_judged(utils, prompt, text) for prompt, text in rows]
    finally:
        logging.disable(logging.NOTSET)
        langdetect.DetectorFactory.seed = None
        registry.update(before)


def _judged(utils: Any, prompt: Prompt, text: str) -> Judged:
    judged: list[tuple[bool, ...]] = []
    for check in (utils.test_instruction_following_strict, utils.test_instruction_following_loose):
        followed: list[bool] = []
        for name, kwargs in zip(prompt.instruction_id_list, prompt.kwargs, strict=True):
            random.seed(prompt.key)
            example = utils.InputExample(prompt.key, [name], prompt.prompt, [kwargs])
            followed += check(example, text).follow_instruction_list
        judged.append(tuple(followed))
    return judged[0], judged[1]


def _both(verdict: Verdict) -> tuple[tuple[bool | None, ...], tuple[bool | None, ...]]:
    return verdict.strict, verdict.loose


if __name__ == "__main__":
    for figure in figures():
        print(figure.line)
