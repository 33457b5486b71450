"""Answers whose verdicts are plain to see: for each instruction type one that follows it and one that does not."""

from __future__ import annotations

from objectives.score import Answer, Prompt


def prompt(*instructions: tuple[str, dict], key: int = 7, text: str = "Write about rivers.") -> Prompt:
    names, kwargs = zip(*instructions, strict=True)
    return Prompt(key=key, prompt=text, instruction_id_list=names, kwargs=kwargs)


def answer(text: str, tokens: int = 5, capped: bool = False) -> Answer:
    return Answer(text=text, tokens=tokens, capped=capped)


NO_COMMA = ("punctuation:no_comma", {})
LOWER = ("change_case:english_lowercase", {})
BULLETS = ("detectable_format:number_bullet_lists", {"num_bullets": 2})
JSON = ("detectable_format:json_format", {})

KNOWN = [
    (NO_COMMA, "The river runs to the sea.", "The river runs, to the sea."),
    (LOWER, "the river runs to the sea and the old bridge stands", "The river runs to the sea"),
    (
        ("change_case:english_capital", {}),
        "THE RIVER RUNS TO THE SEA AND THE OLD BRIDGE STANDS",
        "THE RIVER runs to the sea",
    ),
    (BULLETS, "* the source\n* the sea", "* the source"),
    (JSON, '```json\n{"river": [1, 2]}\n```', "river: 1"),
    (("detectable_format:title", {}), "<<The river>>\nIt runs.", "The river\nIt runs."),
    (("detectable_format:number_highlighted_sections", {"num_highlights": 2}), "*one* and *two*", "*one* and two"),
    (("detectable_content:number_placeholders", {"num_placeholders": 1}), "Dear [name]", "Dear you"),
    (("detectable_content:postscript", {"postscript_marker": "P.S."}), "It runs.\nP.S. It floods.", "It runs."),
    (("startend:quotation", {}), '"It runs."', "It runs."),
    (("startend:end_checker", {"end_phrase": "That is all."}), "It runs. That is all.", "That is all. It runs."),
    (("combination:two_responses", {}), "It runs.******It floods.", "It runs."),
    (("combination:repeat_prompt", {"prompt_to_repeat": "Name a river."}), "Name a river. The Rhine.", "The Rhine."),
    (("keywords:existence", {"keywords": ["river", "sea"]}), "The river meets the sea.", "The river."),
    (("keywords:forbidden_words", {"forbidden_words": ["sea"]}), "The river and the seal.", "The sea."),
    (("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}), "sea to sea", "the sea"),
    (
        ("keywords:letter_frequency", {"letter": "r", "let_frequency": 3, "let_relation": "less than"}),
        "river",
        "rare river",
    ),
    (("length_constraints:number_words", {"num_words": 4, "relation": "less than"}), "It runs fast.", "It runs to us."),
    (("length_constraints:number_paragraphs", {"num_paragraphs": 2}), "One.\n***\nTwo.", "One.\n\nTwo."),
    (
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        ),
        "First.\n\nThen it runs.",
        "First.\n\nIt runs then.",
    ),
    (
        ("language:response_language", {"language": "de"}),
        "Der Fluss fließt langsam durch das Tal.",
        "It runs to the sea.",
    ),
    (
        ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
        "Section 1\nIt runs.\nSection 2\nIt floods.",
        "Section 1\nIt runs.",
    ),
    (("detectable_format:constrained_response", {}), "My answer is maybe.", "Maybe."),
    (
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}),
        "It runs. It floods.",
        "It.",
    ),
    (
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
        "It RUNS to the SEA.",
        "It RUNS to the sea.",
    ),
]

ALL_TYPES = [prompt(known[0], key=i) for i, known in enumerate(KNOWN)]
