"""Values against pydantic's types, and its errors in the words of somebody who writes a study.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from search.studyfile import Loc, StudyFile, nearest, spelled

Model = TypeVar("Model", bound=BaseModel)

_PATTERNS = {
    r"^[a-z0-9][a-z0-9_-]{0,63}$": "lower-case letters, digits, - and _, at most 64 of them, the first a letter or a "
    "digit: [a-z0-9][a-z0-9_-]{0,63}",
    r"^[0-9a-f]{40}$": "the 40 hexadecimal digits of a commit",
    r"^[0-9a-f]{64}$": "the 64 hexadecimal digits of a SHA-256",
    r"^[a-z]{2}(-[a-zA-Z]{2})?$": 'a language as langdetect and OASST1 write it, like "en" or "zh-cn"',
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": 'a time of day like "03:00", from "00:00" to "23:59"',
}
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "string": "text in quotes",
    "bool": "true or false",
    "tuple": "a list",
    "model": "a table",
    "dict": "a table",
    "path": "text in quotes",
}
_KIND_OF = {bool: ", a truth value", float: ", a fraction", str: ", which is text"}
_BOUNDS = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}"}


def frozen_lists(value: Any) -> Any:
    """The value with every list as a tuple: strict models take nothing else for one."""
    if isinstance(value, dict):
        return {key: frozen_lists(item) for key, item in value.items()}
    return tuple(map(frozen_lists, value)) if isinstance(value, list) else value


def build(model: type[Model], raw: object, file: StudyFile, loc: Loc) -> Model | None:
    """`raw` as a `model`, or None with every error noted in `file`."""
    try:
        return model.model_validate(frozen_lists(raw))
    except ValidationError as error:
        for details in error.errors(include_url=False):
            inner = tuple(details["loc"])
            around = _model_around(model, inner)
            file.add((*loc, *inner), explain(details, _range_of(around, inner[-1:]), around.model_fields))
        return None


def adapter(info: FieldInfo) -> TypeAdapter[Any]:
    """Validates one value by the constraints of one field of a strict model."""
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def value_of(info: FieldInfo, raw: object) -> Any:
    """`raw` as that field holds it. Raises ValueError with one line for each thing wrong."""
    try:
        return adapter(info).validate_python(frozen_lists(raw))
    except ValidationError as error:
        found = [explain(details, bounds(info), ()) for details in error.errors(include_url=False)]
        raise ValueError("\n".join(found)) from None


def bounds(info: FieldInfo) -> str:
    """The numbers that a field allows, in words: `above 0 and at most 1`."""
    metadata = [*info.metadata, *(m for part in get_args(info.annotation) for m in _metadata(part))]
    words = []
    for item in (part for entry in metadata for part in [entry, *getattr(entry, "metadata", ())]):
        words += [text.format(getattr(item, name)) for name, text in _BOUNDS.items() if hasattr(item, name)]
    return " and ".join(word.removesuffix(".0") for word in words)


def explain(details: ErrorDetails, allowed: str, known: Iterable[str]) -> str:
    """One error of pydantic in plain words, with what would be right."""
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return "it is missing"
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(str(details['loc'][-1]), known)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"it is {spelled(given)}; it must be {context['expected']}"
    if kind == "string_pattern_mismatch":
        return _mismatch(given, str(context["pattern"]))
    if kind in ("too_short", "string_too_short"):
        return "it is empty"
    return _wrong_value(kind, given, allowed, details["msg"])


def _mismatch(given: object, pattern: str) -> str:
    what = _PATTERNS.get(pattern)
    return f"it is {spelled(given)}; it must be {what or f'like {pattern}'}"


def _wrong_value(kind: str, given: object, allowed: str, message: str) -> str:
    expected = _KINDS.get(kind.split("_")[0])
    if kind == "finite_number":
        return f"it is {spelled(given)}; it must be a finite number{' ' if allowed else ''}{allowed}"
    if kind.startswith(("greater_than", "less_than")) and allowed:
        return f"it is {spelled(given)}; it must be {allowed}"
    if expected is None:
        return f"it is {spelled(given)}: {message[0].lower() + message[1:]}"
    hint = (
        "; leave out the quotes" if isinstance(given, str) and expected.endswith("number") and _numeric(given) else ""
    )
    if expected == "text in quotes" and not isinstance(given, (dict, list, tuple)):
        hint = f'; put it in quotes: "{given}"'
    return f"it is {spelled(given)}{_KIND_OF.get(type(given), '')}; it must be {expected}{hint}"


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _model_around(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """The model whose field the last key of `loc` is: that of a table inside the table, where it is one."""
    for key in loc[:-1]:
        info = model.model_fields.get(str(key))
        model = next(_models(info.annotation), model) if info else model
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _range_of(model: type[BaseModel], loc: Loc) -> str:
    info = model.model_fields.get(str(loc[0])) if loc else None
    return bounds(info) if info else ""


def _metadata(part: Any) -> tuple[Any, ...]:
    return getattr(part, "__metadata__", ())
