"""Trains recipes of the rehearsal space to their full horizon, and keeps all that a search sees of them.

    python benchmarks/landscape_make.py NAME [--recipes 240] [--repeats 12]

NAME is one of WORLDS. Each recipe is trained by the loop that trains a trial, on its own seed, and is asked the whole
search half at every rung of ASKED and both halves at the end. Seconds are CPU seconds of this one process, so that
other work on the machine does not show. The rows go to a file in the cache folder as they are made, and from there,
when it ends, to benchmarks/landscapes/NAME.jsonl.gz; a killed run goes on where it was, on another machine too.

The first line of the file says what it is of; every other one is a recipe:

    params, prior    what the space gave; the name of the hand-picked recipe, or ""
    seed             of the training run; the repeats are recipes of the list once more, with another seed
    outcome          completed, or failed with its reason
    steps, seconds   of the optimizer; by phase (data, train, probe, save), rungs' scoring apart
    bits             {percent of the horizon: bits per byte of the probe}
    followed         {percent: one character a prompt of the search half, in its order, 1 where followed}, strict
    sealed           the same for the sealed half, at the end
    asked_seconds    {percent: seconds of generating and checking those answers}; answers end once they are decided
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from objectives import decided, generate, ifeval, subset
from objectives.score import Prompt
from search import config, home, space, survey
from search.config import StudyConfig
from search.parameters import Value
from train import loop, model, rehearsal
from train.data.splits import splits
from train.model import LoadedBase
from train.recipe import Recipe
from train.rundir import Json, RunDir
from train.watch import StepFacts

FOLDER = Path(__file__).parent / "landscapes"
RUNGS = (0.125, 0.25, 0.5, 0.75, 1.0)
ASKED = (0.25, 0.5, 1.0)
NEW_TOKENS, BATCH = 64, 64


def _qwen2() -> Any:
    """A base of another kind: grouped queries, biases, narrower and deeper."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from train import rehearsal_base as base

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=base.VOCABULARY,
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=base.CONTEXT,
            initializer_range=base.INITIALIZER_RANGE,
            tie_word_embeddings=True,
            pad_token_id=base.SPECIAL.index(base.PAD),
            eos_token_id=base.SPECIAL.index(base.END),
            bos_token_id=None,
        )
    )


WORLDS: dict[str, tuple[int, Callable[[], Any] | None]] = {  # seed of the world; how its base is made
    "llama-0": (0, None),
    "llama-1": (1, None),
    "qwen2-2": (2, _qwen2),
}


@dataclass
class Watch:
    """Asks the search half at the rungs, and takes no time of the training's for it."""

    ask: Callable[[], tuple[str, float]]
    followed: dict[int, str] = field(default_factory=dict)
    asked_seconds: dict[int, float] = field(default_factory=dict)

    def begins(self, step: int, damaged: object) -> None:
        """Nothing to add."""

    def step(self, facts: StepFacts) -> None:
        """Nothing to add."""

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """Ask, where it is due; every recipe goes on to its end."""
        if fraction in ASKED:
            percent = round(100 * fraction)
            self.followed[percent], self.asked_seconds[percent] = self.ask()
        return True

    def should_stop(self) -> bool:
        """Go on."""
        return False


@dataclass(frozen=True)
class Maker:
    """One world, its base model in memory, and its prompts."""

    study: StudyConfig
    found: survey.Survey
    base: LoadedBase
    sealed: tuple[Prompt, ...]
    scratch: Path

    def row(self, number: int, params: dict[str, Value], prior: str, seed: int) -> Json:
        """Train one recipe, and everything that is to be known of it."""
        recipe = space.recipe(self.study, params, self.found).model_copy(update={"seed": seed})
        run = RunDir(self.scratch / f"{number:03d}")
        watch = Watch(lambda: self.ask(recipe, self.found.search_half))
        made: Json = {"params": params, "prior": prior, "seed": seed}
        try:
            trained = self.trained(recipe, run, watch)
        except loop.TrainingFailed as error:
            return {**made, "outcome": "failed", "reason": str(error), **_rungs(run), **vars_of(watch)}
        try:
            sealed, _ = self.ask(recipe, self.sealed)
        finally:
            model.drop_adapter(trained["model"])
            rungs = _rungs(run)
            shutil.rmtree(run.path)
        known = {key: trained[key] for key in ("steps", "seconds")}
        return {**made, "outcome": "completed", **known, **rungs, **vars_of(watch), "sealed": sealed}

    def trained(self, recipe: Recipe, run: RunDir, watch: Watch) -> Json:
        """The end of the training run; its phases in CPU seconds, the rungs' scoring taken out."""
        began = time.process_time()
        data = splits(recipe, self.base.tokenizer, self.base.context)
        read_s = time.process_time() - began
        began, began_wall = time.process_time(), time.perf_counter()
        made = loop.train(recipe, run, self.base, watch=watch, rungs=RUNGS, checkpoint_every_s=1e9, splits=data)
        cpu, wall = time.process_time() - began, time.perf_counter() - began_wall
        parts = {phase: seconds * cpu / wall for phase, seconds in made.seconds.items()}
        asked = sum(watch.asked_seconds.values())
        parts["train"] -= asked
        parts["data"] = read_s
        return {"model": made.model, "steps": made.steps, "seconds": _rounded(parts)}

    def ask(self, recipe: Recipe, prompts: Sequence[Prompt]) -> tuple[str, float]:
        """Which of the prompts the model as it is now follows, and the seconds that it took."""
        began = time.process_time()
        generator = generate.Generator(self.base.model, self.base.tokenizer, recipe.chat_template, NEW_TOKENS, BATCH)
        answers = generator([prompt.prompt for prompt in prompts], stop=decided.stops(prompts))
        verdicts = ifeval.IFEval(prompts).check(answers).verdicts
        return "".join(str(int(v.followed)) for v in verdicts), round(time.process_time() - began, 3)


