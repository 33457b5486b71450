"""What a study names, looked at before anything starts: every problem of files and machine at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import tiny

from search import config, space
from search.errors import ConfigError, MachineUnfit
from search.survey import card, survey
from train.card import Card

PROMPT = '{"key": 1, "prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_study(tmp_path_factory.mktemp("survey"))


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    """A copy of the tiny study that a test may break."""
    shutil.copytree(whole.parent, tmp_path / "s")
    return tmp_path / "s" / "study.toml"


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        survey(config.load(path))
    return str(caught.value).split("\n")


def test_a_sound_study_is_described_and_its_recipe_pins_what_was_seen(whole: Path) -> None:
    read = config.load(whole)
    before = sorted(whole.parent.rglob("*"))
    seen = survey(read)
    assert (seen.base.model_type, seen.card) == ("qwen2", None)
    assert len(seen.search_half) == 12
    assert {p.instruction_id_list for p in seen.search_half} == {("punctuation:no_comma",), ("startend:quotation",)}
    assert {name: facts.rows for name, facts in seen.sources.items()} == {"plain": 60, "chat": 60, "pairs": 40}
    assert seen.prompts_sha256 == hashlib.sha256((whole.parent / "prompts.jsonl").read_bytes()).hexdigest()
    recipe = space.recipe(read, {}, seen)
    assert recipe.base.sha256 == seen.base.sha256
    assert [source.sha256 for source in recipe.sources] == [
        seen.sources[source.name].sha256 for source in recipe.sources
    ]
    assert sorted(whole.parent.rglob("*")) == before


def test_problems_of_the_model_the_data_and_the_prompts_are_told_at_once_with_their_lines(study: Path) -> None:
    folder = study.parent
    (folder / "model" / "tokenizer.json").unlink()
    (folder / "plain.jsonl").write_text("")
    (folder / "chat.jsonl").write_text('{"prompt": "hello", "reply": "hi"}\n')
    (folder / "prompts.jsonl").unlink()
    found = problems(study)
    lines = study.read_text().splitlines()
    for text, said in [
        ('model = "model"', "[base] model: "),
        ('path = "plain.jsonl"', "[[data]] plain path: "),
        ('path = "chat.jsonl"', "[[data]] chat path: "),
        ('prompts = "prompts.jsonl"', f"[objective] prompts: {folder / 'prompts.jsonl'} does not exist"),
    ]:
        assert any(line.startswith(f"{study}:{lines.index(text) + 1}: {said}") for line in found), found
    assert any("reply" in line for line in found)  # the fields that are there


def test_a_missing_model_and_pickled_weights_are_refused(study: Path) -> None:
    weights = study.parent / "model" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "safetensors" in problems(study)[0]
    shutil.rmtree(weights.parent)
    study.write_text(study.read_text().replace('model = "model"', 'model = "./model"'))
    assert f"{study.parent / 'model'} does not exist" in problems(study)[0]


def test_a_base_without_a_chat_template_needs_one(study: Path) -> None:
    model = study.parent / "model"
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "has no chat template, as base models often do; give one as chat_template in [recipe]" in problems(study)[0]
    study.write_text(study.read_text().replace("[recipe]", '[recipe]\nchat_template = "{{ messages }}"'))
    assert not survey(config.load(study)).base.has_chat_template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for", "chat_template in [recipe] is no Jinja: line 1"),
        ("hello", "never shows what a user says: it makes 'hello' of the prompt 'quokka'"),
        ("{% for m in messages %}### {{ m.role }}{% endfor %}", "never shows what a user says: it makes '### user' of"),
        ("{# messages #}", "never shows what a user says: it makes nothing of it"),
        ("{{ raise_exception('no users here') }}", "fails on a user message: no users here"),
    ],
)
def test_a_chat_template_that_could_show_no_chat_is_refused(study: Path, template: str, said: str) -> None:
    study.write_text(study.read_text().replace("[recipe]", f'[recipe]\nchat_template = "{template}"'))
    assert said in problems(study)[0]


def test_data_of_which_nothing_could_be_held_out_are_refused(study: Path) -> None:
    row = json.dumps({"prompt": "say hello", "response": "hello"}) + "\n"
    for name in ("plain", "chat"):
        (study.parent / f"{name}.jsonl").write_text(5 * row)
    assert "fewer than two different rows, so that nothing could be held out for the probe" in "".join(problems(study))


def test_a_model_that_was_tuned_for_chat_is_refused_unless_it_is_allowed(study: Path) -> None:
    model = study.parent / "model"
    model.rename(model.with_name("model-chat"))
    study.write_text(study.read_text().replace('model = "model"', 'model = "model-chat"'))
    (found,) = problems(study)
    assert "[base] model: " in found
    assert found.endswith("or set allow_instruct = true in [base] to go on with this one")
    study.write_text(study.read_text().replace("[base]", "[base]\nallow_instruct = true"))
    assert survey(config.load(study)).base.tuned


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[recipe]", "[recipe]\ntargets = ['c_attn']"),
        ("[space]", "[space]\ntargets = { choices = ['all-linear', '.*c_attn'] }"),
    ],
)
def test_targets_that_the_model_has_not_name_those_it_has(study: Path, old: str, new: str) -> None:
    study.write_text(study.read_text().replace(old, new))
    (found,) = problems(study)
    assert f"{old} targets: targets = " in found
    assert "the base model has none of them (it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj" in found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "line 25: not JSON"),
        ("[1]", "line 25: holds a JSON list; an object with key"),
        (
            PROMPT.replace("punctuation:no_comma", "keywords:existence").replace("{}", '{"keywords": ["(sea"]}'),
            "line 25, key 1: keywords of keywords:existence is ['(sea']; it has to be a regular expression: missing ),",
        ),
        ('{"key": 1, "prompt": "x"}', "line 25: lacks instruction_id_list, kwargs; it has key, prompt"),
        (PROMPT.replace('"x"', "null"), "line 25: prompt: it has to be a string"),
        (
            PROMPT.replace("no_comma", "no_coma"),
            "line 25, key 1: punctuation:no_coma is no instruction type of IFEval; the nearest",
        ),
        (PROMPT.replace("[{}]", "[]"), "line 25, key 1: has 1 instruction and 0 kwargs; one each is needed"),
        (
            PROMPT.replace('"key": 1', '"key": 3'),
            "line 25, key 3: key 3 is already that of line 4; give every prompt its own",
        ),
    ],
)
def test_a_bad_prompt_is_named_by_its_line(study: Path, line: str, said: str) -> None:
    with open(study.parent / "prompts.jsonl", "a") as file:
        file.write(line + "\n")
    assert said in problems(study)[0]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds no prompt; it needs"), ("é".encode("latin-1"), "is not UTF-8")]
)
def test_a_prompts_file_that_holds_no_prompts_is_refused(study: Path, content: bytes, said: str) -> None:
    (study.parent / "prompts.jsonl").write_bytes(content)
    assert said in problems(study)[0]


def test_prompts_that_cannot_be_halved_are_refused(study: Path) -> None:
    (study.parent / "prompts.jsonl").write_text(PROMPT + "\n")
    assert "prompts.jsonl: 1 prompt with one text cannot be halved, since both halves need" in problems(study)[0]


def test_fields_that_nobody_needs_are_left_out(study: Path) -> None:
    path = study.parent / "prompts.jsonl"
    before = survey(config.load(study)).search_half
    path.write_text(path.read_text().replace('"key"', '"origin": "made", "key"'))
    assert survey(config.load(study)).search_half == before


def test_a_subset_larger_than_the_half_that_a_search_sees_is_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("subset = 8", "subset = 13"))
    assert "[objective] subset: it is 13; the file holds 24 prompts" in problems(study)[0]
    assert problems(study)[0].endswith("so it must be from 1 to 12")


def test_answers_that_do_not_fit_into_the_model_s_positions_are_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("max_new_tokens = 8", "max_new_tokens = 250"))
    in_search, in_final = problems(study)
    assert "[objective] max_new_tokens: prompt " in in_search
    assert re.search(r"\(line \d+ of .*prompts.jsonl\) has \d+ tokens .* 256 positions: lower max_new_tok", in_search)
    assert "[final] max_new_tokens: prompt " in in_final
    fits = int(in_final.rpartition("max_new_tokens to ")[2])
    study.write_text(study.read_text().replace("max_new_tokens = 250", f"max_new_tokens = {fits}"))
    survey(config.load(study))
    study.write_text(study.read_text().replace(f"max_new_tokens = {fits}", f"max_new_tokens = {fits + 1}", 1))
    study.write_text(study.read_text().replace(f"max_new_tokens = {fits}\n", f"max_new_tokens = {fits + 1}\n"))
    assert "[final] max_new_tokens" in problems(study)[-1]


# The card


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """Put a program of that name, or none, on the only PATH there is."""
    folder.mkdir()
    if script is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        os.chmod(folder / "nvidia-smi", 0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_card_is_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path / "bin", monkeypatch, "echo NVIDIA GeForce RTX 4070 Ti, 12282, 550.54.14")
    assert card() == Card("NVIDIA GeForce RTX 4070 Ti", 12282 * 2**20, "550.54.14")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "there is no nvidia-smi, so no NVIDIA driver is installed"),
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
            "NVIDIA-SMI has failed",
        ),
        ("exit 6", "nvidia-smi failed: exit code 6"),
        ("echo No devices were found", "nvidia-smi said 'No devices were found'"),
    ],
)
def test_a_machine_without_a_card_is_told_what_to_do(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, said: str
) -> None:
    study.write_text(study.read_text().replace('device = "cpu"', 'device = "cuda"'))
    nvidia_smi(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(MachineUnfit, match=r'set device = "cpu"') as caught:
        survey(config.load(study))
    assert said in str(caught.value)
    (study.parent / "prompts.jsonl").unlink()
    assert any("[machine] device: " in line and said in line for line in problems(study))
