"""Nightshift's side of `make bench-search`: the policy (search.policy) on replayed landscapes.

The policy decides as it would in a study; what it is told comes from a landscape. The loop around it, with its
database, ledger and processes, is not a part of this.

    python benchmarks/search_ours.py LANDSCAPE... [--seeds 50]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from search_record import OURS, PROMPTS, RUNGS, Failed, Kept, Night, Over, Params, Trace, Trial, World

from search.points import Points
from search.policy import Policy, Tried

FIRST = 3  # random recipes that come first where there are no hand-picked ones


class Search:
    """One night of the policy."""

    def __init__(self, world: World, seed: int, *, priors: bool) -> None:
        self.seed = seed
        self.night = Night(world, seed)
        self.points = Points(world.landscape.study.space, {})
        rng = np.random.default_rng([seed, 1])
        given = [dict(prior.params) for prior in world.landscape.study.prior] if priors else [{}] * FIRST
        self.queue = [{**self.points.params(self.points.draw(1, rng)[0]), **params} for params in given]
        self.tried: list[Tried] = []
        self.runs: list[Trial] = []
        self.decisions = 0

    def go(self) -> Trace:
        """Search until the budget is used up."""
        try:
            while True:
                self._go_on(self._next())
        except Over:
            return self.night.trace

    def _policy(self) -> Policy:
        self.decisions += 1
        return Policy(self.points, self.tried)

    def _next(self) -> int:
        """The number of the trial to work on: a new one, or one that is thawed."""
        if self.queue:
            return self._begin(self.queue.pop(0))
        choice = self._policy().next([self.seed, self.decisions])
        if choice.params is None:
            assert choice.thaw is not None
            return choice.thaw
        return self._begin(choice.params)

    def _begin(self, params: Params) -> int:
        number, run = len(self.tried), self.night.begin(params)
        self.runs.append(run)
        self.tried.append(Tried(number, params, {}, None, run.run.train_s))  # a plan knows what a recipe costs
        return number

    def _go_on(self, number: int) -> None:
        """Train the trial rung by rung, as long as nothing else promises more. Hand-picked ones go to their end."""
        while not self.tried[number].score:
            self._advance(number)
            if self.queue or self.tried[number].score:
                continue
            if self._policy().next([self.seed, self.decisions]).thaw != number:
                return

    def _advance(self, number: int) -> None:
        """Train a trial to its next rung; one that fails there counts as one that followed nothing."""
        trial, run = self.tried[number], self.runs[number]
        to = next(fraction for fraction in RUNGS if fraction > trial.reached)
        try:
            if to < 1.0:
                run.train(to)
                self.tried[number] = replace(trial, bits={**trial.bits, to: -run.bits()}, thawable=True)
            else:
                self.tried[number] = replace(trial, score=(run.complete(), PROMPTS), thawable=False)
        except Failed:
            self.tried[number] = replace(trial, score=(0.0, PROMPTS), thawable=False)


def main() -> None:
    """Spend the nights that are missing, with and without the hand-picked recipes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("landscapes", nargs="+")
    parser.add_argument("--seeds", type=int, default=50)
    asked = parser.parse_args()
    for name in asked.landscapes:
        world = World.open(name)
        for priors in (True, False):
            kept = Kept(world, OURS, priors)
            for seed in kept.missing(range(asked.seeds)):
                kept.add(seed, Search(world, seed, priors=priors).go())
            print(f"{name}, {'with' if priors else 'without'} priors: {len(kept.nights())} nights", flush=True)


if __name__ == "__main__":
    main()
