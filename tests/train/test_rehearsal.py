"""The rehearsal world: a pure function of its seed, whole or absent, and fit to rehearse on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from objectives.ifeval import IFEval, load_prompts
from objectives.score import Answer, Prompt
from train import rehearsal_text
from train.recipe import RecipeError
from train.rehearsal import World, _corpus, main, make_world

STEPS = 10


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def world(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world of seed 0, but for a base that has hardly been trained."""
    return make_world(tmp_path_factory.mktemp("worlds") / "world", 0, steps=STEPS)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def share_kept(prompts: Sequence[Prompt], answers: Sequence[str]) -> float:
    """Prompt-strict accuracy by lm-eval's own checkers."""
    return IFEval(prompts).check([Answer(text=text, tokens=1, capped=False) for text in answers]).value


def prompts_of(asked: Sequence[rehearsal_text.Request]) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(
            key=key,
            prompt=one.prompt,
            instruction_id_list=tuple(rule.instruction for rule in one.rules),
            kwargs=tuple(rule.kwargs for rule in one.rules),
        )
        for key, one in enumerate(asked)
    )


class TestText:
    @given(st.integers(0, 2**32))
    @settings(max_examples=3, deadline=None)
    def test_answers_do_what_they_say(self, seed: int) -> None:
        rng = Random(seed)
        asked = rehearsal_text.requests(rng, 300)
        prompts = prompts_of(asked)
        assert share_kept(prompts, [rehearsal_text.comply(one) for one in asked]) == 1.0
        assert share_kept(prompts, [rehearsal_text.forget(rng, one) for one in asked]) <= 0.01
        assert share_kept(prompts, [rehearsal_text.ignore(rng, one) for one in asked]) <= 0.10

    def test_prompts_are_distinct_and_avoid(self) -> None:
        first = {one.prompt for one in rehearsal_text.requests(Random(0), 500)}
        again = {one.prompt for one in rehearsal_text.requests(Random(0), 500, first)}
        assert len(first) == len(again) == 500
        assert not first & again


class TestData:
    def test_prompts_are_ifeval(self, world: World) -> None:
        prompts = load_prompts(world.prompts)
        alone = {prompt.instruction_id_list[0] for prompt in prompts if len(prompt.instruction_id_list) == 1}
        together = {
            name for prompt in prompts if len(prompt.instruction_id_list) > 1 for name in prompt.instruction_id_list
        }
        assert 256 <= len(prompts) <= 320
        assert len(alone) >= 16
        assert len(together) >= 12
        assert IFEval(prompts).exact

    def test_no_prompt_is_trained_on(self, world: World) -> None:
        prompts = {row["prompt"] for row in rows(world.prompts)}
        trained = [row["prompt"] for path in (world.clean, world.noisy, world.preferences) for row in rows(path)]
        assert len(prompts) == len(rows(world.prompts))
        assert len(set(trained)) == len(trained)
        assert not prompts & set(trained)

    def test_the_base_reads_nothing_that_it_should_avoid(self) -> None:
        read = {prompt for pairs in _corpus(0, 400, set()) for prompt, _ in pairs}
        again = {prompt for pairs in _corpus(0, 400, read) for prompt, _ in pairs}
        assert again
        assert not read & again

    def test_sources_and_preferences(self, world: World) -> None:
        """The rules of a row are found again by making the data's requests from the same seed."""
        rng = Random("rehearsal 0")
        judged = rehearsal_text.requests(rng, len(rows(world.prompts)))
        made = rehearsal_text.requests(rng, 5200, {one.prompt for one in judged})
        rules = {prompt.prompt: prompt for prompt in prompts_of(made)}
        clean, noisy, pairs = rows(world.clean), rows(world.noisy), rows(world.preferences)
        assert len(clean) > 2000 < len(noisy)

        def kept(data: list[dict[str, Any]], field: str) -> float:
            some = data[:600]
            return share_kept([rules[row["prompt"]] for row in some], [row[field] for row in some])

        assert kept(clean, "response") >= 0.99
        assert kept(noisy, "response") <= 0.01
        assert kept(pairs, "chosen") >= 0.99
        assert kept(pairs, "rejected") <= 0.01


