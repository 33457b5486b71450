"""What is to be known of a replay landscape before anything is judged by it: its table, its fit, and what rungs tell.

Each figure is given of the table and of the surrogate, which is asked as many recipes drawn at random as the table has:
where the two differ, the surrogate is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from landscape import Landscape, drawn
from landscape_fit import Array
from landscape_table import BITS, END, FRACTIONS, SECONDS
from scipy.stats import spearmanr

SUBSETS = (24, 64)
DRAWS = 30  # random subsets, and surrogate samples
BINS = np.array([3e-4, 7.5e-4, 1.5e-3, 3e-3, 5e-3, 7.5e-3, 1.2e-2, 1.8e-2, 3.001e-2])


@dataclass(frozen=True)
class Sample:
    """Recipes with all that they showed: `followed` (recipes, FRACTIONS, prompts), `bits` (recipes, FRACTIONS)."""

    rate: Array
    dpo: Array
    bits: Array
    followed: Array
    final: Array  # share of the sealed half followed, as it was counted
    truth: Array  # what is expected of it


def of_table(landscape: Landscape) -> Sample:
    """The recipes of the table, each once; its rungs without answers are NaN."""
    table = landscape.table
    first = np.array([n for (_, turn), n in table.number.items() if not turn])
    followed = np.full((len(first), len(FRACTIONS), len(table.keys)), np.nan)
    followed[:, [1, 2, 4]] = table.followed[first]
    ends = landscape.fit.items.probability(landscape.fit.numbers[first, END])
    return Sample(
        rate=np.array([table.rows[n]["params"]["learning_rate"] for n in first]),
        dpo=np.array([table.rows[n]["params"]["dpo_share"] > 0 for n in first]),
        bits=np.exp(table.log_bits[first]),
        followed=followed,
        final=table.sealed_followed[first].mean(axis=1),
        truth=ends[:, len(table.keys) :].mean(axis=1),
    )


def of_surrogate(landscape: Landscape, count: int, seed: int) -> Sample:
    """Recipes that random search would ask for."""
    rng = np.random.default_rng([landscape.table.seed, seed])
    asked = [drawn(landscape.study.space, rng) for _ in range(count)]
    runs = [landscape.run(params) for params in asked]
    truth = np.array([run.truth for run in runs])
    return Sample(
        rate=np.array([params["learning_rate"] for params in asked]),
        dpo=np.array([params["dpo_share"] != 0 for params in asked]),
        bits=np.array([np.exp(run.log_bits) for run in runs]),
        followed=np.array([run.verdicts for run in runs], float),
        final=rng.binomial(landscape.table.sealed, truth) / landscape.table.sealed,
        truth=truth,
    )


def signals(sample: Sample, rng: np.random.Generator) -> Iterator[tuple[str, list[Array]]]:
    """What a search may judge by, by name; several columns where it is drawn by lot."""
    prompts = sample.followed.shape[2]
    for n, name in enumerate(BITS):
        yield f"bits at {name} %", [-sample.bits[:, n]]
    for n, name in ((1, "25"), (2, "50"), (4, "100")):
        yield f"share followed of all {prompts} at {name} %", [sample.followed[:, n].mean(axis=1)]
        for size in SUBSETS:
            chosen = [rng.choice(prompts, size, replace=False) for _ in range(DRAWS)]
            yield f"share followed of {size} at {name} %", [sample.followed[:, n, c].mean(axis=1) for c in chosen]
    for n, name in ((1, "25"), (2, "50")):
        chosen = [rng.choice(prompts, 64, replace=False) for _ in range(DRAWS)]
        shares = [sample.followed[:, n, c].mean(axis=1) for c in chosen]
        both = [_ranks(-sample.bits[:, n]) + _ranks(share) for share in shares]
        yield f"ranks of bits and of 64 prompts, added, at {name} %", both


def _ranks(values: Array) -> Array:
    return np.asarray(np.argsort(np.argsort(values)), float)


def rank_correlations(sample: Sample, final: Callable[[Sample], Array], kept: Array | None = None) -> dict[str, float]:
    """Spearman's, of each signal with the final one; of the `kept` recipes alone."""
    mask = np.ones(len(sample.final), bool) if kept is None else kept
    rng = np.random.default_rng(0)
    return {
        name: float(np.mean([spearmanr(column[mask], final(sample)[mask])[0] for column in columns]))
        for name, columns in signals(sample, rng)
    }


def page(landscape: Landscape) -> str:
    """The landscape's part of docs/benchmarks/landscapes.md."""
    parts = [of(landscape) for of in (_made, _errors, _correlations, _profile)]
    return "\n\n".join([f"## {landscape.name}", *parts]) + "\n"


