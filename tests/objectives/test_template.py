"""A chat template tried without transformers: it makes what transformers makes, and what shows no prompt is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from transformers import AutoTokenizer

from objectives import positions
from objectives.generate import render
from objectives.score import ObjectiveError
from objectives.template import Template, special_tokens

PROMPT = "Say <red> & “green”\n  twice"
TEMPLATES = (
    tiny.TEMPLATE,
    "{%- for m in messages -%}\n {{ m | tojson }}{{ eos_token }}\n{%- endfor %}\n"
    "{% if add_generation_prompt %}\n<a>{% endif %}",
    "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}{% break %}{% endfor %}",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    tiny._tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_prompt_is_shown_as_transformers_shows_it(model: Path, text: str) -> None:
    expected = render(AutoTokenizer.from_pretrained(model), text, [("user", PROMPT)])
    assert Template(text, special_tokens(model))(PROMPT) == expected


def test_as_many_tokens_are_counted(model: Path) -> None:
    tokenizer, prompts = AutoTokenizer.from_pretrained(model), [PROMPT, "Say red " * 50]
    texts = [render(tokenizer, tiny.TEMPLATE, [("user", prompt)]) for prompt in prompts]
    expected = [len(row) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    assert positions._lengths(prompts, model, tiny.TEMPLATE) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for m in messages %}", "is no Jinja: line 1"),
        ("{% for m in messages %}{{ '### ' + m.role }}{% endfor %}", "it makes '### user' of the prompt 'quokka'"),
        ("{# messages #}", "it makes nothing of it"),
        ("{{ raise_exception('no users') }}", "fails on a user message: no users; correct it"),
        ("{{ messages[0].content + bos_token + 1 }}", "fails on a user message"),
    ],
)
def test_a_template_that_shows_no_prompt_is_refused(text: str, said: str) -> None:
    with pytest.raises(ObjectiveError) as caught:
        Template(text, {}).check()
    assert said in str(caught.value)


@pytest.mark.parametrize("text", TEMPLATES)
def test_one_that_shows_it_is_not(text: str) -> None:
    Template(text, {"eos_token": "<stop>"}).check()


def test_more_new_tokens_than_positions_are_told_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        ObjectiveError, match="1,280 new tokens leave no room for a prompt in the model's 512 positions: x"
    ):
        positions.check_file(tmp_path / "none", None, None, 512, 1280, "x")
    positions.check_file(tmp_path / "none", None, None, 512, 500, "x")


def test_prompts_that_the_model_cannot_read_are_named() -> None:
    names, lengths = [f"prompt {n}" for n in range(9)], [600, *[10] * 2, *[700] * 6]
    with pytest.raises(
        ObjectiveError, match=r"cannot read prompt 0, prompt 3, prompt 4, prompt 5, prompt 6 and 2 more: .*700"
    ):
        positions.check(names, lengths, 512, 64, "x")
