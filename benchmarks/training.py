"""`make bench-train`: useful tokens a second against plain TRL scripts, and how fast a run starts.

The same model in NF4, rows, LoRA and examples a step in every arm; arms take turns, and each ratio is of the same turn.
A useful token is one of a document: padding does not count, nor what TRL cuts off. Lengths vary as Dolly's do (median
60, 99th percentile 900 tokens). Takes three quarters of an hour on two slow cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from table import Figure, publish
from work import EXAMPLES, LONGEST, WARMED_UP, Work, recipe_of, rows_of

from train.imports import collector_paused

with collector_paused():
    import datasets
    import qwen30
    import torch
    import transformers
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, Qwen2ForCausalLM

    import train.loop
    from train import rehearsal_base
    from train.data.splits import ProbeRow, Splits
    from train.model import drop_adapter, load_base

from train.planning.plan import inspect_base, plan
from train.rundir import RunDir

TRL_BATCH = 8  # a forward pass of TRL's defaults
TURNS = 3
SLOW = "TRL's defaults"  # whose bfloat16 a CPU without the units for it computes many times slower: one turn will do
STARTS = 3


# The arms: each returns useful tokens a second, after the steps that warm up


def nightshift(work: Work, rows: list[dict[str, list[int]]]) -> float:
    """The product's own loop, with everything that it does at each step."""
    recipe = recipe_of(work)
    splits = Splits(datasets.Dataset.from_list(rows), None, (ProbeRow([5, 6, 7], [-100, 6, 7], 2),), {})
    base = load_base(recipe.base, 1, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        drop_adapter(train.loop.train(recipe, run, base, splits=splits, rungs=()).model)
        steps = [event for event in run.read_events() if event["event"] == "step"]
    first, last = steps[WARMED_UP - 1], steps[-1]
    return float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))


