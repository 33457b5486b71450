"""A trained adapter, or the merged model, put on the hub. Only when asked to, and for nobody else to see unless that is
asked for, too.

The token is huggingface_hub's own, which it keeps where `hf auth login` put it; it is neither read nor written here.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from search.errors import SearchError
from search.export import Say, export
from search.export_subject import Subject
from search.scratch import scratch
from train.recipe import RecipeError

LOGIN = "log in with: hf auth login"


def push(subject: Subject, repo: str, form: Literal["adapter", "merged"], *, public: bool, say: Say) -> str:
    """Upload an export of `subject` to the model repository `repo`, which is made private where it is not there yet;
    returns its address. `public`: it is made, or may be, one that everybody sees.

    Raises SearchError without network, token or permission, and where the repository is public and that was not asked
    for.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise SearchError(f"there is no token for the hub: {LOGIN}")
    api = HfApi()
    with scratch(subject.run.path, ".nightshift-push-") as place:
        try:
            if not public and api.repo_exists(repo) and not api.repo_info(repo).private:
                raise SearchError(
                    f"{repo} is there already, and everybody sees it: name another, or add --public if that is meant"
                )
            folder = export(subject, form, place / form, say=say, base=_public_name(subject))
            api.create_repo(repo, private=not public, exist_ok=True)  # after what may fail here
            say(f"uploading to {repo}")
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Add {subject.name} ({form})")
        except (SearchError, RecipeError):
            raise
        except Exception as error:  # httpx, the file system and the hub's own errors: each becomes one sentence
            raise SearchError(_explained(error, repo, _command(subject, form))) from error
    return str(commit.repo_url)


def _public_name(subject: Subject) -> str:
    """What the base model is called: its id on the hub, or the name of its folder, whose path is nobody's business."""
    model = subject.recipe.base.model
    return model if subject.model.facts.revision else Path(model).name


def _command(subject: Subject, form: str) -> str:
    """What makes the export without the hub."""
    return f"`{shlex.join(['nightshift', 'export', str(subject.run.path), '--format', form])}`"


def _explained(error: Exception, repo: str, instead: str) -> str:
    from huggingface_hub import errors

    reason = str(error).strip().split("\n")[0]
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is no id of a repository, such as name/model: {reason}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub does not let you write to {repo} ({reason}): check the name, and {LOGIN} as one who may"
    unreached = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)  # of whichever HTTP library
    if unreached or isinstance(error, errors.OfflineModeIsEnabled):
        return f"the hub cannot be reached ({reason}); the export is made without it: {instead}"
    return f"{repo} cannot be written: {reason}"
