"""Two scored models, compared prompt by prompt. Pure: verdicts in, a Comparison out. Imports no torch.

Prompts differ far more than models do, so a difference is judged on the prompts that both were asked, in pairs.

- A difference of prompts followed has Tango's score interval for paired proportions (Statistics in Medicine 17, 1998,
  891-908): the differences that a score test against the discordant pairs does not reject.
- A difference of instructions followed has the normal interval of a ratio whose clusters are the prompts, because the
  instructions of one prompt stand and fall together; where no prompt changed, it has Tango's for as many prompts.
- `p` is McNemar's exact test, two-sided: how probable discordant pairs at least as uneven are, if each is as likely to
  speak for either model. It is the more cautious of the two: at 5 to 0 the interval leaves 0 out, and p is 0.06.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from objectives.score import Frozen, Measure, ObjectiveError, Verdict, Z

METHOD = "95 % intervals: Tango's score interval (prompts), clustered by prompt (instructions); p: McNemar, exact"
_HALVINGS = 60  # of an interval of width 1: below a double's precision


class Paired(Frozen):
    """One metric of both models on the same prompts; `difference` is b - a, `low` and `high` its 95 % interval."""

    a: Measure
    b: Measure
    difference: float
    low: float
    high: float


class Comparison(Frozen):
    """Model b against model a on the `n` prompts that both answered.

    `metrics` has those of prompt_strict, prompt_loose, instruction_strict, instruction_loose that are known for every
    one of these prompts; prompt_strict always is. `by_type` is strict, by instruction id, and empty where that is not
    known. `gained` are the keys that b alone follows (strictly), `lost` those that a alone does. `only_a` and `only_b`
    count prompts that the other model was not asked.
    """

    n: int
    only_a: int
    only_b: int
    metrics: dict[str, Paired]
    by_type: dict[str, Paired]
    p: float
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    both: int
    neither: int


def compare(a: Sequence[Verdict], b: Sequence[Verdict]) -> Comparison:
    """Compare two models by their verdicts, paired by key.

    Raises ObjectiveError where no prompt is common, or where a common key has other instructions.
    """
    of_a, of_b = ({verdict.key: verdict for verdict in verdicts} for verdicts in (a, b))
    keys = sorted(of_a.keys() & of_b.keys())
    if not keys:
        raise ObjectiveError(
            f"no prompt is common to the two: {len(of_a)} and {len(of_b)} were asked; score both on the same prompts"
        )
    pairs = [(of_a[key], of_b[key]) for key in keys]
    for left, right in pairs:
        if left.instruction_id_list != right.instruction_id_list:
            raise ObjectiveError(
                f"prompt {left.key} has other instructions in the one than in the other, so that the prompts are not "
                "the same; score both on one file"
            )
    gained = tuple(x.key for x, y in pairs if y.followed and not x.followed)
    lost = tuple(x.key for x, y in pairs if x.followed and not y.followed)
    both = sum(x.followed and y.followed for x, y in pairs)
    return Comparison(
        n=len(keys),
        only_a=len(of_a) - len(keys),
        only_b=len(of_b) - len(keys),
        metrics=_metrics(pairs),
        by_type=_by_type(pairs),
        p=mcnemar(len(gained), len(lost)),
        gained=gained,
        lost=lost,
        both=both,
        neither=len(keys) - both - len(gained) - len(lost),
    )


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact p, two-sided, of that many discordant pairs of either kind; 1 where there are none."""
    n, k = gained + lost, min(gained, lost)
    tail: int = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def tango(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a difference of paired proportions, gained / n - lost / n. Antisymmetric: with the two
    counts exchanged it is the same interval, mirrored at 0."""
    assert 0 <= gained + lost <= n, (gained, lost, n)
    assert n >= 1
    return -_upper(lost, gained, n), _upper(gained, lost, n)


def _upper(gained: int, lost: int, n: int) -> float:
    """The largest difference that the score test does not reject, by bisection: the statistic falls with it."""
    low, high = (gained - lost) / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _statistic(gained, lost, n, middle) < -Z else (middle, high)
    return high


def _statistic(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's score statistic at a difference; its variance takes the constrained estimate of the lost share."""
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    distance = gained - lost - n * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0


Pair = tuple[Verdict, Verdict]
Outcomes = tuple[bool | None, ...]


def _metrics(pairs: Sequence[Pair]) -> dict[str, Paired]:
    found = {"prompt_strict": _of_prompts([(x.followed, y.followed) for x, y in pairs])}
    loose = [(x.followed_loosely, y.followed_loosely) for x, y in pairs]
    if all(one is not None for pair in loose for one in pair):
        found["prompt_loose"] = _of_prompts([(bool(x), bool(y)) for x, y in loose])
    for name, outcomes in (("instruction_strict", _strict), ("instruction_loose", _loose)):
        if clusters := _clusters(pairs, outcomes):
            found[name] = _of_instructions(clusters)
    return found


def _strict(verdict: Verdict) -> Outcomes:
    return verdict.strict


def _loose(verdict: Verdict) -> Outcomes:
    return verdict.loose


def _of_prompts(outcomes: Sequence[tuple[bool, bool]]) -> Paired:
    gained, lost, n = sum(y > x for x, y in outcomes), sum(x > y for x, y in outcomes), len(outcomes)
    low, high = tango(gained, lost, n)
    a, b = Measure.of([x for x, _ in outcomes]), Measure.of([y for _, y in outcomes])
    return Paired(a=a, b=b, difference=(gained - lost) / n, low=low, high=high)


Cluster = tuple[list[bool], list[bool]]  # of one prompt: what a followed, and what b did


def _clusters(pairs: Sequence[Pair], outcomes: Callable[[Verdict], Outcomes]) -> list[Cluster]:
    """Empty where some verdict is not known."""
    found = [(outcomes(x), outcomes(y)) for x, y in pairs]
    if any(one is None for pair in found for side in pair for one in side):
        return []
    return [(list(map(bool, x)), list(map(bool, y))) for x, y in found]


def _of_instructions(clusters: Sequence[Cluster]) -> Paired:
    total = sum(len(x) for x, _ in clusters)
    changes = [sum(y) - sum(x) for x, y in clusters]
    difference = sum(changes) / total
    residuals = [change - difference * len(x) for change, (x, _) in zip(changes, clusters, strict=True)]
    n = len(clusters)
    correction = n / (n - 1) if n > 1 else 1.0
    half = Z * math.sqrt(correction * math.fsum(residual**2 for residual in residuals)) / total
    if not any(changes):
        half = tango(0, 0, n)[1]
    a, b = (Measure.of([one for cluster in clusters for one in cluster[side]]) for side in (0, 1))
    return Paired(a=a, b=b, difference=difference, low=max(-1.0, difference - half), high=min(1.0, difference + half))


def _by_type(pairs: Sequence[Pair]) -> dict[str, Paired]:
    found: dict[str, list[Cluster]] = {}
    for x, y in pairs:
        if None in x.strict or None in y.strict:
            return {}
        for name in dict.fromkeys(x.instruction_id_list):
            places = [i for i, other in enumerate(x.instruction_id_list) if other == name]
            sides = [bool(x.strict[i]) for i in places], [bool(y.strict[i]) for i in places]
            found.setdefault(name, []).append(sides)
    return {name: _of_instructions(found[name]) for name in sorted(found)}
