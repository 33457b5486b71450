"""Data sets whose structure is not one of train.data.rows: their records, brought into one of those. Imports no torch.

    dolly          databricks-dolly-15k: instruction, context, response; the context goes under the instruction
    oasst          OpenAssistant/oasst1, one message a record: the best-ranked thread of each tree (train.data.trees)
    lima           GAIR/lima: conversations, a list of strings in turn. A last question that nobody answered is left out
    ultrafeedback  HuggingFaceH4/ultrafeedback_binarized: prompt, chosen, rejected; as sft data, its chosen side

With format "auto" the first record's fields tell which it is, and what is none of these is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from train.data import trees
from train.data.rows import BadRow, Record, kind_of
from train.data.trees import Placed
from train.recipe import Fields, Source

NAMES = {"dolly": "databricks-dolly-15k", "lima": "LIMA", "ultrafeedback": "UltraFeedback binarized"}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "dolly": ("instruction", "context", "response"),
    "lima": ("conversations",),
    "ultrafeedback": ("prompt", "chosen", "rejected"),
}


def adapted(source: Source, records: Iterable[Placed], left_out: Counter[str]) -> Iterator[Placed]:
    """The records in a structure that train.data.rows reads, each with its place.

    A record that cannot be read comes as a BadRow. `left_out` counts, by reason, what is in no record any more.
    """
    if source.fields != Fields():
        return _each(records, lambda record: _renamed(record, source.fields))
    kind, records = _kind(source, records)
    if kind == "oasst":
        return trees.threads(records, left_out)
    if kind == "lima":
        return _each(records, lambda record: _lima(_columns(record, "lima"), left_out))
    if kind == "ultrafeedback" and source.use == "sft":
        return _each(records, lambda record: {"messages": _columns(record, kind)["chosen"]})
    if kind in COLUMNS:
        return _each(records, lambda record: _columns(record, kind))
    return iter(records)


def _kind(source: Source, records: Iterable[Placed]) -> tuple[str, Iterable[Placed]]:
    """The format, and the records as they were before the first of them was looked at."""
    if source.format != "auto":
        return source.format, records
    ahead = iter(records)
    first = next(ahead, None)
    if first is None:
        return "auto", ()
    return _told(first[1]), chain([first], ahead)


def _told(record: Any) -> Literal["auto", "oasst", "lima", "ultrafeedback"]:
    if not isinstance(record, Mapping):
        return "auto"
    if {"message_id", "parent_id", "message_tree_id", "text", "role"} <= record.keys():
        return "oasst"
    if {"prompt_id", "chosen", "rejected", "score_chosen"} <= record.keys():
        return "ultrafeedback"
    turns = record.get("conversations")
    if isinstance(turns, Sequence) and turns and all(isinstance(turn, str) for turn in turns) and "source" in record:
        return "lima"
    return "auto"


def _each(records: Iterable[Placed], change: Callable[[Record], Record]) -> Iterator[Placed]:
    for place, record in records:
        if not isinstance(record, Mapping):
            yield place, record
            continue
        try:
            yield place, change(record)
        except BadRow as problem:
            yield place, problem


def _renamed(record: Record, fields: Fields) -> Record:
    """The mapped fields under our names, and `lang`, which has no other."""
    names: dict[str, str] = fields.model_dump(exclude_none=True)
    if missing := [f"{theirs} (fields.{ours})" for ours, theirs in names.items() if theirs not in record]:
        raise BadRow(f"has no field {', '.join(missing)}; it has {', '.join(record) or 'none'}")
    language = {"lang": record["lang"]} if "lang" in record else {}
    return {ours: record[theirs] for ours, theirs in names.items()} | language


def _columns(record: Record, kind: str) -> Record:
    """The record with the columns of its format alone. Raises BadRow where one is not there."""
    if missing := [name for name in COLUMNS[kind] if name not in record]:
        raise BadRow(f"lacks {', '.join(missing)}, of {NAMES[kind]}'s fields; it has {', '.join(record) or 'none'}")
    return {name: record[name] for name in (*COLUMNS[kind], "lang") if name in record}


def _lima(record: Record, left_out: Counter[str]) -> Record:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise BadRow(f"conversations is {kind_of(turns)}, not a list of texts in turn")
    if len(turns) == 1:
        raise BadRow('has a question and no answer, as all of LIMA\'s test split: use split = "train"')
    if len(turns) % 2:
        left_out["last question without an answer"] += 1
        turns = turns[:-1]
    return {"conversations": turns}
