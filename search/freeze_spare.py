"""What a freeze must not replace: a file that somebody edited, and the final_run.py of a run that is begun or made.

final_run.py and the run in final/ belong together: a bundle is made of both. So what is in the way is never replaced,
but the command that moves it to a free name is told.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from search.errors import FreezeDiffers
from search.freeze_file import FILE, edited
from search.score_model import FINAL
from train import lock
from train.recipe import Recipe
from train.rundir import Damaged, RunDir


def check_edited(folder: Path) -> None:
    """Raise FreezeDiffers where final_run.py or its lock in `folder` is not as a freeze of this version wrote it."""
    held = {folder / FILE: edited, folder / lock.FILE: lock.was_edited}
    for path, was_edited in held.items():
        if path.exists() and was_edited(path):
            away = shlex.join(["mv", str(path), str(lock.free_name(path.with_name(f"final_run.edited{path.suffix}")))])
            raise FreezeDiffers(
                f"{path} was edited, or is another version's, and is not replaced; move it away: {away}"
            )


def check_run(folder: Path, recipe: Recipe) -> None:
    """Raise FreezeDiffers where the run in `folder`/final was begun with another recipe than this one."""
    run = RunDir(folder / FINAL)
    if not run.recipe_path.exists():
        return
    try:
        same = run.recipe() == recipe
    except Damaged:
        same = False  # of another version, or damaged
    if same:
        return
    held = [path for path in (folder / FILE, folder / lock.FILE, run.path) if path.exists()]
    place = lock.free_name(folder / "final-before")
    away = f"{shlex.join(['mkdir', str(place)])} && {shlex.join(['mv', *map(str, held), str(place)])}"
    told = "is made" if run.result.exists() else "is begun"
    raise FreezeDiffers(
        f"the final run in {run.path} {told} with another recipe than the one that would be frozen now, and is nothing "
        f"without its own {FILE}; hand it in first (`{shlex.join(['nightshift', 'bundle', str(folder)])}`), go on with "
        f"it, or move all of it away and freeze again: {away}"
    )
