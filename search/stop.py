"""Tells the service that is at work on a study to save and end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from search import service
from search.errors import SearchError

POLL_S = 0.1


def ask(folder: Path) -> int:
    """Send SIGTERM to the service at work in `folder`; returns its process id.

    Raises SearchError where none is, or where it belongs to somebody else.
    """
    facts = service.read(folder)
    if facts is None or not facts.is_alive:
        raise SearchError(f"{folder}: no service is at work on this study, so there is nothing to stop")
    try:
        os.kill(facts.holder.pid, signal.SIGTERM)
    except PermissionError:
        raise SearchError(f"{folder}: process {facts.holder.pid} belongs to another user, who has to stop it") from None
    except ProcessLookupError:  # it ended between the two looks, which is what was wanted
        pass
    return facts.holder.pid


def wait(folder: Path) -> str:
    """Wait until the service in `folder` has ended; returns why it did."""
    while (facts := service.read(folder)) is not None and facts.is_alive:
        time.sleep(POLL_S)
    return facts.ending if facts else ""
