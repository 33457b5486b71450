"""The final run: one frozen recipe, trained for at most the hours it names, and scored.

    python final_run.py                      train, or go on where the last start ended, then score; all in ./final
    python final_run.py --until 03:00        the same, with everything saved before the machine is switched off
    python final_run.py --status             say how far it is, and when it will end
    python final_run.py --replay OTHER/final/horizon.jsonl    make another one's run again

Nothing is searched here any more. FROZEN below holds the whole recipe with the digests of the model and the data, where
each value came from, and the versions of the libraries; the code around it is the same in every study. Ctrl-C and
SIGTERM save a checkpoint first; a kill loses what came after the last one. Started again, the run goes on.

How many steps the hours hold is measured on the way, and the schedule follows; each decision about the end is written
to final/horizon.jsonl. A run that takes the decisions of another one (--replay) gives its adapter again, bit for bit on
the CPU and the same hardware, however often either of them was interrupted, and whatever its own clock says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from objectives import agreement, positions, shortfall
from objectives.score import ObjectiveError, Score
from train import final, interrupts, lock, preflight, room, rules, status, until
from train.decisions import FILE, Decisions
from train.environment import versions
from train.planning.plan import inspect_base, inspect_sources
from train.recipe import Recipe, RecipeError
from train.rundir import RunDir, taken, write_atomic, write_json

FROZEN = json.loads(r"""{}""")  # noqa: E501, RUF100

RUN = RunDir(Path(__file__).resolve().with_name("final"))
PARTS = {"search": "half that the search saw", "sealed": "half that it never saw", "all": "all prompts"}


def main() -> int:
    """Returns 0: done, or saved before --until; 1: it failed; 2: something has to be put right first;
    128 + signal: stopped."""
    parser = argparse.ArgumentParser(description="Train the frozen recipe, or go on with it, and score it.")
    parser.add_argument("--status", action="store_true", help="say how far the run is, and when it will end")
    parser.add_argument("--until", metavar="HH:MM", type=until.Until.of, help="save, and end, before that time of day")
    parser.add_argument(
        "--replay", type=os.path.abspath, metavar="HORIZON", help="make the run of that horizon.jsonl again"
    )
    parser.add_argument("--allow-other-versions", action="store_true", help="run with other packages than were frozen")
    parser.add_argument("--edited", action="store_true", help="run although this file or its lock was edited")
    try:
        asked = parser.parse_args()
        recipe = frozen_recipe(asked.edited)
        if asked.replay and RUN.result.exists():
            Decisions(RUN.path / FILE, recipe).take(Path(asked.replay))
        if not asked.status and not RUN.result.exists():
            prompts = check_inputs(recipe, asked)
            with interrupts.Signals() as signals, interrupts.one_at_a_time(RUN):
                run(recipe, prompts, asked, signals)
        told = taken(RUN.result, summary, "put the whole file back, or move it away and start again to score anew")
        print(told or status.progress(recipe, RUN, FROZEN["hours"]))
    except (RecipeError, ObjectiveError) as error:
        print(f"final_run: {error}", file=sys.stderr)
        return 2
    except (final.Failed, OSError) as error:
        print(f"final_run: failed: {error}", file=sys.stderr)
        return 1
    except interrupts.Stopped as stopped:
        print(f"final_run: {stopped.why}; {status.from_where(RUN)}", file=sys.stderr)
        return stopped.code
    return 0


def frozen_recipe(edited: bool) -> Recipe:
    """The recipe, if it is the one that was frozen (or the edits are meant), and the one that ./final holds."""
    if not edited:
        lock.check_file(FROZEN, Path(__file__))
    try:
        recipe = Recipe.model_validate_json(json.dumps(FROZEN["recipe"]))
    except ValueError as error:
        raise RecipeError(f"the recipe in {__file__} is not valid: {error}") from None
    if recipe.digest != FROZEN["recipe_sha256"] and not edited:
        raise RecipeError(
            f"{__file__} was frozen by another Nightshift ({FROZEN['versions'].get('nightshift')}), whose recipes have "
            "other fields: install that one, or freeze again"
        )
    if RUN.recipe_path.exists() and RUN.recipe() != recipe:
        away = shlex.join(["mv", str(RUN.path), f"{RUN.path}-old"])
        raise RecipeError(f"{RUN.path} holds the run of another recipe; move it away: {away}")
    return recipe


def check_inputs(recipe: Recipe, asked: argparse.Namespace) -> Path:
    """Refuse what would make another run, or none, before a second is spent; returns the path of the prompts."""
    os.chdir(RUN.path.parent)  # where relative paths in the recipe start
    card, switches = preflight.card_for(FROZEN["device"]), (asked.edited, asked.allow_other_versions)
    told = lock.check(FROZEN, Path(__file__), *switches, card)
    prompts = Path(RUN.path.parent, FROZEN["objective"]["prompts"])
    if not prompts.is_file():
        raise ObjectiveError(f"the prompts {prompts} are not there. {FROZEN['objective']['origin']}")
    digest = hashlib.sha256(prompts.read_bytes()).hexdigest()
    if FROZEN["objective"]["prompts_sha256"] not in (None, digest):
        raise ObjectiveError(f"{prompts} is not the file that was frozen (its sha256 is {digest}); put that one back")
    base = inspect_base(recipe.base.model, recipe.base.revision, recipe.base.sha256)
    positions.check_frozen(FROZEN["objective"], prompts, base.folder, preflight.template(recipe, base), base.context)
    preflight.check(recipe, base, RUN, card, FROZEN["hours"], FROZEN["least_hours"])
    told += rules.check(recipe, base, inspect_sources(recipe.sources), digest, FROZEN["rules"])
    for line in (*told, *room.notice(RUN.path, base)):
        print(line)
    return prompts


def run(recipe: Recipe, prompts: Path, asked: argparse.Namespace, signals: interrupts.Signals) -> None:
    """Train, unless an earlier start has; score the tuned and the base model, measure, and write the result."""
    os.environ.update(OMP_NUM_THREADS=str(recipe.threads), TOKENIZERS_PARALLELISM="false")  # before torch is imported
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    for name, change in FROZEN["origin"].get("changes", {}).items():
        print(f"{name}: {change['from']:,.10g} in the trial, {change['to']:,.10g} here ({change['why']})")
    if asked.replay:
        Decisions(RUN.path / FILE, recipe).take(Path(asked.replay))
    limits = final.Limits(FROZEN["hours"], FROZEN["longest"], FROZEN["checkpoint_minutes"], asked.until)
    base = final.train_within(recipe, RUN, FROZEN["device"], limits, signals, print)
    from objectives.latency import measured
    from train.model import drop_adapter, load_adapter

    made = {"recipe_sha256": recipe.digest, "versions": versions(FROZEN["versions"])}
    result: dict[str, Any] = {**(final.trained(RUN) or {}), **made}
    tuned = load_adapter(base, RUN.adapter)
    result["scores"], samples = score("tuned", tuned, base, recipe, prompts)
    write_atomic(RUN.samples, "".join(json.dumps(sample) + "\n" for sample in samples))
    result |= measured(tuned, base.tokenizer, RUN.adapter)
    drop_adapter(tuned)
    result["base_scores"], _ = score("base", base.model, base, recipe, prompts)
    del tuned, base  # the merged model needs their memory
    result["merged"] = look_at_merged(recipe, prompts, result["scores"], samples)
    write_json(RUN.result, result)


def look_at_merged(recipe: Recipe, prompts: Path, before: dict[str, Any], samples: list[Any]) -> dict[str, Any]:
    """The adapter merged into the base model: whether it answers as before, how fast, how large; or why not."""
    from objectives.latency import measured
    from train.merged import merged

    try:
        with merged(recipe, RUN, FROZEN["device"]) as (loaded, facts):
            scores, answers = score(f"merged-{facts['weights']}", loaded.model, loaded, recipe, prompts)
            agreed = agreement.agreement(before, scores, samples, answers)
            return {**facts, "scores": scores, "agreement": agreed, **measured(loaded.model, loaded.tokenizer)}
    except (RecipeError, ObjectiveError, OSError, RuntimeError) as error:  # the run is not lost with it
        return {"left_out": str(error)}


def score(who: str, model: Any, base: Any, recipe: Recipe, prompts: Path) -> tuple[dict[str, Any], list[Any]]:
    """Scores of one model by part of the prompts, and its answers. Not counted in the hours."""
    from objectives.evaluation import evaluate
    from objectives.generate import Generator

    length = {key: FROZEN["objective"][key] for key in ("max_new_tokens", "batch_size")}
    generator = Generator(model, base.tokenizer, chat_template=recipe.chat_template, **length)
    scores, samples = evaluate(
        prompts,
        generator,
        RUN.path / f"answers-{who}",
        lambda text: print(f"{who}: {text}"),
        identity={"who": who, "recipe_sha256": recipe.digest, "versions": versions(FROZEN["versions"]), **length},
    )
    return {part: score.model_dump(mode="json") for part, score in scores.items()}, samples


def summary(result: dict[str, Any]) -> str:
    """The result as a short table."""
    lines = [f"{'IFEval, prompts followed (strict)':<36}{'base model':>18}{'after the run':>18}"]
    for part, name in PARTS.items():
        before, after = (Score.model_validate_json(json.dumps(result[key][part])) for key in ("base_scores", "scores"))
        asked = f"{name} ({after.prompt_strict.n})"
        lines.append(f"{asked:<36}{before.prompt_strict!s:>18}{after.prompt_strict!s:>18}")
    lines += after.remarks
    lines += agreement.told(result)
    size = result["size"]["adapter_bytes"] / 2**20
    lines.append(f"{RUN.adapter}: {result['trainable_parameters']:,} trained parameters, {size:.1f} MiB")
    lines.append(final.spent(result, FROZEN["hours"]))
    return "\n".join([*lines, *shortfall.told(result, FROZEN)])


if __name__ == "__main__":
    sys.exit(main())
