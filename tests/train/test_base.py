"""Facts about base models from their files, and every reason to refuse one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from train.base import facts_of_config, inspect_base
from train.recipe import RecipeError

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen2 with random weights, saved in three parts, and a stand-in for its tokenizer's file."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in CONFIG.items() if k != "architectures"}))
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "parameters").write_text(str(sum(parameter.numel() for parameter in model.parameters())))
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of that model to damage."""
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "model"))


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_the_facts_are_those_of_the_model(model: Path) -> None:
    facts = inspect_base(str(model))
    assert len(shards(model)) > 1
    assert (facts.model_type, facts.hidden, facts.layers, facts.heads, facts.kv_heads) == ("qwen2", 32, 2, 4, 2)
    assert (facts.head_dim, facts.intermediate, facts.vocab, facts.context) == (8, 64, 96, 128)
    assert facts.tied
    assert facts.parameters == int((model / "parameters").read_text())
    assert facts.folder == str(model)
    assert facts.revision is None


def test_a_configuration_alone_gives_the_same_sizes(model: Path) -> None:
    told = inspect_base(str(model)).model_copy(update={"sha256": None, "folder": None})
    assert facts_of_config(CONFIG) == told


def test_a_chat_template_is_found_where_either_version_of_transformers_puts_it(model: Path) -> None:
    assert not inspect_base(str(model)).has_chat_template
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert inspect_base(str(model)).has_chat_template
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert inspect_base(str(model)).has_chat_template


def test_the_digest_pins_weights_configuration_and_tokenizer_and_nothing_else(model: Path) -> None:
    pinned = inspect_base(str(model)).sha256
    (model / "README.md").write_text("words")
    assert inspect_base(str(model), sha256=pinned).sha256 == pinned
    for file in (shards(model)[0], model / "config.json", model / "tokenizer.json"):
        before = file.read_bytes()
        file.write_bytes(before[:-1] + (b" " if file.suffix == ".json" else bytes([before[-1] ^ 1])))
        with pytest.raises(RecipeError):
            inspect_base(str(model), sha256=pinned)
        file.write_bytes(before)
    assert inspect_base(str(model)).sha256 == pinned


def test_a_pinned_model_that_changed_is_refused(model: Path) -> None:
    with pytest.raises(
        RecipeError, match=f"is not the model that was pinned: sha256 is [0-9a-f]{{64}}, not {'0' * 64}"
    ):
        inspect_base(str(model), sha256="0" * 64)


def test_digests_come_from_the_cache_until_a_file_changes(model: Path, tmp_path: Path) -> None:
    first = inspect_base(str(model)).sha256
    cached = list((tmp_path / "cache" / "nightshift" / "digests").iterdir())
    assert len(cached) >= 4
    for file in cached:
        file.write_text("f" * 64)
    assert inspect_base(str(model)).sha256 != first
    for file in cached:
        file.write_text("damaged")
    assert inspect_base(str(model)).sha256 == first
    for file in model.iterdir():
        os.utime(file, ns=(1, 1))
    assert inspect_base(str(model)).sha256 == first


def test_a_cache_that_cannot_be_written_does_no_harm(model: Path, tmp_path: Path) -> None:
    first = inspect_base(str(model)).sha256
    (tmp_path / "blocked").write_text("a file where the cache folder should be")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
        assert inspect_base(str(model)).sha256 == first


# Folders that are no model to train


def test_a_missing_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", "./none", "../models/none"):
        with pytest.raises(RecipeError, match="does not exist; correct the path, or give a hub id"):
            inspect_base(str(path))


