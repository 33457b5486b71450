"""The report on the final race: who answered fresh prompts, how they did, and who won."""

from __future__ import annotations

from collections.abc import Iterator

from search import finals_record, split
from search import report_text as text
from search.finals import ERROR_RATE
from search.report_pages import Block, Heading, Missing, Paragraph, Table
from search.report_records import Records


def final_race(records: Records) -> Iterator[Block]:
    """The race, or why there is none; nothing where nobody asked for one."""
    study, config = records.study, records.config
    race = study.race
    if race is None:
        if config and (nothing := finals_record.nothing_to_ask(config, split.count(study.folder))):
            yield Paragraph(f"There is {nothing}.")
        elif config and config.study.finalists and study.best:
            yield Missing("The best trials were not compared on fresh prompts yet.", text.start(records))
        return
    yield Heading("The final race")
    yield Paragraph(
        f"The best trials answered prompts of the search half that no trial had been asked. One that was clearly "
        f"behind another was out (exact sign test after each stage, error rate {ERROR_RATE:g} in all). Here, {race}. "
        "Fresh prompts had no part in picking the finalists; the winner's score on them is still the best of "
        f"{len(race.runners)}, which flatters it a little."
    )
    rows = [
        (
            str(each.trial),
            text.measure(each.score),
            text.measure(each.fresh),
            str(each.fresh.n if each.fresh else 0),
            "won" if each.trial == race.winner else each.out,
        )
        for each in race.runners
    ]
    head = ("trial", "score that it was picked for", "on fresh prompts", "asked", "")
    strong = next((n for n, each in enumerate(race.runners) if each.trial == race.winner), None)
    yield Table(head, rows, "rrrrl", strong=strong)
    if race.next:
        yield Missing("The race is not over.", text.start(records))
