"""Licences: of what is known by name, of what a card names, and of what a study states."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import catalog, licences
from train.recipe import Source
from train.tuned import why_tuned


def test_every_known_licence_is_in_the_table() -> None:
    for known in (*catalog.BASES, *catalog.DATA):
        assert known.licence in licences.CONDITIONS, known.id


def test_the_conditions_of_llama_and_lima_are_spelled_out() -> None:
    llama = licences.of_base("meta-llama/llama-3.1-8b", None)
    assert llama is not None
    assert (llama.licence, llama.by) == ("LicenseRef-Llama-3.1-Community", "catalogue")
    assert "Built with Llama" in llama.terms
    assert "700 million" in llama.terms
    lima = licences.of_source(Source(name="lima", hub="GAIR/lima"))
    assert lima is not None
    assert lima.licence == "CC-BY-NC-SA-4.0"
    assert lima.terms.startswith("not for commercial use; what is made of it goes under the same licence; ")
    assert "where a source has stricter terms, those hold" in lima.terms


def test_what_is_open_without_conditions_says_nothing_more() -> None:
    qwen = licences.of_base("Qwen/Qwen2.5-7B", None)
    assert qwen is not None
    assert str(qwen) == "Apache-2.0"


def card(folder: Path, text: str) -> licences.Licence | None:
    (folder / "README.md").write_text(text, encoding="utf-8", newline="")
    return licences.of_base("somebody/model", str(folder))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model\n", "Apache-2.0"),
        ("---\nlanguage: en\nlicense: 'cc-by-sa-3.0'\ntags: [x]\n---\n", "CC-BY-SA-3.0"),
        ("---\r\nlicense: mit\r\n---\r\n", "MIT"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "LicenseRef-Qwen-Research"),
        ("---\nlicense: llama3.1\n---\n", "LicenseRef-Llama-3.1-Community"),
    ],
)
def test_a_card_tells_a_licence_by_its_tag(tmp_path: Path, text: str, licence: str) -> None:
    found = card(tmp_path, text)
    assert found is not None
    assert (found.licence, found.by) == (licence, "card")
    assert ", as its card says" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "license: mit\n",  # not at the top
        "---\nlanguage: en\n---\nlicense: mit\n",
        "---\nlicense: other\n---\n",
        "---\nlicense: unknown\n---\n",
        '---\nlicense: mit"""); import os\n---\n',
        "---\nlicense:\n  - mit\n---\n",
        "---\nlicense: " + "m" * 100_000 + "\n---\n",
    ],
)
def test_a_card_that_does_not_name_a_licence_of_the_table_tells_nothing(tmp_path: Path, text: str) -> None:
    assert card(tmp_path, text) is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.binary(max_size=40))
def test_whatever_a_card_holds_a_licence_is_one_of_the_table(
    tmp_path_factory: pytest.TempPathFactory, tag: str, noise: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "README.md").write_bytes(b"---\nlicense: " + tag.encode("utf-8", "surrogatepass") + b"\n" + noise)
    found = licences.of_base("somebody/model", str(folder))
    assert found is None or (found.licence in licences.CONDITIONS and found.terms == licences.CONDITIONS[found.licence])


def test_files_and_unknown_ids_have_no_licence(tmp_path: Path) -> None:
    assert licences.of_source(Source(name="mine", path="mine.jsonl")) is None
    assert licences.of_base("somebody/model", str(tmp_path)) is None
    assert licences.of_base("somebody/model", None) is None


def test_a_stated_licence_of_the_table_gets_its_conditions() -> None:
    assert licences.stated("cc-by-nc-4.0").terms == "not for commercial use"
    assert licences.stated("CC-BY-NC-4.0").licence == "CC-BY-NC-4.0"
    assert str(licences.stated("My own terms")) == "My own terms, as [final] states"


@pytest.mark.parametrize(
    "name", ["HuggingFaceH4/zephyr-7b-beta", "teknium/OpenHermes-2.5-Mistral-7B", "vicuna-7b-v1.5"]
)
def test_families_of_chat_models_are_known_by_name(name: str) -> None:
    assert "is that of a family of chat models" in (why_tuned(name, Path("nowhere"), {}) or "")


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B", "someone/koalas-7b", "EleutherAI/pythia-1b", "dolphins/base"])
def test_other_names_are_no_evidence(name: str) -> None:
    assert why_tuned(name, Path("nowhere"), {}) is None
