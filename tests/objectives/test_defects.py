"""The prompts of IFEval that are known to be defective, and no others."""

from __future__ import annotations

import json
from pathlib import Path

from known_answers import NO_COMMA, prompt

from objectives.defects import DEFECTIVE, defective
from objectives.ifeval import load_prompts


def test_a_prompt_of_another_file_with_the_key_of_a_defective_one_is_not() -> None:
    assert len(DEFECTIVE) == 74
    assert not defective([prompt(NO_COMMA, key=key) for key in DEFECTIVE])


def test_they_are_those_that_were_edited(research_data: Path) -> None:
    listed = json.loads((research_data / "ifeval_defective_prompt_keys.json").read_text(encoding="utf-8"))
    prompts = load_prompts(research_data / "ifeval_input_data.jsonl")
    assert defective(prompts) == {row["key"] for row in listed} == DEFECTIVE.keys()
