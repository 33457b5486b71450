"""Message trees, as OpenAssistant publishes them (one message a record), to their best-ranked threads.

A tree is a question, several answers to it, several replies to each of those, and so on; people ranked the siblings,
0 being the best. Its best thread starts at the root and goes on with the best sibling at every step (one without a rank
comes last; of equals, the lower message_id), to its last answer. Left out before that: messages that were deleted or
failed their review, and trees that were never finished. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from train.data.rows import BadRow, Record, kind_of

COLUMNS = (
    *("message_id", "parent_id", "text", "role", "lang", "review_result", "deleted", "rank", "message_tree_id"),
    "tree_state",
)
READY = "ready_for_export"
_ROLES = ("prompter", "assistant")

Placed = tuple[str, Any]  # where a record stands, and it, or the BadRow that it is


@dataclass(frozen=True, slots=True)
class _Node:
    place: str
    id: str
    parent: str | None
    role: str
    text: str
    lang: str
    rank: int | None

    @property
    def order(self) -> tuple[bool, int, str]:
        return (self.rank is None, self.rank or 0, self.id)


def threads(records: Iterable[Placed], left_out: Counter[str]) -> Iterator[Placed]:
    """The best thread of each tree as a record of messages and lang, at the place of its last message.

    Trees come in the order of their roots. A record that cannot be read comes as the BadRow that it is. `left_out`
    counts the messages that are in no thread, by reason.
    """
    nodes: dict[str, _Node] = {}
    for place, record in records:
        try:
            node = None if (reason := _reason(record)) else _node(place, record)
            if node and node.id in nodes:
                raise BadRow(f"its message_id is that of {nodes[node.id].place}")
        except BadRow as problem:
            yield place, problem
            continue
        if node:
            nodes[node.id] = node
        else:
            left_out[reason] += 1
    used = 0
    for thread in _best(nodes):
        used += len(thread)
        messages = [{"role": node.role, "content": node.text} for node in thread]
        yield thread[-1].place, {"messages": messages, "lang": thread[0].lang}
    left_out["not in the best thread"] += len(nodes) - used


def _reason(record: Any) -> str:
    """Why a message is left out, or an empty string."""
    if not isinstance(record, Mapping):
        raise record if isinstance(record, BadRow) else BadRow(f"is {kind_of(record)}, not an object with named fields")
    if missing := [name for name in COLUMNS if name not in record]:
        raise BadRow(f"lacks {', '.join(missing)}, of OASST1's fields; it has {', '.join(record) or 'none'}")
    if record["deleted"]:
        return "deleted"
    if record["review_result"] is False:
        return "failed its review"
    return "" if record["tree_state"] == READY else f"its tree is not {READY}"


def _node(place: str, record: Record) -> _Node:
    for name in ("message_id", "text", "role", "lang"):
        if not isinstance(record[name], str):
            raise BadRow(f"{name} is {kind_of(record[name])}, not text")
    for name, kind in (("parent_id", str), ("rank", int)):
        if record[name] is not None and not isinstance(record[name], kind):
            raise BadRow(
                f"{name} is {kind_of(record[name])}, not {'text' if kind is str else 'a whole number'} or null"
            )
    if record["role"] not in _ROLES:
        raise BadRow(f"has the role {record['role']!r}; OASST1 has {' and '.join(_ROLES)}")
    if record["parent_id"] is None and record["role"] != "prompter":
        raise BadRow("is from the assistant and answers nothing: it has no parent_id")
    wanted = ("message_id", "parent_id", "role", "text", "lang", "rank")
    return _Node(place, *(record[name] for name in wanted))


def _best(nodes: Mapping[str, _Node]) -> Iterator[list[_Node]]:
    """The best thread of each tree, up to its last answer; a tree without an answer has none."""
    children: dict[str | None, list[_Node]] = {}
    for node in nodes.values():
        children.setdefault(node.parent, []).append(node)
    for root in children.get(None, []):
        thread = [root]
        while answers := children.get(thread[-1].id):
            thread.append(min(answers, key=lambda node: node.order))
        if thread[-1].role != "assistant":
            thread.pop()
        if len(thread) > 1:
            yield thread
