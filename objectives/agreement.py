"""Two forms of one model, such as an adapter and what it was merged into: do they answer the same? Imports no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from objectives.compare import Comparison, compare
from objectives.score import Frozen, ObjectiveError, Score

SHOWN = 60  # characters of either answer around the place where they part


class Parting(Frozen):
    """A prompt to which the two answered differently, from character `at` on: `a` and `b` are what follows there."""

    key: int
    at: int
    a: str
    b: str


class Texts(Frozen):
    """Of `n` prompts, `same` were answered with the same text. Of the others: the median of the characters up to the
    first difference, and the prompt with the earliest one."""

    n: int
    same: int
    median_at: float | None
    earliest: Parting | None


class Agreement(Frozen):
    """b against a: the comparison of their scores on each part of the prompts, and their texts."""

    scores: dict[str, Comparison]
    texts: Texts


def agreement(
    a: Mapping[str, Any], b: Mapping[str, Any], of_a: Sequence[Mapping[str, Any]], of_b: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Two models compared by their scores, as JSON by part, and by their samples ("key", "response"): an Agreement, as
    JSON.

    Raises ObjectiveError where they were not asked the same prompts.
    """
    scores = {part: compare(_score(a[part]).verdicts, _score(b[part]).verdicts) for part in a if part in b}
    return Agreement(scores=scores, texts=texts(of_a, of_b)).model_dump(mode="json")


def _score(dumped: Any) -> Score:
    return Score.model_validate_json(json.dumps(dumped))


def texts(of_a: Sequence[Mapping[str, Any]], of_b: Sequence[Mapping[str, Any]]) -> Texts:
    """How many of the answers are the same, and where the others part."""
    answers = {sample["key"]: sample["response"] for sample in of_b}
    if answers.keys() != {sample["key"] for sample in of_a}:
        raise ObjectiveError("the two were not asked the same prompts; score both on one file")
    found = [_parting(sample["key"], sample["response"], answers[sample["key"]]) for sample in of_a]
    apart = [one for one in found if one is not None]
    return Texts(
        n=len(found),
        same=len(found) - len(apart),
        median_at=statistics.median(one.at for one in apart) if apart else None,
        earliest=min(apart, key=lambda one: (one.at, one.key), default=None),
    )


def _parting(key: int, a: str, b: str) -> Parting | None:
    if a == b:
        return None
    shorter = min(len(a), len(b))
    at = next((place for place in range(shorter) if a[place] != b[place]), shorter)
    return Parting(key=key, at=at, a=a[at : at + SHOWN], b=b[at : at + SHOWN])


def told(result: Mapping[str, Any]) -> list[str]:
    """How fast the model of a final run is, and whether the merged one is as good, a line each."""
    merged, lines = result["merged"], [_pace("", result)]
    if "left_out" in merged:
        return [*lines, f"the merged model was not looked at: {merged['left_out']}"]
    agreed = Agreement.model_validate_json(json.dumps(merged["agreement"]))
    part = "all" if "all" in agreed.scores else next(iter(agreed.scores))
    paired, texts = agreed.scores[part].metrics["prompt_strict"], agreed.texts
    lines.append(_pace("merged, ", merged) + f"; {merged['bytes'] / 2**20:,.1f} MiB")
    lines.append(
        f"merged into the base model ({merged['weights']}): {paired.b}, {paired.difference:+.3f} (95 %: "
        f"{paired.low:+.3f} to {paired.high:+.3f}); {texts.same} of {texts.n} answers are the same text"
    )
    return lines


def _pace(which: str, timed: Mapping[str, Any]) -> str:
    first, each = timed["latency"]["first_token_s"]["p50"], timed["latency"]["tokens_per_s"]["p50"]
    return f"{which}one prompt at a time: {first:.3f} s to the first token, {each:.1f} tokens a second"
