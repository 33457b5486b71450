"""The note that every trial carries in the dashboard, and its readable attributes. Pure: records in, Markdown out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objectives.score import Measure, Score
from search.finals import Race
from search.parameters import Value
from search.standing import BEHIND
from train.planning.plan import Plan
from train.rundir import Json

SAMPLES = 3
SAMPLE_CHARACTERS = 400


def attributes(run: str, plan: Plan, result: Json, gpu_seconds: float) -> dict[str, Any]:
    """User attributes of an ended trial. `score` is for programs, the rest for people.

    A trial that was ended as behind has no `score`, which could not be compared with others', but the number of the
    trial that it is behind.
    """
    values: dict[str, Any] = {
        "run": run,
        "gpu_seconds": round(gpu_seconds, 1),
        "trainable_parameters": plan.trainable_parameters,
        "planned_peak_mib": round(plan.peak_bytes / 2**20),
    }
    if result.get("peak_memory_bytes"):
        values["measured_peak_mib"] = round(result["peak_memory_bytes"] / 2**20)
    for fraction, bits in result.get("rungs", {}).items():
        values[f"bits_per_byte_{round(100 * float(fraction))}"] = round(bits, 4)
    if result.get("reason"):
        values["reason"] = result["reason"]
    if result.get("score"):
        score, race = _score(result), result["race"]
        values |= {"prompts_asked": race["asked"], "prompts_of": race["of"], "generated_tokens": score.tokens}
        values["prompts_followed"] = sum(verdict.followed for verdict in score.verdicts)
        if race["behind"] is not None:
            return {**values, BEHIND: race["behind"]}
        values["score"] = score.prompt_strict.model_dump()
        values |= {f"ifeval_{name}": str(measure) for name, measure in _metrics(score).items()}
    return values


def note(params: Mapping[str, Value], prior: str, plan: Plan, result: Json, samples: Sequence[Json]) -> str:
    """Markdown: recipe, plan, rungs, scores with standard errors, and three generations."""
    parts = [
        f"### {result['outcome'].capitalize()}" + (f": {result['reason']}" if result.get("reason") else ""),
        _table(("hyperparameter", "value"), list(params.items())) + (f"\n\nPrior: *{prior}*" if prior else ""),
        "#### Plan\n"
        + _table(
            ("what", "planned", "measured"),
            [
                ("trainable parameters", f"{plan.trainable_parameters:,}", _count(result, "trainable_parameters")),
                ("peak memory", _mib(plan.peak_bytes), _mib(result.get("peak_memory_bytes"))),
                ("optimizer steps", plan.steps, result.get("steps", "")),
            ],
        ),
    ]
    if result.get("rungs"):
        rows = [(f"{float(fraction):.0%}", f"{bits:.4f}") for fraction, bits in result["rungs"].items()]
        parts.append("#### Rungs\n" + _table(("of the horizon", "bits per byte of the probe"), rows))
    if result.get("score"):
        score = _score(result)
        parts.append(
            f"#### IFEval, {score.prompt_strict.n} of {result['race']['of']} prompts of the search half\n"
            + _table(("metric", "value ± standard error"), list(_metrics(score).items()))
            + f"\n\n{_answers(score)}"
        )
    if samples:
        parts.append("#### Three answers\n" + "\n\n".join(_sample(sample) for sample in samples[:SAMPLES]))
    return "\n\n".join(parts) + "\n"


def of_race(race: Race) -> str:
    """Markdown for the study's own page: the final race."""
    rows = [(f"trial {each.trial}", each.score, each.fresh or "", each.out) for each in race.runners]
    told = str(race)
    return f"### {told[0].upper()}{told[1:]}\n\n" + _table(
        ("finalist", "score that it was picked for", "on fresh prompts", "out"), rows
    )


def _score(result: Json) -> Score:
    return Score.model_validate(result["score"], strict=False)


def _metrics(score: Score) -> dict[str, Measure]:
    """What is known: where answers were ended early, the prompts' strict verdicts alone."""
    every = {
        "prompt_strict": score.prompt_strict,
        "clean": score.clean,
        "prompt_loose": score.prompt_loose,
        "instruction_strict": score.instruction_strict,
        "instruction_loose": score.instruction_loose,
    }
    return {name: measure for name, measure in every.items() if measure is not None}


def _answers(score: Score) -> str:
    """What became of the answers."""
    capped, decided = (sum(flags) for flags in zip(*((v.capped, v.decided) for v in score.verdicts), strict=True))
    return (
        f"Of {len(score.verdicts)} answers {capped} were cut off by the length limit, {score.looped} end in a loop, "
        f"{score.empty} are empty, {decided} were ended once their verdict was decided."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _sample(sample: Json) -> str:
    verdict = ("followed" if sample["strict"] else "not followed") + (
        ", decided before its end" if sample["decided"] else ""
    )
    return f"**{verdict}**\n\n{_quote(sample['prompt'])}\n\n{_fence(sample['response'])}"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}" for line in text[:SAMPLE_CHARACTERS].splitlines())


def _fence(text: str) -> str:
    return "~~~text\n" + text[:SAMPLE_CHARACTERS].replace("~~~", "~ ~ ~") + "\n~~~"


def _count(result: Json, key: str) -> str:
    return f"{result[key]:,}" if result.get(key) else ""


def _mib(size: int | None) -> str:
    return f"{size / 2**20:,.0f} MiB" if size else ""
