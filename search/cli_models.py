"""The commands about a model by itself: score, latency, compare. They give what is to be shown; search.cli shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType


@dataclass(frozen=True)
class Plain:
    """What is printed as one JSON object."""

    value: Any


Shown = Iterator[RenderableType | Plain]


class Half(StrEnum):
    """Which of the prompts."""

    search = "search"
    sealed = "sealed"
    all = "all"


class Weights(StrEnum):
    """How the base model is loaded."""

    nf4 = "nf4"
    full = "full"


class Device(StrEnum):
    """What a model runs on."""

    cpu = "cpu"
    cuda = "cuda"


class Engines(StrEnum):
    """What makes the answers."""

    nightshift = "nightshift"
    vllm = "vllm"


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A base or merged model (folder or hub id), an adapter's folder, a run (STUDY/runs/003) or STUDY/final.",
    ),
]
AnyDevice = Annotated[
    Device | None, typer.Option(help="By default cuda where there is a card, else cpu.", show_default=False)
]
AnyWeights = Annotated[
    Weights, typer.Option(help="nf4, as in a study, or full: bfloat16 on a card, float32 on the CPU.")
]
Revision = Annotated[
    str | None, typer.Option(metavar="COMMIT", help="The commit of a model on the hub.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")]
Which = Annotated[
    Half | None,
    typer.Option(
        help="Which prompts: the half that a search sees, the other one, or all. By default all; for a trial of a "
        "study the search half.",
        show_default=False,
    ),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="The JSONL file of prompts; by default the study's, else ./ifeval_input_data.jsonl.",
        show_default=False,
    ),
]
Template = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A Jinja template, in place of the recipe's or the tokenizer's.", show_default=False
    ),
]
MostTokens = Annotated[
    int | None,
    typer.Option(min=1, help="The most tokens of an answer; by default the study's, else 1280.", show_default=False),
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        min=1, help="Prompts answered at once; by default the study's, else 16; with vLLM 128.", show_default=False
    ),
]
Engine = Annotated[Engines, typer.Option(help="What makes the answers; vllm needs an environment of its own.")]
VllmPython = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        envvar="NIGHTSHIFT_VLLM_PYTHON",
        help="The python of the environment that has vLLM.",
        show_default=False,
    ),
]
IfBench = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="IFBench's file or hub id: refused for want of checkers, see docs.", show_default=False
    ),
]
ScoreFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Keeps the score; by default RUN/scores or ./scores/NAME.", show_default=False),
]
SaveSamples = Annotated[bool, typer.Option("--save-samples", help="Keep every prompt with its answer.")]


def score(
    model: Model,
    prompts: Which = None,
    file: PromptsFile = None,
    chat_template: Template = None,
    max_new_tokens: MostTokens = None,
    batch_size: AtOnce = None,
    engine: Engine = Engines.nightshift,
    vllm_python: VllmPython = None,
    ifbench: IfBench = None,
    weights: AnyWeights = Weights.nf4,
    device: AnyDevice = None,
    revision: Revision = None,
    out: ScoreFolder = None,
    save_samples: SaveSamples = False,
    as_json: AsJson = False,
) -> Shown:
    """Score a model on IFEval: four metrics with standard errors, by instruction type, and what it cost.

    What was stopped goes on; what is there already is shown again.
    """
    from search import score_engine, score_job, score_model, score_settings, score_view

    if ifbench is not None:
        score_settings.refuse_ifbench(ifbench)
    made_by = score_engine.engine(engine.value, vllm_python)
    found = score_model.find(model, revision)
    part = score_settings.part_of(found, prompts.value if prompts else None)
    template = score_settings.chat_template(found, chat_template)
    asked = score_settings.prompts(found, part, file)
    machine = score_settings.machine(device.value if device else None, weights is Weights.nf4, made_by)
    lengths, source = score_settings.lengths(found, max_new_tokens, batch_size, engine.value)
    score_settings.check_lengths(found, asked, template, lengths["max_new_tokens"])
    settings = score_settings.settings(found, machine, asked, template, **lengths)
    folder = score_settings.out_folder(found, out)
    with score_view.Following() as watch:
        watch.say(source)
        watch.say(score_settings.opened(found, part))
        record = score_job.score(found, machine, asked, part, settings, folder, save_samples=save_samples, watch=watch)
    if as_json:
        yield Plain(score_view.as_json(record, folder))
    else:
        yield score_view.render(record, score_job.scores_of(record), part, folder)


def latency(
    model: Model,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A second model, measured by turns with the first. An adapter is measured beside its base anyway.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs for each length of prompt.")] = 30,
    weights: AnyWeights = Weights.nf4,
    device: AnyDevice = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> Shown:
    """Measure how fast a model answers one prompt at a time, and how large it is; base and tuned by turns."""
    from search import latency_view, score_job, score_model, score_settings, score_view

    models = [score_model.find(model, revision)]
    if against is not None:
        models.append(score_model.find(against))
    machine = score_settings.machine(device.value if device else None, weights is Weights.nf4)
    with score_view.Following() as watch:
        measured = score_job.latency(models, machine, runs, watch)
    yield Plain(measured) if as_json else latency_view.render(measured)


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A folder or score.json that `score` wrote, a run, or STUDY/final.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The one that is compared with it.")],
    show: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show N prompts that one alone follows, with both answers.")
    ] = 0,
    as_json: AsJson = False,
) -> Shown:
    """Compare two scored models prompt by prompt: difference with its interval, McNemar, gained and lost."""
    from objectives.compare import compare as paired
    from search import compare_view, score_records

    first, second = score_records.read(a), score_records.read(b)
    score_records.check_same_prompts(first, second)
    made = paired(first.score.verdicts, second.score.verdicts)
    if as_json:
        yield Plain(compare_view.as_json(first, second, made))
    else:
        yield compare_view.render(first, second, made, show)
