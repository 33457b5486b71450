"""`make bench-score`: what a score costs, against lm-eval on the same models, prompts and answers; and what it tells.

Seconds are those of one thread, generation and checking together, without loading; so other work on the machine changes
them little; the arms take turns. lm-eval gets the batch size that suits it best; its bootstrap of standard errors is
left out, and its language detection is seeded as ours is. Takes half an hour. NIGHTSHIFT_SHARED names the folder that
holds data/ with published prompts and responses; what needs them is left out where it is not set.
"""

from __future__ import annotations

import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import langdetect
import torch
import transformers
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from score_models import Work, middle, published, rehearsal
from table import Figure, publish
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from objectives import decided
from objectives.generate import Generator
from objectives.ifeval import IFEval, load_prompts
from objectives.inference import evaluating

AT_MOST = 1 / 3  # of lm-eval's seconds
OTHERS = ("score_replay", "score_decided", "score_check")


@dataclass(frozen=True)
class Scored:
    """What one arm gave: seconds of one thread, and for each prompt the text and the strict verdict."""

    seconds: float
    texts: list[str] = field(repr=False)
    strict: list[bool]


def ours(work: Work, batch: int, *, decided_rows: bool) -> Scored:
    """The product's own scoring."""
    prompts = load_prompts(work.prompts)
    objective = IFEval(prompts)
    began = time.process_time()
    generator = Generator(work.model, work.tokenizer, None, work.cap, batch)
    texts = [prompt.prompt for prompt in prompts]
    answers = generator(texts, stop=decided.stops(prompts) if decided_rows else None)
    assert generator.fallback is None, generator.fallback
    score = objective.check(answers)
    seconds = time.process_time() - began
    return Scored(seconds, [answer.text for answer in answers], [verdict.followed for verdict in score.verdicts])


def lm_eval(work: Work, batch: int | str) -> Scored:
    """`lm_eval --model hf --apply_chat_template`, with its IFEval task on the work's prompts."""
    language_model = HFLM(pretrained=work.model, tokenizer=work.tokenizer, batch_size=batch, device="cpu")
    task = _task(work)
    began = time.process_time()
    result = evaluator.evaluate(language_model, {"ifeval": task}, bootstrap_iters=0, apply_chat_template=True)
    seconds = time.process_time() - began
    assert result is not None
    rows = sorted(result["samples"]["ifeval"], key=lambda row: row["doc_id"])
    return Scored(seconds, [row["resps"][0][0] for row in rows], [row["prompt_level_strict_acc"] for row in rows])


def _task(work: Work) -> ConfigurableTask:
    """lm-eval's ifeval.yaml, but for the file of prompts and the cap."""
    utils = importlib.import_module("lm_eval.tasks.ifeval.utils")
    aggregations = {"prompt": "mean", "inst": utils.agg_inst_level_acc}
    return ConfigurableTask(
        config={
            "task": "ifeval",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"train": str(work.prompts)}},
            "test_split": "train",
            "output_type": "generate_until",
            "num_fewshot": 0,
            "doc_to_text": "prompt",
            "doc_to_target": 0,
            "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": work.cap},
            "process_results": utils.process_results,
            "metric_list": [
                {"metric": f"{level}_level_{how}_acc", "aggregation": aggregation, "higher_is_better": True}
                for level, aggregation in aggregations.items()
                for how in ("strict", "loose")
            ],
        }
    )


