"""The searches on the replay landscapes, for `make bench-search`.

    python benchmarks/search_peers.py FAMILY LANDSCAPE ... [--seeds 50] [--choose] [--only PEER]

FAMILY is nightshift, optuna (random search, too), ray or syne: ray and syne run in an environment of their own. A
peer's trial is what a user's script around it does: it trains to the rungs of RUNGS, reports at each of them one
signal, and at the end asks the night's 64 prompts, whose share followed is the trial's value. The script pays for the
training so far and for what it reports: for the share of the 64 prompts followed, or for the probe's bits per byte
(negative, so that larger is better). A tool that takes one metric for everything (Ray Tune, Syne Tune) gets its signal
at the end, too, and its user picks the trial with the highest share at the end.

Every peer has a few set-ups: the signals, and what its documentation leaves open. `--choose` prints the mean regret of
each of them, averaged over the night, on a few seeds that the comparison does not use; the first of a peer's list is
the one so chosen on llama-0, and the one that is compared everywhere.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from search_record import BLANK, OURS, RUNGS, Failed, Kept, Night, Over, Params, Trial, World

SEEDS = 50
CHOOSING = range(10_000, 10_012)  # seeds that set-ups are chosen on

Signal = Literal["followed", "bits", "none"]


class Peer(Protocol):
    """One search of another tool's, asked and told by its user's script."""

    one_metric: bool  # the tool knows one metric, which is the signal, at the end, too

    def suggest(self) -> Params:
        """The next trial's parameters."""

    def report(self, fraction: float, value: float) -> bool:
        """Whether the trial may go on after this rung."""

    def stopped(self) -> None:
        """The trial was stopped at a rung."""

    def complete(self, value: float) -> None:
        """The trial's final value."""

    def failed(self) -> None:
        """The trial failed."""


@runtime_checkable
class Ranking(Protocol):
    """A tool that says which of its trials is the best."""

    def expected(self) -> list[float]:
        """What each complete trial is worth, in the order that they ended in."""


@dataclass(frozen=True)
class Setup:
    """One way of setting a peer up: what makes it, in a module of this folder, and what its trials report."""

    module: str
    made_by: str
    signal: Signal

    @property
    def name(self) -> str:
        """For the files of what is only tried."""
        return f"{self.made_by}-{self.signal}"

    def peer(self, world: World, seed: int, *, priors: bool) -> Peer:
        """The peer, ready to be asked."""
        made: Callable[..., Peer] = getattr(importlib.import_module(self.module), self.made_by)
        return made(world.landscape.study, seed, priors=priors)


def _setups(module: str, *which: tuple[str, Signal]) -> tuple[Setup, ...]:
    return tuple(Setup(module, made_by, signal) for made_by, signal in which)


FAMILIES: dict[str, dict[str, tuple[Setup, ...]]] = {
    "nightshift": {
        OURS: _setups(
            "peers_nightshift", ("percentile", "bits"), ("never", "bits"), ("hopeless", "bits"), ("median", "bits")
        ),
        BLANK: _setups("peers_nightshift", ("blank", "bits")),
    },
    "optuna": {
        "random": _setups("peers_optuna", ("random", "none")),
        "optuna-tpe-median": _setups("peers_optuna", ("tpe_median", "followed"), ("tpe_median", "bits")),
        "optuna-tpe-hyperband": _setups(
            "peers_optuna",
            ("tpe_hyperband", "followed"),
            ("tpe_hyperband", "bits"),
            ("tpe_hyperband_2", "followed"),
            ("tpe_hyperband_2", "bits"),
        ),
        "optuna-gp": _setups("peers_optuna", ("gp", "none"), ("gp_median", "followed"), ("gp_median", "bits")),
    },
    "ray": {
        "ray-asha-optuna": _setups(
            "peers_ray", ("asha_4", "followed"), ("asha_4", "bits"), ("asha_2", "followed"), ("asha_2", "bits")
        ),
    },
    "syne": {
        "syne-asha": _setups(
            "peers_syne", ("asha_3", "followed"), ("asha_3", "bits"), ("asha_2", "followed"), ("asha_2", "bits")
        ),
        "syne-ashacqr": _setups(
            "peers_syne", ("cqr_3", "followed"), ("cqr_3", "bits"), ("cqr_2", "followed"), ("cqr_2", "bits")
        ),
        "syne-bohb": _setups(
            "peers_syne",
            ("bohb_3", "followed"),
            ("bohb_3", "bits"),
            ("bohb_3_soon", "followed"),
            ("bohb_3_soon", "bits"),
            ("bohb_2_soon", "followed"),
            ("bohb_2_soon", "bits"),
        ),
    },
}


