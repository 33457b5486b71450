"""final_run.py as a file: a template that never changes, and one JSON literal that holds everything else.

What comes out of a database, a data set or a model is data in that literal and cannot become code: the literal is JSON
in ASCII with every quote inside a string escaped, and the file's syntax tree is compared with the template's before it
is written.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path

from search.errors import FreezeDiffers
from train.lock import CLOSE, OPEN, code_digest
from train.recipe import digest_of
from train.rundir import Json, write_atomic

FILE = "final_run.py"
TEMPLATE = Path(__file__).with_name("templates") / FILE


def render(frozen: Json) -> str:
    """The text of final_run.py with `frozen` as its one constant. Raises ValueError for NaN and infinity."""
    head, tail = _around(TEMPLATE.read_text(encoding="utf-8"))
    text = f"{head}{OPEN}{literal(frozen)}{CLOSE}{tail}"
    assert text.isascii()
    code, value = _dissect(text)
    assert (code, json.loads(value)) == (_template_code(), frozen)
    return text


def literal(value: Json) -> str:
    """JSON that can stand between triple quotes in a raw string: ASCII, and with no quote inside of its strings."""
    text = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False)
    text = re.sub(r"\\(.)", lambda escape: r"\u0022" if escape[1] == '"' else escape[0], text)
    return text.replace("'", r"\u0027")


def constant(path: Path) -> Json:
    """What is frozen in the final_run.py at `path`. Raises FreezeDiffers where its code is not the template's."""
    try:
        code, value = _dissect(path.read_bytes())
        frozen = json.loads(value)
        if not isinstance(frozen, dict):
            raise ValueError("its FROZEN is no object")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # what parsers raise on broken text
        raise FreezeDiffers(f"{path} is no final_run.py of Nightshift ({error}); {command(path)} writes one") from None
    if code != _template_code():
        raise FreezeDiffers(f"the code of {path} was edited, or is another version's; {command(path)} writes it anew")
    return frozen


def code_sha256() -> str:
    """The digest of the template's code, which a final_run.py holds of itself."""
    return code_digest(TEMPLATE.read_text(encoding="utf-8"))


def edited(path: Path) -> bool:
    """Whether the file at `path` is not as a freeze of this version wrote it."""
    try:
        held = constant(path)
        return bool(held.get("sha256") != digest_of(held))
    except (FreezeDiffers, KeyError, TypeError, AttributeError):
        return True


def renewed(text: str) -> str:
    """The text of a final_run.py with the template's code; its own words and what it holds stay.

    For the file at the top of the repository: `python -m search.freeze_file final_run.py`, where the template changed.
    """
    head, tail = _around(TEMPLATE.read_text(encoding="utf-8"))
    head = _words(text) + head.removeprefix(_words(head))
    frozen = json.loads(_dissect(text)[1])
    frozen["code_sha256"] = code_digest(f"{head}{OPEN}{CLOSE}{tail}")
    frozen["sha256"] = digest_of(frozen)
    return f"{head}{OPEN}{literal(frozen)}{CLOSE}{tail}"


def _words(text: str) -> str:
    """The docstring, with its quotes."""
    first = ast.parse(text.partition(OPEN)[0]).body[0]
    return "".join(text.splitlines(keepends=True)[: first.end_lineno])


def command(path: Path) -> str:
    """The command that writes the file at `path`, quoted for a message."""
    return f"`{shlex.join(['nightshift', 'freeze', str(path.parent)])}`"


def _around(template: str) -> tuple[str, str]:
    head, _, rest = template.partition(OPEN)
    _, _, tail = rest.partition(CLOSE)
    return head, tail


@cache
def _template_code() -> str:
    return _dissect(TEMPLATE.read_text(encoding="utf-8"))[0]


def _dissect(source: str | bytes) -> tuple[str, str]:
    """The syntax tree without docstring and constant; the constant. Raises SyntaxError, or ValueError without one."""
    tree = ast.parse(source)
    if ast.get_docstring(tree) is not None:
        del tree.body[0]  # the file at the top of the repository has words of its own
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="FROZEN")],
                value=ast.Call(
                    func=ast.Attribute(value=ast.Name(id="json"), attr="loads"),
                    args=[ast.Constant(value=str() as value) as place],
                    keywords=[],
                ),
            ):
                place.value = ""
                return ast.dump(tree), value
    raise ValueError("it has no FROZEN = json.loads(...)")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_atomic(Path(name), renewed(Path(name).read_text(encoding="utf-8")))