def continuous_batching(work: Work) -> Scored:
    """transformers' own continuous batching (`generate_batch`), answers unchecked."""
    prompts = [prompt.prompt for prompt in load_prompts(work.prompts)]
    generator = Generator(work.model, work.tokenizer, None, work.cap, 1)
    ends = sorted(generator.end_tokens)
    rows = generator.encode(prompts)
    config = transformers.GenerationConfig(
        max_new_tokens=work.cap, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    pages = ContinuousBatchingConfig(
        page_size=128, num_blocks=2 * len(rows), max_batch_tokens=1024, max_requests_per_batch=len(rows)
    )
    began = time.process_time()
    with evaluating(work.model):
        made = work.model.generate_batch(rows, generation_config=config, continuous_batching_config=pages)
    seconds = time.process_time() - began
    tokens = [one.generated_tokens for _, one in sorted(made.items(), key=lambda item: int(item[0].split("_")[-1]))]
    return Scored(seconds, [work.tokenizer.decode(row, skip_special_tokens=True) for row in tokens], [])


# Figures


def against_continuous_batching(work: Work) -> Figure:
    """Whether transformers' continuous batching is any faster."""
    batch = max(batch for batch in work.batches if isinstance(batch, int))
    mine, theirs = _in_turn(work, [lambda: ours(work, batch, decided_rows=False), lambda: continuous_batching(work)])
    same = sum(a == b for a, b in zip(mine.texts, theirs.texts, strict=True))
    figure = Figure(
        f"{work.name}, whole answers: seconds against transformers' generate_batch",
        f"{mine.seconds:.2f} s; {same} of {len(mine.texts)} texts the same",
        f"{theirs.seconds:.2f} s, unchecked",
        "no slower",
        mine.seconds <= theirs.seconds,
    )
    print(figure.line, flush=True)
    return figure


def figures_of(work: Work) -> list[Figure]:
    """Our seconds, with whole answers and with decided rows that stop, against those of lm-eval's best batch size."""
    batches = [batch for batch in work.batches if isinstance(batch, int)]
    arms = [
        *(partial(lm_eval, work, batch) for batch in work.batches),
        *(partial(ours, work, batch, decided_rows=on) for on in (False, True) for batch in batches),
    ]
    scored = _in_turn(work, arms)
    peers = dict(zip(work.batches, scored, strict=False))
    whole, decided_rows = (scored[start : start + len(batches)] for start in (len(peers), len(peers) + len(batches)))
    best: int | str = min(batches, key=lambda batch: peers[batch].seconds)
    found = []
    for how, mine in (("whole answers", whole), ("decided rows stop", decided_rows)):
        batch, fastest = min(zip(batches, mine, strict=True), key=lambda one: one[1].seconds)
        same = _same(fastest, peers[best], texts=mine is whole)
        for peer in [best, *(key for key in peers if key == "auto")]:
            ratio = fastest.seconds / peers[peer].seconds
            figure = Figure(
                f"{work.name}, {how}: seconds, batch {batch}, against lm-eval's batch {peer}",
                f"{fastest.seconds:.2f} s, {ratio:.2f} of the peer's; {same}",
                f"{peers[peer].seconds:.2f} s",
                "at most 0.33, same verdicts",
                ratio <= AT_MOST and "differ" not in same,
            )
            print(figure.line, flush=True)
            found.append(figure)
    return found


def _in_turn(work: Work, arms: Sequence[Callable[[], Scored]]) -> list[Scored]:
    """Each arm's median seconds over the turns; in a turn the arms run one after the other."""
    turns = [[arm() for arm in arms] for _ in range(work.turns)]
    return [_median(runs) for runs in zip(*turns, strict=True)]


def _median(runs: Sequence[Scored]) -> Scored:
    assert all((run.texts, run.strict) == (runs[0].texts, runs[0].strict) for run in runs)
    return Scored(statistics.median(run.seconds for run in runs), runs[0].texts, runs[0].strict)


def _same(mine: Scored, theirs: Scored, *, texts: bool) -> str:
    """In words, how many texts and verdicts are the same."""

    def words(what: str, one: Sequence[object], other: Sequence[object]) -> str:
        differ = sum(a != b for a, b in zip(one, other, strict=True))
        return f"{differ} of {len(one)} {what} differ" if differ else f"all {len(one)} {what} the same"

    verdicts = words("strict verdicts", mine.strict, theirs.strict)
    return f"{words('texts', mine.texts, theirs.texts)}, {verdicts}" if texts else verdicts


def main() -> None:
    """Measure the models, collect the other figures, then publish."""
    torch.set_num_threads(1)
    langdetect.DetectorFactory.seed = 0
    others = [importlib.import_module(module) for module in OTHERS]
    shared = os.environ.get("NIGHTSHIFT_SHARED")
    data = Path(shared) / "data" if shared else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        works = [rehearsal(folder)]
        prompts = data / "ifeval_input_data.jsonl" if data else works[0].prompts
        works += middle(folder, prompts, published(data))
        found = [against_continuous_batching(works[0]), *(figure for work in works for figure in figures_of(work))]
    for other in others:
        found += other.figures()
    publish("score", "Scoring", found, NOTE)


NOTE = """Seconds are CPU seconds of one thread, generation and checking together, without loading; lm-eval without its
bootstrap of standard errors, and with the batch size that is the fastest of those tried (64, 144, 288 on the rehearsal
model; 32, 96 on the other). The rehearsal model is a trial's: NF4 with an adapter. The weights of the Qwen2 of 30 M are
random; where its answers end, any of 330 tokens ends one, so that the mean answer is half as long as the cap. It is
asked 96 prompts, evenly spaced among those that lm-eval can judge without punkt_tab, so that an arm takes minutes and
not an hour. lm-eval's `auto` is not run on it: that begins with five passes over 64 rows of 2,048 tokens.
transformers' continuous batching gives the same texts and is slower on the CPU, which is why nothing here uses it; on
CUDA neither is measured yet.

Where no answer ends, whole answers cannot reach a third in float32: the matrices alone are 1.07e12 operations, 10 s at
the 110 GFLOP/s that is this core's best in oneDNN, 0.34 of lm-eval's seconds. Drafts from a row's own past would save
nothing: no pair of tokens of these answers ever comes back. On the rehearsal model a quarter of our time is attention,
to keys and values that no longer fit in the processor's cache, a quarter is matrices, and the rest is spread over small
operations and checks. Tried there and no faster: attention in bands of rows of like length, oneDNN's layout for small
matrices, smaller batches.
"""

if __name__ == "__main__":
    main()
