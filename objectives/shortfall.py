"""A final run that came out short of what was frozen: of its steps, or of its trial's score. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from objectives.score import Measure

FEW = 0.5  # share of the frozen steps below which the run is no longer the one that was meant
CLEARLY = 2.0  # standard errors of the difference


def told(result: Mapping[str, Any], frozen: Mapping[str, Any]) -> Iterator[str]:
    """A line where fewer than half of the frozen examples were trained on, and one where the score on the half that the
    search saw is clearly below that of the trial that was frozen."""
    made, meant = result["examples"], frozen["recipe"]["examples"]
    if made < FEW * meant and result["ended"] in ("pace", "hours"):
        yield (
            f"warning: only {made:,} of the {meant:,} examples that were frozen were trained on, since its hours held "
            "no more here: the schedule was cut to that; give it more hours, or a faster machine"
        )
    if (score := frozen["origin"].get("score")) is None:
        return
    trial, run = (Measure.model_validate_json(json.dumps(held)) for held in (score, _strict(result)))
    if trial.value - run.value > CLEARLY * math.hypot(trial.standard_error, run.standard_error):
        yield f"warning: its trial followed {trial} of prompts of the half that the search saw, and this run {run}"


def _strict(result: Mapping[str, Any]) -> Any:
    return result["scores"]["search"]["prompt_strict"]
