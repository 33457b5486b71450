"""The Qwen2 of 30 million parameters that benchmarks run where a real model would take too long."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config

VOCABULARY = 32768


def shape(**others: Any) -> Qwen2Config:
    """Its configuration, with `others` as they are given."""
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **others,
    )
