"""What the tests of decoding and of answers share: prompts, tiny models of several kinds, transformers' answers."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

from objectives.generate import Generator
from objectives.inference import evaluating

PROMPTS = [
    "write a note",
    "name three birds",
    "the river and the old bridge, then three birds",
    "x",
    "write",
    "a b c d e",
]
NEW = 24
MANY_ENDS = frozenset(range(0, 320, 9))  # so that rows of a random model end here and there


def rows_of(generator: Generator) -> list[list[int]]:
    return generator.encode(PROMPTS)


def by_transformers(model: Any, rows: list[list[int]], ends: frozenset[int], new: int) -> list[list[int]]:
    """What model.generate gives, each row cut behind its end token."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=sorted(ends), use_cache=True
    )
    with evaluating(model):
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    return [cut(row, ends) for row in out]


def cut(row: list[int], ends: frozenset[int]) -> list[int]:
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)


def tiny(architecture: str) -> Any:
    """A random model of another architecture: biases, sliding windows, learned positions."""
    shape = {"vocab_size": 320, "max_position_embeddings": 256, "initializer_range": 0.4}
    llama_like = {
        **shape,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    configs = {
        "qwen2": lambda: Qwen2Config(**llama_like),
        "mistral-window-8": lambda: MistralConfig(**llama_like, sliding_window=8),
        "gpt2": lambda: GPT2Config(
            vocab_size=320, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4, eos_token_id=1
        ),
    }
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(configs[architecture]())


def quantized(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with its decoder's linear layers in NF4, double quantization."""
    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            packed = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
            )
            packed.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            packed.to("cpu")  # quantizes
            packed.support_avx512bf16_for_cpu = False  # else the first evaluation repacks the weights for good
            model.model.set_submodule(name, packed)
    return model


def with_adapter(model: Any) -> Any:
    torch.manual_seed(2)
    return get_peft_model(
        model, LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
