"""Order and race on published verdicts: how well few prompts rank trials, what the pick loses, and the bias reported.

See benchmarks/replay.py for what is replayed. A race is chosen on 300 random splits and reported on 300 others.
Spreads are 95 % intervals of a bootstrap over the splits. All splits share the same 15 checkpoints of one run, so they
say little of other runs. Takes some minutes.

    python benchmarks/score_replay.py
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from replay import (
    FEW,
    WHOLE,
    Setting,
    Split,
    Study,
    best_of,
    bonferroni,
    correlations,
    e_process,
    lost,
    recorded,
    spearman,
    splits,
    study,
)
from table import Figure

from objectives.race import Race

SPLITS = 300  # for the figures; as many others for the choice of a race
BUDGET = 70  # prompts a trial, on average over all trials
PEERS = ("random", "varied", "all")
SETTINGS = (
    Setting(80, (16, 32), 0.1),
    Setting(96, (16, 32, 64), 0.3),
    Setting(112, (16, 32, 64), 0.4),
    Setting(128, (16, 32), 0.4),
    Setting(128, (16, 32, 64, 96), 0.5),
    Setting(144, (16, 32, 64, 96), 0.55),
)


def figures() -> list[Figure]:
    """Rank correlation, points lost by the pick, error rate, values and bias; [] without data."""
    data = recorded()
    if data is None:
        return []
    tuning, reported = (list(splits(*data, range(a, a + SPLITS))) for a in (SPLITS, 0))
    chosen = _affordable(tuning)
    studies = [study(split, chosen) for split in reported]
    picking = _picking(reported, studies, chosen)
    return [*_ranking(reported), *picking, _power(reported[:100]), *_values(studies), *_bias(reported, studies)]


def _affordable(tuning: Sequence[Split]) -> Setting:
    """The setting that loses least on these splits, of those within the budget."""
    best: tuple[float, Setting] | None = None
    for setting in SETTINGS:
        studies = [study(split, setting) for split in tuning]
        prompts = fmean(made.prompts for made in studies)
        points = fmean(lost(split, made.pick) for split, made in zip(tuning, studies, strict=True))
        print(f"{setting}: {points:.2f} points lost at {prompts:.1f} prompts a trial (splits for the choice)")
        if prompts <= BUDGET and (best is None or points < best[0]):
            best = points, setting
    assert best is not None
    return best[1]


def _ranking(reported: Sequence[Split]) -> Iterator[Figure]:
    rows = [correlations(split) for split in reported]
    for name, way, kind in (
        ("prompt verdicts", "ours", "strict"),
        ("four metrics, whole answers", "ours", "four"),
        ("prompt verdicts, learning on from the ranked", "learning on", "strict"),
    ):
        column = [row[f"{way}, {kind}"] for row in rows]
        peers = [f"{peer} {fmean(row[f'{peer}, {kind}'] for row in rows):.2f}" for peer in PEERS]
        mean = f"{fmean(column):.3f} {_spread(column)}"
        title = f"rank correlation with the sealed half, {FEW} prompts a trial, {name}"
        yield Figure(title, mean, ", ".join(peers), "0.58", fmean(column) >= 0.58)


def _picking(reported: Sequence[Split], studies: Sequence[Study], chosen: Setting) -> Iterator[Figure]:
    keys = [[prompt.key for prompt in split.search] for split in reported]
    fixed = [lost(split, best_of(split, of[:FEW])) for split, of in zip(reported, keys, strict=True)]
    everything = [lost(split, best_of(split, of)) for split, of in zip(reported, keys, strict=True)]
    peer = f"fixed random {FEW}: 1 ({fmean(fixed):.2f} points)"
    whole = Setting(WHOLE, (24, 48, 96, 160), 0.1)
    for setting, made in ((chosen, studies), (whole, [study(split, whole) for split in reported])):
        ours = [lost(split, one.pick) for split, one in zip(reported, made, strict=True)]
        prompts = fmean(one.prompts for one in made)
        name = f"points lost by the pick, {setting}: {prompts:.0f} prompts a trial"
        ratio = fmean(ours) / fmean(fixed)
        reached = ratio <= 1 / 3 and prompts <= BUDGET
        yield Figure(name, _relative(ours, fixed), peer, f"1/3 at {BUDGET} prompts", reached)
        wrong = [ended for one in made for ended, good in zip(one.ended, one.as_good, strict=True) if good]
        share = f"{fmean(wrong):.1%} of {len(wrong)}"
        name = f"trials ended that would have been as good as the incumbent, {setting}"
        yield Figure(name, share, "-", f"at most {setting.error_rate:.0%}", fmean(wrong) <= setting.error_rate)
    yield Figure(f"the same, all {WHOLE} prompts asked of each", _relative(everything, fixed), peer, "-", True)


def _power(reported: Sequence[Split]) -> Figure:
    """What repeated looks cost: trials ended by the product's rule, and by others with the same error rate."""
    setting = Setting(128, (16, 32, 64, 96), 0.1)
    ended = [
        fmean(end for split in reported for end in study(split, setting, behind).ended)
        for behind in (Race.behind, bonferroni, e_process)
    ]
    ours, *others = (f"{share:.0%}" for share in ended)
    peer = f"Bonferroni {others[0]}, e-process {others[1]}"
    return Figure(f"trials ended, {setting}", ours, peer, "more than the peers", ended[0] > max(ended[1:]))


