"""Facts about base models from their files, and every reason to refuse one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from train import catalog
from train.base import BaseFacts, check_is_base, facts_of_config, inspect_base, targeted
from train.recipe import Base, RecipeError
from train.tuned import why_tuned

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
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (folder / "parameters").write_text(str(sum(parameter.numel() for parameter in model.parameters())))
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of that model to damage."""
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "model"))


def configure(folder: Path, **changes: Any) -> None:
    tell(folder, "config.json", **changes)


def tell(folder: Path, file: str, **changes: Any) -> None:
    """Change values of one of the model's JSON files, which is made where there is none."""
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


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
    tell(model, "tokenizer_config.json", chat_template="{{ messages }}")
    assert inspect_base(str(model)).has_chat_template
    tell(model, "tokenizer_config.json", chat_template=None)
    assert not inspect_base(str(model)).has_chat_template
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


# What LoRA is put on


def names(facts: BaseFacts, targets: str | tuple[str, ...]) -> list[str]:
    """The whole names of the modules that `targets` picks, in order."""
    chosen = targeted(facts.linears, targets)
    assert all(linear.count == len(linear.layers) for linear in chosen)
    return sorted(linear.path.format(layer) for linear in chosen for layer in linear.layers)


def test_targets_pick_modules_by_set_by_name_and_by_pattern() -> None:
    facts = facts_of_config(CONFIG)
    both = [f"model.layers.{n}.self_attn.{name}" for n in (0, 1) for name in ("q_proj", "v_proj")]
    assert names(facts, "attention-qv") == both
    assert names(facts, ("q_proj", "v_proj")) == both
    assert names(facts, r".*\.(q|v)_proj") == both
    assert names(facts, (r"1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]
    assert names(facts, r"model\.layers\.1\..*_proj") == [n for n in names(facts, "all-linear") if ".1." in n]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            "q_proj$",
            r"targets = 'q_proj\$' puts LoRA on modules whose whole name it matches, .* \(it has down_proj, .*",
        ),
        (r".*\.lm_head", r"like model\.layers\.0\.self_attn\.q_proj\); choose other targets"),
        (("c_attn",), r"targets = \['c_attn'\] puts LoRA on these modules, and the base model has none of them"),
    ],
)
def test_targets_that_pick_nothing_name_what_is_there(targets: str | tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        targeted(facts_of_config(CONFIG).linears, targets)


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


def test_a_tokenizer_without_an_end(model: Path) -> None:
    tell(model, "tokenizer_config.json", eos_token=None)
    with pytest.raises(RecipeError, match=r"has no EOS token, so that no answer could learn to end: set eos_token"):
        inspect_base(str(model))
    tell(model, "special_tokens_map.json", eos_token={"content": "<end>"})
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
    tell(tmp_path, "tokenizer_config.json", eos_token="<end>")
    with pytest.raises(RecipeError, match=r"has none of the modules .*; its layers hold c_attn, c_fc, c_proj"):
        inspect_base(str(tmp_path))


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of a safetensors file, and leave its data as they are."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


@pytest.mark.parametrize(
    "change",
    [
        lambda header: next(e for n, e in header.items() if n != "__metadata__")["shape"].append(2),
        lambda header: next(e for n, e in header.items() if n != "__metadata__")["data_offsets"].reverse(),
        lambda header: next(e for n, e in header.items() if n != "__metadata__").update(data_offsets=[8, 12]),
        lambda header: next(e for n, e in header.items() if n != "__metadata__").update(data_offsets="all"),
        lambda header: header.update(more=3),
    ],
)
def test_a_header_that_contradicts_itself(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    rewrite_header(shards(model)[0], change)
    with pytest.raises(RecipeError, match=r"is no whole safetensors file; download it again"):
        inspect_base(str(model))


def test_weights_with_something_behind_them(model: Path) -> None:
    with open(shards(model)[0], "ab") as file:
        file.write(b"more")
    with pytest.raises(RecipeError, match=r"is too long: [0-9,]+ bytes instead of [0-9,]+; download it again"):
        inspect_base(str(model))


def test_parts_that_are_not_what_the_index_says(model: Path) -> None:
    first, second, *_ = shards(model)
    first.write_bytes(second.read_bytes())
    with pytest.raises(RecipeError, match=rf"{first.name} lacks .*, which .* says is there; download both again"):
        inspect_base(str(model))


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
        ({"a": "../elsewhere.safetensors"}, "is not in its folder"),
    ],
)
def test_an_index_that_is_none(model: Path, weight_map: object, said: str) -> None:
    tell(model, "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(RecipeError, match=f"{said}.*; get the"):
        inspect_base(str(model))


# Base models and others


CHAT = {
    "Qwen2.5-7B-Instruct": "Instruct",
    "Mistral-7B-Instruct-v0.3": "Instruct",
    "Llama-2-7b-chat-hf": "chat",
    "gemma-2-2b-it": "it",
    "gemma-3-4b-it-qat": "it",
    "tulu-3-8B-SFT": "SFT",
    "a.model_chat": "chat",
}
NOT_CHAT = [
    "Qwen2.5-7B",
    "Mistral-7B-v0.3",
    "Llama-3.2-1B",
    "chat",
    "instructor-xl",
    "bert-it-base",
    "Chatty-7B",
    "wit",
]


@pytest.mark.parametrize(("name", "mark"), CHAT.items())
def test_a_name_that_says_that_a_model_was_tuned(model: Path, tmp_path: Path, name: str, mark: str) -> None:
    facts = inspect_base(str(model.rename(tmp_path / name)))
    assert facts.tuned == f"its name, {name}, says {mark}"


@pytest.mark.parametrize("name", NOT_CHAT)
def test_a_name_that_only_looks_so(model: Path, tmp_path: Path, name: str) -> None:
    assert inspect_base(str(model.rename(tmp_path / name))).tuned is None


def test_the_name_that_a_copy_was_made_from_counts_too(model: Path) -> None:
    configure(model, _name_or_path="Qwen/Qwen2.5-0.5B-Instruct")
    assert inspect_base(str(model)).tuned == "its name, Qwen2.5-0.5B-Instruct, says Instruct"


def test_a_chat_template_alone_is_no_evidence(model: Path) -> None:
    tell(model, "tokenizer_config.json", chat_template="{{ messages }}", eos_token="<|endoftext|>")
    tell(
        model, "tokenizer_config.json", added_tokens_decoder={"7": {"content": "<|im_end|>"}, "8": {"content": "<|x|>"}}
    )
    tell(model, "generation_config.json", eos_token_id=8)
    facts = inspect_base(str(model))
    assert facts.has_chat_template
    assert facts.tuned is None
    check_is_base(Base(model=str(model)), facts)


def test_the_end_of_a_chat_turn_as_the_end_of_a_text_is_evidence(model: Path) -> None:
    tell(model, "generation_config.json", eos_token_id=[3, 9])
    assert inspect_base(str(model)).tuned is None
    tell(model, "tokenizer.json", added_tokens=[{"id": 9, "content": "<|eot_id|>"}])
    told = "its generation_config.json ends texts with <|eot_id|>, the end of a chat turn"
    assert inspect_base(str(model)).tuned == told
    (model / "generation_config.json").unlink()
    configure(model, eos_token_id=9)
    assert inspect_base(str(model)).tuned == told.replace("generation_config", "config")
    tell(model, "tokenizer_config.json", eos_token={"content": "<|im_end|>"})
    assert (
        inspect_base(str(model)).tuned == "its tokenizer_config.json ends texts with <|im_end|>, the end of a chat turn"
    )


def test_a_tuned_model_is_refused_unless_it_is_allowed(model: Path) -> None:
    configure(model, _name_or_path="x-chat")
    facts = inspect_base(str(model))
    with pytest.raises(RecipeError, match=r"take the base model that it was made from, or set allow_instruct = true"):
        check_is_base(Base(model=str(model)), facts)
    with pytest.raises(
        RecipeError, match=r"Qwen/Qwen2\.5-7B-Instruct is no base model.*: take Qwen/Qwen2\.5-7B, or set"
    ):
        check_is_base(Base(model="Qwen/Qwen2.5-7B-Instruct"), facts)
    check_is_base(Base(model=str(model), allow_instruct=True), facts)


# Base models that are known by name

SIZES = {  # hidden, layers, heads, kv_heads, intermediate, vocabulary, tied; of their config.json
    "meta-llama/Llama-3.1-8B": (4096, 32, 32, 8, 14336, 128256, False),
    "meta-llama/Llama-3.2-3B": (3072, 28, 24, 8, 8192, 128256, True),
    "meta-llama/Llama-3.2-1B": (2048, 16, 32, 8, 8192, 128256, True),
    "mistralai/Mistral-7B-v0.3": (4096, 32, 32, 8, 14336, 32768, False),
    "Qwen/Qwen2.5-7B": (3584, 28, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-3B": (2048, 36, 16, 2, 11008, 151936, True),
    "Qwen/Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151936, True),
}


@pytest.mark.parametrize("base", catalog.BASES, ids=lambda base: base.id)
def test_a_known_base_has_as_many_parameters_as_its_sizes_say(base: catalog.KnownBase) -> None:
    hidden, layers, heads, kv_heads, intermediate, vocabulary, tied = SIZES[base.id]
    config = {
        "model_type": "qwen2" if base.family == "Qwen2.5" else "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": tied,
    }
    assert facts_of_config(config).parameters == base.parameters


def test_known_bases_are_found_by_id_and_have_smaller_siblings() -> None:
    big = catalog.known("qwen/qwen2.5-7b")
    assert big is not None
    assert [base.id for base in catalog.siblings(big)] == ["Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-0.5B"]
    assert catalog.known("someone/small") is None
    assert all(why_tuned(base.id, Path("nowhere"), {}) is None for base in catalog.BASES)
    assert all(bool(base.terms) == base.licence.startswith("LicenseRef-") for base in catalog.BASES)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("Qwen/Qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("Qwen/Qwen-2.5-7B", "Qwen/Qwen2.5-7B"),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("mistral/Mistral-7B-v0.3", "mistralai/Mistral-7B-v0.3"),
        ("someone/else", None),
    ],
)
def test_a_misspelt_id_has_a_nearest_one(asked: str, meant: str | None) -> None:
    assert catalog.nearest(asked) == meant


def test_every_known_base_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for base in catalog.BASES:
        gated = "yes" if base.gated else "no"
        assert f"| {base.id} | {base.parameters:,} | {base.licence} | {gated} |" in page


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


def test_a_hub_model_without_safetensors(model: Path, hub: Path) -> None:
    snapshot = hub / "models--someone--small" / "snapshots" / REVISION
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    for file in [*shards(snapshot), snapshot / "model.safetensors.index.json"]:
        file.unlink()
    with pytest.raises(
        RecipeError, match=r"Pickled weights, which can run code, are not fetched: take a copy with safe"
    ):
        inspect_base("someone/small", REVISION)


@pytest.mark.usefixtures("hub")
def test_a_misspelt_hub_model_is_told_what_was_meant() -> None:
    with pytest.raises(RecipeError, match=r"hf download qwen/qwen2\.5_7b \(did you mean Qwen/Qwen2\.5-7B\?\)"):
        inspect_base("qwen/qwen2.5_7b")


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
