"""The child process of `nightshift score` and `nightshift latency`: loads models, lets them answer, measures them.

    python -m search.scoring JOB.json

The job says everything (see search.score_job). What happens is told on the standard output, one JSON object a line;
whatever libraries print goes to the standard error. Answers are kept as they are made, so that this process may be
killed at any instant. It dies with its parent.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.score import ObjectiveError
from search.lease import die_with_parent
from search.score_engine import BATCH, OWN
from train.imports import collector_paused
from train.recipe import Base, RecipeError
from train.rundir import Json, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from objectives.generate import Generator
    from objectives.vllm_engine import VllmGenerator
    from train.model import LoadedBase

    Answering = Generator | VllmGenerator

Tell = Callable[[Json], None]


def score(job: Json, tell: Tell) -> None:
    """Have the model answer, and write score.json (and samples.jsonl where asked) into the folder of the job."""
    with collector_paused():
        from objectives.evaluation import Answered, evaluate
        from objectives.ifeval import load_prompts

    prompts = load_prompts(job["prompts"])  # kwargs that no checker takes are told before anything is loaded
    out = Path(job["out"])

    def progress(at: Answered) -> None:
        tell({"event": "answers", **asdict(at)})

    with _answering(job, tell, [prompt.prompt for prompt in prompts]) as (generator, instead):
        facts = {"chat_template": generator.chat_template, "batch_size": generator.batch_size}
        settings = {**job["settings"], **facts, **({"engine": OWN.name} if instead else {})}
        scores, samples = evaluate(
            Path(job["prompts"]),
            generator,
            out / "answers",
            identity=settings,
            parts=job["halves"],
            progress=progress,
        )
    if job["save_samples"]:
        _add_samples(out / "samples.jsonl", samples)
    earlier = read_json(out / "score.json") or {"scores": {}, "fallback": None}
    made = {name: made.model_dump(mode="json") for name, made in scores.items()}
    record = {**job["record"], "settings": settings, "fallback": _fallback(instead, generator) or earlier["fallback"]}
    write_json(out / "score.json", {**record, "scores": {**earlier["scores"], **made}})


@contextmanager
def _answering(job: Json, tell: Tell, prompts: Sequence[str]) -> Iterator[tuple[Answering, str | None]]:
    """What answers the prompts, and why it is not vLLM where that is asked for."""
    with collector_paused():
        from objectives.generate import Generator
        from objectives.vllm_engine import Engine, answering

    settings = job["settings"]
    most = settings["batch_size"] if job["vllm_python"] is None else BATCH["nightshift"]

    def load() -> Generator:
        base, tuned = _load(job, job["model"], tell)
        return Generator(
            tuned or base.model,
            base.tokenizer,
            chat_template=settings["chat_template"],
            max_new_tokens=settings["max_new_tokens"],
            batch_size=min(settings["batch_size"], most),
        )

    if job["vllm_python"] is None:
        yield load(), None
        return
    adapter = job["model"]["adapter"]
    engine = Engine(
        python=job["vllm_python"],
        folder=Path(job["out"]),
        model=_folder(job["model"]),
        adapter=Path(adapter) if adapter else None,
        nf4=job["quantize"],
        batch_size=settings["batch_size"],
    )
    tell({"event": "vllm"})
    with answering(engine, load, prompts) as found:
        yield found


def _fallback(instead: str | None, generator: Answering) -> str | None:
    """What a reader of the score has to know of what made the answers."""
    said = []
    if instead:
        said.append(f"the answers are Nightshift's own and not vLLM's, which differs from model.generate: {instead}")
    if generator.fallback:
        said.append(f"the answers were made by model.generate, which is slower: {generator.fallback}")
    return "; ".join(said) or None


def _add_samples(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write samples.jsonl, with the answers to other prompts that it had; what is no such line is left out."""
    held: dict[int, Mapping[str, Any]] = {}
    with suppress(OSError, KeyError, TypeError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            held[sample["key"]] = sample
    held |= {sample["key"]: sample for sample in samples}
    write_atomic(path, "".join(json.dumps(sample) + "\n" for sample in held.values()))


def latency(job: Json, tell: Tell) -> None:
    """Measure every arm of the job by turns, and write the figures to the file that it names."""
    with collector_paused():
        from objectives.latency import Arm, device_name, interleaved, longest_prompt

    loads = [_load(job, model, tell) for model in job["loads"]]
    arms, figures = [], []
    for arm in job["arms"]:
        base, tuned = loads[arm["load"]]
        off = tuned is not None and not arm["tuned"]
        arms.append(Arm(tuned or base.model, base.tokenizer, *([tuned.disable_adapter] if off else [])))
        figures.append(
            {"name": arm["name"], "size": _sizes(base, tuned, job["loads"][arm["load"]], arm), "latency": []}
        )
    room = [longest_prompt(arm.model, job["new_tokens"]) for arm in arms]
    longest = min((tokens for tokens in room if tokens is not None), default=None)
    lengths = [length for length in job["lengths"] if longest is None or length <= longest]
    if not lengths:
        raise ObjectiveError(
            f"no prompt of {min(job['lengths'])} tokens and {job['new_tokens']} new ones fits into the model's "
            "positions; measure a model with more"
        )
    turns, done = len(lengths) * len(arms) * (job["runs"] + job["warmups"]), 0

    def after_run() -> None:
        nonlocal done
        done += 1
        tell({"event": "run", "done": done, "of": turns})

    for length in lengths:
        measured = interleaved(
            arms, length, job["new_tokens"], runs=job["runs"], warmups=job["warmups"], after_run=after_run
        )
        for figure, one in zip(figures, measured, strict=True):
            figure["latency"].append(one.model_dump(mode="json"))
    left_out = [length for length in job["lengths"] if length not in lengths]
    write_json(
        Path(job["result"]),
        {
            "device": device_name(arms[0].model.device),
            **job["record"],
            "arms": figures,
            "left_out": left_out,
            "longest_prompt": longest,
        },
    )


def _load(job: Json, model: Json, tell: Tell) -> tuple[LoadedBase, Any]:
    """The base model, and the same below its adapter, or None where it has none."""
    with collector_paused():
        from train.model import load_adapter, load_base

    tell({"event": "load", "model": model["base"]["model"]})
    base = load_base(
        Base.model_validate_json(json.dumps(model["base"])), job["threads"], job["device"], quantize=job["quantize"]
    )
    return base, load_adapter(base, Path(model["adapter"])) if model["adapter"] else None


def _folder(model: Mapping[str, Any]) -> Path:
    """Where the files of the model below the adapter lie."""
    from train.base import inspect_base

    folder = inspect_base(model["base"]["model"], model["base"]["revision"]).folder
    assert folder is not None
    return Path(folder)


def _sizes(base: LoadedBase, tuned: Any, model: Mapping[str, Any], arm: Mapping[str, Any]) -> Json:
    """What one arm counts and weighs; `base_bytes` are the weight files of the model below the adapter."""
    from objectives.latency import size
    from train.shards import weight_files

    measured = size(tuned or base.model, Path(model["adapter"]) if tuned is not None else None)
    if tuned is not None and not arm["tuned"]:
        adapter = sum(p.nbytes for name, p in tuned.named_parameters() if "lora_" in name)
        measured = measured.model_copy(
            update={
                "total_parameters": measured.total_parameters - measured.trainable_parameters,
                "trainable_parameters": 0,
                "adapter_bytes": 0,
                "loaded_bytes": measured.loaded_bytes - adapter,
            }
        )
    files = weight_files(_folder(model))
    return {**measured.model_dump(mode="json"), "base_bytes": sum(file.stat().st_size for file in files)}


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError))


def main(arguments: list[str]) -> int:
    """Do the job in the file named. 0: done, 2: told what has to be put right; all else is a defect, and raises."""
    job = read_json(Path(arguments[0]))
    assert job is not None, arguments
    die_with_parent(job["parent"])
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: Json) -> None:
        told.write(json.dumps(event) + "\n")
        told.flush()

    tell({"event": "start"})
    try:
        {"score": score, "latency": latency}[job["kind"]](job, tell)
    except (ObjectiveError, RecipeError) as error:
        tell({"event": "error", "message": str(error)})
        return 2
    except Exception as error:
        if not _out_of_memory(error):
            raise
        tell({"event": "error", "message": f"out of memory ({str(error).splitlines()[0]}); {job['lower']}"})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
