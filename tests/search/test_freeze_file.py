"""final_run.py as a file: nothing that is frozen can become code, and whatever else was changed in it is found."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import freeze_file
from search.errors import FreezeDiffers
from train.lock import CLOSE, OPEN, code_digest
from train.recipe import Recipe, digest_of

NASTY = st.sampled_from(
    [
        '"""',
        "'''",
        '")\nimport os\n("',
        '""")\nraise SystemExit\nr"""',
        '"""); __import__("os").abort(); (r"""',
        "\\",
        '\\"',
        '\\\\"""',
        "\\u0022\\u0022\\u0022",
        "\\x22\\x22\\x22",
        "\\N{QUOTATION MARK}",
        "\\\n",
        "{}",
        "{__import__('os')}",
        "%s",
        "\r\n",
        "\x00",
        "\x0c",
        "\x1a",
        "\u2028\u2029\x85",
        "\ufeff",
        "\ud800",
        "\uff02\uff02\uff02",  # wide quotes, which some normal forms turn into plain ones
        "\U0001f600",
        "# -*- coding: utf-7 -*-",
        "+AAo-import os",
        "{% raw %}",
        "{{ ''.__class__.__mro__ }}",
        "FROZEN = json.loads(r",
        OPEN,
        CLOSE,
        "__proto__",
        "$(reboot)",
        "`reboot`",
        "; DROP TABLE trials; --",
    ]
)
TEXTS = st.one_of(st.text(max_size=20), st.lists(NASTY | st.text(max_size=3), max_size=4).map("".join))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
DEFAULT = Path(__file__).parents[2] / "final_run.py"
TEMPLATE = freeze_file.TEMPLATE.read_text(encoding="utf-8")


def without_constant(source: str) -> tuple[str, str]:
    """Independent of what is tested: the tree with the argument of FROZEN's json.loads left out, and that argument."""
    tree = ast.parse(source)
    (assign,) = [n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FROZEN"]
    assert isinstance(assign.value, ast.Call)
    (constant,) = assign.value.args
    assert isinstance(constant, ast.Constant)
    value, constant.value = constant.value, None
    return ast.dump(tree), value


CODE = without_constant(TEMPLATE)[0]


def stays_data(frozen: dict[str, Any]) -> None:
    """The file with `frozen` in it is the template but for one literal, which is `frozen` again."""
    text = freeze_file.render(frozen)
    code, value = without_constant(text)
    assert code == CODE
    assert json.loads(value) == frozen
    assert text.isascii()
    assert "'" not in value
    assert '"""' not in value
    assert code_digest(text) == freeze_file.code_sha256()


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_whatever_is_frozen_stays_data(frozen: dict[str, Any]) -> None:
    stays_data(frozen)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=100_000, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_whatever_is_frozen_stays_data_a_hundred_thousand_times(frozen: dict[str, Any]) -> None:
    stays_data(frozen)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS.filter(lambda text: text.isprintable() or "\n" in text), min_size=1, max_size=3))
def test_a_recipe_comes_out_as_it_went_in(texts: list[str]) -> None:
    text = "".join(texts).encode("utf-8", "replace").decode()
    given = {
        "base": {"model": f"m{text}"},
        "sources": [{"name": "a", "path": text, "fields": {"prompt": text}}],
        "examples": 16,
        "chat_template": text,
    }
    recipe = Recipe.model_validate_json(json.dumps(given))
    held = json.loads(without_constant(freeze_file.render({"recipe": recipe.model_dump(mode="json")}))[1])
    assert Recipe.model_validate_json(json.dumps(held["recipe"])) == recipe


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        freeze_file.render({"hours": number})


def test_what_is_frozen_runs_as_data_and_not_as_code(tmp_path: Path) -> None:
    """The beginning of the file, up to the literal and with it, executed."""
    mark = tmp_path / "mark"
    attack = f'x"""); open({str(mark)!r}, "w").close(); (r"""' + "\\" + f'"); open({str(mark)!r}, "w") #'
    text = freeze_file.render({attack: [attack, {"recipe": attack}]})
    held: dict[str, Any] = {"__name__": "frozen", "__file__": str(tmp_path / "final_run.py")}
    exec(compile(text, "final_run.py", "exec"), held)
    assert held["FROZEN"] == {attack: [attack, {"recipe": attack}]}
    assert not mark.exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.data())
def test_a_file_of_any_content_gives_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.py"
    text = freeze_file.render({"sha256": "0"}).encode()
    at = data.draw(st.integers(0, len(text)))
    path.write_bytes(data.draw(st.sampled_from([noise, text[:at], text[:at] + noise + text[at:]])))
    try:
        assert isinstance(freeze_file.constant(path), dict)
    except FreezeDiffers as error:
        assert "`nightshift freeze " in str(error)  # noqa: PT017
    assert freeze_file.edited(path)


def test_the_file_at_the_top_of_the_repository_has_the_template_s_code() -> None:
    held = freeze_file.constant(DEFAULT)
    assert held["recipe"]["base"]["model"] == "Qwen/Qwen2.5-7B"
    text = DEFAULT.read_text(encoding="utf-8")
    assert freeze_file.renewed(text) == text, "`python -m search.freeze_file final_run.py` renews it"


def test_a_renewed_file_keeps_its_words_and_what_it_holds() -> None:
    old = '"""Words."""\n\nimport os\n\n' + OPEN + freeze_file.literal({"objective": {}, "hours": 3}) + CLOSE + "\n"
    text = freeze_file.renewed(old)
    assert text.startswith('"""Words."""\n\nfrom __future__ import annotations\n')
    code, value = without_constant(text)
    assert code == CODE.replace(repr(ast.get_docstring(ast.parse(TEMPLATE), clean=False)), "'Words.'")
    held = json.loads(value)
    assert held == {"objective": {}, "hours": 3, "code_sha256": code_digest(text), "sha256": digest_of(held)}
