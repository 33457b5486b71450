"""The report's section on evaluation: scores by half with standard errors, by type of instruction; samples."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

from objectives.score import Score
from search import report_figures as figures
from search import report_speed
from search import report_text as text
from search.report_canvas import picture
from search.report_pages import Block, Code, Heading, Missing, Paragraph, Table
from search.report_race import final_race
from search.report_records import Records
from search.report_run import RunRecord
from search.report_text import HALVES
from train.rundir import Json

METRICS = {
    "prompt_strict": "prompts, strict (official)",
    "clean": "prompts, strict (clean)",
    "prompt_loose": "prompts, loose",
    "instruction_strict": "instructions, strict",
    "instruction_loose": "instructions, loose",
}
SAMPLE_CHARACTERS = 600
TYPES = "Share of instructions followed, judged strictly, of n asked in each half; ± of the final run."
NOT_ASKED = "not asked"
PUNKT = "python -m nltk.downloader punkt_tab"


def evaluation(records: Records) -> Iterator[Block]:
    """Scores, answers, instruction types, speed and size."""
    yield from _headline(records)
    yield from final_race(records)
    yield records.answers.ask("conclusions")
    final = records.final
    if final is None or not final.scores or not final.base_scores:
        if records.study.best:
            yield from _not_scored(records)
        yield from _search_evaluation(records)
    else:
        yield from _final_evaluation(final)
    if final and final.result:
        yield from report_speed.speed_and_size(records, final)
    if final and final.samples:
        yield Heading("Three answers")
        yield from _samples(final.samples)


def _headline(records: Records) -> Iterator[Block]:
    """The strict share of every model, on each part of the prompts."""
    study, final = records.study, records.final
    subset = study.base or (study.best.score if study.best else None)
    yield Paragraph(
        "Share of IFEval prompts of which every instruction was followed, judged strictly. The search saw "
        + (f"{subset.n} prompts of one half" if subset else "a part of one half")
        + "; the sealed half is first asked by the final run, after training. "
        + (f"The best trial is {study.pick}. " if study.pick else "")
        + "It is picked by scores of the search half, which therefore flatter it; the sealed half has no part in that."
    )
    head = ("model", "search's subset", *HALVES.values())
    rows = [("base model", text.measure(study.base), *_halves(final.base_scores if final else {}))]
    if study.best:
        rows.append(
            (f"best trial ({text.trial_name(study.best)})", text.measure(study.best.score), *[NOT_ASKED] * len(HALVES))
        )
    if final and final.scores:
        rows.append(("final run", NOT_ASKED, *_halves(final.scores)))
    yield Table(head, rows, "lrrrr", strong=len(rows) - 1 if final and final.scores else None)
    if not study.base:
        yield Missing("The base model is not scored yet.", text.start(records))
    if not study.best:
        yield Missing("No trial is complete yet.", text.start(records))


def _halves(scores: Mapping[str, Score]) -> tuple[str, ...]:
    return tuple(str(scores[half].prompt_strict) if half in scores else NOT_ASKED for half in HALVES)


def _not_scored(records: Records) -> Iterator[Block]:
    if records.final is None or not records.final.result:
        yield text.missing_final(records)
    else:
        yield Missing(
            "The final run has no scores.", shlex.join(["nightshift", "score", str(records.study.folder / "final")])
        )


def _final_evaluation(final: RunRecord) -> Iterator[Block]:
    """Before and after, on both halves and together."""
    parts = [half for half in HALVES if half in final.scores and half in final.base_scores]
    pairs = {half: (final.base_scores[half], final.scores[half]) for half in parts}
    columns = {
        f"{HALVES[half]}: {who}": score
        for half, pair in pairs.items()
        for who, score in zip(("base", "final"), pair, strict=True)
    }
    yield _metrics(columns)
    yield _answers(columns)
    halves = {HALVES[half]: pairs[half] for half in ("search", "sealed") if half in pairs}
    if halves and all(score.by_type for pair in halves.values() for score in pair):
        yield Heading("By type of instruction")
        yield _types(halves, "final run", "with the final run's standard error")
        yield _type_table(halves)
    if parts:
        yield from _remarks(pairs[parts[-1]][1])


def _type_table(halves: Mapping[str, tuple[Score, Score]]) -> Table:
    """The figures of the picture."""
    names = sorted({name for pair in halves.values() for score in pair for name in score.by_type})
    head = ["type of instruction"]
    for prompts in halves:
        head += [f"{prompts}: n", "base", "final"]
    cells = {name: [cell for pair in halves.values() for cell in _type_cells(name, pair)] for name in names}
    rows = [(name.replace(":", ": "), *row) for name, row in cells.items()]
    return Table(head, rows, "l" + "rrr" * len(halves), caption=TYPES)


def _type_cells(name: str, pair: tuple[Score, Score]) -> tuple[str, str, str]:
    before, after = (score.by_type.get(name) for score in pair)
    counted = after or before
    return str(counted.n) if counted else "", f"{before.value:.3f}" if before else "", text.measure(after)


def _search_evaluation(records: Records) -> Iterator[Block]:
    """Of the base model and the best trial, on the prompts that the search asks."""
    tuned = records.best.score if records.best else None
    if not tuned or not records.base or not records.study.best:
        return
    columns = {"base model": records.base, "best trial": tuned}
    yield _answers(columns)
    if all(score.by_type for score in columns.values()):
        yield _types({"search's subset": tuple(columns.values())}, "best trial", "with the trial's standard error")
    else:
        run = records.study.folder / "runs" / f"{records.study.best.number:03d}"
        yield Missing(
            "The answers of the search were ended once their prompt's verdict was decided, so that the verdict on each "
            "instruction is not known.",
            shlex.join(["nightshift", "score", str(run), "--prompts", "search"]),
        )
    yield from _remarks(columns["best trial"])


def _metrics(columns: Mapping[str, Score]) -> Table:
    rows = [
        (label, *(text.measure(getattr(score, metric)) for score in columns.values()))
        for metric, label in METRICS.items()
    ]
    whole = list(columns.values())[-1]
    left_out = whole.prompt_strict.n - (whole.clean.n if whole.clean else 0)
    caption = f"Clean leaves out {left_out} of the {whole.prompt_strict.n} prompts, which are known to be defective."
    if not left_out:
        caption = "Clean is official here: none of these prompts is known to be defective."
    return Table(("IFEval", *columns), rows, "l" + "r" * len(columns), caption=caption)


def _answers(columns: Mapping[str, Score]) -> Table:
    """What became of the answers, as shares of them."""

    def share(count: int, score: Score) -> str:
        return f"{count / len(score.verdicts):.1%}" if score.verdicts else ""

    rows = [
        ("cut off by the length limit", *(f"{score.capped_share:.1%}" for score in columns.values())),
        ("ending in a loop", *(share(score.looped, score) for score in columns.values())),
        ("without text", *(share(score.empty, score) for score in columns.values())),
        ("tokens an answer", *(f"{score.tokens / max(1, len(score.verdicts)):.1f}" for score in columns.values())),
    ]
    if any(score.decided_share for score in columns.values()):
        ended = (f"{score.decided_share:.1%}" for score in columns.values())
        rows.insert(0, ("ended early, its verdict decided", *ended))
    return Table(("answers", *columns), rows, "l" + "r" * len(columns))


def _types(halves: Mapping[str, tuple[Score, ...]], name: str, errors: str) -> Block:
    panels = [(half, before.by_type, after.by_type) for half, (before, after) in halves.items()]
    return picture(
        "types",
        "Instructions followed, by type",
        f"Share of instructions followed, strict, {errors}; in brackets how many of each type were asked"
        + (", in the one half and in the other." if len(halves) > 1 else "."),
        figures.by_type(panels, name),
    )


def _remarks(score: Score) -> Iterator[Block]:
    if not score.exact:
        yield Missing(
            "Sentences and words in capitals were counted by a fallback, since nltk's punkt_tab is not installed: the "
            "score is not exact.",
            PUNKT,
        )
    if score.empty:
        yield Paragraph(f"{score.empty} of {len(score.verdicts)} answers hold no text, and follow nothing.")
    if score.halved:
        yield Paragraph(
            "Generation ran out of memory and went on with half the batch, in which answers may come out otherwise."
        )


def _samples(samples: Iterable[Json]) -> Iterator[Block]:
    for number, sample in enumerate(samples, start=1):
        verdict = "every instruction followed" if sample.get("strict") else "not every instruction followed"
        yield Paragraph(f"Answer {number}, {verdict}. Prompt: {_cut(str(sample.get('prompt', '')))}")
        yield Code(_cut(str(sample.get("response", ""))))


def _cut(answer: str) -> str:
    return answer if len(answer) <= SAMPLE_CHARACTERS else answer[:SAMPLE_CHARACTERS] + " …"
