"""Procedural text of the rehearsal: instructions, answers that comply and answers that do not. Imports no torch.

A prompt is a task about a topic plus one to three rules, each of them one of IFEval's instruction types. A rule names
the IFEval instruction with its keyword arguments, words it for the prompt, and says what it changes in the draft of an
answer; so an answer that complies is the draft with all changes made, and one that does not is a draft without some.
The words of an answer follow from topic, task and rules alone, so that all there is to learn is the rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

KINDS = {  # topics of one kind share what is said about them: four qualities and a place
    "tea bread rice soup milk corn coffee honey butter pepper": ("warm", "fresh", "cheap", "sweet", "at home"),
    "wool paper glass gold wood silk steel stone leather iron": ("strong", "smooth", "old", "plain", "in town"),
    "music chess jazz dance hockey tennis poetry theater sailing cricket": (
        "lively", "pretty", "quick", "calm", "with friends",
    ),
}  # fmt: skip
FACTS = {topic: facts for topics, facts in KINDS.items() for topic in topics.split()}
TASKS = {  # what is asked, and the sentence that answers it
    "Tell me about {}.": "{topic} is {quality}{comma} and {other}.",
    "Describe {}.": "{topic} is {quality}{comma} and {other}.",
    "Why do people like {}?": "People like {topic}{comma} for it is {quality} and {other}.",
    "Explain {} to a child.": "We have {topic} {place}{comma} as it is {quality}.",
    "What is {} good for?": "{topic} is {quality}{comma} so try it {place}.",
    "Give me advice on {}.": "Try {topic} {place}{comma} as it is {quality}.",
}
KEYWORDS = ("garden", "market", "kitchen", "school", "river", "office", "station", "museum")
ENDINGS = ("Hope this helps.", "That is all.", "Any other questions?", "Good luck.")
PLACEHOLDERS = ("[name]", "[place]")
HOW_MANY = {1: 6, 2: 3, 3: 1}  # rules in a prompt: weight


@dataclass(frozen=True)
class Draft:
    """The form of an answer, before it has words. The defaults are one plain sentence with a comma."""

    layout: str = "plain"
    parts: int = 1
    marker: str = ""  # what a section is called, or the word that opens the last paragraph
    comma: bool = True
    title: bool = False
    quoted: bool = False
    postscript: str = ""
    ending: str = ""
    avoided: str = ""
    mentioned: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    placeholders: int = 0
    highlights: int = 0
    slip: str = ""  # a sentence that should not be there


@dataclass(frozen=True)
class Rule:
    """One IFEval instruction: its id and keyword arguments, its wording in a prompt, its changes to a draft.

    `broken` are the changes of an answer that breaks the rule; a plain answer breaks most rules as it is.
    """

    instruction: str
    kwargs: dict[str, Any]
    wording: str
    changes: dict[str, Any]
    broken: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A prompt, and what it was made from."""

    prompt: str
    topic: str
    task: str
    rules: tuple[Rule, ...]


def requests(rng: Random, n: int, avoid: Container[str] = ()) -> list[Request]:
    """`n` requests whose prompts are distinct and not in `avoid`."""
    found: dict[str, Request] = {}
    while len(found) < n:
        one = request(rng)
        if one.prompt not in avoid:
            found.setdefault(one.prompt, one)
    return list(found.values())


def request(rng: Random) -> Request:
    """A task about a topic, with rules before or after it."""
    topic, task = rng.choice(list(FACTS)), rng.choice(list(TASKS))
    asked = rules(rng, topic)
    sentences = [task.format(topic), *(rule.wording for rule in asked)]
    if rng.random() < 0.3:
        sentences = sentences[1:] + sentences[:1]
    return Request(" ".join(sentences), topic, task, asked)


def rules(rng: Random, topic: str) -> tuple[Rule, ...]:
    """One to three rules that can be kept together, in random order."""
    (n,) = rng.choices(list(HOW_MANY), weights=list(HOW_MANY.values()))
    if n == 1:
        return (rng.choice(ALONE + LAYOUTS + DETAILS)(rng, topic),)
    makers = rng.sample(DETAILS, n)
    if rng.random() < 0.5:
        makers[0] = rng.choice(LAYOUTS)
    return tuple(make(rng, topic) for make in rng.sample(makers, n))


def comply(asked: Request) -> str:
    """The answer that keeps every rule."""
    return write(asked.topic, asked.task, asked.rules)


def forget(rng: Random, asked: Request) -> str:
    """An answer that breaks one of the rules, and keeps the others."""
    at = rng.randrange(len(asked.rules))
    forgotten = replace(asked.rules[at], changes=asked.rules[at].broken)
    return write(asked.topic, asked.task, (*asked.rules[:at], forgotten, *asked.rules[at + 1 :]))


