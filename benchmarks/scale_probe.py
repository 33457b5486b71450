"""What a fresh process of the storage benchmark does, and how long it took: prints one JSON object of seconds.

    python benchmarks/scale_probe.py work FOLDER       the study as the service works on it
    python benchmarks/scale_probe.py optuna FOLDER     the same file and the same calls through Optuna alone
    python benchmarks/scale_probe.py ours FOLDER       the dashboard, until the study's page has its data
    python benchmarks/scale_probe.py theirs FOLDER     optuna-dashboard alone, likewise

Everything is counted from the start of the process.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil

ASKS = 5
RUNGS = {0.25: 1.31, 0.5: 1.12, 1.0: 0.98}
ATTRIBUTES = {f"fact_{number}": number / 7 for number in range(15)}  # as many as a scored trial gets
NOTE = "| learning_rate | 0.002 |\n" * 100  # as long as a scored trial's


def since_start() -> float:
    """Seconds since this process was started, the interpreter's own start included."""
    return time.time() - psutil.Process().create_time()


def work(folder: Path) -> dict[str, float]:
    """Open the study, then ask and tell; `tell` is all that is recorded of one trial, `show` what the screen costs."""
    from search import config, service, survey, view
    from search.study import Study
    from storage import db, trials
    from storage.ledger import Ledger

    loaded = config.load(folder / "study.toml")
    surveyed = survey.survey(loaded)
    ledger = Ledger(db.open_database(folder / "study.db"))
    study = Study.open(trials.open_storage(folder / "study.db"), loaded, surveyed)
    open_s, facts = since_start(), service.read(folder)
    assert facts is not None
    trial = study.next_trial()
    first_s = since_start()
    asked, told, shown = [], [], []
    for _ in range(ASKS):
        began = time.perf_counter()
        for fraction, bits in RUNGS.items():
            study.report(trial, fraction, bits)
        study.annotate(trial, ATTRIBUTES, NOTE)
        study.complete(trial, 0.5)
        told.append(time.perf_counter() - began)
        began = time.perf_counter()
        view.build(folder, facts, study.records(), ledger.work(), ledger.open_attempts(), ledger.spent_s())
        shown.append(time.perf_counter() - began)
        began = time.perf_counter()
        trial = study.next_trial()
        asked.append(time.perf_counter() - began)
    return {"open": open_s, "first": first_s, **_medians(ask=asked, tell=told, show=shown)}


def optuna(folder: Path) -> dict[str, float]:
    """As a script does that keeps its study in SQLite: Optuna's defaults, and optuna-dashboard's notes."""
    import optuna
    from optuna_dashboard import save_note

    from search import config, space

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loaded = config.load(folder / "study.toml")
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name=loaded.study.name,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    open_s = since_start()
    trial = study.ask()
    space.suggest(trial, loaded)
    first_s = since_start()
    asked, told = [], []
    for _ in range(ASKS):
        began = time.perf_counter()
        for fraction, bits in RUNGS.items():
            trial.report(-bits, round(100 * fraction))
            trial.should_prune()
        for key, value in ATTRIBUTES.items():
            trial.set_user_attr(key, value)
        save_note(trial, NOTE)
        study.tell(trial, 0.5)
        told.append(time.perf_counter() - began)
        began = time.perf_counter()
        trial = study.ask()
        space.suggest(trial, loaded)
        asked.append(time.perf_counter() - began)
    return {"open": open_s, "first": first_s, **_medians(ask=asked, tell=told)}


def _medians(**taken: list[float]) -> dict[str, float]:
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def ours(folder: Path) -> dict[str, float]:
    """Nightshift's dashboard."""
    from search.dashboard import Dashboard

    with Dashboard(folder, 0) as dashboard:
        threading.Thread(target=dashboard.serve, daemon=True).start()
        return _visit(dashboard.url, f"http://127.0.0.1:{dashboard.port}")


def theirs(folder: Path) -> dict[str, float]:
    """optuna-dashboard on Optuna's own storage."""
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    app = wsgi(RDBStorage(f"sqlite:///{folder / 'study.db'}"))
    server = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    return _visit(f"{base}/dashboard/studies/1", base)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def _visit(address: str, base: str) -> dict[str, float]:
    """What a browser asks for before it shows a study: its page and its data. `again` is the data once more."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(url: str) -> bytes:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        with browser.open(request) as answer:
            read: bytes = answer.read()
            return read

    assert b"<html" in get(address)
    get(f"{base}/api/meta")
    data = get(f"{base}/api/studies/1")
    page_s = since_start()
    began = time.perf_counter()
    get(f"{base}/api/studies/1")
    return {"page": page_s, "again": time.perf_counter() - began, "trials": len(json.loads(data)["trials"])}


PROBES: dict[str, Callable[[Path], dict[str, float]]] = {"work": work, "optuna": optuna, "ours": ours, "theirs": theirs}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]](Path(sys.argv[2]))))
