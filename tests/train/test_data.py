"""Tokenized splits: what is learned, what is held out, and in which order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data.splits import PROBE_TOKENS, Splits, splits
from train.recipe import Base, Filters, Probe, Recipe, RecipeError, Source

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE, **more: Any) -> Any:
    """A byte-level BPE tokenizer trained on a few lines."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["question answer number clean noisy\n\n ### assistant"] * 4, trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=core, **{**special, **more})
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(name: str, count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{name} question {i}", "response": f"{name} answer {i}"} for i in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clean.jsonl (60 rows), noisy.jsonl (40 rows, 10 of them clean's) and pairs.jsonl (30 rows)."""
    folder = tmp_path_factory.mktemp("data")
    clean = numbered("clean", 60)
    write(folder / "clean.jsonl", clean)
    write(folder / "noisy.jsonl", [*numbered("noisy", 30), *clean[:10]])
    pairs = [{"prompt": r["prompt"], "chosen": r["response"], "rejected": "no"} for r in clean[:20]]
    pairs += [{"prompt": f"pair {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(10)]
    write(folder / "pairs.jsonl", pairs)
    return folder


def recipe(folder: Path, clean: float = 1.0, noisy: float = 1.0, **changes: Any) -> Recipe:
    sources = (
        Source(name="clean", path=str(folder / "clean.jsonl"), weight=clean),
        Source(name="noisy", path=str(folder / "noisy.jsonl"), weight=noisy),
        Source(name="pairs", path=str(folder / "pairs.jsonl"), use="preference"),
    )
    settings = {"examples": 64, "batch_size": 4, "max_length": 128, "probe": Probe(rows=8)}
    return Recipe(base=Base(model="base"), **{"sources": sources, **settings, **changes})


def one_source(path: Path, **changes: Any) -> Recipe:
    settings = {"examples": 8, "batch_size": 4, "probe": Probe(rows=1), "max_length": 512}
    return Recipe(base=Base(model="base"), **{"sources": (Source(name="only", path=str(path)),), **settings, **changes})


def texts(made: Splits, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(ids) for ids in made.sft["input_ids"]]


def learned(made: Splits, tokenizer: Any, index: int = 0) -> str:
    return str(tokenizer.decode([label for label in made.sft[index]["labels"] if label != -100]))


def probe_text(made: Splits, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(row.input_ids) for row in made.probe]


# What is learned


def test_only_the_answer_and_its_eos_are_learned(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder), tokenizer)
    for row in made.sft:
        text = tokenizer.decode(row["input_ids"])
        prompt, answer = text.split("<|assistant|>")
        assert prompt.startswith("<s><|user|>")
        assert answer.endswith("</s>")
        assert answer.count("</s>") == 1
        assert tokenizer.decode([label for label in row["labels"] if label != -100]) == answer
        assert row["labels"][-1] == tokenizer.eos_token_id
        counted = [label == -100 for label in row["labels"]]
        assert counted == sorted(counted, reverse=True)


def test_the_prompt_is_tokenized_as_generation_will_see_it(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder), tokenizer)
    for row in made.sft:
        prompt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        content = tokenizer.decode(prompt).removeprefix("<s><|user|>").removesuffix("<|assistant|>")
        messages = [{"role": "user", "content": content}]
        assert prompt == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def test_of_a_longer_chat_the_last_answer_is_learned(tmp_path: Path, tokenizer: Any) -> None:
    chat = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": content} for role, content in chat]}
    path = write(tmp_path / "a.jsonl", [row, {"prompt": "x", "response": "d"}])
    made = splits(one_source(path), tokenizer)
    held_out = probe_text(made, tokenizer)
    longer = next(text for text in [*texts(made, tokenizer), *held_out] if "system" in text)
    assert longer == "<s><|system|>s<|user|>a<|assistant|>b</s><|user|>c<|assistant|>d</s>"
    assert learned(made, tokenizer) == "d</s>"


@pytest.mark.parametrize(
    ("template", "answer", "expected"),
    [
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "yes", "yes</s>"),
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>\n{% endfor %}", "yes", "yes</s>"),
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}<pad>\n{% endfor %}", "yes", "yes<pad>\n</s>"),
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "a</s>b", "a</s>b</s>"),
        ("{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}", " yes ", "yes\n</s>"),
    ],
)
def test_the_answer_ends_with_one_eos_and_nothing_after_it(
    tmp_path: Path, template: str, answer: str, expected: str
) -> None:
    tokenizer = make_tokenizer(template + "{% if add_generation_prompt %}[assistant]{% endif %}")
    path = write(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "response": answer} for i in range(4)])
    assert learned(splits(one_source(path), tokenizer), tokenizer) == expected