def trl(**settings: Any) -> Callable[[Work, list[dict[str, list[int]]]], float]:
    """A plain TRL script with `settings`; "packing" lays about as many tokens as EXAMPLES have into a step's rows."""

    def arm(work: Work, rows: list[dict[str, list[int]]]) -> float:
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            work.folder, quantization_config=quantization, device_map={"": "cpu"}, dtype=torch.float32
        )
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False  # else training after an evaluation is wrong
        clock = _Clock()
        mask = [[int(label != -100) for label in row["labels"]] for row in rows]
        data = datasets.Dataset.from_dict({"input_ids": [row["input_ids"] for row in rows], "completion_mask": mask})
        batch = TRL_BATCH
        if settings.get("packing"):
            batch = max(1, round(sum(len(row["input_ids"]) for row in rows) / len(rows) * EXAMPLES / LONGEST))
        with tempfile.TemporaryDirectory() as folder:
            args = SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=1 if settings.get("packing") else EXAMPLES // TRL_BATCH,
                num_train_epochs=1,
                max_length=LONGEST,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_steps=1,
                log_level="error",
                **settings,
            )
            trainer = SFTTrainer(
                model,
                args,
                train_dataset=data,
                processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(work.folder),
                peft_config=LoraConfig(
                    r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
                ),
                callbacks=[clock],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock.tokens_per_second()

    return arm


class _Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """When each step of a trainer ended, and after how many tokens."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_log(self, _: Any, state: Any, __: Any, *, logs: dict[str, float], **___: Any) -> None:
        if "num_tokens" in logs:
            self.ends.append((time.perf_counter(), logs["num_tokens"]))

    def tokens_per_second(self) -> float:
        """Over the steps after those that warm up."""
        (begun, before), (ended, after) = self.ends[WARMED_UP - 1], self.ends[-1]
        return (after - before) / (ended - begun)


ARMS: dict[str, Callable[[Work, list[dict[str, list[int]]]], float]] = {
    "nightshift": nightshift,
    SLOW: trl(),
    "TRL, float32, no checkpointing": trl(bf16=False, gradient_checkpointing=False),
    "TRL, packing, float32, no checkpointing": trl(bf16=False, gradient_checkpointing=False, packing=True),
}


def turns(work: Work) -> Iterator[dict[str, float]]:
    """Each arm once a turn, on rows of the turn's own, in an order that turns with it."""
    names = list(ARMS)
    for turn in range(TURNS):
        rows = rows_of(work, seed=turn)
        order = names[turn % len(names) :] + names[: turn % len(names)]
        yield {name: ARMS[name](work, rows) for name in order if turn == 0 or name != SLOW}


def figures_of(work: Work) -> list[Figure]:
    """Medians of the turns' ratios."""
    measured = list(turns(work))
    ours = statistics.median(turn["nightshift"] for turn in measured)
    figures = []
    for name, to_reach in (
        (SLOW, 2.2),
        ("TRL, float32, no checkpointing", 2.2),
        ("TRL, packing, float32, no checkpointing", 1.15),
    ):
        ratios = [turn["nightshift"] / turn[name] for turn in measured if name in turn]
        peer = statistics.median(turn[name] for turn in measured if name in turn)
        ratio = statistics.median(ratios)
        figures.append(
            Figure(
                f"{work.name}: useful tokens/s against {name}",
                f"{ours:,.0f} ({ratio:.2f} times; {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} turns)",
                f"{peer:,.0f}",
                f"{to_reach} times",
                ratio >= to_reach,
            )
        )
        print(figures[-1].line, flush=True)
    return figures


# Start-up


def starts(work: Work) -> list[Figure]:
    """From a new process to its first step, and from one run to the next on a loaded base."""
    cold, warm = [], []
    for _ in range(STARTS):
        began = time.time()
        command = [sys.executable, str(Path(__file__).with_name("first_steps.py")), str(work.folder)]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        first, second = json.loads(child.stdout.splitlines()[-1])
        cold.append(first - began)
        warm.append(second)
    return [
        Figure(f"{name}, median of {STARTS}", f"{statistics.median(values):.2f} s", "-", f"{limit:g} s", ok)
        for name, values, limit in (
            ("imports to the first step, cold", cold, 8.0),
            ("one run's end to the next one's first step", warm, 1.0),
        )
        if (ok := statistics.median(values) < limit) is not None
    ]


def planning(work: Work) -> Figure:
    """A plan in closed form, with both stages."""
    facts = inspect_base(str(work.folder))
    recipe = recipe_of(work).model_copy(update={"dpo_share": 0.2})
    took = []
    for _ in range(200):
        began = time.perf_counter()
        plan(recipe, facts, "cuda")
        took.append(time.perf_counter() - began)
    median = 1000 * statistics.median(took)
    return Figure("a plan in closed form", f"{median:.2f} ms", "-", "1 ms", median < 1)


# The models


def models(folder: Path) -> list[Work]:
    """The rehearsal's shape, and a Qwen2 of 30 million parameters, with random weights."""
    words = [(f"word {number}", f"answer {number * 7}") for number in range(2000)]
    tokenizer = rehearsal_base.train_tokenizer(words)
    torch.manual_seed(0)
    small, middle = folder / "rehearsal", folder / "qwen2"
    llama = LlamaConfig(
        vocab_size=rehearsal_base.VOCABULARY,
        hidden_size=rehearsal_base.HIDDEN,
        intermediate_size=rehearsal_base.INTERMEDIATE,
        num_hidden_layers=rehearsal_base.LAYERS,
        num_attention_heads=rehearsal_base.HEADS,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(llama).save_pretrained(small)
    model = Qwen2ForCausalLM(qwen30.shape())
    model.save_pretrained(middle)
    for one in (small, middle):
        tokenizer.save_pretrained(one)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return [Work("rehearsal model", small, 768, 6), Work(f"Qwen2 of {millions:.0f} M", middle, qwen30.VOCABULARY, 2)]


def main() -> None:
    """Measure both models, then publish."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        works = models(Path(folder))
        found = [planning(works[1]), *starts(works[0])] + [figure for work in works for figure in figures_of(work)]
    note = (
        "TRL's defaults are bfloat16 autocast and gradient checkpointing; on a CPU without fast bfloat16 that is a "
        "weak peer, which is why it runs in float32 without checkpointing, too. One thread.\n"
    )
    publish("train", "Training speed", found, note)


if __name__ == "__main__":
    main()