def vars_of(watch: Watch) -> Json:
    """What a watch has seen, as JSON."""
    return {"followed": watch.followed, "asked_seconds": watch.asked_seconds}


def _rungs(run: RunDir) -> Json:
    events = [event for event in run.read_events() if event["event"] == "rung"]
    return {"bits": {f"{100 * event['fraction']:g}": round(event["bits_per_byte"], 5) for event in events}}


def _rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in parts.items()}


@contextmanager
def maker(name: str) -> Iterator[Maker]:
    """The world of that name, in a folder that is gone afterwards."""
    seed, fresh = WORLDS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rehearsal.make_world(folder / "world", seed)
        if fresh is not None:
            shutil.rmtree(folder / "world" / "base")
            rehearsal.make_base(folder / "world", seed, rehearsal.STEPS, fresh=fresh)
        path = folder / home.STUDY_FILE
        path.write_text(re.sub(r"(?m)^seed = 0\b", f"seed = {seed}", home.preset("rehearsal")), encoding="utf-8")
        study = config.load(path)
        found = survey.survey(study)
        sealed = subset.halves(ifeval.load_prompts(study.objective.prompts))[1]
        base = model.load_base(space.recipe(study, {}, found).base, threads=1, device="cpu")
        yield Maker(study, found, base, sealed, folder)


def points(study: StudyConfig, count: int) -> list[tuple[dict[str, Value], str]]:
    """The hand-picked recipes, what they do not name at the sampler's choice, then random ones."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=study.study.seed))
    for prior in study.prior:
        drawn.enqueue_trial(dict(prior.params), user_attrs={"prior": prior.name})
    trials = [drawn.ask() for _ in range(count)]
    return [(space.suggest(trial, study), str(trial.user_attrs.get("prior", ""))) for trial in trials]


def make(name: str, recipes: int, repeats: int, kept: Path) -> None:
    """Append the rows that `kept` does not have yet."""
    with maker(name) as world, open(kept, "a", encoding="utf-8") as file:
        drawn = points(world.study, recipes)
        seed = world.study.study.seed
        wanted = [(*point, seed) for point in drawn] + [(*point, seed + 1000) for point in drawn[:repeats]]
        if file.tell() == 0:
            halves = {"search": world.found.search_half, "sealed": world.sealed}
            keys = {half: [prompt.key for prompt in prompts] for half, prompts in halves.items()}
            file.write(json.dumps({"landscape": name, "seed": seed, "recipes": recipes, **keys}) + "\n")
        with open(kept, encoding="utf-8") as lines:
            done = max(0, sum(1 for _ in lines) - 1)
        for number, (params, prior, run_seed) in enumerate(wanted[done:], start=done):
            row = world.row(number, params, prior, run_seed)
            file.write(json.dumps(row) + "\n")
            file.flush()
            share = row["followed"].get(100, "")
            print(f"{name} {number + 1}/{len(wanted)} {share.count('1')}/{len(share)} {row.get('seconds')}", flush=True)


def main() -> None:
    """Make one landscape, and pack it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=WORLDS)
    parser.add_argument("--recipes", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=12)
    asked = parser.parse_args()
    kept = rehearsal._cache() / f"landscape-{asked.name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    packed = FOLDER / f"{asked.name}.jsonl.gz"
    if packed.exists() and not kept.exists():
        kept.write_bytes(gzip.decompress(packed.read_bytes()))
    make(asked.name, asked.recipes, asked.repeats, kept)
    FOLDER.mkdir(exist_ok=True)
    packed.write_bytes(gzip.compress(kept.read_bytes(), mtime=0))
    print(f"{asked.name}: {packed.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