def test_tokens_never_span_the_edge_between_prompt_and_answer(tmp_path: Path) -> None:
    """The prompt ends with a line break, and an answer that begins with one would make a token of both."""
    tokenizer = make_tokenizer(
        "{% for m in messages %}### {{ m.role }}\n{{ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}\n### assistant\n{% endif %}"
    )
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 1
    path = write(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "response": "\nanswer"} for i in range(4)])
    made = splits(one_source(path), tokenizer)
    assert learned(made, tokenizer) == "\nanswer</s>"
    assert texts(made, tokenizer)[0].endswith("### assistant\n\nanswer</s>")


def test_preferences_have_the_columns_of_dpo(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder, dpo_share=0.25), tokenizer)
    assert made.dpo is not None
    assert (len(made.sft), len(made.dpo)) == (48, 16)
    assert set(made.dpo.column_names) == {"prompt_ids", "chosen_ids", "rejected_ids"}
    for row in made.dpo:
        assert tokenizer.decode(row["prompt_ids"]).endswith("<|assistant|>")
        assert tokenizer.decode(row["rejected_ids"]) == "no</s>"
        assert row["chosen_ids"][-1] == tokenizer.eos_token_id


def test_trl_collates_preferences_as_they_are(folder: Path, tokenizer: Any) -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    made = splits(recipe(folder, dpo_share=0.25), tokenizer)
    assert made.dpo is not None
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)([made.dpo[0], made.dpo[1]])
    assert batch["input_ids"].shape[0] == 4


# What is held out


def test_the_probe_is_never_trained_on(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder, examples=2000, dpo_share=0.5, probe=Probe(rows=40)), tokenizer)
    held_out = set(probe_text(made, tokenizer))
    assert len(held_out) == 40
    assert not held_out & set(texts(made, tokenizer))
    assert made.dpo is not None
    pairs = {tokenizer.decode(row["prompt_ids"] + row["chosen_ids"]) for row in made.dpo}
    assert not held_out & pairs
    assert made.facts["pairs"].rows_held_out > 0
    clean, noisy = made.facts["clean"], made.facts["noisy"]
    assert clean.rows_held_out + noisy.rows_held_out > 40  # the copies in the other source, too
    assert (clean.rows_used, noisy.rows_used) == (60 - clean.rows_held_out, 40 - noisy.rows_held_out)


def test_copies_that_differ_in_spaces_are_held_out_too(tmp_path: Path, tokenizer: Any) -> None:
    rows = numbered("x", 20)
    spaced = [{"prompt": f" {row['prompt']}  ", "response": row["response"].replace(" ", "\n")} for row in rows]
    path = str(write(tmp_path / "a.jsonl", [*rows, *spaced]))
    sources = (Source(name="only", path=path, filters=Filters(duplicates="keep")),)
    made = splits(one_source(Path(path), probe=Probe(rows=5), sources=sources), tokenizer)
    assert made.facts["only"].rows_held_out == 10


def test_probe_rows_come_evenly_from_their_sources(folder: Path, tokenizer: Any) -> None:
    held_out = probe_text(splits(recipe(folder, probe=Probe(rows=8)), tokenizer), tokenizer)
    assert sum("clean" in text for text in held_out) in (4, 5)  # noisy has some of clean's rows
    only = probe_text(splits(recipe(folder, probe=Probe(rows=8, sources=("clean",))), tokenizer), tokenizer)
    assert all("clean" in text for text in only)


