"""What `nightshift latency` shows. Only search.cli uses it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.score_view import counted, table
from train.rundir import Json

FEW = 20  # runs, below which the 95th percentile is hardly below the slowest


def render(measured: Json) -> RenderableType:
    """Times by length of the prompt, then sizes. Two models are called A and B."""
    parts: list[RenderableType] = [Text("\n".join(_named(measured)), style="bold"), Text(_where(measured)), ""]
    parts += [_times(measured), Text(_meaning(measured), style="dim"), ""]
    parts += [Text(line) for line in _left_out(measured)]
    parts += [_sizes(measured), ""]
    return Group(*parts)


def _labels(measured: Json) -> list[str]:
    return ["A", "B"] if len(measured["arms"]) == 2 else [""]


def _named(measured: Json) -> Iterator[str]:
    for label, arm in zip(_labels(measured), measured["arms"], strict=True):
        yield f"{label}: {arm['name']}" if label else arm["name"]
    if len(measured["arms"]) > 1:
        yield "measured by turns"


def _where(measured: Json) -> str:
    versions = measured["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "bitsandbytes"))
    threads = f", {counted(measured['threads'], 'thread')}" if measured["device"].startswith("cpu") else ""
    weights = {"nf4": "weights in NF4", "full": "weights in full precision"}[measured["weights"]]
    return f"{measured['device']}{threads}; {weights}; {libraries}"


def _times(measured: Json) -> Table:
    made = table("Latency, one prompt at a time: median / 95th percentile")
    labels = _labels(measured)
    for heading in ("prompt", *(["model"] if labels[0] else [])):
        made.add_column(heading, no_wrap=True)
    for heading in ("first token\nms", "each further\nms", "speed\ntokens/s", "peak memory\nMiB"):
        made.add_column(heading, justify="right", no_wrap=True)
    for rows in zip(*(arm["latency"] for arm in measured["arms"]), strict=True):
        for label, row in zip(labels, rows, strict=True):
            prompt = f"{row['prompt_tokens']} tokens" if row is rows[0] else ""
            made.add_row(
                prompt,
                *([label] if label else []),
                _both(row["first_token_s"], 1000),
                _both(row["per_token_s"], 1000),
                _both(row["tokens_per_s"], 1),
                f"{row['peak_memory_bytes'] / 2**20:,.0f}",
            )
    return made


def _both(spread: Json, unit: float) -> str:
    return " / ".join(_figure(unit * spread[name]) for name in ("p50", "p95"))


def _figure(number: float) -> str:
    """Three digits, or all that are before the point."""
    return f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}"


def _left_out(measured: Json) -> Iterator[str]:
    if measured["left_out"]:
        yield (
            f"left out: prompts of {' and '.join(map(str, measured['left_out']))} tokens; the model's positions leave "
            f"room for {measured['longest_prompt']} beside the new ones"
        )
        yield ""


def _sizes(measured: Json) -> Table:
    made = table("Size")
    made.show_header = len(measured["arms"]) > 1
    made.add_column("")
    for label in _labels(measured):
        made.add_column(label, justify="right", no_wrap=True)
    sizes = [arm["size"] for arm in measured["arms"]]
    adapted = any(size["adapter_bytes"] for size in sizes)
    for words, name, show in (
        ("parameters", "total_parameters", "{:,}".format),
        *((("of them the adapter's", "trainable_parameters", "{:,}".format),) if adapted else ()),
        ("weight files", "base_bytes", _bytes),
        *((("the adapter's folder", "adapter_bytes", _bytes),) if adapted else ()),
        ("weights in memory", "loaded_bytes", _bytes),
    ):
        made.add_row(words, *(show(size[name]) for size in sizes))
    return made


def _bytes(size: int) -> str:
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= one:
            return f"{size / one:.{1 if size >= 10 * one else 2}f} {unit}"
    return f"{size} bytes"


def _meaning(measured: Json) -> str:
    one = measured["arms"][0]["latency"][0]
    on_cpu = measured["device"].startswith("cpu")
    peak = "held by the process so far" if on_cpu else "allocated during a run, with all that is loaded"
    few = "; so few runs hardly tell the 95th percentile from the slowest" if one["runs"] < FEW else ""
    beside = "; a base beside its adapter is measured with it switched off" if len(measured["arms"]) > 1 else ""
    return (
        f"{counted(one['runs'], 'run')} after {measured['warmups']} unmeasured, {one['new_tokens']} new tokens each, "
        f"past any end token; 95 of 100 runs are as fast as the second figure, or faster{few}; speed: over the whole "
        f"run; peak: the most {peak}{beside}"
    )
