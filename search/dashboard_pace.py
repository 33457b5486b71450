"""optuna-dashboard for studies of thousands of trials: three of its functions get less to go through.

It gives the same answers. By itself it looks for each trial's note among the notes of all, merges the search space of
every trial with that of all others, and describes every distribution of every trial anew, each time that a page asks:
minutes for 10,000 trials. For the pinned version alone; a test compares the answers.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import orjson

Attributes = dict[str, Any]
DISTRIBUTIONS = 4096  # that are remembered
FORESTS = "sklearn.ensemble"


def quicken() -> None:
    """Put them in place, in this process; a second call changes nothing. The garbage collector has less to do, too: an
    answer is a million objects, all of which stay until it is sent."""
    from optuna_dashboard import _inmemory_cache, _serializer

    if not isinstance(_serializer.serialize_frozen_trial, _OwnAttributes):
        _serializer.serialize_frozen_trial = _OwnAttributes(_serializer.serialize_frozen_trial)
        extra = _inmemory_cache._CachedExtraStudyProperty
        extra._update_search_space = _once(extra._update_search_space)
        _serializer.serialize_distribution = _remembered(_serializer.serialize_distribution)
        gc.set_threshold(200_000, 20, 100)


@contextmanager
def without_forests() -> Iterator[None]:
    """While Optuna's importances are imported, scikit-learn, which takes 2 s, is not: its forests come later.

    None of the dashboard's pages makes one.
    """
    forests = ModuleType(FORESTS)
    forests.RandomForestRegressor = _forest  # type: ignore[attr-defined]
    absent = [name for name in (FORESTS.partition(".")[0], FORESTS) if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent, forests))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _forest(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module(FORESTS).RandomForestRegressor(*args, **kwargs)


def encode_fast(app: Any) -> None:
    """Have bottle write the JSON of its answers by orjson: 60 MB in a fifth of the time."""
    for plugin in app.plugins:
        if plugin.name == "json":
            plugin.json_dumps = _dumps


def _dumps(answer: Any) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


class _OwnAttributes:
    """Gives the serializer of a trial, of the study's system attributes, those with this trial's id in their name.

    Its notes and artifacts are called `dashboard:ID:...` and `dashboard:artifacts:ID:...`.
    """

    def __init__(self, serialize: Callable[[int, Any, Attributes], Attributes]) -> None:
        self._serialize = serialize
        self._last: tuple[Attributes, dict[str, Attributes]] = ({}, {})

    def __call__(self, study_id: int, trial: Any, attributes: Attributes) -> Attributes:
        of, by_trial = self._last  # one pair, for other threads may be at it
        if of is not attributes:
            by_trial = _by_trial(attributes)
            self._last = attributes, by_trial
        return self._serialize(study_id, trial, by_trial.get(str(trial._trial_id), {}))


def _by_trial(attributes: Attributes) -> dict[str, Attributes]:
    found: defaultdict[str, Attributes] = defaultdict(dict)
    for key, value in attributes.items():
        first, _, rest = key.partition(":")
        if first == "dashboard":
            found[rest.removeprefix("artifacts:").partition(":")[0]][key] = value
    return found


def _once(update: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Merge each set of distributions once: unions and intersections do not change by a second time."""

    def merge(self: Any, trial: Any) -> None:
        seen = self.__dict__.setdefault("nightshift_seen", {})
        key = tuple(trial.distributions), tuple(map(id, trial.distributions.values()))
        if key not in seen:
            seen[key] = trial.distributions  # which keeps them, and so their ids
            update(self, trial)

    return merge


def _remembered(describe: Callable[[Any], Attributes]) -> Callable[[Any], Attributes]:
    """Describe each distribution once. Trials read from our storage share them."""
    known: dict[int, tuple[Any, Attributes]] = {}

    def described(distribution: Any) -> Attributes:
        if (found := known.get(id(distribution))) and found[0] is distribution:
            return found[1]
        if len(known) > DISTRIBUTIONS:
            known.clear()
        known[id(distribution)] = distribution, describe(distribution)
        return known[id(distribution)][1]

    return described