def test_the_probe_takes_at_most_half_of_a_source(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder, probe=Probe(rows=4096)), tokenizer)
    assert 40 <= len(made.probe) <= 50


def test_the_probe_counts_bytes_of_the_response(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "response": "é" * 7} for i in range(4)])
    (row,) = splits(one_source(path), tokenizer).probe
    assert row.response_bytes == 14
    assert tokenizer.decode([label for label in row.labels if label != -100]) == "é" * 7 + "</s>"
    assert len(row.labels) == len(row.input_ids)


changes = st.fixed_dictionaries(
    {},
    optional={
        "examples": st.integers(4, 200),
        "rows": st.integers(1, 80),
        "max_length": st.integers(40, 200),
        "rank": st.integers(1, 64),
        "seed": st.integers(0, 100),
        "batch_size": st.sampled_from([1, 2, 4]),
        "dpo_share": st.sampled_from([0.0, 0.3]),
        "clean": st.sampled_from([0.0, 0.3, 1.0]),
        "learning_rate": st.sampled_from([1e-5, 1e-3]),
    },
)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(changed=changes)
def test_the_probe_is_the_same_for_every_recipe_of_a_study(
    folder: Path, tokenizer: Any, changed: dict[str, Any]
) -> None:
    usual = splits(recipe(folder), tokenizer)
    made = splits(recipe(folder, **changed), tokenizer)
    assert made.probe == usual.probe
    held_out = set(probe_text(made, tokenizer))
    assert not held_out & set(texts(made, tokenizer))


def test_the_probe_ignores_max_length_but_not_the_models_own(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"q{i}", "response": "é" * (10 if i % 2 else 60)} for i in range(40)]
    path = write(tmp_path / "a.jsonl", rows)
    short, long = (one_source(path, max_length=length, probe=Probe(rows=8)) for length in (64, 512))
    assert splits(short, tokenizer).probe == splits(long, tokenizer).probe
    assert max(len(row.input_ids) for row in splits(short, tokenizer).probe) > 64
    assert max(len(row.input_ids) for row in splits(short, tokenizer, context=64).probe) <= 64


def test_probe_rows_are_bounded(tmp_path: Path, tokenizer: Any) -> None:
    """Long rows are not in it, and it leaves half of the others to train on."""
    rows = [{"prompt": f"q{i}", "response": "é" * (10 if i % 2 else PROBE_TOKENS)} for i in range(8)]
    made = splits(one_source(write(tmp_path / "a.jsonl", rows), probe=Probe(rows=4)), tokenizer)
    assert [row.response_bytes for row in made.probe] == [20] * 2
    assert made.facts["only"].rows_used == 2


# The order


@quick
@given(changed=changes, more=st.integers(1, 200))
def test_a_longer_horizon_begins_with_the_same_examples(
    folder: Path, tokenizer: Any, changed: dict[str, Any], more: int
) -> None:
    short = recipe(folder, **{**changed, "dpo_share": 0.0})
    longer = short.model_copy(update={"examples": short.examples + more})
    first, second = splits(short, tokenizer).sft, splits(longer, tokenizer).sft
    assert len(first) == short.sft_steps * short.batch_size
    assert len(second) == longer.sft_steps * longer.batch_size
    assert second[: len(first)] == first[:]


def test_fields_that_have_nothing_to_do_with_data_do_not_change_it(folder: Path, tokenizer: Any) -> None:
    usual = splits(recipe(folder, dpo_share=0.25), tokenizer)
    other = {"learning_rate": 1e-5, "rank": 4, "dropout": 0.3, "schedule": "linear", "batch_size": 8, "threads": 2}
    made = splits(recipe(folder, dpo_share=0.25, **other), tokenizer)
    assert made.sft[:] == usual.sft[:]
    assert made.dpo is not None
    assert usual.dpo is not None
    assert made.dpo[:] == usual.dpo[:]


