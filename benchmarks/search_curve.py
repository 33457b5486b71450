"""Regret against GPU-seconds of all searches on the replay landscapes: figures, docs/benchmarks/search.md, a picture.

    python benchmarks/search_curve.py LANDSCAPE ...

Reads what benchmarks/search_peers.py has kept; computes no night itself. The regret of a
night at a moment is what the best recipe of the landscape is better by than the night's incumbent, in expected share of
the sealed half's prompts followed; before any trial has ended it is what the best recipe follows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from search_record import BLANK, OURS, Kept, Trace, World
from table import DOCS, Figure, publish

RANDOM = "random"
NAMES = {  # how a method is called, its colour (Okabe and Ito's, told apart by the colour-blind, too), and its line
    OURS: ("Nightshift", "#000000", "-"),
    BLANK: ("Nightshift, nothing believed", "#000000", ":"),
    RANDOM: ("random search", "#888888", "--"),
    "optuna-tpe-median": ("Optuna TPE, median", "#E69F00", "-"),
    "optuna-tpe-hyperband": ("Optuna TPE, Hyperband", "#56B4E9", "-"),
    "optuna-gp": ("Optuna GPSampler", "#009E73", "-"),
    "ray-asha-optuna": ("Ray Tune ASHA, OptunaSearch", "#D55E00", "-."),
    "syne-asha": ("Syne Tune ASHA", "#0072B2", ":"),
    "syne-ashacqr": ("Syne Tune ASHACQR", "#CC79A7", ":"),
    "syne-bohb": ("Syne Tune BOHB", "#B8A800", ":"),
}
GRID, RESAMPLES = 2000, 1000
OF_RANDOM, OF_BEST_PEER = 1 / 4, 2 / 3  # of their GPU-seconds
PICTURE = DOCS.parent / "search-regret.png"

Array = np.ndarray[Any, Any]


def resampled(nights: int) -> Array:
    """Weights of the nights, a row a bootstrap resample: the same ones for every method with as many nights."""
    drawn = np.random.default_rng(0).integers(nights, size=(RESAMPLES, nights))
    return np.asarray([np.bincount(row, minlength=nights) / nights for row in drawn])


def interval(values: Array) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return float(low), float(high)


@dataclass(frozen=True)
class Curve:
    """The mean regret of one method's nights at each of `at`, and those of its bootstrap resamples."""

    method: str
    at: Array
    regrets: Array  # (nights, len(at))

    @cached_property
    def mean(self) -> Array:
        """Over the nights."""
        return np.asarray(self.regrets.mean(axis=0))

    @cached_property
    def means(self) -> Array:
        """Over each resample: (RESAMPLES, len(at))."""
        return np.asarray(resampled(len(self.regrets)) @ self.regrets)

    def reaches(self, regret: float) -> float:
        """The first GPU-second at which the mean regret is no higher than that; infinite where none is."""
        return float(first(self.at, self.mean[None], np.array([regret]))[0])

    @property
    def final(self) -> str:
        """The mean regret at the end, and its interval."""
        low, high = interval(self.means[:, -1])
        return f"{self.mean[-1]:.4f} ({low:.4f} to {high:.4f})"


def first(at: Array, curves: Array, regrets: Array) -> Array:
    """For each curve, the first of `at` where it is no higher than its regret."""
    low = curves <= regrets[:, None] + 1e-12
    return np.where(low.any(axis=1), at[low.argmax(axis=1)], np.inf)


def ratio(one: Curve, other: Curve, whose: Curve) -> tuple[float, float, float]:
    """The GPU-seconds to the last regret of `whose`, of one by those of the other, with the interval of the ratio."""
    both = [first(curve.at, curve.means, whose.means[:, -1]) for curve in (one, other)]
    with np.errstate(invalid="ignore"):
        spread = np.nan_to_num(both[0] / both[1], nan=np.inf, posinf=np.inf)
    last = float(whose.mean[-1])
    return (_divided(one.reaches(last), other.reaches(last)), *interval(spread))


def _divided(one: float, other: float) -> float:
    return one / other if np.isfinite(one) else np.inf