def _values(studies: Sequence[Study]) -> Iterator[Figure]:
    """How the values told agree with what the whole reference set would have given."""
    ours, plain = (
        f"{fmean(spearman(getattr(made, kind), made.true) for made in studies):.2f}, "
        f"{100 * fmean(_errors(made, getattr(made, kind)) for made in studies):+.1f} points"
        for kind in ("told", "plain")
    )
    name = "values told against the whole reference set's: rank correlation, bias of trials ended"
    yield Figure(name, ours, f"the incumbent's verdict where not asked: {plain}", "-", True)


def _errors(made: Study, values: Sequence[float]) -> float:
    errors = [value - true for value, true, ended in zip(values, made.true, made.ended, strict=True) if ended]
    return fmean(errors) if errors else 0.0


def _bias(reported: Sequence[Split], studies: Sequence[Study]) -> Iterator[Figure]:
    """Reported less true, the truth being the accuracy on prompts that played no part in the choice or the report."""
    naive, search, sealed = [], [], []
    for split, made in zip(reported, studies, strict=True):
        keys = [prompt.key for prompt in split.search]
        unused = sorted(set(keys) - set(made.reference))
        result = made.pick.strictly(split.sealed)
        sealed.append(100 * (result - made.pick.strictly(unused)))
        search.append(100 * (made.pick.strictly(made.reference) - result))
        best = best_of(split, keys[:FEW])
        naive.append(100 * (best.strictly(keys[:FEW]) - best.strictly(split.sealed)))
    bias = f"{fmean(sealed):+.2f} {_spread(sealed)} points"
    peer = f"best of 15 at {FEW}: {fmean(naive):+.1f}; the pick's value in the search: {fmean(search):+.1f}"
    yield Figure(
        "bias of the reported score (sealed half of the pick)", bias, peer, "within 1", abs(fmean(sealed)) <= 1
    )


def _relative(ours: Sequence[float], fixed: Sequence[float]) -> str:
    low, high = _interval(len(ours), lambda of: fmean(ours[i] for i in of) / fmean(fixed[i] for i in of))
    points = f"{fmean(ours):.2f} {_spread(ours)} points"
    return f"{fmean(ours) / fmean(fixed):.2f} [{low:.2f}, {high:.2f}] ({points})"


def _spread(values: Sequence[float]) -> str:
    low, high = _interval(len(values), lambda of: fmean(values[i] for i in of))
    return f"[{low:.2f}, {high:.2f}]"


def _interval(n: int, statistic: Callable[[list[int]], float], draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of a bootstrap over the splits."""
    draw = random.Random(0)
    made = sorted(statistic(draw.choices(range(n), k=n)) for _ in range(draws))
    return made[draws // 40], made[-1 - draws // 40]


if __name__ == "__main__":
    for figure in figures():
        print(figure.line)
