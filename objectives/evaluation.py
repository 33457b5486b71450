"""A final evaluation: one model on both halves of the prompts and on all of them, with its answers kept on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from objectives.ifeval import IFEval, load_prompts, prompts_sha256, samples
from objectives.score import Answer, Frozen, Generate, Prompt, Score
from objectives.subset import halves

HALVES = {"search": "the half that the search saw", "sealed": "the half that it never saw"}


class Kept(Frozen):
    """Answers to the prompts of that digest, in their order, and the seconds that they took."""

    prompts_sha256: str
    seconds: float
    answers: tuple[Answer, ...]


def evaluate(
    prompts_path: Path, generate: Generate, keep: Path, show: Callable[[str], None]
) -> tuple[dict[str, Score], list[dict[str, object]]]:
    """The Scores of "search", "sealed" and "all", and the lines of samples.jsonl for all prompts.

    The answers to each half go to KEEP-HALF.json as soon as they are made; a later call takes them from there, so that
    an interruption costs half an evaluation at most. `keep` is for one model alone.
    Raises ObjectiveError for prompts that cannot be used.
    """
    parts = dict(zip(HALVES, halves(load_prompts(prompts_path)), strict=True))
    kept: dict[str, Kept] = {}
    for half, prompts in parts.items():
        kept[half] = _answered(keep.with_name(f"{keep.name}-{half}.json"), half, prompts, generate, show)
    scores = {
        half: IFEval(prompts).check(kept[half].answers, seconds=kept[half].seconds) for half, prompts in parts.items()
    }
    everything = parts["search"] + parts["sealed"]
    answers = kept["search"].answers + kept["sealed"].answers
    seconds = kept["search"].seconds + kept["sealed"].seconds
    scores["all"] = IFEval(everything).check(answers, seconds=seconds)
    return scores, samples(everything, answers, scores["all"])


def _answered(
    path: Path, half: str, prompts: tuple[Prompt, ...], generate: Generate, show: Callable[[str], None]
) -> Kept:
    digest = prompts_sha256(prompts)
    kept = _read(path)
    if kept is not None and kept.prompts_sha256 == digest and len(kept.answers) == len(prompts):
        return kept
    show(f"{len(prompts)} prompts of {HALVES[half]}")
    began = time.monotonic()
    answers = tuple(generate([prompt.prompt for prompt in prompts]))
    kept = Kept(prompts_sha256=digest, seconds=time.monotonic() - began, answers=answers)
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(kept.model_dump_json(), encoding="utf-8")
    os.replace(staged, path)
    return kept


def _read(path: Path) -> Kept | None:
    """What was kept; None where there is nothing, or half of something after a power cut."""
    try:
        return Kept.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError):
        return None