def test_a_file_instead_of_a_folder(model: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a file; give the folder that holds config\.json"):
        inspect_base(str(model / "config.json"))


def test_a_folder_without_config_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no config\.json, .*; it is empty"):
        inspect_base(str(tmp_path))
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(RecipeError, match=r"has no config\.json, .*; it holds model\.gguf"):
        inspect_base(str(tmp_path))


def test_an_adapter_is_no_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds an adapter, not a base model: merge it"):
        inspect_base(str(tmp_path))


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff\xfe{"])
def test_a_config_that_is_no_json_object(model: Path, data: bytes) -> None:
    (model / "config.json").write_bytes(data)
    with pytest.raises(RecipeError, match=r"config\.json .*; get the model's files again"):
        inspect_base(str(model))


def test_another_kind_of_model(model: Path) -> None:
    configure(model, architectures=["BertForMaskedLM"])
    with pytest.raises(RecipeError, match=r"is no causal language model: its config\.json names BertForMaskedLM"):
        inspect_base(str(model))
    configure(model, architectures=None)
    with pytest.raises(RecipeError, match="names no architecture"):
        inspect_base(str(model))


def test_a_model_that_is_quantized_already(model: Path) -> None:
    configure(model, quantization_config={"quant_method": "gptq"})
    with pytest.raises(RecipeError, match=r"is quantized already .*; give the original weights"):
        inspect_base(str(model))


def test_no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"has no tokenizer \(none of tokenizer\.json, .*; it holds config\.json"):
        inspect_base(str(model))


def test_sizes_that_are_not_there(model: Path) -> None:
    configure(model, intermediate_size=None)
    with pytest.raises(RecipeError, match=r"config\.json of this qwen2 model gives no usable"):
        inspect_base(str(model))


# Weights that are none


def test_only_pickled_weights(model: Path) -> None:
    for file in [*shards(model), model / "model.safetensors.index.json"]:
        file.unlink()
    with pytest.raises(RecipeError, match="has no weights"):
        inspect_base(str(model))
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"only pickled weights \(pytorch_model\.bin\), .*: safetensors only"):
        inspect_base(str(model))


def test_a_part_of_the_weights_is_missing(model: Path) -> None:
    count = len(shards(model))
    shards(model)[1].unlink()
    with pytest.raises(RecipeError, match=f"lacks 1 of its {count} weight files .*; download it again"):
        inspect_base(str(model))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_that_are_cut_off(model: Path, keep: int) -> None:
    file = shards(model)[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RecipeError, match=f"{file.name} is (cut off|no whole safetensors file).*; download it again"):
        inspect_base(str(model))


def test_weights_that_git_lfs_did_not_bring(model: Path) -> None:
    shards(model)[0].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(RecipeError, match="is a git-lfs pointer, not the weights: run git lfs pull"):
        inspect_base(str(model))


def test_no_module_that_lora_is_put_on(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=96)).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"has none of the modules .*; its layers hold c_attn, c_fc, c_proj"):
        inspect_base(str(tmp_path))


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_cached_hub_model_needs_no_network_and_names_its_commit(model: Path, hub: Path) -> None:
    snapshot = hub / "models--someone--small" / "snapshots" / REVISION
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    facts = inspect_base("someone/small", REVISION)
    assert (facts.revision, facts.folder, facts.layers) == (REVISION, str(snapshot), 2)


@pytest.mark.usefixtures("hub")
def test_a_hub_model_that_is_not_cached_names_the_command_that_fetches_it() -> None:
    with pytest.raises(
        RecipeError, match=f"no folder someone/small, .* hf download someone/small --revision {REVISION}"
    ):
        inspect_base("someone/small", REVISION)
    with pytest.raises(RecipeError, match="'a b' is neither a folder nor the id of a model on the hub"):
        inspect_base("a b")


class _Refusing(BaseHTTPRequestHandler):
    """Answers every request as the hub answers one for a repository whose name is the error."""

    def do_HEAD(self) -> None:
        error = next(name for name in ("GatedRepo", "RepoNotFound", "RevisionNotFound") if name in self.path)
        self.send_response(403 if error == "GatedRepo" else 404)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that speaks the hub's protocol of refusal."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", constants.ENDPOINT)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("refusing_hub")
@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        (
            "meta/GatedRepo",
            "the model meta/GatedRepo is gated: ask for access on https://huggingface.co/meta/GatedRepo",
        ),
        (
            "a/RepoNotFound",
            "there is no folder a/RepoNotFound, and the hub has no model a/RepoNotFound: correct the name",
        ),
        ("a/RevisionNotFound", f"the model a/RevisionNotFound has no revision {REVISION}: choose a commit from"),
    ],
)
def test_what_the_hub_refuses_is_explained(model_id: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        inspect_base(model_id, REVISION)