def _made(landscape: Landscape) -> str:
    table = landscape.table
    hours = np.exp(table.log_seconds[:, :2]).sum() / 3600
    sample = of_table(landscape)
    quantiles = ", ".join(f"{100 * v:.0f}" for v in np.quantile(sample.final, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]))
    drawn_ = np.concatenate([of_surrogate(landscape, len(sample.final), n).final for n in range(3)])
    of_drawn = ", ".join(f"{100 * v:.0f}" for v in np.quantile(drawn_, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]))
    first = f"{len(sample.final)} recipes, {len(table.repeated)} of them once more with another training seed; "
    return (
        f"{first}{len(table.failed)} failed. {hours:.1f} hours of one core. Points of the sealed half followed at the "
        f"end (least, 10 %, 25 %, median, 75 %, 90 %, most): table {quantiles}; surrogate {of_drawn}. "
        f"Best truth found in the space: {100 * landscape.best:.1f}."
    )


def _errors(landscape: Landscape) -> str:
    table, fit = landscape.table, landscape.fit
    names = [f"ability at {n} %" for n in ("25", "50", "100")] + [f"log bits at {n} %" for n in BITS]
    lines = ["| left out, one recipe at a time | R2 | RMSE | Spearman |", "|---|---|---|---|"]
    for n, name in enumerate(names):
        lines.append(_error(name, fit.left_out[:, n], fit.numbers[:, n]))
    said = fit.items.probability(fit.left_out[:, END])[:, len(table.keys) :].mean(axis=1)
    lines.append(_error("share of the sealed half followed", said, table.sealed_followed.mean(axis=1), 100, " points"))
    for n, name in enumerate(SECONDS):
        lines.append(_error(f"log seconds: {name}", fit.seconds_left_out[:, n], table.log_seconds[:, n]))
    own = fit.items.probability(fit.numbers[:, END])[:, len(table.keys) :].mean(axis=1)
    gap = 100 * float(np.sqrt(np.mean((own - table.sealed_followed.mean(axis=1)) ** 2)))
    claimed = ", ".join(f"{v:.2f}" for v in fit.calibration)
    return "\n".join(lines) + (
        f"\n\nSquared error over the variance claimed, by component: {claimed}. From a run's own ability, its share of "
        f"the sealed half is off by {gap:.1f} points. Variance that comes of the training seed, by that which the fit "
        f"does not explain: {float(fit.seeds):.2f}; its deviation in points at the end: {_luck(landscape):.1f}."
    )


def _error(name: str, said: Array, seen: Array, times: float = 1, unit: str = "") -> str:
    rmse = float(np.sqrt(np.mean((said - seen) ** 2)))
    rank = float(spearmanr(said, seen)[0])
    return f"| {name} | {1 - rmse**2 / seen.var():.2f} | {times * rmse:.3g}{unit} | {rank:.2f} |"


def _luck(landscape: Landscape) -> float:
    """Standard deviation, in points, of what a run follows in expectation, over training seeds of the same recipe."""
    rng = np.random.default_rng(1)
    recipes = [drawn(landscape.study.space, rng) for _ in range(60)]
    return 100 * float(np.sqrt(np.mean([landscape.expected(params, range(2, 8)).var(ddof=1) for params in recipes])))


def _correlations(landscape: Landscape) -> str:
    table = of_table(landscape)
    kept = table.final > np.median(table.final)
    seen, better = rank_correlations(table, _final), rank_correlations(table, _final, kept)
    asked = [of_surrogate(landscape, len(table.final), n) for n in range(8)]
    drawn_ = [rank_correlations(sample, _final) for sample in asked]
    true = [rank_correlations(sample, _truth) for sample in asked]
    upper = [rank_correlations(sample, _final, sample.final > np.median(sample.final)) for sample in asked]
    best = [rank_correlations(sample, _truth, sample.truth > np.median(sample.truth)) for sample in asked]
    lines = [
        "| Spearman's rank correlation with the end | table, sealed half as counted | surrogate, the same "
        "| surrogate, truth | table, better half | surrogate, better half | the same, truth |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in seen:
        cells = [
            seen[name],
            _mean(drawn_, name),
            _mean(true, name),
            better[name],
            _mean(upper, name),
            _mean(best, name),
        ]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def _final(sample: Sample) -> Array:
    return sample.final


def _truth(sample: Sample) -> Array:
    return sample.truth


def _mean(parts: list[dict[str, float]], name: str) -> float:
    return float(np.mean([part[name] for part in parts]))


def _profile(landscape: Landscape) -> str:
    """By learning rate, what recipes reach."""
    table, asked = of_table(landscape), of_surrogate(landscape, 1000, 99)
    lines = [
        "| learning rate | recipes | mean points | best | surrogate: mean | best of 1000 drawn |",
        "|---|---|---|---|---|---|",
    ]
    for low, high in pairwise(BINS):
        a, b = ((s.rate >= low) & (s.rate < high) for s in (table, asked))
        if not a.any() or not b.any():
            continue
        cells = [table.final[a].mean(), table.final[a].max(), asked.truth[b].mean(), asked.truth[b].max()]
        points = " | ".join(f"{100 * cell:.0f}" for cell in cells)
        lines.append(f"| {low:.2g} to {high:.2g} | {a.sum()} | {points} |")
    return "\n".join(lines)
