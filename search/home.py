"""Where studies lie, how a command's STUDY argument finds one, and the study files that ship.

$NIGHTSHIFT_HOME/studies/NAME/     the folder of a study; the default home is the working folder
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import ConfigError, SearchError
from search.studyfile import nearest

if TYPE_CHECKING:
    from search.config import StudyConfig

HOME = "NIGHTSHIFT_HOME"
STUDIES = "studies"
STUDY_FILE = "study.toml"
DATABASE = "study.db"


def python() -> str:
    """How a shell starts this Python: Nightshift is installed there, and perhaps nowhere else."""
    here = Path(sys.executable).is_relative_to(Path.cwd())
    return shlex.quote(os.path.relpath(sys.executable) if here else sys.executable)


def studies() -> Path:
    """The folder that holds a folder for each study."""
    return Path(os.environ.get(HOME) or ".") / STUDIES


def names() -> list[str]:
    """The studies there are, the one that was touched last first."""
    folders = [path.parent for path in studies().glob(f"*/{STUDY_FILE}")]
    return [folder.name for folder in sorted(folders, key=lambda f: (-f.stat().st_mtime, f.name))]


def study(argument: str | None) -> tuple[StudyConfig, Path]:
    """The configuration and the folder of the study that a user means by a file, a folder or a name.

    None means ./study.toml or, where there is none, the only study of the home. Raises SearchError.
    """
    path = _file(argument)
    read = _load(path)
    return read, _own(path) if _is_copy(path) else _folder(path, read.study.name)


def folder(argument: str | None) -> Path:
    """The folder of the study that a user means; a study.toml in it need not be valid any more. Raises SearchError."""
    path = _file(argument)
    return _own(path) if _is_copy(path) else _folder(path, _load(path).study.name)


def _load(path: Path) -> StudyConfig:
    from search import config  # imported late: most commands read no study file

    return config.load(path)


def _is_copy(path: Path) -> bool:
    """Whether `path` is the study file that a study keeps in its own folder, wherever that was moved to."""
    return path.resolve().parent.parent.name == STUDIES or (path.parent / DATABASE).exists()


def _own(path: Path) -> Path:
    """The folder of a study's own file; by its whole path where the given one, `.` or `..`, does not say its name."""
    return path.parent if path.parent.name not in ("", "..") else path.parent.resolve()


def _folder(path: Path, name: str) -> Path:
    """The study's folder in the home; where no home is set, also beside the study file that names it."""
    here, beside = studies() / name, path.parent / STUDIES / name
    return beside if not os.environ.get(HOME) and beside.exists() and not here.exists() else here


def _file(argument: str | None) -> Path:
    if argument is None:
        return Path(STUDY_FILE) if Path(STUDY_FILE).exists() else studies() / _only() / STUDY_FILE
    path = Path(argument)
    if path.is_dir() and path.parent.name == STUDIES and not (path / STUDY_FILE).exists():
        raise SearchError(f"{path}: there is no study here (no {STUDY_FILE}); begin with `nightshift start STUDY.toml`")
    if argument.endswith(".toml") or path.is_file():
        return path
    if (path / STUDY_FILE).is_file():
        return path / STUDY_FILE
    if argument in (known := names()):
        return studies() / argument / STUDY_FILE
    hint = nearest(argument, known) if known else "there are none yet"
    raise SearchError(f"{argument}: there is no study of this name in {studies()}, and no such file; {hint}")


def _only() -> str:
    known = names()
    if len(known) == 1:
        return known[0]
    if known:
        raise SearchError(f"there are several studies in {studies()}; say which: {', '.join(sorted(known))}")
    raise SearchError(
        f"there is no {STUDY_FILE} here and no study in {studies()}; begin with `nightshift init` and "
        f"`nightshift start {STUDY_FILE}`"
    )


def preset_names() -> list[str]:
    """The study files that ship with Nightshift."""
    found = (entry.name for entry in resources.files("search.presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def preset(name: str) -> str:
    """The text of a preset. Raises ConfigError, naming the nearest, where there is none of that name."""
    if name not in preset_names():
        raise ConfigError(f"there is no preset {name}; {nearest(name, preset_names())}")
    return (resources.files("search.presets") / f"{name}.toml").read_text(encoding="utf-8")


def write_preset(name: str, target: Path) -> Path:
    """Write a preset as the study.toml of the folder `target`, and return its path.

    Never overwrites: raises ConfigError where there is one already, or where the folder cannot be written.
    """
    text, path = preset(name), target / STUDY_FILE
    if target.is_file():
        raise ConfigError(f"{target} is a file; name a folder, which gets a {STUDY_FILE}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: this is there already and was left as it is; name another folder") from None
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be written: {error.strerror}") from None
    return path
