"""The lock of a final run: what it is compared with, and what is said where it is missing, edited or another's."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from train import environment, lock
from train.card import Card
from train.recipe import RecipeError, digest_of

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = f'"""A run."""\n{lock.OPEN}{{}}{lock.CLOSE}\nprint(FROZEN)\n'


@pytest.fixture
def frozen(tmp_path: Path) -> dict[str, Any]:
    """What a file in `tmp_path` holds whose lock, beside it, has all that is installed here."""
    packages = {name: package.model_dump() for name, package in environment.packages().items()}
    locked = lock.sealed({"packages": packages, "machine": environment.machine()})
    (tmp_path / lock.FILE).write_text(json.dumps(locked))
    (tmp_path / "final_run.py").write_text(CODE)
    held = {"objective": {}, "versions": environment.versions(), "lock_sha256": locked["sha256"]}
    held |= {"code_sha256": lock.code_digest(CODE)}
    return {**held, "sha256": digest_of(held)}


def check(
    frozen: dict[str, Any],
    folder: Path,
    *,
    edited: bool = False,
    other_versions: bool = False,
    card: Card | None = None,
) -> list[str]:
    return lock.check(frozen, folder / "final_run.py", edited, other_versions, card)


def relock(frozen: dict[str, Any], folder: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Another lock, as a freeze elsewhere would have written it, and what its file then holds."""
    held = json.loads((folder / lock.FILE).read_text())
    change(held)
    held.pop("sha256")
    locked = lock.sealed(held)
    (folder / lock.FILE).write_text(json.dumps(locked))
    return {**frozen, "lock_sha256": locked["sha256"]}


def test_the_environment_agrees_with_what_it_was_frozen_as(frozen: dict[str, Any], tmp_path: Path) -> None:
    assert check(frozen, tmp_path) == []
    lock.check_file(frozen, tmp_path / "final_run.py")
    assert not lock.was_edited(tmp_path / lock.FILE)


def test_every_package_that_differs_is_shown_on_its_line(frozen: dict[str, Any], tmp_path: Path) -> None:
    def change(held: dict[str, Any]) -> None:
        held["packages"]["numpy"]["version"] = "0.1"
        held["packages"]["six"]["sha256"] = "0" * 64
        held["packages"]["no-such"] = {"version": "1.0"}

    frozen = relock(frozen, tmp_path, change)
    numpy, six = environment.version("numpy"), environment.version("six")
    lines = [
        "no-such: not installed here, 1.0 was frozen",
        f"numpy: {numpy} here, 0.1 was frozen",
        f"six: {six} as it was frozen, with other files in it",
    ]
    with pytest.raises(RecipeError, match=r"^this environment is not the one .*: --allow-other-versions\n") as raised:
        check(frozen, tmp_path)
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == lines
    assert check(frozen, tmp_path, other_versions=True) == lines


def test_versions_in_the_file_count_where_its_lock_says_otherwise(frozen: dict[str, Any], tmp_path: Path) -> None:
    frozen["versions"] = {**frozen["versions"], "trl": "0.0.1", "python": "2.7.18"}
    with pytest.raises(
        RecipeError, match=r"python: 3\S+ here, 2\.7\.18 was frozen\n  trl: \S+ here, 0\.0\.1 was frozen"
    ):
        check(frozen, tmp_path)


def test_another_machine_is_told_and_allowed(frozen: dict[str, Any], tmp_path: Path) -> None:
    frozen = relock(frozen, tmp_path, lambda held: held["machine"].update(processor="Another One"))
    (told,) = check(frozen, tmp_path)
    assert told.startswith("another machine, whose weights may differ in their last bits: processor ")
    assert told.endswith(", not Another One")


def test_another_card_is_told_and_allowed(frozen: dict[str, Any], tmp_path: Path) -> None:
    gpu = {"name": "NVIDIA A", "memory_bytes": 2**30, "driver": "1"}
    frozen = relock(frozen, tmp_path, lambda held: held["machine"].update(gpu=gpu))
    assert check(frozen, tmp_path, card=Card("NVIDIA A", 2**31, "2")) == []
    (told,) = check(frozen, tmp_path, card=Card("NVIDIA B", 2**31, "2"))
    assert told.endswith("gpu NVIDIA B, not NVIDIA A")


def test_a_lock_that_is_missing_is_named(frozen: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / lock.FILE).unlink()
    with pytest.raises(RecipeError, match=r"final_run\.lock\.json is not there.*: --allow-other-versions"):
        check(frozen, tmp_path)
    with pytest.raises(RecipeError, match=r"is not there, the lock of .*final_run\.py: put it back"):
        lock.read(frozen, tmp_path / "final_run.py")
    assert check(frozen, tmp_path, other_versions=True) == []
    assert check({**frozen, "lock_sha256": None}, tmp_path) == []  # a file that was written by hand has none