def regret(best: float, trace: Trace, at: Array) -> Array:
    """Of one night at each of `at`."""
    times = np.array([0.0, *(time for time, _ in trace)])
    truths = np.array([0.0, *(truth for _, truth in trace)])
    return np.asarray(best - truths[np.searchsorted(times, at, side="right") - 1])


def curves(world: World, *, priors: bool) -> dict[str, Curve]:
    """Of every method that has nights, in the order of NAMES."""
    at = np.linspace(0, world.budget_s, GRID + 1)[1:]
    found = {}
    for method in NAMES:
        nights = Kept(world, method, priors).nights()
        if nights:
            rows = [regret(world.best, nights[seed], at) for seed in sorted(nights)]
            found[method] = Curve(method, at, np.array(rows))
    return found


def same_nights(found: dict[str, Curve]) -> dict[str, Curve]:
    """The curves of as many nights each, the first ones, so that resamples are paired by the seed.

    Those with less than half of the nights of the others, which think for long, are left out.
    """
    most = max(len(curve.regrets) for curve in found.values())
    whole = {method: curve for method, curve in found.items() if 2 * len(curve.regrets) >= most}
    count = min(len(curve.regrets) for curve in whole.values())
    return {method: Curve(method, curve.at, curve.regrets[:count]) for method, curve in whole.items()}


def best_peer(found: dict[str, Curve]) -> Curve:
    """The peer that is first at random search's last regret; the lower last regret decides between equals."""
    last = float(found[RANDOM].mean[-1])
    peers = [curve for method, curve in found.items() if method not in (OURS, BLANK, RANDOM)]
    return min(peers, key=lambda curve: (curve.reaches(last), curve.mean[-1]))


def figures_of(world: World, found: dict[str, Curve], *, priors: bool) -> list[Figure]:
    """What was to reach on this landscape, in one form."""
    random, ours, peer = found[RANDOM], found[OURS], best_peer(found)
    form = f"{world.landscape.name} {'with' if priors else 'without'} priors"
    lowest = min(
        (curve for method, curve in found.items() if method not in (OURS, BLANK)), key=lambda curve: curve.mean[-1]
    )
    end = Figure(
        f"{form}: regret at the end, against {NAMES[lowest.method][0]}",
        ours.final,
        lowest.final,
        "no higher",
        bool(ours.mean[-1] <= lowest.mean[-1]),
    )
    return [
        _seconds(form, ours, random, random, OF_RANDOM),
        _seconds(form, ours, peer, random, OF_BEST_PEER),
        _seconds(form, ours, lowest, lowest, OF_BEST_PEER),
        end,
    ]


def _seconds(form: str, ours: Curve, peer: Curve, whose: Curve, share: float) -> Figure:
    """GPU-seconds to the last regret of `whose`, against the peer."""
    last, (measured, low, high) = float(whose.mean[-1]), ratio(ours, peer, whose)
    until, against = (NAMES[curve.method][0] for curve in (whose, peer))
    return Figure(
        f"{form}: GPU-seconds to the last regret of {until}, {last:.4f}, against {against}",
        f"{ours.reaches(last):.0f} s, {measured:.2f} of the peer's ({low:.2f} to {high:.2f})",
        f"{peer.reaches(last):.0f} s",
        f"at most {share:.2f}",
        measured <= share,
    )


def table_of(found: dict[str, Curve], *, priors: bool) -> str:
    """Every method in one form, as Markdown."""
    random = found[RANDOM]
    last = float(random.mean[-1])
    lines = [
        f"\nHand-picked recipes {'first' if priors else 'kept from all'}:\n",
        "| search | nights | GPU-seconds to random search's last regret | of random search's | regret at the end |",
        "|---|---|---|---|---|",
    ]
    for method, curve in found.items():
        at = curve.reaches(last)
        share = "-" if np.isinf(at) else f"{at / random.reaches(last):.2f}"
        when = "not in the night" if np.isinf(at) else f"{at:.0f}"
        lines.append(f"| {NAMES[method][0]} | {len(curve.regrets)} | {when} | {share} | {curve.final} |")
    return "\n".join(lines) + "\n"


