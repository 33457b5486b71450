"""The words of a bundle: its README.md, which says what is in it and how to make the run again. Data are quoted."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from objectives.score import Measure
from search import reproduced
from search.bundle_inputs import Input
from search.export_card import code, table
from search.report_run import RunRecord
from search.report_text import duration
from train.rundir import Json

CONTENTS = (
    ("final_run.py, final_run.lock.json", "the frozen run and its lock; paths to files lead into inputs/"),
    ("reproduce.sh", "makes the run again and compares"),
    ("requirements.txt, python-version.txt, wheel/", "the environment: every package by version, Nightshift itself"),
    (
        "inputs/",
        "what the run reads and a hub has not, as far as it may and can be carried; manifest.json tells of all",
    ),
    ("adapter/", "the trained adapter in PEFT's format, with tokenizer and model card"),
    (
        "record/",
        "how the run went: result, answers to every prompt, events, and horizon.jsonl, the decisions about its end",
    ),
    ("report/", "the report"),
    ("SHA256SUMS", "of every other file"),
)


def readme(name: str, lock: Json, record: RunRecord, inputs: Collection[Input], merged: bool) -> str:
    """The README.md of a bundle; `record` is the handed-in run's, which is whole."""
    score, base = (scores["all"].prompt_strict for scores in (record.scores, record.base_scores))
    trained = duration((record.result or {})["seconds"]["train"])
    rows = [*CONTENTS, *([("merged/", "the adapter merged into the base model")] if merged else [])]
    parts = [
        f"# The final run of the study {code(name)}",
        f"Its score on IFEval: {score} of {score.n} prompts, judged strictly; the base model's is {base}. What it is "
        "made of and how it went: `report/`.",
        table(("file", "what it is"), rows),
        *_again(lock, score, trained, any(one.place is None for one in inputs)),
        *_inputs(inputs),
    ]
    return "\n\n".join(parts) + "\n"


def _again(lock: Json, score: Measure, trained: str, from_the_hub: bool) -> Iterator[str]:
    yield "## To make it again"
    yield "    ./reproduce.sh"
    machine = lock["machine"]
    gpu = machine["gpu"]["name"] if machine.get("gpu") else "none: it was made on the CPU"
    yield table(
        ("it needs", ""),
        [
            ("Python", f"{lock['python']['version']}; where python3 is another one, its path as PYTHON=..."),
            ("a card", gpu),
            (
                "time",
                f"{trained} of training on as fast a machine, and what answering the prompts takes",
            ),
            ("a network", "for packages" + (", and for models and data of the hub" if from_the_hub else "")),
        ],
    )
    if labels := sorted(_labelled(lock)):
        yield (
            f"{', '.join(map(code, labels))}: a version with a + in it is not on PyPI. PyTorch has an index of its own "
            "for each label (`cpu`, `cu128`): name it in `PIP_EXTRA_INDEX_URL` or in pip's configuration."
        )
    yield (
        "It checks the sums, builds an environment in `.venv`, runs `final_run.py --replay record/horizon.jsonl`, "
        "which ends the run where this one ended, whatever the clock says, scores it, and compares. Exit code 0: "
        "reproduced, 1: not, 2: something has to be put right first. Stopped, it goes on where it was."
    )
    yield (
        "On the CPU of the same kind of machine (processor, C library, packages), the adapter has to be the same, bit "
        "for bit. Elsewhere the scores have to agree: the difference on all prompts may be "
        f"{reproduced.TOLERANCE:g} standard errors of the paired difference, sqrt(gained + lost) / n, where gained and "
        "lost are the prompts that one run alone follows. Three honest runs of a thousand exceed that. If the answers "
        f"of the two had nothing to do with each other, it would be {_rounded(reproduced.widest(score))}."
    )


def _labelled(lock: Json) -> Iterator[str]:
    return (f"{name}=={one['version']}" for name, one in lock["packages"].items() if "+" in one["version"])


def _rounded(share: float) -> str:
    return f"{math.ceil(share * 1000) / 1000:.3f}"


def _inputs(inputs: Collection[Input]) -> Iterator[str]:
    yield "## What the run reads"
    rows = []
    for one in inputs:
        licence = str(one.licence) if one.licence else "not recorded"
        rows.append((one.name, one.what, licence, one.access))
    yield table(("name", "what", "licence", "how to come by it"), rows)
    yield (
        "Licences as the repositories of the data give them; this is no legal advice. The paths in `final_run.py` lead "
        "into `inputs/`, which is all that tells it from the file that was run, and its digests with them."
    )
