"""Merging: PEFT's own result to the last bit, in bounded files, on real tiny models; damage is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_scored
import torch
from safetensors.torch import load_file, save_file

from train import merging, model, room
from train.merged import holds, merged
from train.merging import merge
from train.recipe import Base, RecipeError
from train.rundir import RunDir, read_json, write_json
from train.shards import INDEX


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with an adapter. Not to be changed."""
    return tiny_scored.write_run(tmp_path_factory.mktemp("merging"))


@pytest.fixture
def run(made: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the run, on the same base model."""
    return RunDir(Path(shutil.copytree(made.path, tmp_path / "run")))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def by_peft(run: RunDir, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """PEFT's merge of the whole model in float32, rounded once."""
    base = model.load_base(run.recipe().base, threads=1, device="cpu", quantize=False)
    whole = model.load_adapter(base, run.adapter).merge_and_unload(safe_merge=True)
    return {name: tensor.to(dtype) for name, tensor in whole.state_dict().items() if name != "lm_head.weight"}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def test_the_weights_are_those_of_pefts_own_merge(run: RunDir, tmp_path: Path) -> None:
    told = merge(run.recipe().base, run.adapter, tmp_path / "merged")
    assert_same(weights_of(tmp_path / "merged"), by_peft(run))
    assert told == {"bytes": 321792, "files": 1, "parameters": 80448, "dtype": "float32", "matrices": 14}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "run"]


@pytest.mark.parametrize("changed", [{"use_rslora": True}, {"use_dora": True}, {"alpha_ratio": 0.5}])
def test_every_kind_of_adapter_is_merged_as_peft_does(run: RunDir, tmp_path: Path, changed: dict[str, Any]) -> None:
    recipe = run.recipe().model_copy(update=changed)
    tuned = model.fresh_adapter(model.load_base(recipe.base, threads=1, device="cpu"), recipe)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.write_adapter(tuned, run.adapter)
    merge(recipe.base, run.adapter, tmp_path / "merged")
    assert_same(weights_of(tmp_path / "merged"), by_peft(run))


def test_a_bfloat16_base_stays_one_and_is_rounded_once(run: RunDir, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.recipe().base.model, tmp_path / "base"))
    halved = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {**(read_json(folder / "config.json") or {}), "dtype": "bfloat16"})
    recipe = run.recipe().model_copy(update={"base": Base(model=str(folder))})
    RunDir(tmp_path / "other").create(recipe)
    shutil.copytree(run.adapter, tmp_path / "other" / "adapter")
    assert merge(recipe.base, run.adapter, tmp_path / "merged")["dtype"] == "bfloat16"
    assert_same(weights_of(tmp_path / "merged"), by_peft(RunDir(tmp_path / "other"), torch.bfloat16))


def test_files_are_bounded_and_indexed(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SHARD", 70_000)
    told = merge(run.recipe().base, run.adapter, tmp_path / "merged")
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(files) == told["files"] > 3
    assert max(file.stat().st_size for file in files) < 90_000  # the embedding is larger than 70,000 alone
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "merged" / INDEX).read_text())
    assert index["metadata"]["total_size"] == told["bytes"]
    assert_same(weights_of(tmp_path / "merged"), by_peft(run))
    loaded = model.load_base(Base(model=str(tmp_path / "merged")), threads=1, device="cpu", quantize=False)
    assert loaded.tokenizer.chat_template


def test_the_recipes_template_is_the_only_one(run: RunDir, tmp_path: Path) -> None:
    template = run.recipe().chat_template
    base = Path(shutil.copytree(run.recipe().base.model, tmp_path / "base"))
    config = read_json(base / "tokenizer_config.json") or {}
    write_json(base / "tokenizer_config.json", {**config, "chat_template": "an older one"})
    merge(Base(model=str(base)), run.adapter, tmp_path / "merged", template)
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == template
    assert "chat_template" not in (read_json(tmp_path / "merged" / "tokenizer_config.json") or {})


def test_a_damaged_adapter_is_told(run: RunDir, tmp_path: Path) -> None:
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RecipeError, match=r"the adapter in .+ cannot be read .+: put back its files"):
        merge(run.recipe().base, run.adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def rewrite(run: RunDir, change: Any) -> None:
    weights = run.adapter / "adapter_model.safetensors"
    save_file(dict(change(load_file(weights))), weights, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda held: {k.replace("layers.1.", "layers.7."): v for k, v in held.items()},
            "it changes model.layers.7",
        ),
        (lambda held: {k: v[:, :-1].contiguous() for k, v in held.items()}, "does not fit the base model's .+proj"),
        (lambda held: {k: torch.full_like(v, torch.nan) for k, v in held.items()}, "does not fit .+: NaNs detected"),
        (
            lambda held: {**held, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)},
            "it changes lm_head.weight",
        ),
    ],
)
def test_an_adapter_of_another_model_is_told(run: RunDir, tmp_path: Path, change: Any, said: str) -> None:
    rewrite(run, change)
    with pytest.raises(RecipeError, match=said):
        merge(run.recipe().base, run.adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_disk_too_small_is_told_before_anything_is_written(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SPARE", 2**60)
    with pytest.raises(RecipeError, match=r"GiB are needed in .+, .+ GiB more than are free: make room there"):
        merge(run.recipe().base, run.adapter, tmp_path / "there" / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# While it is looked at


def test_the_merged_model_is_there_for_as_long_as_it_is_looked_at(run: RunDir) -> None:
    with merged(run.recipe(), run, "cpu") as (loaded, told):
        assert (run.path / "merged").is_dir()
        assert told["weights"] == "float32"
        assert type(loaded.model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert not (run.path / "merged").exists()
    assert not (run.path / "merged.json").exists()


def test_what_an_earlier_start_merged_is_taken_as_it_is(run: RunDir) -> None:
    with pytest.raises(KeyboardInterrupt), merged(run.recipe(), run, "cpu"):
        raise KeyboardInterrupt
    before = (run.path / "merged" / "model.safetensors").stat()
    with merged(run.recipe(), run, "cpu"):
        assert (run.path / "merged" / "model.safetensors").stat() == before


def test_where_memory_has_no_room_it_is_quantized(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holds("cpu", 80_000)
    assert not holds("cpu", 10**12)
    monkeypatch.setattr("train.merged.SPARE", 2**60)
    with merged(run.recipe(), run, "cpu") as (loaded, told):
        assert told["weights"] == "nf4"
        assert type(loaded.model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