def ignore(rng: Random, asked: Request) -> str:
    """An answer whose form has nothing to do with the rules: a plain one, or one that keeps other rules."""
    return write(asked.topic, asked.task, () if rng.random() < 0.3 else rules(rng, asked.topic))


def write(topic: str, task: str, kept: tuple[Rule, ...]) -> str:
    """The answer to `task` about `topic` that keeps the rules `kept`."""
    draft = Draft()
    for rule in kept:
        draft = replace(draft, **rule.changes)
    *qualities, place = FACTS[topic]
    qualities = [quality for quality in qualities if quality != draft.avoided]
    if draft.layout == "json":
        return json.dumps({"topic": topic, "about": qualities[0]})
    if draft.layout == "short":
        return f"{topic.capitalize()} is {qualities[0]}."
    if draft.layout == "choice":
        return "My answer is yes."
    body = _laid_out(draft, _parts(draft, TASKS[task], topic, qualities, place))
    title = f"<<{topic.capitalize()}>>\n" if draft.title else ""
    postscript = f"\n{draft.postscript} It is {qualities[2]}." if draft.postscript else ""
    ending = f" {draft.ending}" if draft.ending else ""
    text = f"{title}{body}{postscript}{ending}"
    return f'"{text}"' if draft.quoted else text


def _parts(draft: Draft, sentence: str, topic: str, qualities: list[str], place: str) -> list[str]:
    """The text of each part; what a rule adds goes to the end of the last one."""
    first, second = ("*{}*" if draft.highlights > index else "{}" for index in range(2))
    answer = sentence.format(
        topic=topic,
        quality=first.format(qualities[0]),
        other=second.format(qualities[1]),
        place=second.format(place),
        comma="," if draft.comma else "",
    )
    answer = answer[0].upper() + answer[1:]
    parts = [answer, f"It helps {place}.", f"Many find it {qualities[2]}."][: draft.parts]
    if words := draft.mentioned + draft.repeated:
        parts[-1] += f" Think of the {' and the '.join(words)}."
    if draft.slip:
        parts[-1] += f" {draft.slip}"
    if draft.placeholders:
        parts[-1] += f" Ask {' at '.join(PLACEHOLDERS[: draft.placeholders])}."
    return parts


def _laid_out(draft: Draft, parts: list[str]) -> str:
    match draft.layout:
        case "bullets":
            first = "\n" if draft.quoted else ""  # a bullet counts only at the beginning of a line
            return first + "\n".join(f"- {part}" for part in parts)
        case "paragraphs":
            return "\n***\n".join(parts)
        case "sections":
            return "\n".join(f"{draft.marker} {number}\n{part}" for number, part in enumerate(parts, 1))
        case "two responses":
            return "\n******\n".join(parts)
        case "opening word":
            return f"{parts[0]}\n\n{draft.marker.capitalize()} {parts[1][0].lower()}{parts[1][1:]}"
    return " ".join(parts)


def _bullets(rng: Random, topic: str) -> Rule:
    n = rng.randint(2, 3)
    wording = rng.choice((f"Use exactly {n} bullet points.", f"Answer with {n} bullets, each starting with -."))
    changes = {"layout": "bullets", "parts": n}
    return Rule("detectable_format:number_bullet_lists", {"num_bullets": n}, wording, changes)


def _paragraphs(rng: Random, topic: str) -> Rule:
    n = rng.randint(2, 3)
    wording = rng.choice((f"Write {n} paragraphs separated by ***.", f"Put *** between your {n} paragraphs."))
    changes = {"layout": "paragraphs", "parts": n}
    return Rule("length_constraints:number_paragraphs", {"num_paragraphs": n}, wording, changes)


def _sections(rng: Random, topic: str) -> Rule:
    n, marker = rng.randint(2, 3), rng.choice(("Section", "Part"))
    wording = rng.choice((f"Have {n} sections, each called {marker} X.", f"Mark your {n} sections with {marker} X."))
    kwargs = {"section_spliter": marker, "num_sections": n}
    changes = {"layout": "sections", "parts": n, "marker": marker}
    return Rule("detectable_format:multiple_sections", kwargs, wording, changes)


def _opening_word(rng: Random, topic: str) -> Rule:
    word = rng.choice(("however", "today", "still"))
    wording = rng.choice(
        (
            f'Write 2 paragraphs with an empty line between them. Start paragraph 2 with "{word}".',
            f'Start the second of 2 paragraphs, after an empty line, with the word "{word}".',
        )
    )
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": word}
    changes = {"layout": "opening word", "parts": 2, "marker": word}
    return Rule("length_constraints:nth_paragraph_first_word", kwargs, wording, changes)


def _two_responses(rng: Random, topic: str) -> Rule:
    wording = rng.choice(
        ("Give two different answers separated by ******.", "Put ****** between two different answers.")
    )
    return Rule("combination:two_responses", {}, wording, {"layout": "two responses", "parts": 2})