class TestBase:
    def test_it_is_tiny_and_fits_four_bit_kernels(self, world: World) -> None:
        model = AutoModelForCausalLM.from_pretrained(world.base)
        assert model.num_parameters() == world.facts["parameters"] < 2_000_000
        linear = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
        assert all(size % 32 == 0 for module in linear for size in module.weight.shape)
        assert model.generation_config.eos_token_id == model.config.eos_token_id

    def test_chat_template_ends_every_turn(self, world: World) -> None:
        tokenizer = AutoTokenizer.from_pretrained(world.base)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        assert tokenizer.pad_token_id is not None
        question = [{"role": "user", "content": "Describe tea."}]
        asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        chat = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "Warm."}], tokenize=False)
        assert chat == f"{asked}Warm.{tokenizer.eos_token}"
        assert "<|assistant|>" in tokenizer.convert_ids_to_tokens(tokenizer(asked)["input_ids"])

    def test_no_text_is_unknown(self, world: World) -> None:
        tokenizer = AutoTokenizer.from_pretrained(world.base)
        for text in ("Ελένη says: 你好 🙂\n\n***\t<<x>>", "plain", " leading and trailing "):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def test_prompts_and_answers_are_short(self, world: World) -> None:
        tokenizer = AutoTokenizer.from_pretrained(world.base)
        prompts = [len(ids) for ids in tokenizer([row["prompt"] for row in rows(world.prompts)])["input_ids"]]
        answers = [len(ids) for ids in tokenizer([row["response"] for row in rows(world.clean)])["input_ids"]]
        assert sum(prompts) / len(prompts) < 32
        assert max(prompts) + max(answers) < 192


class TestMaking:
    def test_same_seed_same_bytes_in_another_process(self, world: World, tmp_path: Path, own_cache: Path) -> None:
        made = _run("--seed", "0", "--steps", str(STEPS), "--progress", out=tmp_path / "again")
        facts = json.loads(made.stdout)
        assert facts["files"] == world.facts["files"]
        assert not facts["cached"]
        assert [json.loads(line)["step"] for line in made.stderr.splitlines()] == [STEPS]

    def test_another_seed_is_another_world(self, world: World, tmp_path: Path) -> None:
        other = make_world(tmp_path / "other", 1, steps=STEPS).facts["files"]
        same = {name for name, digest in world.facts["files"].items() if other[name] == digest}
        assert {name for name in same if name.endswith(("jsonl", "safetensors"))} == set()

    def test_the_cache_spares_the_training(self, world: World, tmp_path: Path) -> None:
        shown: list[int] = []
        again = make_world(tmp_path / "again", 0, steps=STEPS, progress=lambda step, steps, loss: shown.append(step))
        assert again.cached
        assert not shown
        assert again.facts == world.facts
        assert make_world(again.path, 0, steps=STEPS) == again

    def test_a_damaged_cache_is_made_again(self, tmp_path: Path, own_cache: Path) -> None:
        first = make_world(tmp_path / "first", 0, steps=1)
        (kept,) = own_cache.rglob("clean.jsonl")
        kept.write_text("")
        second = make_world(tmp_path / "second", 0, steps=1)
        assert not second.cached
        assert second.facts["files"] == first.facts["files"]

    def test_killed_while_training(self, tmp_path: Path, own_cache: Path) -> None:
        """The command is killed at its first report; nothing of its world counts, and the next one makes it."""
        out = tmp_path / "world"
        command = [sys.executable, "-m", "train.rehearsal", str(out), "--progress", "--steps", "300"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "step" in process.stderr.readline()
            process.send_signal(signal.SIGKILL)
        assert not out.exists()
        assert not list(own_cache.rglob("world.json"))
        assert not make_world(out, 0, steps=1).cached

    def test_torch_is_left_as_it_was(self, tmp_path: Path, own_cache: Path) -> None:
        torch.manual_seed(7)
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        make_world(tmp_path / "world", 0, steps=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads


class TestErrors:
    def test_a_folder_with_something_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(RecipeError, match=r"is not the rehearsal world of seed 3: delete it, or choose another"):
            make_world(tmp_path, 3)
        assert main([str(tmp_path), "--seed", "3"]) == 2
        assert "is not the rehearsal world" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_world_of_another_seed(self, world: World) -> None:
        with pytest.raises(RecipeError, match="is not the rehearsal world of seed 1"):
            make_world(world.path, 1, steps=STEPS)

    def test_a_cache_that_is_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cache").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(RecipeError, match=r"cannot be written: .*another cache with XDG_CACHE_HOME"):
            make_world(tmp_path / "world", 0, steps=1)


def _run(*options: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.rehearsal", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True)