def test_another_seed_gives_another_order(folder: Path, tokenizer: Any) -> None:
    orders = [texts(splits(recipe(folder, seed=seed), tokenizer), tokenizer) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_a_source_of_weight_0_is_never_drawn(folder: Path, tokenizer: Any) -> None:
    for clean, noisy in ((1.0, 0.0), (0.0, 1.0)):
        made = splits(recipe(folder, clean, noisy, examples=400), tokenizer)
        assert made.facts["clean"].examples == (400 if clean else 0)
        assert made.facts["noisy"].examples == (400 if noisy else 0)


@pytest.mark.parametrize("weight", [0.1, 0.5, 3.0])
def test_shares_are_near_the_weights(folder: Path, tokenizer: Any, weight: float) -> None:
    made = splits(recipe(folder, 1.0, weight, examples=4000), tokenizer)
    expected = weight / (1 + weight)
    share = made.facts["noisy"].examples / 4000
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    assert made.facts["noisy"].examples + made.facts["clean"].examples == 4000


def test_every_row_is_seen_once_before_any_is_seen_twice(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder, 1.0, 0.0, examples=500), tokenizer)
    size = made.facts["clean"].rows_used
    seen = texts(made, tokenizer)
    epochs = [seen[start : start + size] for start in range(0, 500 - size, size)]
    assert all(len(set(epoch)) == size for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@quick
@given(rows=st.integers(2, 100), noisy=st.sampled_from([0.25, 1.0]))
def test_rows_bounds_the_distinct_rows_by_weight(folder: Path, tokenizer: Any, rows: int, noisy: float) -> None:
    made = splits(recipe(folder, 1.0, noisy, examples=600, rows=rows), tokenizer)
    for name, weight in (("clean", 1.0), ("noisy", noisy)):
        used = made.facts[name]
        there = used.rows_read - used.rows_held_out
        assert used.rows_used == min(there, max(1, round(rows * weight / (1.0 + noisy))))


def test_more_rows_begin_with_those_of_fewer(folder: Path, tokenizer: Any) -> None:
    few = texts(splits(recipe(folder, 1.0, 0.0, rows=10, examples=40), tokenizer), tokenizer)
    many = texts(splits(recipe(folder, 1.0, 0.0, rows=20, examples=40), tokenizer), tokenizer)
    assert few[:10] == many[:10]
    assert set(few) < set(many)


def test_rows_that_are_too_long_are_left_out_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"q{i}", "response": "é" * (100 if i < 6 else 5)} for i in range(20)]
    path = write(tmp_path / "a.jsonl", rows)
    used = splits(one_source(path, max_length=64, examples=100), tokenizer).facts["only"]
    assert used.rows_too_long + used.rows_used + used.rows_held_out == used.rows_read == 20
    assert used.rows_too_long in (5, 6)
    assert used.examples == 100
    assert splits(one_source(path, max_length=512, examples=100), tokenizer).facts["only"].rows_too_long == 0


def test_a_second_run_on_the_same_data_is_quick(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", numbered("quick", 2000))
    splits(one_source(path, examples=1600), tokenizer)
    start = time.process_time()
    splits(one_source(path, examples=1600, max_length=256), tokenizer)
    assert time.process_time() - start < 0.3


DIGEST = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_data import make_tokenizer, recipe, splits
print(splits(recipe(Path(sys.argv[1]), dpo_share=0.25, rows=30, examples=200), make_tokenizer()).fingerprint)
"""


def test_two_processes_make_the_same(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The same splits and the same files in the cache, byte for byte."""
    here = str(Path(__file__).parent)
    digests, kept = [], []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(tmp_path / seed)}
        command = [sys.executable, "-W", "ignore", "-c", DIGEST, str(folder), here]
        digests.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        files = [path for path in (tmp_path / seed).rglob("*") if path.is_file()]
        kept.append({path.relative_to(tmp_path / seed): path.read_bytes() for path in files})
    made = splits(recipe(folder, dpo_share=0.25, rows=30, examples=200), tokenizer)
    assert [digest.strip() for digest in digests] == [made.fingerprint] * 2
    assert kept[0] == kept[1]
    assert len(kept[0]) == 6  # rows and tokens of each source


