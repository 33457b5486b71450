"""Small real things for the tests of the whole line: a Qwen2 with random weights and a Unigram tokenizer of its own
(nothing that the rehearsal makes), JSONL data in both shapes, IFEval-format prompts, and a study file."""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
WORDS = "red green blue white black small large warm cold old new bright quiet river stone cloud tree bird".split()


def write_model(folder: Path, seed: int = 0) -> Path:
    """A two-layer Qwen2 (hidden 64) in Hugging Face format with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    config = Qwen2Config(
        vocab_size=((len(tokenizer) + 31) // 32) * 32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    texts = [row["prompt"] + " " + row["response"] + "\n[user] [assistant]," for row in rows(200)]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<stop>", "<pad>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<stop>", pad_token="<pad>", model_max_length=256
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def rows(count: int) -> list[dict[str, str]]:
    """Prompt/response rows, all different."""
    size = len(WORDS)
    return [
        {
            "prompt": f"Say {WORDS[i % size]} and {WORDS[(i // size) % size]} number {i}",
            "response": f"{WORDS[i % size]} and {WORDS[(i // size) % size]}",
        }
        for i in range(count)
    ]


def write_data(folder: Path) -> None:
    """`plain.jsonl` (prompt/response), `chat.jsonl` (messages) and `pairs.jsonl` (prompt/chosen/rejected)."""
    made = rows(120)
    _write(folder / "plain.jsonl", made[:60])
    chat = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}]}
        for r in made[60:]
    ]
    _write(folder / "chat.jsonl", chat)
    pairs = [{"prompt": r["prompt"] + " now", "chosen": r["response"], "rejected": "no, never"} for r in made[:40]]
    _write(folder / "pairs.jsonl", pairs)


def write_prompts(path: Path, count: int = 24) -> None:
    """IFEval-format prompts of two types."""
    prompts = []
    for i in range(count):
        comma = i % 2 == 0
        prompts.append(
            {
                "key": i,
                "prompt": f"Say {WORDS[i % len(WORDS)]} in way {i}" + (" without commas" if comma else " in quotes"),
                "instruction_id_list": ["punctuation:no_comma" if comma else "startend:quotation"],
                "kwargs": [{}],
            }
        )
    _write(path, prompts)


STUDY = """
[study]
name = "{name}"
seed = 1
trials = {trials}
budget_hours = {budget_hours}
finalists = {finalists}

[machine]
device = "cpu"
threads = 1

[base]
model = "model"

[[data]]
name = "plain"
path = "plain.jsonl"

[[data]]
name = "chat"
path = "chat.jsonl"

[[data]]
name = "pairs"
path = "pairs.jsonl"
use = "preference"

[probe]
rows = 8

[objective]
prompts = "prompts.jsonl"
subset = 8
stages = [2, 4]
max_new_tokens = 8
batch_size = 8

[recipe]
examples = {examples}
micro_batch_size = 4
max_length = 64

[space]
learning_rate = {{ low = 1e-3, high = 1e-1, log = true }}
rank = {{ choices = [2, 4, 8] }}
batch_size = {{ choices = [4, 8] }}
"weight.chat" = {{ low = 0.0, high = 1.0 }}
dpo_share = {{ choices = [0.0, 0.25] }}
dpo_beta = {{ low = 0.05, high = 0.5, log = true }}

[[prior]]
name = "middle"
learning_rate = 1e-2
rank = 4
batch_size = 8
dpo_share = 0.25
dpo_beta = 0.1

[pruner]
kind = "median"
startup_trials = 2

[final]
hours = {final_hours}
licences = {{ base = "MIT", plain = "CC0-1.0", chat = "CC0-1.0", pairs = "CC0-1.0" }}
max_epochs = 3.0
max_new_tokens = 8
"""


def study_text(**values: object) -> str:
    """A study file's text; `values` replace name, trials, budget_hours, finalists (none by default), examples or
    final_hours."""
    filled = {"name": "tiny", "trials": 4, "budget_hours": 0.2, "finalists": 0, "examples": 64, "final_hours": 0.002}
    return STUDY.format(**{**filled, **values})


def write_study(folder: Path, **values: object) -> Path:
    """A study file with its model, data and prompts in `folder`; `values` as for `study_text`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model")
    write_data(folder)
    write_prompts(folder / "prompts.jsonl")
    path = folder / "study.toml"
    path.write_text(study_text(**values), encoding="utf-8")
    return path


def _write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