def picture(worlds: Sequence[World], path: Path) -> None:
    """One panel a landscape and form: mean regret, and the 95 % intervals of the means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (5.2 * len(worlds), 8.4)
    drawing, axes = plt.subplots(2, len(worlds), figsize=size, squeeze=False, layout="constrained")
    for row, priors in zip(axes, (True, False), strict=True):
        for axis, world in zip(row, worlds, strict=True):
            _panel(axis, world, priors=priors)
        row[0].set_ylabel("regret (share of prompts followed)")
    drawing.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    drawing.savefig(path, dpi=90)
    plt.close(drawing)


def _panel(axis: Any, world: World, *, priors: bool) -> None:
    found = curves(world, priors=priors)
    shown = max((float(np.quantile(curve.regrets[:, -1], 0.95)) for curve in found.values()), default=1.0)
    for method, curve in found.items():
        name, colour, line = NAMES[method]
        low, high = np.quantile(curve.means, (0.025, 0.975), axis=0)
        axis.fill_between(curve.at, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.plot(curve.at, curve.mean, line, color=colour, linewidth=2.6 if method == OURS else 1.5, label=name)
    title = f"{world.landscape.name}: hand-picked recipes {'first for all' if priors else 'kept from all'}"
    axis.set(title=title, xlabel="GPU-seconds", xscale="log", ylim=(0, 1.5 * shown))
    axis.set_xlim(world.budget_s / 40, world.budget_s)
    ticks = [world.budget_s / 2**power for power in range(6)]
    axis.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(alpha=0.25)


def main(names: Sequence[str]) -> None:
    """Draw, print and write."""
    worlds = [World.open(name) for name in names]
    picture(worlds, PICTURE)
    made: list[Figure] = []
    notes = NOTE
    for world in worlds:
        notes += f"\n## {world.landscape.name}\n\nBest {world.best:.4f}, budget {world.budget_s:.0f} GPU-seconds.\n"
        for priors in (True, False):
            found = curves(world, priors=priors)
            if RANDOM not in found:
                continue
            notes += table_of(found, priors=priors)
            if OURS in found and len(found) > 2:
                made += figures_of(world, same_nights(found), priors=priors)
    publish("search", "Search", made, notes)


NOTE = """![Regret against GPU-seconds](../search-regret.png)

Recipes that were really trained are replayed (docs/benchmarks/landscapes.md); a night is 40 random recipes long. Regret
is taken of what the picked trial is worth in truth, not of its score. Every search comes in two forms: with the
hand-picked recipes first, and without any. With them, the first or second of them is as good as what random search with
them ends at, for most searches: a quarter of those seconds is less than one trial, and none can be there. The
seconds to the best peer's last regret tell searches apart in either form. Intervals are 95 % bootstrap intervals over
the nights, paired by the seed.

Nightshift believes something of recipes before it has seen any (search/beliefs.py: all linear layers, a learning rate
that is not low, small batches, rank, little dropout, a preference stage), and other tools do not. *Nothing believed* is
the same search without that. The settings of its surrogate, like what is believed and how strongly, were set on
llama-0, with its table known; the other two landscapes decided nothing.

GPU-seconds are those of training, probing and asking; starting up, loading and the search's own thinking are charged to
nobody. A peer's trial trains to 1/4, 1/2 and the end, reports at each what served it best on llama-0 (see
benchmarks/search_peers.py), pays for it, and is compared on 64 random prompts of the search half; the one with the
highest share is picked. Nightshift picks the trial of which its surrogate expects most. Ray Tune's and Syne Tune's own
schedulers and searchers decide, in loops of ours with one worker and simulated time. Nightshift is the study that the
service works on, with its sampler, its pruner and its ranking, without the service's processes, without the race that
asks bad trials fewer prompts, and without the final race on fresh prompts. Syne Tune's BOHB models nothing
before it has seen more trials than a night holds: it is its ASHA here, and has fewer nights. So have Optuna's GPSampler
(some 20 s a night) and Syne Tune's ASHACQR (45 s), which has none where no row names it.
"""

if __name__ == "__main__":
    main(sys.argv[1:])