def test_the_order_is_what_it_always_was(folder: Path, tokenizer: Any) -> None:
    """A pinned data set and recipe give the same run in every version: a change here breaks frozen final runs."""
    prompts = [text.split("question ")[1].split("<")[0] for text in texts(splits(recipe(folder), tokenizer), tokenizer)]
    assert prompts[:8] == ["21", "21", "16", "13", "35", "8", "15", "43"]


# What cannot be trained on


def test_everything_too_long_says_how_long(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", numbered("long enough", 6))
    said = r"every row of data source 'only' .* longer than 8 tokens \(6 rows, 1 of them .* 5 too long, the shortest"
    with pytest.raises(RecipeError, match=said):
        splits(one_source(path, max_length=8), tokenizer)


def test_one_row_cannot_be_both_probe_and_training(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", numbered("only", 1) * 3)
    with pytest.raises(RecipeError, match=r"nothing is left to hold out of only: .* at least two different rows"):
        splits(one_source(path), tokenizer)


def test_a_source_that_the_probe_empties(tmp_path: Path, tokenizer: Any) -> None:
    first = write(tmp_path / "a.jsonl", numbered("x", 40))
    made = splits(one_source(first, probe=Probe(rows=20)), tokenizer)
    held_out = [text.removeprefix("<s><|user|>").removesuffix("</s>") for text in probe_text(made, tokenizer)]
    copies = [dict(zip(("prompt", "response"), text.split("<|assistant|>"), strict=True)) for text in held_out]
    second = write(tmp_path / "b.jsonl", copies)
    sources = (Source(name="a", path=str(first)), Source(name="b", path=str(second)))
    both = Recipe(
        base=Base(model="base"), sources=sources, probe=Probe(rows=20, sources=("a",)), examples=64, batch_size=4
    )
    with pytest.raises(RecipeError, match=r"data source 'b' has nothing left to train on \(20 rows, 20 of them held"):
        splits(both, tokenizer)


def test_preferences_without_weight(folder: Path, tokenizer: Any) -> None:
    asked = recipe(folder, dpo_share=0.25)
    off = tuple(
        source.model_copy(update={"weight": 0.0 if source.name == "pairs" else 1.0}) for source in asked.sources
    )
    with pytest.raises(RecipeError, match="the weights of the preference data sources sum to 0"):
        splits(asked.model_copy(update={"sources": off}), tokenizer)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "the tokenizer has no chat template, as is usual for a base model: set chat_template in the"),
        ("{{ strftime_now('%d') }}", "writes today's date"),
        ("{% for m in messages %}", "row [0-9]+: the chat template cannot show it"),
        ("{{ raise_exception('no user here') }}", "the chat template cannot show it: no user here"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "leaves the assistant's answer out",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "shows a prompt differently once it is answered",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_with(folder: Path, template: str | None, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        splits(recipe(folder), make_tokenizer(template))


def test_the_template_in_the_message_works(folder: Path) -> None:
    bare = make_tokenizer(None)
    with pytest.raises(RecipeError) as raised:
        splits(recipe(folder), bare)
    example = str(raised.value).split("for example ")[1]
    made = splits(recipe(folder, chat_template=json.loads(example)), bare)
    assert "### assistant\n" in texts(made, bare)[0]


def test_a_tokenizer_without_eos(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"the tokenizer has no EOS token, .*: set eos_token in the model's"):
        splits(recipe(folder), make_tokenizer("{{ messages[0].content }}", eos_token=None))


def test_the_data_is_what_was_pinned(folder: Path, tokenizer: Any) -> None:
    asked = recipe(folder)
    pinned = asked.sources[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(RecipeError, match=r"data source 'clean' .* is not the data that was pinned"):
        splits(asked.model_copy(update={"sources": (pinned, *asked.sources[1:])}), tokenizer)


def test_counts_agree_with_the_rows(folder: Path, tokenizer: Any) -> None:
    made = splits(recipe(folder, examples=300), tokenizer)
    seen = Counter(texts(made, tokenizer))
    assert sum(seen.values()) == sum(used.examples for used in made.facts.values()) == 300
    assert made.facts["pairs"].examples == 0
