"""What the training tests share: a tiny random Llama, recipes and random data for it. Run as a program, it trains."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from train.data.splits import ProbeRow, Splits
from train.loop import StepFacts, Unwatched, train
from train.model import load_base
from train.recipe import Base, Recipe, Source
from train.rundir import RunDir

SPECIALS = ["<pad>", "<eos>", "<unk>"]
LLAMA = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def write_llama(folder: Path) -> Path:
    """Two layers, hidden 64, random weights, and a byte-level tokenizer, in Hugging Face format."""
    tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).save_pretrained(folder)
    return folder


def tokenizer(specials: tuple[str, ...] = (), **tokens: str | None) -> transformers.PreTrainedTokenizerFast:
    """One token a byte after SPECIALS and `specials`; `tokens` replace pad_token, eos_token and unk_token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIALS, *specials, *alphabet]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(names)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([*SPECIALS, *specials])
    usual: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **{**usual, **tokens})


def make_recipe(base_folder: Path, **fields: Any) -> Recipe:
    """Six steps of 4 examples, two at a time, with dropout; `fields` replace any of it."""
    sources = (Source(name="made", path="made.jsonl"), Source(name="pairs", path="pairs.jsonl", use="preference"))
    usual: dict[str, Any] = {
        "base": Base(model=str(base_folder)),
        "sources": sources,
        "examples": 24,
        "max_length": 64,
        "rank": 4,
        "dropout": 0.1,
        "learning_rate": 1e-2,
        "dpo_learning_rate": 1e-3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "seed": 3,
    }
    return Recipe(**{**usual, **fields})


def make_splits(recipe: Recipe, below: int = 259) -> Splits:
    """Random tokens in rows of different lengths: a pure function of the recipe's sizes and seed, and of `below`."""
    draw = random.Random(recipe.seed)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, below) for _ in range(draw.randint(low, high))]

    sft, dpo, probe = [], [], []
    for _ in range(recipe.sft_steps * recipe.batch_size):
        prompt, response = tokens(2, 8), [*tokens(2, 12), 1]
        sft.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + response})
    for _ in range(recipe.dpo_steps * recipe.batch_size):
        dpo.append({"prompt_ids": tokens(2, 8), "chosen_ids": [*tokens(2, 8), 1], "rejected_ids": [*tokens(2, 8), 1]})
    for _ in range(5):
        prompt, response = tokens(2, 8), tokens(2, 12)
        probe.append(ProbeRow(prompt + response, [-100] * len(prompt) + response, len(response)))
    return Splits(datasets.Dataset.from_list(sft), datasets.Dataset.from_list(dpo) if dpo else None, tuple(probe), {})


class KilledAfter(Unwatched):
    """Kills this process a moment after a step, while the next one is under way."""

    def __init__(self, step: int) -> None:
        self.last = step

    def step(self, facts: StepFacts) -> None:
        if facts.step == self.last:
            threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGKILL)).start()


def main(folder: str, kill_after: str) -> None:
    """Train the recipe in the RunDir `folder`, checkpointing at every step, until killed after step `kill_after`."""
    run = RunDir(Path(folder))
    recipe = run.recipe()
    base = load_base(recipe.base, threads=1, device="cpu")
    watch = KilledAfter(int(kill_after))
    train(recipe, run, base, watch=watch, checkpoint_every_s=0.0, splits=make_splits(recipe))


if __name__ == "__main__":
    main(*sys.argv[1:])