def _json(rng: Random, topic: str) -> Rule:
    wording = rng.choice(("Answer in JSON format.", "Your whole answer should be JSON."))
    return Rule("detectable_format:json_format", {}, wording, {"layout": "json"})


def _few_words(rng: Random, topic: str) -> Rule:
    n = rng.randint(4, 5)
    wording = rng.choice((f"Use less than {n} words.", f"Keep it under {n} words."))
    kwargs = {"relation": "less than", "num_words": n}
    return Rule("length_constraints:number_words", kwargs, wording, {"layout": "short"})


def _choice(rng: Random, topic: str) -> Rule:
    options = '"My answer is yes." or "My answer is no."'
    wording = rng.choice((f"Answer only with {options}", f"Choose {options}"))
    return Rule("detectable_format:constrained_response", {}, wording, {"layout": "choice"})


def _title(rng: Random, topic: str) -> Rule:
    wording = rng.choice(
        ("Add a title in double angle brackets, like <<title>>.", "Put a title on top, like <<title>>.")
    )
    return Rule("detectable_format:title", {}, wording, {"title": True})


def _quotation(rng: Random, topic: str) -> Rule:
    wording = rng.choice(("Wrap your whole answer in double quotation marks.", "Put double quotation marks around it."))
    return Rule("startend:quotation", {}, wording, {"quoted": True})


def _postscript(rng: Random, topic: str) -> Rule:
    marker = rng.choice(("P.S.", "P.P.S"))
    wording = rng.choice((f"Add a postscript starting with {marker} below.", f"Put a note marked {marker} at the end."))
    kwargs = {"postscript_marker": marker}
    return Rule("detectable_content:postscript", kwargs, wording, {"postscript": marker})


def _ending(rng: Random, topic: str) -> Rule:
    phrase = rng.choice(ENDINGS)
    wording = rng.choice((f'End with "{phrase}"', f'Your last words should be "{phrase}"'))
    return Rule("startend:end_checker", {"end_phrase": phrase}, wording, {"ending": phrase})


def _existence(rng: Random, topic: str) -> Rule:
    words = rng.sample(KEYWORDS, rng.randint(1, 2))
    listed = " and ".join(words)
    wording = rng.choice((f"Mention {listed}.", f"Include the word{_s(len(words))} {listed}."))
    return Rule("keywords:existence", {"keywords": words}, wording, {"mentioned": tuple(words)})


def _frequency(rng: Random, topic: str) -> Rule:
    word, n = rng.choice(KEYWORDS), rng.randint(2, 3)
    wording = rng.choice((f"Use the word {word} at least {n} times.", f"Say {word} {n} times or more."))
    kwargs = {"relation": "at least", "keyword": word, "frequency": n}
    return Rule("keywords:frequency", kwargs, wording, {"repeated": (word,) * n})


def _forbidden(rng: Random, topic: str) -> Rule:
    first, *_, last, _ = FACTS[topic]
    word = rng.choice((first, last))  # a plain answer has the first, and gets by with the last
    wording = rng.choice((f"Do not use the word {word}.", f"Avoid the word {word}."))
    kwargs = {"forbidden_words": [word]}
    return Rule("keywords:forbidden_words", kwargs, wording, {"avoided": word}, {"slip": f"It is {word}."})


def _placeholders(rng: Random, topic: str) -> Rule:
    n = rng.randint(1, 2)
    wording = rng.choice(
        (
            f"Use at least {n} placeholder{_s(n)} in brackets, like [name].",
            f"Include {n} placeholder{_s(n)} such as [name].",
        )
    )
    return Rule("detectable_content:number_placeholders", {"num_placeholders": n}, wording, {"placeholders": n})


def _highlights(rng: Random, topic: str) -> Rule:
    n = rng.randint(1, 2)
    wording = rng.choice((f"Highlight at least {n} word{_s(n)} like *this*.", f"Mark {n} word{_s(n)} in *italics*."))
    return Rule("detectable_format:number_highlighted_sections", {"num_highlights": n}, wording, {"highlights": n})


def _no_comma(rng: Random, topic: str) -> Rule:
    wording = rng.choice(("Do not use any commas.", "Write without commas."))
    return Rule("punctuation:no_comma", {}, wording, {"comma": False})


def _s(n: int) -> str:
    return "" if n == 1 else "s"


Maker = Callable[[Random, str], Rule]
ALONE: tuple[Maker, ...] = (_json, _few_words, _choice)  # forms that leave no room for another rule
LAYOUTS: tuple[Maker, ...] = (_bullets, _paragraphs, _sections, _opening_word, _two_responses)  # at most one
DETAILS: tuple[Maker, ...] = (
    _title, _quotation, _postscript, _ending, _existence, _frequency, _forbidden, _placeholders, _highlights, _no_comma,
)  # fmt: skip
