"""The models that benchmarks/score.py has scored: a rehearsal trial, and random ones of 30 million parameters."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import qwen30
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import train.loop
from objectives.sentences import NEED_PUNKT
from train.model import load_base
from train.recipe import Base, Recipe, Source
from train.rehearsal import World, make_world
from train.rehearsal_base import CHAT_TEMPLATE
from train.rundir import RunDir

MIDDLE_PROMPTS, MIDDLE_CAP = 96, 160  # of IFEval's 541 prompts, evenly spaced; lm-eval's arm takes a minute or two
ENDS = 330  # so many tokens end an answer that half of the answers end before the cap, as real ones do


@dataclass(frozen=True)
class Work:
    """One model with the prompts that it answers."""

    name: str
    model: Any
    tokenizer: Any
    prompts: Path
    cap: int
    batches: tuple[int | str, ...]  # those that are tried
    turns: int


def rehearsal(folder: Path) -> Work:
    """A trial of the rehearsal as the search scores it: NF4, with the adapter of a good recipe, on all 288 prompts."""
    world = make_world(folder / "world", 0)
    recipe = _good_recipe(world)
    base = load_base(recipe.base, 1, "cpu")
    trained = train.loop.train(recipe, RunDir(folder / "run"), base, rungs=())
    return Work("rehearsal model", trained.model, base.tokenizer, world.prompts, 64, (64, 144, 288, "auto"), 5)


def _good_recipe(world: World) -> Recipe:
    """The prior "plain" of the rehearsal."""
    return Recipe(
        base=Base(model=str(world.base)),
        sources=(Source(name="clean", path=str(world.clean), filters={"overlap": "keep"}),),
        examples=1600,
        batch_size=16,
        micro_batch_size=8,
        learning_rate=5e-3,
        rank=8,
        alpha_ratio=2.0,
        dropout=0.0,
        warmup=0.05,
        max_length=96,
    )


def middle(folder: Path, prompts: Path, texts: Sequence[str]) -> list[Work]:
    """A Qwen2 of 30 million random parameters: once with answers that end by themselves, and once never."""
    tokenizer = _tokenizer(texts)
    torch.manual_seed(0)
    shape = qwen30.shape(
        initializer_range=0.1,  # at 0.02 it repeats its first word for ever
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
    )
    lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if not _needs_punkt(line)]
    chosen = folder / "prompts.jsonl"
    spaced = [lines[len(lines) * i // MIDDLE_PROMPTS] for i in range(MIDDLE_PROMPTS)]
    chosen.write_text("\n".join(spaced) + "\n", encoding="utf-8")
    works = []
    for name, ends in (("half of the answers end", list(range(1, 1 + ENDS))), ("no answer ends", [1])):
        torch.manual_seed(0)
        model = transformers.Qwen2ForCausalLM(shape).eval()
        model.generation_config.eos_token_id = ends
        title = f"Qwen2 of 30 M, {len(spaced)} of {len(lines)} prompts, {MIDDLE_CAP} tokens, {name}"
        works.append(Work(title, model, tokenizer, chosen, MIDDLE_CAP, (32, 96), 2))
    return works


def _needs_punkt(line: str) -> bool:
    """Whether lm-eval can judge answers to this prompt only with nltk's punkt_tab, which may not be there."""
    return bool(NEED_PUNKT & set(json.loads(line)["instruction_id_list"]))


def _tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE with ENDS special tokens that end an answer, of which the first is the usual one."""
    special = ["<|pad|>", "<|end|>", *(f"<|end {i}|>" for i in range(1, ENDS)), "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=qwen30.VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        eos_token=special[1],
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
    )


def published(data: Path | None) -> list[str]:
    """Texts to train a tokenizer on: Python's own documentation, and published prompts and responses."""
    texts = list(topics.values())
    if data is not None:
        texts += [json.loads(line)["prompt"] for line in _lines(data / "ifeval_input_data.jsonl")]
        texts += [json.loads(line)["response"] for line in _lines(data / "ifeval_responses_three_models.jsonl.gz")]
    return texts


def _lines(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return list(file)