def night(world: World, setup: Setup, seed: int, *, priors: bool) -> Night:
    """One night of a peer, to the end of its budget."""
    spent = Night(world, seed)
    peer = setup.peer(world, seed, priors=priors)
    try:
        while True:
            _trial(spent, peer, setup.signal)
    except Over:
        return spent


def _trial(spent: Night, peer: Peer, signal: Signal) -> None:
    """What a user's script does in a trial."""
    trial = spent.begin(peer.suggest())
    try:
        how = _trained(trial, peer, signal)
    except Failed:
        peer.failed()
        how = "failed"
    spent.ended[how] += 1


def _trained(trial: Trial, peer: Peer, signal: Signal) -> str:
    for fraction in RUNGS[:-1] if signal != "none" else ():
        trial.train(fraction)
        value = trial.followed() if signal == "followed" else trial.bits()
        if not peer.report(fraction, value):
            peer.stopped()
            return "stopped"
    share = trial.complete()
    peer.complete(trial.bits() if signal == "bits" and peer.one_metric else share)
    night = trial.night
    night.pick(peer.expected() if isinstance(peer, Ranking) else [share for share, _ in night.done])
    return "complete"


def spend(kept: Kept, setup: Setup, seeds: Sequence[int]) -> None:
    """The nights that are missing, each kept as soon as it is over."""
    for seed in kept.missing(seeds):
        spent = night(kept.world, setup, seed, priors=kept.priors)
        kept.add(seed, spent.trace, spent.ended)


def choose(world: World, name: str, setups: Sequence[Setup]) -> None:
    """Print what each set-up of a peer would have come to, with the hand-picked recipes first."""
    for setup in setups:
        kept = Kept(world, f"choosing-{name}-{setup.name}", priors=True)
        spend(kept, setup, CHOOSING)
        nights = kept.nights()
        found = [mean_regret(world, nights[seed]) for seed in CHOOSING]
        print(f"{name}: {setup.name}: {np.mean(found):.4f} +- {np.std(found) / len(found) ** 0.5:.4f}", flush=True)


def mean_regret(world: World, trace: Sequence[tuple[float, float]]) -> float:
    """The regret averaged over the logarithm of the GPU-seconds, from an eighth of the night to its end."""
    at = np.geomspace(world.budget_s / 8, world.budget_s, 100)
    times = np.array([0.0, *(time for time, _ in trace)])
    truths = np.array([0.0, *(truth for _, truth in trace)])
    return float(np.mean(world.best - truths[np.searchsorted(times, at, side="right") - 1]))


def main(arguments: Sequence[str]) -> None:
    """Spend the nights of one family."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("landscapes", nargs="+")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--only", choices=[name for names in FAMILIES.values() for name in names])
    asked: Any = parser.parse_args(arguments)
    for world in map(World.open, asked.landscapes):
        for name, setups in FAMILIES[asked.family].items():
            if asked.only not in (None, name):
                continue
            if asked.choose:
                choose(world, name, setups)
                continue
            for priors in (True, False):
                spend(Kept(world, name, priors), setups[0], range(asked.seeds))
            print(f"{world.landscape.name}: {name}: {asked.seeds} nights with hand-picked recipes, and without")


if __name__ == "__main__":
    main(sys.argv[1:])
