"""The errors that a user can cause, drawn once. The command alone catches them, prints one message and exits with 2.

    SearchError
     ├─ ConfigError       study.toml does not say what can be run (every error of the file at once)
     ├─ StudyChanged      study.toml and the study in the database differ in what may not change
     ├─ StudyBusy         another service works on this study
     ├─ NothingToFreeze   no trial of the study is complete
     ├─ FreezeDiffers     final_run.py and the study disagree
     ├─ RulesBroken       what is frozen has no known licence, or was trained on what it is scored on
     ├─ MachineUnfit      no CUDA device where one is asked for, or a port in use
     └─ WorkerFailed      the process that trains cannot be started, or dies again and again

Beside it stand one error for each room that search calls: train.recipe.RecipeError, objectives.score.ObjectiveError
and storage.db.StorageError.
"""

from __future__ import annotations


class SearchError(Exception):
    """What is wrong, where, and the next command."""


class ConfigError(SearchError):
    """study.toml does not say what can be run. The message holds one line for each error, with its place."""


class StudyChanged(SearchError):
    """study.toml and the study in the database differ in what may not change; the message is a diff."""


class StudyBusy(SearchError):
    """Another service works on this study; the message says which process."""


class NothingToFreeze(SearchError):
    """No trial of the study is complete; the message counts the trials by state."""


class FreezeDiffers(SearchError):
    """final_run.py and the study disagree; the message names every difference."""


class RulesBroken(SearchError):
    """A final run may not be made of this; the message holds one line for each rule that is broken."""


class MachineUnfit(SearchError):
    """This machine lacks what was asked for."""


class WorkerFailed(SearchError):
    """The process that trains cannot be started, or dies again and again."""
