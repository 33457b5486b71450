"""A stand-in for the package vllm, as far as objectives/vllm_child.py uses it: the tests copy it to vllm/__init__.py.

It gives the answers in $STAND_IN/answers.json, those of a real model, and writes beside it what it was asked.
$STAND_IN_MODE is `other` (answers that are wrong) or `broken` (nothing can be loaded).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = "9.9.1"
PLACE = Path(os.environ["STAND_IN"])
MODE = os.environ.get("STAND_IN_MODE")


class LLM:
    """Keyword arguments as vLLM's."""

    def __init__(self, **options: Any) -> None:
        if MODE == "broken":
            raise RuntimeError("no card here")
        sys.stdout.write("a library that prints\n")
        self.options = options
        (PLACE / "options.json").write_text(json.dumps(options))
        self._answers: dict[str, list[int]] = json.loads((PLACE / "answers.json").read_text())

    def generate(self, prompts: Any, sampling: SimpleNamespace, use_tqdm: bool, lora_request: Any = None) -> list[Any]:
        """One result for each prompt."""
        assert (sampling.temperature, sampling.ignore_eos, use_tqdm) == (0.0, True, False)
        assert (lora_request is not None) == self.options["enable_lora"]
        with open(PLACE / "asked.jsonl", "a") as file:
            file.write(json.dumps([len(prompts), sampling.max_tokens]) + "\n")
        return [SimpleNamespace(outputs=[self._answer(one["prompt_token_ids"], sampling)]) for one in prompts]

    def _answer(self, row: list[int], sampling: SimpleNamespace) -> SimpleNamespace:
        whole = [7] * sampling.max_tokens if MODE == "other" else self._answers[str(row)]
        tokens = whole[: sampling.max_tokens]
        if tokens[-1] not in sampling.stop_token_ids:
            return SimpleNamespace(token_ids=tokens, finish_reason="length", stop_reason=None)
        return SimpleNamespace(token_ids=tokens[:-1], finish_reason="stop", stop_reason=tokens[-1])  # as some versions


def SamplingParams(**options: Any) -> SimpleNamespace:
    """What is sampled."""
    return SimpleNamespace(**options)


def LoRARequest(name: str, number: int, path: str) -> SimpleNamespace:
    """Which adapter; vLLM has it in vllm.lora.request."""
    return SimpleNamespace(lora_name=name, lora_int_id=number, lora_path=path)