def test_a_lock_that_was_edited_says_so(frozen: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / lock.FILE
    path.write_text(path.read_text().replace('"version": "', '"version": "9', 1))
    assert lock.was_edited(path)
    with pytest.raises(RecipeError, match=r"lock\.json was edited: .* or confirm it with --edited"):
        check(frozen, tmp_path)
    with pytest.raises(RecipeError, match=r"here, 9\S+ was frozen"):
        check(frozen, tmp_path, edited=True)


def test_the_lock_of_another_freeze_is_refused(frozen: dict[str, Any], tmp_path: Path) -> None:
    relock(frozen, tmp_path, lambda held: held.update(seed=7))
    with pytest.raises(RecipeError, match=r"lock\.json belongs to another freeze than .*final_run\.py"):
        check(frozen, tmp_path)
    assert check(frozen, tmp_path, edited=True) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00", "[" * 100_000, '{"packages": {"torch": {"version": 2}}}', "null"]
)
def test_a_lock_that_is_none_is_refused_whatever_is_allowed(frozen: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / lock.FILE).write_text(text)
    assert lock.was_edited(tmp_path / lock.FILE)
    with pytest.raises(RecipeError, match="put the frozen one back"):
        check(frozen, tmp_path, edited=True, other_versions=True)


@pytest.mark.parametrize("held", [{"packages": [1]}, {"packages": None, "machine": [1]}, {"machine": "x"}, {}])
def test_an_edited_lock_of_any_shape_gives_no_traceback(
    frozen: dict[str, Any], tmp_path: Path, held: dict[str, Any]
) -> None:
    (tmp_path / lock.FILE).write_text(json.dumps(held))
    with contextlib.suppress(RecipeError):
        check(frozen, tmp_path, edited=True)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("print(FROZEN)", "print(1)", r"was edited: confirm it with --edited, or move .*: mv .*\.edited-2\.py$"),
        ('"""A run."""', '"""Mine."""', "the code of .* was edited"),
        ("{}", '{"seed": 1}', ""),
    ],
)
def test_edited_code_is_noticed(frozen: dict[str, Any], tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "final_run.py"
    path.write_text(CODE.replace(old, new))
    (tmp_path / "final_run.edited.py").touch()
    if not says:  # the literal has a digest of its own
        lock.check_file(frozen, path)
        return
    with pytest.raises(RecipeError, match=says):
        lock.check_file(frozen, path)


def test_an_edited_literal_is_noticed(frozen: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"what .*final_run\.py holds was edited"):
        lock.check_file({**frozen, "hours": 25}, tmp_path / "final_run.py")


def test_all_that_is_imported_is_locked() -> None:
    names = environment.metadata.packages_distributions()
    found = set(environment.packages())
    for room in environment.ROOMS:
        for file in (REPOSITORY / room).rglob("*.py"):
            for module in imported(file):
                used = {canonicalize_name(name) for name in names.get(module, ())}
                assert not used or used & found, f"{file} imports {module}, which no lock has"


def imported(file: Path) -> set[str]:
    """The names of the modules that a file imports, without what follows their first dot."""
    tree = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    froms = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in froms | names} - {"vllm"}


def install(folder: Path, name: str, record: str, **files: str) -> None:
    """What an installer leaves of a package, without the package."""
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "RECORD").write_text(record)
    for file, text in files.items():
        (about / f"{file}.json").write_text(text)


def test_a_package_is_named_by_its_files_wherever_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    here = "x.py,sha256=abc,10\nx-1.0.dist-info/METADATA,sha256=x,1\nx-1.0.dist-info/RECORD,,\n"
    install(tmp_path, "made-here", here)
    added = "../../../bin/x,sha256=q,3\n__pycache__/x.cpython-311.pyc,,\nx-1.0.dist-info/INSTALLER,sha256=z,4\n"
    install(tmp_path, "made-there", added + here)
    install(tmp_path, "made-otherwise", here.replace("abc", "abd"))
    install(tmp_path, "made-unrecorded", "")
    found = [environment.package(f"made-{name}") for name in ("here", "there", "otherwise", "unrecorded")]
    digests = [package.sha256 for package in found if package]
    assert digests[0] == digests[1] is not None
    assert digests[2] not in (digests[0], None)
    assert digests[3] is None


def test_the_digest_of_a_wheel_is_taken_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {"url": "file:///x.whl", "archive_info": {"hashes": {"sha256": "a" * 64}}}
    install(tmp_path, "wheel-known", "", direct_url=json.dumps(known))
    install(tmp_path, "wheel-unknown", "", direct_url='{"dir_info": {}}')
    wheels = [
        package.wheel_sha256 for name in ("known", "unknown") if (package := environment.package(f"wheel-{name}"))
    ]
    assert wheels == ["a" * 64, None]
