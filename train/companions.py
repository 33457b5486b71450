"""The files of a model beside its weights: configuration, tokenizer, licence, and the one chat template. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from train.base import own_chat_template
from train.rundir import write_atomic, write_json
from train.shards import json_object

TEMPLATE = "chat_template.jinja"
CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")


def copy(source: Path, folder: Path, chat_template: str | None, *, configuration: bool = True) -> None:
    """Copy what the base model in `source` has of these into `folder`, with `chat_template` (None: the tokenizer's own)
    as the only one: a template in tokenizer_config.json would be a second."""
    for name in (*(CONFIGURATION if configuration else ()), *TOKENIZER, *LICENCES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    template = chat_template or own_chat_template(source)
    if template is None:
        return
    write_atomic(folder / TEMPLATE, template)
    config = folder / "tokenizer_config.json"
    if config.exists() and "chat_template" in (held := json_object(config)):
        del held["chat_template"]
        write_json(config, held)
