"""One record of a data set -> one row of chat messages. Imports no torch.

What is accepted:

    sft         prompt (or instruction, with context or input beside it) and response (or output, completion);
                or messages (or conversations): [{role, content}, ...], [{from, value}, ...], or strings in turn
    preference  prompt (or instruction), chosen and rejected, each a string or a list of messages

A field `system` beside either of them is the system message, and `lang` the language. Other fields are left alone.
Data sets of another structure are brought into these by train.data.formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant")
_ROLE_ALIASES = {"human": "user", "prompter": "user", "gpt": "assistant"}
_CONVERSATIONS = ("messages", "conversations")
_PROMPTS = ("prompt", "instruction")
_CONTEXTS = ("context", "input")
_ANSWERS = ("response", "output", "completion")

Record = Mapping[str, Any]


class BadRow(Exception):
    """What is wrong with one record; whoever catches it knows which."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A chat that ends with the assistant's answer, which is what is learned: only the last one, in a longer chat."""

    messages: tuple[Message, ...]
    language: str = ""  # what the data set says; empty where it says nothing

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the answer; ends with the user's turn."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which `chosen` is the better one."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    language: str = ""


Row = Example | Pair


def texts(row: Row) -> Iterator[str]:
    """Everything that is written in a row, prompt first."""
    if isinstance(row, Example):
        yield from (message.content for message in row.messages)
    else:
        yield from (message.content for message in row.prompt)
        yield from (row.chosen, row.rejected)


def every_answer(chat: Example) -> tuple[Example, ...]:
    """The chat up to each of its answers, in their order; an empty answer is context and no row."""
    ends = [n for n, message in enumerate(chat.messages, 1) if message.role == "assistant" and message.content.strip()]
    return tuple(Example(chat.messages[:end], chat.language) for end in ends)


def example(record: Record) -> Example:
    """The chat in a record of an sft source. Raises BadRow."""
    if (name := _present(record, _CONVERSATIONS)) is not None:
        messages = _messages(record[name], name)
    elif (prompt := _present(record, _PROMPTS)) and (answer := _present(record, _ANSWERS)):
        messages = (*_prompt(record, prompt), Message("assistant", _answer(record[answer], answer)))
    else:
        raise BadRow(_lacking(record, "sft"))
    messages = _with_system(record, messages)
    _check_order(messages)
    if messages[-1].role != "assistant":
        raise BadRow("ends with the user's turn; the last message must be the assistant's answer")
    if not messages[-1].content.strip():
        raise BadRow("the answer is empty; leave the row out")
    return Example(messages, _language(record))


def pair(record: Record) -> Pair:
    """The two answers in a record of a preference source. Raises BadRow."""
    if record.get("chosen") is None or record.get("rejected") is None:
        raise BadRow(_lacking(record, "preference"))
    name = _present(record, _PROMPTS)
    prompt = _prompt(record, name) if name is not None else None
    before_chosen, chosen = _side(record["chosen"], "chosen", prompt)
    before_rejected, rejected = _side(record["rejected"], "rejected", prompt)
    if before_chosen != before_rejected:
        raise BadRow("chosen and rejected answer different prompts")
    if not chosen.strip():
        raise BadRow("the chosen answer is empty; leave the row out")
    messages = _with_system(record, before_chosen)
    _check_order((*messages, Message("assistant", chosen)))
    return Pair(messages, chosen, rejected, _language(record))


def _side(value: Any, name: str, prompt: tuple[Message, ...] | None) -> tuple[tuple[Message, ...], str]:
    """The prompt and the answer of one side: a list of messages that starts with the user holds both."""
    if isinstance(value, list) and len(messages := _messages(value, name)) > 1:
        if messages[-1].role != "assistant":
            raise BadRow(f"{name} does not end with the assistant's answer")
        return messages[:-1], messages[-1].content
    if prompt is None:
        raise BadRow(f"has no prompt, and {name} does not hold it either; add the field prompt")
    return prompt, _answer(value, name)


