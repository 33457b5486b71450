"""A small study with one tuned run, for the commands about a model by itself: a real base, a real adapter, prompts."""

from __future__ import annotations

from pathlib import Path

import tiny

from train.recipe import Base, Recipe, Source
from train.rundir import RunDir, write_json


def write_run(folder: Path) -> RunDir:
    """`folder`/model, prompts.jsonl and studies/tiny with study.toml and runs/003: an adapter that changes answers."""
    import torch

    from train import model

    tiny.write_study(folder)
    study = folder / "studies" / "tiny"
    run = RunDir(study / "runs" / "003")
    base = Base(model=str(folder / "model"))
    recipe = Recipe(
        base=base,
        sources=(Source(name="plain", path=str(folder / "plain.jsonl")),),
        chat_template=tiny.TEMPLATE,
        threads=1,
        examples=8,
        batch_size=4,
        micro_batch_size=4,
        max_length=64,
        rank=4,
    )
    run.create(recipe)
    text = (folder / "study.toml").read_text(encoding="utf-8")
    for name in ("prompts.jsonl", "plain.jsonl", "chat.jsonl", "pairs.jsonl"):
        text = text.replace(f'"{name}"', f'"{folder / name}"')
    (study / "study.toml").write_text(text.replace('"model"', f'"{folder / "model"}"'), encoding="utf-8")
    loaded = model.load_base(base, threads=1, device="cpu")
    tuned = model.fresh_adapter(loaded, recipe)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    run.adapter.mkdir()
    model.write_adapter(tuned, run.adapter)
    told = {"steps": recipe.steps, "examples": recipe.examples, "seconds": {"train": 2.0}}
    write_json(run.result, {"attempt": 1, "outcome": "completed", "score": None, **told})
    return run
