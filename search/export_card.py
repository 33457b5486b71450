"""The card of a model that is handed on: README.md in its folder, every fact of it read from the records.

What it tells comes out of files that anybody may have written, so that everything is quoted for where it stands: JSON
strings in the front matter (which are YAML), code or escaped text in the Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from objectives.score import Score
from search.export_subject import Subject, training
from search.licence_terms import asks
from train.licences import BASE, Licence
from train.recipe import Recipe, Source

LLAMA = "LicenseRef-Llama-"
METRICS = {
    "prompt_strict": "prompts, strict",
    "prompt_loose": "prompts, loose",
    "instruction_strict": "instructions, strict",
    "instruction_loose": "instructions, loose",
}
PARTS = {"search": "the half that the search saw", "sealed": "the half that it never saw", "all": "all prompts"}
LEFT_OUT = ("base", "sources", "probe", "chat_template")


def card(subject: Subject, form: str) -> str:
    """The card; `form` is what is handed on: adapter, merged or gguf."""
    parts = [_front(subject, form), f"# {_text(subject.name)}", *_what(subject, form)]
    parts += ["## Licences", *_licences(subject), "## Data", *_data(subject.recipe)]
    parts += ["## Scores", *_scores(subject), "## Training", *_training(subject)]
    return "\n\n".join(parts) + "\n"


def _front(subject: Subject, form: str) -> str:
    base, hubs = subject.recipe.base, [source.hub for source in _trained_on(subject.recipe) if source.hub]
    values = {"library_name": {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[form]}
    values |= {"pipeline_tag": "text-generation"}
    lines = [f"{name}: {json.dumps(value)}" for name, value in values.items()]
    if subject.model.facts.revision is not None:  # of the hub
        relation = "adapter" if form == "adapter" else "finetune"
        lines += [f"base_model: {json.dumps(base.model)}", f"base_model_relation: {relation}"]
    lines += [f"datasets: {json.dumps(hubs)}"] if hubs else []
    tags = ["nightshift", "qlora", *(["lora"] if form == "adapter" else [])]
    return "\n".join(["---", *lines, f"tags: {json.dumps(tags)}", "---"])


def _what(subject: Subject, form: str) -> Iterator[str]:
    base, facts = subject.recipe.base, subject.model.facts
    made = "the final run" if subject.is_final else "a trial"
    yield (
        f"{_FORMS[form]} It comes from {made} of a study with Nightshift, which trained a QLoRA adapter on the base "
        f"model {code(base.model if facts.revision else base.model.rstrip('/').rpartition('/')[2])}"
        + (f" (commit {code(facts.revision)})." if facts.revision else ", a local folder.")
    )
    yield f"SHA-256 over the base model's configuration, tokenizer and weights: {code(str(facts.sha256))}."
    yield f"SHA-256 of the recipe: {code(subject.recipe.digest)}."
    licence = subject.licences.get(BASE)
    if licence and licence.licence.startswith(LLAMA):
        yield "Built with Llama"


_FORMS = {
    "adapter": "A LoRA adapter in PEFT's format, with the tokenizer and chat template that it was trained with.",
    "merged": "A whole model: the adapter merged into the base model's own weights, in the base model's precision.",
    "gguf": "A whole model as one GGUF file, for llama.cpp and what is built on it.",
}


def _licences(subject: Subject) -> Iterator[str]:
    yield (
        "Under which licence this model is offered is for whoever offers it to say here and in the front matter "
        "(`license:`). It has to meet the conditions of everything that it was made of, as their repositories give "
        "them; this is no legal advice."
    )
    rows = [("base model", subject.licences.get(BASE))]
    rows += [(f"data {source.name}", subject.licences.get(source.name)) for source in _trained_on(subject.recipe)]
    yield table(("what", "licence (SPDX)", "what it asks"), [(name, *_asks(licence)) for name, licence in rows])


def _asks(licence: Licence | None) -> tuple[str, str]:
    if licence is None or licence.by == "accepted":
        return "not known", "see its terms"
    return licence.licence, asks(licence)


def _trained_on(recipe: Recipe) -> list[Source]:
    """The sources that have a part in the training."""
    stages = ("sft", "preference") if recipe.dpo_steps else ("sft",)
    return [source for source in recipe.sources if source.weight > 0 and source.use in stages]


def _data(recipe: Recipe) -> Iterator[str]:
    rows = []
    for source in _trained_on(recipe):
        where = f"{source.hub} on the hub, split {source.split}" if source.hub else "a local file"
        pin = f"commit {source.revision}" if source.revision else f"SHA-256 {source.sha256}" if source.sha256 else ""
        use = "supervised" if source.use == "sft" else "preferences (DPO)"
        rows.append((source.name, where, pin, f"{use}, weight {source.weight:g}"))
    yield table(("name", "where from", "pinned by", "used for"), rows)


def _scores(subject: Subject) -> Iterator[str]:
    """IFEval before and after; of a trial, what the search asked it."""
    record = subject.record
    if record.scores:
        rows = [
            (PARTS[part], who, *(_measure(scores[part], metric) for metric in METRICS))
            for part in PARTS
            for who, scores in (("base model", record.base_scores), ("this model", record.scores))
            if part in scores
        ]
        yield table(("IFEval", "", *METRICS.values()), rows)
        yield "Shares followed, with their standard errors; n is the number of prompts, or of instructions."
    elif record.score:
        told = ((name, _measure(record.score, metric)) for metric, name in METRICS.items())
        rows = [(name, measured) for name, measured in told if measured]
        yield table(("IFEval", "the search's prompts"), rows)
        yield "A trial is picked for its score, which therefore flatters it; the other half of the prompts is unasked."
    else:
        yield "Not scored."


def _measure(score: Score, metric: str) -> str:
    measure = getattr(score, metric)
    return f"{measure} (n = {measure.n})" if measure is not None else ""


def _training(subject: Subject) -> Iterator[str]:
    result = subject.record.result or {}
    if result:
        yield training(result)
    shown = [
        ("examples, as planned" if name == "examples" else name, json.dumps(value))
        for name, value in subject.recipe.model_dump(mode="json").items()
        if name not in LEFT_OUT and (subject.recipe.dpo_steps or not name.startswith("dpo_"))
    ]
    yield table(("hyperparameter", "value"), shown)
    if versions := result.get("versions"):
        yield "Made with " + ", ".join(f"{_text(str(n))} {_text(str(v))}" for n, v in versions.items()) + "."
    yield f"Prompts have to be put into the chat template in {code('chat_template.jinja')}, each as a user's message."


# Text from elsewhere


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[*head], ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line. An underscore within a word is no markup, and reads better so."""
    return re.sub(r"([\\`*{}\[\]<>#|!&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as code, whatever backticks are in it."""
    flat = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    space = " " if flat[:1] == "`" or flat[-1:] == "`" else ""
    return f"{fence}{space}{flat}{space}{fence}"