def _prompt(record: Record, name: str) -> tuple[Message, ...]:
    value = record[name]
    if isinstance(value, list):
        return _messages(value, name)
    text = _text(value, name)
    if (context := _present(record, _CONTEXTS)) and (added := _text(record[context], context)).strip():
        text = f"{text}\n\n{added}"
    return (Message("user", text),)


def _answer(value: Any, name: str) -> str:
    if not isinstance(value, list):
        return _text(value, name)
    messages = _messages(value, name)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise BadRow(f"{name} must be a string or one message of the assistant")
    return messages[0].content


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"{name} is {kind_of(value)}, not a list of messages")
    return tuple(_message(item, f"message {number} of {name}", number) for number, item in enumerate(value, 1))


def _message(item: Any, where: str, number: int) -> Message:
    if isinstance(item, str):
        return Message("user" if number % 2 else "assistant", _text(item, where))
    if not isinstance(item, Mapping):
        raise BadRow(f"{where} is {kind_of(item)}, not an object with role and content")
    role_name, content_name = ("from", "value") if "from" in item else ("role", "content")
    if missing := [field for field in (role_name, content_name) if field not in item]:
        raise BadRow(f"{where} has no {missing[0]}; it has {', '.join(item) or 'nothing'}")
    role = _ROLE_ALIASES.get(str(item[role_name]), item[role_name])
    if role not in ROLES:
        raise BadRow(f"{where} has the role {item[role_name]!r}; known roles are {', '.join(ROLES)}")
    return Message(role, _text(item[content_name], f"{content_name} of {where}"))


def _language(record: Record) -> str:
    return _text(record["lang"], "lang") if record.get("lang") is not None else ""


def _with_system(record: Record, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if record.get("system") is None or messages[0].role == "system":
        return messages
    text = _text(record["system"], "system")
    return (Message("system", text), *messages) if text.strip() else messages


def _check_order(messages: tuple[Message, ...]) -> None:
    """A system message first or not at all, then user and assistant in turn, starting with the user."""
    turns = messages[1:] if messages[0].role == "system" else messages
    if not any(message.role == "assistant" for message in turns):
        raise BadRow("has no answer of the assistant")
    for position, message in enumerate(turns):
        expected = "assistant" if position % 2 else "user"
        if message.role != expected:
            number = position + 1 + len(messages) - len(turns)
            raise BadRow(
                f"message {number} is from the {message.role} where the {expected}'s turn is "
                "(a system message may come first, then user and assistant take turns)"
            )
        if expected == "user" and not message.content.strip():
            raise BadRow("the prompt is empty; leave the row out")


# Words for what was found


def _present(record: Record, names: tuple[str, ...]) -> str | None:
    """The first of `names` that is there and not null."""
    return next((name for name in names if record.get(name) is not None), None)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{name} is {kind_of(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None
    return value


def kind_of(value: Any) -> str:
    """A word for what a JSON value is."""
    names = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    if value == [] or value == "":
        return "empty"
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _lacking(record: Record, use: str) -> str:
    known = (*_CONVERSATIONS, *_PROMPTS, *_ANSWERS) if use == "sft" else (*_PROMPTS, "chosen", "rejected")
    nulls = [name for name in known if name in record and record[name] is None]
    there = f"has the fields {', '.join(record)}" if record else "has no fields"
    if nulls:
        return f"{', '.join(nulls)} is null ({there}); fill it or leave the row out"
    if use == "preference":
        return f'{there}; a source with use = "preference" needs prompt, chosen and rejected'
    if "chosen" in record and "rejected" in record:
        return f'{there}: preferences; give the source use = "preference"'
    return (
        f"{there}; it needs prompt and response (or instruction and response, prompt and completion), or messages: "
        'name its own fields, like fields = { prompt = "question", response = "answer" }'
    )
