"""How little of a trial needs to be asked: in which order its prompts come, and when it is behind. Imports no torch.

A trial is asked a fixed reference set of prompts in stages. The prompts that told the earlier trials apart come first;
after each stage a trial that is worse than the incumbent, the best that was asked the whole set, is ended there. So
most trials cost a fraction of the set, and all of them have a value on the same scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from math import comb, exp, fsum, lgamma
from typing import Annotated, Self

from pydantic import Field, model_validator

from objectives.score import Frozen, ObjectiveError, Prompt

Trial = Mapping[int, "Asked"]  # by the prompt's key; a trial may have been asked only some of the prompts


class Asked(Frozen):
    """What one earlier trial did on one prompt: whether it followed it, and the tokens of its answer."""

    followed: bool
    tokens: Annotated[int, Field(ge=0)]


def order(prompts: Sequence[Prompt], earlier: Sequence[Trial]) -> tuple[Prompt, ...]:
    """The prompts in the order in which a new trial is asked them, those first that tell trials apart.

    First come the prompts on which the `earlier` trials differed, by their discrimination: the covariance, over those
    trials, of the verdict on the prompt with the share followed of the other prompts (the item-total covariance of
    classical test theory: Lord and Novick, Statistical Theories of Mental Test Scores, 1968, chapter 15). Where two
    are equal, the one with the shorter answers comes first. Then come those on which no two trials differed, as given.
    With fewer than two earlier trials all stay as given, which should be the order of `objectives.subset.take`. The
    order of the earlier trials makes no difference.

    `earlier` must hold neither the trial to be asked nor the incumbent with which it will be compared. The incumbent
    is the best of its kind, so the prompts that agree with its rank are those on which it happened to do well: a trial
    that is just as good would look worse there, and `Race` would end it far more often than its error rate says.
    """
    surprise = _surprises(prompts, earlier)
    total = [fsum(of_trial.values()) for of_trial in surprise]

    def rank(prompt: Prompt) -> tuple[bool, float, float]:
        trials = [(trial, own[prompt.key]) for trial, own in enumerate(surprise) if prompt.key in own]
        if not any(own for _, own in trials):
            return True, 0.0, 0.0
        # of the other prompts: without this one, which agrees with itself
        agreement = fsum(own * (total[trial] - own) / max(1, len(surprise[trial]) - 1) for trial, own in trials)
        tokens = fsum(earlier[trial][prompt.key].tokens for trial, _ in trials) / len(trials)
        return False, -round(agreement, 9), tokens  # rounded: what is equal on paper is equal here

    return tuple(sorted(prompts, key=rank))


def _surprises(prompts: Sequence[Prompt], earlier: Sequence[Trial]) -> list[dict[int, float]]:
    """For each trial and each prompt that it was asked: its verdict less the mean verdict of those asked the prompt."""
    surprises: list[dict[int, float]] = [{} for _ in earlier]
    for key in (prompt.key for prompt in prompts):
        asked = [(own, trial[key].followed) for own, trial in zip(surprises, earlier, strict=True) if key in trial]
        followed = sum(verdict for _, verdict in asked)
        for own, verdict in asked:
            own[key] = verdict - followed / len(asked)
    return surprises


class Race(Frozen):
    """When a trial is ended. `stages`: after how many prompts it is looked at, rising; none: it never is.

    `error_rate`: the largest probability with which a trial that is as good as the incumbent or better is ended, at
    whichever look.
    """

    stages: tuple[Annotated[int, Field(ge=1)], ...]
    error_rate: Annotated[float, Field(gt=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if any(later <= sooner for sooner, later in pairwise(self.stages)):
            raise ValueError(f"stages must rise, {self.stages} do not; write for example (24, 48)")
        return self

    def behind(self, differences: Sequence[int]) -> bool:
        """Whether the trial is to be ended, looked at once after every stage that `differences` covers.

        `differences`: trial less incumbent on the prompts asked so far, in order: -1 where only the incumbent followed
        the prompt, 1 where only the trial did, else 0. What comes after the last whole stage is not looked at.

        The method is the exact one-sided sign test on the prompts where the two differ (McNemar, Psychometrika 12,
        1947), repeated with alpha spending (Lan and DeMets, Biometrika 70, 1983): of J looks the j-th may bring the
        probability of having ended a trial wrongly to j/J of `error_rate`. That probability is not bounded but
        computed, look by look, given how many prompts differed in each stage, so nothing is lost to a correction for
        several tests: on replayed verdicts it ended nearly twice as many trials as a sign test with Bonferroni's
        correction, and more than twice as many as an e-process (benchmarks/score_replay.py).

        The null hypothesis: where trial and incumbent differ, either is as likely to be the one that followed,
        independently, or the trial is likelier. It needs an order of the prompts that looks at neither of the two (see
        `order`). It does not say that the two have equal abilities: an incumbent is the best of several and was lucky,
        too, on the reference set; a trial that is its equal in truth is likely to score less there, asked in stages or
        at once. A trial is never ended unless it is below the incumbent on the prompts asked.
        """
        if any(difference not in (-1, 0, 1) for difference in differences):
            raise ObjectiveError("differences of verdicts are -1, 0 or 1; subtract the incumbent's verdict as 0 or 1")
        stages = [stage for stage in self.stages if stage <= len(differences)]
        differ = tuple(sum(map(abs, differences[a:b])) for a, b in pairwise([0, *stages]))
        limits = _limits(differ, len(self.stages), self.error_rate)
        lost = (sum(difference == -1 for difference in differences[:stage]) for stage in stages)
        return any(count >= limit for count, limit in zip(lost, limits, strict=True))


@lru_cache(maxsize=4096)
def _limits(differ: tuple[int, ...], looks: int, error_rate: float) -> tuple[int, ...]:
    """At each look so far the number of lost prompts from which a trial is ended, `differ[j]` prompts of stage j being
    those where the two differ. Where no number is enough, it is one more than there are."""
    going = [1.0]  # probability that a fair coin's trial has lost i prompts and was not ended
    spent = 0.0
    limits: list[int] = []
    for look, new in enumerate(differ, start=1):
        going = _tossed(going, new)
        seen = sum(differ[:look])
        limit = seen + 1
        while 2 * (limit - 1) > seen and spent + fsum(going[limit - 1 :]) <= error_rate * look / looks:
            limit -= 1
        spent += fsum(going[limit:])
        going = going[:limit]
        limits.append(limit)
    return tuple(limits)


def _tossed(going: Sequence[float], coins: int) -> list[float]:
    """The distribution of the number lost, after so many more tosses of a fair coin."""
    after = [0.0] * (len(going) + coins)
    for lost, probability in enumerate(going):
        for more in range(coins + 1):
            after[lost + more] += probability * comb(coins, more) / 2**coins
    return after


# Of the prompts that a trial was not asked, it follows a share of those that the incumbent follows, and of the others.
# What is believed of the two before any is asked: beta distributions with the weight of so many prompts, chosen on 100
# random splits of published verdicts (benchmarks/score_replay.py reports on others). Of trials that learned, that is;
# one in a thousand may have come to nothing, of which nothing is believed.
LIKE = (16.0, 4.0)  # of those that the incumbent follows: four in five
OTHER = (2.0, 18.0)  # of the others: one in ten
ODD = 0.001


def estimate(followed: Mapping[int, bool], incumbent: Mapping[int, bool] | None, reference: Sequence[int]) -> float:
    """A trial's value: the share of the `reference` prompts (their keys) that it follows, estimated where not asked.

    A trial that was asked the whole reference set has its plain prompt-level strict accuracy. For one that was ended, a
    prompt not asked counts as the share that it follows of prompts of its kind, those that the incumbent follows or
    those that it does not: the posterior mean, given the prompts of that kind that it was asked (LIKE, OTHER, ODD).
    An ended trial has lost to the incumbent and never counts more than if it lost nothing else, so it lies below the
    incumbent; and trials that were asked different numbers of prompts can be compared. Without an incumbent the prompts
    asked stand for all. Raises ObjectiveError where no prompt of the reference was asked, or the incumbent lacks one.
    """
    asked = [key for key in reference if key in followed]
    if not asked:
        raise ObjectiveError("a trial that was asked no reference prompt has no value; ask it at least one stage")
    own = sum(followed[key] for key in asked)
    if incumbent is None or len(asked) == len(reference):
        return own / len(asked)
    lacking = [key for key in reference if key not in incumbent]
    if lacking:
        raise ObjectiveError(f"the incumbent was not asked prompt {lacking[0]}; take one that was asked all of them")
    shares = {kind: _share([followed[key] for key in asked if incumbent[key] == kind], kind) for kind in (True, False)}
    rest = fsum(shares[incumbent[key]] for key in reference if key not in followed)
    at_most = sum(incumbent[key] for key in reference) + own - sum(incumbent[key] for key in asked)
    return max(0.0, min(own + rest, at_most)) / len(reference)


def _share(verdicts: Sequence[bool], like: bool) -> float:
    """The expected share of prompts followed, after these verdicts on prompts of that kind."""
    hits, misses = sum(verdicts), len(verdicts) - sum(verdicts)
    a, b = LIKE if like else OTHER
    usual, odd = _evidence(a, b, hits, misses), _evidence(1.0, 1.0, hits, misses)
    weight = ODD * odd / (ODD * odd + (1 - ODD) * usual)
    return (1 - weight) * (a + hits) / (a + b + len(verdicts)) + weight * (1 + hits) / (2 + len(verdicts))


def _evidence(a: float, b: float, hits: int, misses: int) -> float:
    """The probability of a sequence of so many hits and misses whose rate is drawn from that beta distribution."""
    logs = (lgamma(a + hits), lgamma(b + misses), lgamma(a + b), -lgamma(a + b + hits + misses), -lgamma(a), -lgamma(b))
    return exp(fsum(logs))
