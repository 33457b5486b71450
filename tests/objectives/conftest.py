"""Tiny real models and a tokenizer for the tests of objectives, made on the spot, and research data where it lies."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<|end|>", "<|user|>", "<|assistant|>"]
TEXT = "write a short note about the river and the old bridge, then name three birds that live near it. "


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes a byte-level BPE without chat template; keyword arguments as for PreTrainedTokenizerFast."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT] * 4, trainer)
    return functools.partial(PreTrainedTokenizerFast, tokenizer_object=bpe)


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    made = make_tokenizer(pad_token="<pad>", eos_token="<eos>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def one_thread():
    """Two threads on two busy cores are slower than one, and the order of sums depends on them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def llama(one_thread: None) -> LlamaForCausalLM:
    """A random float32 Llama whose answers vary: its weights are large for its width."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def research_data() -> Path:
    """Published prompts and responses: $NIGHTSHIFT_SHARED/data, or shared/data beside the repository."""
    root = os.environ.get("NIGHTSHIFT_SHARED") or Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(root) / "data"
    if not folder.is_dir():
        pytest.skip("no research data here: set NIGHTSHIFT_SHARED to the folder that holds data/")
    return folder
