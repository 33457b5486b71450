"""How long training will still take: the plan's estimate, until a run's own first steps correct it. No torch."""

from __future__ import annotations

from train.horizon import Decision
from train.planning.flops import DPO_TIMES, corrected


class Forecast:
    """Seconds of training that are left to one attempt at a run. Probes, checkpoints and scoring are not in it.

    `planned_s` is the plan's estimate of a supervised step, or None where nothing is known of the machine's speed.
    """

    def __init__(self, planned_s: float | None) -> None:
        self._planned_s = planned_s
        self._measured: dict[str, list[float]] = {"sft": [], "dpo": []}

    def left_s(self, stage: str, step: int, seconds: float, ends: Decision) -> float | None:
        """What is left after `step`, which took so many seconds, of a run that ends so; None while nothing is known.

        Each stage is corrected by the median of its own steps, once some have warmed up.
        """
        self._measured[stage].append(seconds)
        sft = corrected(self._planned_s, self._measured["sft"])
        dpo = corrected(None if sft is None else DPO_TIMES * sft, self._measured["dpo"])
        parts = ((max(0, ends.sft_steps - step), sft), (ends.steps - max(step, ends.sft_steps), dpo))
        left = [None if each is None else steps * each for steps, each in parts if steps]
        known = [each for each in left if each is not None]
        return sum(known) if len(known) == len(left) else None
