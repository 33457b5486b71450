"""Answers on disk: what is kept is got, what is torn or of another identity is not, and a kill changes no answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import rows, write_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from objectives.answers import AnswerLog
from objectives.generate import Generator
from objectives.score import Answer

IDENTITY = {"model": "a", "max_new_tokens": 64}
BATCHES = {
    (3, 1): [Answer(text="One.\nTwo \ufffd \u2028", tokens=7, capped=False), Answer(text="", tokens=64, capped=True)],
    (0, 2): [Answer(text="über", tokens=3, capped=False), Answer(text="x", tokens=16, capped=False, decided=True)],
    (4,): [Answer(text='{"a": 1}', tokens=5, capped=False)],
}


def write(path: Path) -> list[int]:
    """Keep all BATCHES; returns the size of the file after each."""
    log, sizes = AnswerLog(path, IDENTITY), []
    for batch, answers in BATCHES.items():
        log.put(list(batch), answers, 1.5)
        sizes.append(path.stat().st_size)
    assert log.seconds == 4.5
    return sizes


def kept(log: AnswerLog) -> list[tuple[int, ...]]:
    found = [batch for batch in BATCHES if log.get(list(batch)) is not None]
    assert all(log.get(list(batch)) == BATCHES[batch] for batch in found)
    return found


def test_what_was_kept_is_got_with_what_it_cost(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    write(path)
    log = AnswerLog(path, dict(reversed(IDENTITY.items())))
    assert log.seconds == 0.0
    assert log.get([3, 1]) == BATCHES[3, 1]
    assert log.seconds == 1.5
    assert log.get([1, 3]) is None
    assert log.get([3]) is None
    assert not log.halved


def test_that_a_batch_was_made_after_halving_is_told_when_it_is_got(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "log", IDENTITY)
    log.put([4], BATCHES[4,])
    log.halved = True
    log.put([3, 1], BATCHES[3, 1])
    again = AnswerLog(tmp_path / "log", IDENTITY)
    again.get([4])
    assert not again.halved
    again.get([3, 1])
    assert again.halved


def test_the_answers_of_another_identity_are_thrown_away_by_the_first_put(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path)
    other = AnswerLog(path, {**IDENTITY, "max_new_tokens": 65})
    assert kept(other) == []
    assert kept(AnswerLog(path, IDENTITY)) == list(BATCHES)  # nothing is lost by looking
    other.put([4], BATCHES[4,])
    assert kept(AnswerLog(path, IDENTITY)) == []
    assert kept(AnswerLog(path, {**IDENTITY, "max_new_tokens": 65})) == [(4,)]


@given(data=st.data())
def test_a_file_torn_anywhere_keeps_the_batches_before_and_goes_on(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / "log"
    sizes = write(path)
    cut = data.draw(st.integers(0, sizes[-1]))
    tail = data.draw(st.sampled_from([b"", b"\0" * 40, b'{"batch":', b"null\n"]))
    path.write_bytes(path.read_bytes()[:cut] + tail)
    whole = [batch for batch, size in zip(BATCHES, sizes, strict=True) if size <= cut]
    log = AnswerLog(path, IDENTITY)
    assert kept(log) == whole
    log.put([4], BATCHES[4,])
    assert kept(AnswerLog(path, IDENTITY)) == sorted({*whole, (4,)}, key=list(BATCHES).index)


SCORING = """
import os, signal, sys
from pathlib import Path
import torch
from test_answers import PROMPTS, generator, log_of
torch.set_num_threads(1)
folder = Path(sys.argv[1])
log, calls = log_of(folder), []

def die_in_the_second_segment():
    kept = (folder / "log").read_bytes().count(b"\\n") - 1 if (folder / "log").exists() else 0
    calls.append(kept)
    if calls.count(1) == 2:  # in the midst of it
        os.kill(os.getpid(), signal.SIGKILL)

generator(folder, die_in_the_second_segment)(PROMPTS, log=log)
"""
PROMPTS = [row["prompt"] for row in rows(20)]


def log_of(folder: Path) -> AnswerLog:
    return AnswerLog(folder / "log", IDENTITY)


def generator(folder: Path, before_batch) -> Generator:  # type: ignore[no-untyped-def]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Generator(model, tokenizer, None, 40, 2, before_batch)


def test_scoring_that_was_killed_goes_on_and_gives_the_same_answers(tmp_path: Path, one_thread: None) -> None:
    write_model(tmp_path)
    uninterrupted = generator(tmp_path, lambda: None)(PROMPTS)
    child = subprocess.run(
        [sys.executable, "-c", SCORING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len((tmp_path / "log").read_bytes().splitlines()) == 2  # identity and the first segment
    calls: list[None] = []
    log = log_of(tmp_path)
    assert generator(tmp_path, lambda: calls.append(None))(PROMPTS, log=log) == uninterrupted
    assert log.seconds > 0
    assert len(calls) > 0
    calls.clear()
    assert generator(tmp_path, lambda: calls.append(None))(PROMPTS, log=log_of(tmp_path)) == uninterrupted
    assert calls == []  # everything was there
