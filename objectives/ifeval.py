"""IFEval: prompts whose instructions a program can check, and a Score of the answers to them.

The checkers are lm-eval's (objectives.checkers).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from objectives import prompt_file
from objectives.checkers import Check, fixed_world, judge
from objectives.decided import Decider
from objectives.defects import defective
from objectives.loops import ends_in_loop
from objectives.score import Answer, ObjectiveError, Prompt, Score, Verdict
from objectives.sentences import NEED_PUNKT, punkt_available


def load_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Read prompts from a JSONL file in IFEval's format (see objectives.prompt_file), and try the checkers on them.

    Raises ObjectiveError with every error of the file at once, one that recurs with its first line.
    """
    file = prompt_file.read(Path(path))
    with fixed_world():  # the checkers are tried
        return file.prompts([(line.place, wrong) for line in file.lines for wrong in _unusable(line)])


def _unusable(line: prompt_file.Line) -> Iterator[str]:
    """What the checkers say when they are tried on a word, of a line that is right as far as its kwargs can be seen."""
    if line.prompt is None or line.wrong:
        return
    for index, name in enumerate(line.prompt.instruction_id_list):
        try:
            Check(line.prompt, index, exact=False)("word")
        except Exception as error:  # whatever a checker of lm-eval raises on bad kwargs
            yield f"kwargs of {name} cannot be used: its checker says {type(error).__name__}: {error}"


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order: equal for equal prompts, whatever file they came from."""
    rows = [prompt.model_dump(mode="json") for prompt in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class IFEval:
    """IFEval over a fixed list of prompts.

    The headline is prompt-level strict accuracy (every instruction of a prompt followed); loose verdicts forgive a
    first or last line and markdown asterisks. `exact` is false where a prompt is judged by the fallback.
    """

    def __init__(self, prompts: Sequence[Prompt], *, clock: Callable[[], float] = time.perf_counter) -> None:
        if not prompts:
            raise ObjectiveError("there is no prompt to score; give at least one")
        self.prompts = tuple(prompts)
        self.prompts_sha256 = prompts_sha256(self.prompts)
        self.punkt = punkt_available()
        needs_punkt = any(name in NEED_PUNKT for prompt in self.prompts for name in prompt.instruction_id_list)
        self.exact = self.punkt or not needs_punkt
        self._clock = clock

    def check(self, answers: Sequence[Answer], *, seconds: float = 0.0) -> Score:
        """Judge one answer for each prompt, in the prompts' order. The same answers always give the same verdicts.

        `seconds` is what the answers took; the checking is added to it. An empty answer follows nothing.
        """
        assert len(answers) == len(self.prompts), f"{len(answers)} answers to {len(self.prompts)} prompts"
        started = self._clock()
        with fixed_world():
            verdicts = [_judge(p, a, exact=self.punkt) for p, a in zip(self.prompts, answers, strict=True)]
        return Score.of(
            verdicts,
            looped=sum(ends_in_loop(answer.text) for answer in answers),
            empty=sum(not answer.text.strip() for answer in answers),
            defective=defective(self.prompts),
            prompts_sha256=self.prompts_sha256,
            exact=self.exact,
            seconds=seconds + self._clock() - started,
        )


def samples(prompts: Sequence[Prompt], answers: Sequence[Answer], score: Score) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, one for each prompt. `strict` and `loose` are the verdicts on the whole prompt; where
    the answer was ended early (`decided`), `loose` is null."""
    return [
        {
            "key": prompt.key,
            "prompt": prompt.prompt,
            "response": answer.text,
            "strict": verdict.followed,
            "loose": verdict.followed_loosely,
            "capped": answer.capped,
            "decided": answer.decided,
        }
        for prompt, answer, verdict in zip(prompts, answers, score.verdicts, strict=True)
    ]


def _judge(prompt: Prompt, answer: Answer, *, exact: bool) -> Verdict:
    strict, loose = judge(prompt, answer.text, exact=exact, loosely=not answer.decided)
    return Verdict(
        key=prompt.key,
        instruction_id_list=prompt.instruction_id_list,
        strict=_known(prompt, answer.text, strict) if answer.decided else tuple(strict),
        loose=(None,) * len(strict) if answer.decided else tuple(loose),
        tokens=answer.tokens,
        capped=answer.capped,
        decided=answer.decided,
    )


def _known(prompt: Prompt, text: str, strict: list[bool]) -> tuple[bool | None, ...]:
    """Of the verdicts on an answer that was ended early, those that no continuation could have changed."""
    final = Decider(prompt)(text)
    return tuple(None if sure is None else followed for sure, followed in zip(final, strict, strict=True))
