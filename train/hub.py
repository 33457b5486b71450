"""The one way to the hub: a repository's files at a revision, from the cache or over the network. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from train.catalog import known, nearest
from train.recipe import RecipeError

ANSWER_WITHIN_S = 10.0


def hub_folder(
    repo: str,
    kind: Literal["model", "dataset"],
    revision: str | None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Path:
    """The folder that holds `repo` at `revision` (None: the newest that the cache knows, else the hub's main).

    What the cache holds whole is taken without asking the network, so that a night runs offline. Its name is the
    commit. Raises RecipeError where the id is misspelt, gated, or neither cached nor reachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(*, cached: bool) -> Path:
        folder = snapshot_download(
            repo,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(include) if include else None,
            ignore_patterns=list(exclude) if exclude else None,
            local_files_only=cached,
        )
        return Path(folder)

    try:
        return fetch(cached=True)
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise RecipeError(
            f"{repo!r} is neither a folder nor the id of a {kind} on the hub ({error}); correct it"
        ) from None
    try:
        _ask(repo, kind, revision)
        return fetch(cached=False)
    except Exception as error:  # httpx, the file system and the hub's own errors: each becomes one sentence
        raise RecipeError(_explained(error, repo, kind, revision)) from error


def _ask(repo: str, kind: str, revision: str | None) -> None:
    """Ask the hub once whether it has that: a download would try again for half a minute where there is no network."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=ANSWER_WITHIN_S)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        raise
    except Exception as error:  # whatever its HTTP library raises without a connection
        raise errors.LocalEntryNotFoundError(str(error)) from error


def held_bytes(repo: str, kind: Literal["model", "dataset"]) -> int:
    """Bytes that the hub's cache holds of `repo`, of all its revisions; 0 for what is no id of the hub."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind) / "blobs"
    except ValueError:
        return 0
    return sum(path.stat().st_size for path in blobs.glob("*") if path.is_file())


def _explained(error: Exception, repo: str, kind: str, revision: str | None) -> str:
    from huggingface_hub import errors

    missing = f"there is no folder {repo}, and " if kind == "model" else ""
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if isinstance(error, errors.GatedRepoError):
        terms = f" (licence {base.licence})" if kind == "model" and (base := known(repo)) else ""
        return f"the {kind} {repo} is gated{terms}: ask for access on {page}, then log in with: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{missing}the hub has no {kind} {repo}: correct the name{_meant(repo, kind)}, or, if it is private, "
            "log in: hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the {kind} {repo} has no revision {revision}: choose a commit from {page}/commits/main"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        options = " --repo-type dataset" if kind == "dataset" else ""
        options += f" --revision {revision}" if revision else ""
        missing = missing.removesuffix("and ")
        return (
            f"{missing}the hub cannot be reached, and the cache does not hold the whole {kind} {repo}: "
            "with a network run once `nightshift fetch STUDY.toml` or, for this alone: "
            f"hf download {repo}{options}{_meant(repo, kind)}"
        )
    return f"the {kind} {repo} cannot be fetched from the hub: {error}"


def _meant(repo: str, kind: str) -> str:
    """A known model whose id is close to a misspelt one, as a question."""
    meant = nearest(repo) if kind == "model" and not known(repo) else None
    return f" (did you mean {meant}?)" if meant else ""
